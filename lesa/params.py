"""The experiment as data: every number of `params.yaml`, validated.

A key that is unknown or a value that is impossible raises :class:`lesa.errors.UserError` naming
the key. Defaults live in `params.yaml`, not here: a reader finds every number in one file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from lesa.errors import UserError
from lesa.redaction import redacted

INT32_MAX = 2**31 - 1
RANDOM_PARAMETERS = 10**9  # of a random base, which is for tests


def _name(value: str, extra: str = "") -> str:
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_{extra}-]{{0,63}}", value):
        raise ValueError("a name has 1 to 64 letters, digits, _ and -, and begins with no _ or -")
    return value


# Names of folders, stages of DVC and anchors of the report; a profile's, no stage's, may have dots.
Name = Annotated[str, AfterValidator(_name)]
ProfileName = Annotated[str, AfterValidator(lambda value: _name(value, "."))]


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


# YAML reads `yes` as true, which Python takes for 1.
Integer = Annotated[int, BeforeValidator(_no_truth)]
Number = Annotated[float, BeforeValidator(_no_truth)]
Positive = Annotated[Integer, Field(gt=0, le=INT32_MAX)]
AtLeastTwo = Annotated[Integer, Field(ge=2, le=INT32_MAX)]
# As a seed, every library's generators take it.
Count = Annotated[Integer, Field(ge=0, le=INT32_MAX)]
Rate = Annotated[Number, Field(gt=0, lt=1)]
Command = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PackageBase(Strict):
    """A GGUF checkpoint shipped inside a wheel of the package registry."""

    source: Literal["package"]
    requirement: str  # "name==version"
    member: str  # path inside the wheel
    sha256: str  # of the member, hex
    license: str

    @property
    def described(self) -> str:
        return f"{self.member} of the wheel {self.requirement}"


class HubBase(Strict):
    """A checkpoint of the Hugging Face hub, at a fixed revision."""

    source: Literal["hub"]
    id: str
    revision: str
    license: str

    @property
    def described(self) -> str:
        return f"{self.id} at revision {self.revision}"


class PathBase(Strict):
    """A local folder with `config.json`, safetensors (sharded or not) and a tokenizer."""

    source: Literal["path"]
    path: str
    license: str

    @property
    def described(self) -> str:
        return f"local folder {Path(self.path).name}"


class RandomBase(Strict):
    """A tiny random Llama for tests; its numbers mean nothing and reports say so."""

    source: Literal["random"]
    num_hidden_layers: Positive
    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    seed: Count
    license: str

    @property
    def described(self) -> str:
        return f"random weights, seed {self.seed}"

    @model_validator(mode="after")
    def can_be_made(self) -> RandomBase:
        heads, kv_heads, d = self.num_attention_heads, self.num_key_value_heads, self.hidden_size
        if d % (2 * heads):
            raise ValueError(
                f"hidden_size ({d}) must be an even multiple of num_attention_heads ({heads})"
            )
        if heads % kv_heads:
            raise ValueError(
                f"num_attention_heads ({heads}) must be a multiple of num_key_value_heads "
                f"({kv_heads})"
            )
        layer = 2 * d * d * (heads + kv_heads) // heads + 3 * d * self.intermediate_size
        if (parameters := self.num_hidden_layers * layer) > RANDOM_PARAMETERS:
            raise ValueError(
                f"{parameters} parameters; a random base is for tests and has at most "
                f"{RANDOM_PARAMETERS}"
            )
        return self


class WikipediaPackage(PackageBase):
    """The Wikipedia dump inside a wheel of the package registry (gensim's test data)."""


class HubRows(Strict):
    """A data set of the Hugging Face hub, at a fixed revision."""

    source: Literal["hub"]
    id: str
    config: str | None
    revision: str
    split: str
    license: str

    @property
    def described(self) -> str:
        part = f"config {self.config or 'default'}, split {self.split}"
        return f"{self.id}, {part}, at revision {self.revision}"


class HubText(HubRows):
    text_field: str


class LocalFiles(Strict):
    """Local files of rows, `.jsonl` or `.parquet`."""

    source: Literal["files"]
    paths: Annotated[list[str], Field(min_length=1)]
    license: str

    @property
    def described(self) -> str:
        return "local files " + ", ".join(Path(name).name for name in self.paths)


class FileText(LocalFiles):
    """Documents, one a row, or one a `.txt`."""

    text_field: str


class Corpus(Strict):
    text: Annotated[WikipediaPackage | HubText | FileText, Field(discriminator="source")]
    min_characters: Positive  # shorter documents (stubs, redirects) are dropped
    max_documents: Positive | None  # None: all
    heldout_documents: Positive  # whole documents, never seen in training
    block_size: AtLeastTwo  # tokens per packed sequence
    blocks_per_document: Positive  # held-out blocks that each held-out document gives
    seed: Count  # of the document shuffle

    @property
    def test_documents(self) -> int:
        """How many of the held-out documents are for the test; the others are for validation."""
        return (self.heldout_documents + 1) // 2


class Gaps(Strict):
    """New layers between layers i and i+1, first <= i <= last, 0-based (docs/method.md step 6)."""

    first: Count
    last: Count

    @property
    def after(self) -> range:
        """The layers i."""
        return range(self.first, self.last + 1)

    @property
    def count(self) -> int:
        """How many layers are added."""
        return len(self.after)

    @model_validator(mode="after")
    def ordered(self) -> Gaps:
        if self.last < self.first:
            raise ValueError(f"last ({self.last}) must not be below first ({self.first})")
        return self


class ListedGaps(Strict):
    """A new layer between layers i and i+1 for each i of `after`, 0-based, from the lowest up."""

    after: list[Count] = Field(min_length=1)

    @property
    def count(self) -> int:
        """How many layers are added."""
        return len(self.after)

    @model_validator(mode="after")
    def ascending(self) -> ListedGaps:
        if self.after != sorted(set(self.after)):
            raise ValueError(f"after ({self.after}) must ascend, and name each layer once")
        return self


def _form(gaps: Any) -> str:
    listed = "after" in gaps if isinstance(gaps, dict) else isinstance(gaps, ListedGaps)
    return "listed" if listed else "range"


FORMS = ("range", "listed")
Places = Annotated[
    Annotated[Gaps, Tag("range")] | Annotated[ListedGaps, Tag("listed")], Discriminator(_form)
]


class Svd(Strict):
    method: Literal["gram", "concat"]
    rank_tolerance: Rate  # singular values below this times the largest are dropped


class Predictor(Strict):
    """Hyper-parameters of G_W (docs/method.md steps 4 and 5)."""

    norm_weight: Annotated[Number, Field(ge=0, le=1)]  # the paper's lambda
    epochs: Positive
    hidden_size: Positive
    batch_size: Positive  # rows
    learning_rate: Rate
    weight_decay: Annotated[Number, Field(ge=0, le=1)]
    # Controls: the layers in a random order, or Gaussian noise of each layer's size. A prediction
    # is asked for the true neighbours whatever the predictor was fitted on.
    fitted_on: Literal["layers", "shuffled", "noise"] = "layers"


class FitRun(Strict):
    """One fitted set of predictors, `artifacts/fit/<preset>/<seed>`."""

    preset: str
    seed: Count

    @property
    def name(self) -> str:
        return f"{self.preset}-{self.seed}"


class Fit(Strict):
    presets: dict[Name, Predictor]
    runs: dict[Name, FitRun]  # the methods name what they need
    heldout_every: AtLeastTwo  # every n-th triple is held out in the diagnosis

    @model_validator(mode="after")
    def some(self) -> Fit:
        if not self.presets or not self.runs:
            raise ValueError("presets and runs must not be empty")
        for name, run in self.runs.items():
            if run.preset not in self.presets:
                raise ValueError(f"runs.{name} names preset {run.preset!r}, which presets lacks")
            if name != run.name:
                raise ValueError(
                    f"runs.{name} must be called {run.name}, as its folder and metrics"
                )
        return self


class Method(BaseModel):
    """One model, a row of every table: the method that makes it, with that method's own options.

    The options are checked against the method's own class (`baselines.check_methods`).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    needs: list[Name] = []  # names of fit.runs that the method reads
    gaps: Places | None = None  # where its new layers go, or how many; None: where all others' do


class Train(Strict):
    launch: Command  # what runs the stage, in one process or several (docs/scaling.md)
    max_steps: Positive
    eval_every: Positive  # steps between held-out losses; step 0 is always measured
    save_every: Positive  # steps between resumable checkpoints
    per_device_batch_size: Positive
    gradient_accumulation_steps: Positive  # batches a step, shared by all processes
    warmup_steps: Count
    weight_decay: Annotated[Number, Field(ge=0, le=1)]
    max_grad_norm: Annotated[Number, Field(gt=0)]
    bf16: bool  # autocast, where the machine has bfloat16 (lesa.machine.has_bfloat16)
    prefix_cache: bool  # keep the output of the layers below the first trainable one on disk
    seed: Count

    @model_validator(mode="after")
    def half_is_measured(self) -> Train:
        """Claim C5 compares losses at half of the steps."""
        if self.max_steps % (2 * self.eval_every):
            raise ValueError(
                f"eval_every ({self.eval_every}) must divide half of max_steps "
                f"({self.max_steps}): claim C5 reads the loss there"
            )
        return self

    @model_validator(mode="after")
    def rate_is_reached(self) -> Train:
        if self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps ({self.warmup_steps}) must be below max_steps ({self.max_steps}): "
                "the learning rate would never be the one asked for"
            )
        return self


class Grid(Strict):
    """The learning-rate grid: outside the default run, its choice in metrics/grid/<model>.json."""

    learning_rates: Annotated[list[Rate], Field(min_length=1)]
    max_steps: Positive


class Evaluate(Strict):
    launch: Command  # as train.launch
    offline_documents: Positive  # held-out documents scored by perplexity
    offline_examples: Positive  # per generated multiple-choice or cloze task
    tasks: list[str]  # official lm-eval tasks, with their data from `mirror` or the hub
    limit: Positive | None  # examples per official task; None: all
    mirror: str | None  # folder in hub layout; None: the hub
    batch_size: Positive
    # Of each document, for the mean of perplexities; a model with fewer positions reads these.
    document_tokens: AtLeastTwo
    dtype: Literal["bfloat16", "float32"]  # float32 where the machine has no bfloat16
    bootstrap_iters: Positive


class Params(Strict):
    profile: ProfileName
    base: Annotated[PackageBase | HubBase | PathBase | RandomBase, Field(discriminator="source")]
    corpus: Corpus
    gaps: Places
    svd: Svd
    fit: Fit
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    train: Train
    grid: Grid
    evaluate: Evaluate

    @property
    def models(self) -> list[str]:
        """Rows of every table, in the file's order."""
        return list(self.methods)

    def gaps_of(self, model: str) -> Places:
        """The gaps that the plan of `model` is made from."""
        return self.methods[model].gaps or self.gaps

    @model_validator(mode="after")
    def needs_exist(self) -> Params:
        for name, entry in self.methods.items():
            for run in entry.needs:
                if run not in self.fit.runs:
                    raise ValueError(
                        f"methods.{name}.needs names {run!r}, which fit.runs lacks; "
                        f"it has {list(self.fit.runs)}"
                    )
        return self


SHORT = Repr()  # of a value in a message: aliases of aliases would be written out without end
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother, SHORT.maxlong = 2, 120, 120, 120


def dotted(loc: tuple[int | str, ...], tree: object) -> str:
    """The dotted key as in the file: pydantic's path has the chosen source, kind of phase, form of
    gaps or type of a value as a level, too."""
    parts: list[str] = []
    told: object = None  # the mapping whose chosen kind the path has named already
    for part in loc:
        if isinstance(tree, list) and isinstance(part, int):
            parts, tree = [*parts, str(part)], tree[part]
        elif isinstance(tree, dict):
            if tree is not told and part in (tree.get("source"), tree.get("trains")):
                told = tree
            elif part in tree or part not in FORMS:
                parts, tree = [*parts, str(part)], tree.get(part, {})
    return ".".join(parts)


def _strings(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a nested value, after its dotted key."""
    if isinstance(tree, str):
        yield key, tree
    elif isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _strings(value, f"{key}.{name}".lstrip("."))


def reason(error: ValidationError) -> str:
    """What pydantic says is wrong first, and what was given there, on one line without the place,
    which is `error.errors()[0]["loc"]`."""
    first = error.errors()[0]
    given = "" if isinstance(first["input"], dict) else f" (got {SHORT.repr(first['input'])})"
    return " ".join(f"{first['msg'].removeprefix('Value error, ')}{given}".split())


def parse(tree: object, where: str) -> Params:
    """Validate a nested dict; `where` names its file in the error."""
    try:
        found = Params.model_validate(tree)
        secret = next((key for key, text in _strings(tree) if redacted(text) != text), None)
    except ValidationError as error:
        key = dotted(error.errors()[0]["loc"], tree) or "(top level)"
        raise UserError(f"{where}: {key}: {reason(error)}") from None
    except RecursionError:  # an alias may stand inside of what it names
        raise UserError(f"{where}: is nested without end") from None
    if secret is not None:
        raise UserError(
            f"{where}: {secret}: holds a secret, which DVC and MLflow would write down; put it "
            "into a variable of the environment, $NAME in a command"
        )
    return found


class _Loader(yaml.SafeLoader):
    """YAML as DVC reads it: no key may stand twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, count in keys.items():
            if count > 1:
                problem = f"the key {key!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def read_tree(path: Path) -> Any:
    """What a file of parameters holds, unchecked.

    Raises UserError naming the file if it is not there or not YAML, or has a key twice.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; run from the repository's root, or `make profile`")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or number beyond bounds
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())[:300]}") from None


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate a parameter file."""
    return parse(read_tree(Path(path)), str(path))
