"""What the report reads of each metrics file, and what a file's name says of its content.

Everything else that a file holds is its stage's own affair.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Json = dict[str, Any]
Positive = Annotated[int, Field(gt=0)]
Numbers = Annotated[list[float], Field(min_length=1)]


class Base(TypedDict):
    profile: str
    source: str
    license: str
    num_hidden_layers: Positive
    hidden_size: Positive
    parameters: Positive
    digest: str


class Corpus(TypedDict):
    documents: dict[str, int]
    tokens: dict[str, int]
    block_size: Positive
    begins_with: list[str]
    duplicates: int
    license: str
    source: str
    digest: str


class Structure(TypedDict):
    rank_one_share: float
    mean_cosine: float | None


class Basis(TypedDict):
    """Of one matrix kind."""

    layers: Positive
    singular_values: Numbers
    top_rows: Annotated[list[Numbers], Field(min_length=1)]
    structure: Structure


class Tasks(TypedDict):
    left_out: dict[str, str]
    notes: NotRequired[dict[str, str]]


class OfTrain(TypedDict):
    mse: float


class OfTest(OfTrain):
    zero_mse: float
    explained_variance: float


class Errors(OfTest):
    cosine: float
    norm_ratio: float


class OfHeldout(Errors):
    """On triples that the predictor did not see; fitted: on the others, alike."""

    fitted: Errors


class Predictor(TypedDict):
    train: Errors
    heldout: OfHeldout | None
    seconds: float


class Fit(TypedDict):
    preset: str
    seed: int
    kinds: Annotated[dict[str, Predictor], Field(min_length=1)]


class Expand(TypedDict):
    model: str
    plan: Annotated[list[Json], Field(min_length=1)]
    parameters_before: Positive
    parameters_after: Positive
    new_weight_structure: dict[str, Structure | None]


class Point(TypedDict):
    step: int
    tokens: int
    block_losses: Numbers


class Step(Point):
    heldout_loss: float
    heldout_perplexity: float
    second_text_block_losses: NotRequired[Numbers]


class TrainStep(TypedDict):
    step: int
    loss: float


class Training(TypedDict):
    learning_rate: float
    seconds: float
    prefix_seconds: float
    heldout_documents: list[str]
    steps: Annotated[list[Step], Field(min_length=1)]
    train: list[TrainStep]


class Pretrain(Training):
    model: str
    trainable_parameters: int
    tokens_per_second: float
    tokens_per_step: Positive


class Phase(TypedDict):
    steps: Positive


class StudyRun(Training):
    run: str
    method: str
    preset: str | None
    seed: int | None
    trains: str
    max_steps: Positive
    gaps: Json | None
    phases: NotRequired[Annotated[list[Phase], Field(min_length=1)]]
    second_text_documents: NotRequired[list[str]]


class Measure(TypedDict):
    value: float
    stderr: NotRequired[float | None]
    examples: NotRequired[list[Any]]


class Task(TypedDict):
    metrics: dict[str, Measure]


class OwnTask(Task):
    source: str  # offline, the hub or a mirror
    examples: Positive


class DocumentPerplexity(TypedDict):
    value: float


class Evaluate(TypedDict):
    model: str
    phase: str
    tasks: dict[str, OwnTask]
    document_perplexity: NotRequired[DocumentPerplexity | None]


class Official(TypedDict):
    model: str
    seed: NotRequired[int]
    phase: str
    tasks: dict[str, Task]


class Try(TypedDict):
    learning_rate: float
    validation_loss_at_0: float | None
    validation_loss: float | None  # None: training diverged


class Grid(TypedDict):
    model: str
    max_steps: Positive
    best: float
    runs: Annotated[list[Try], Field(min_length=1)]
    profile: NotRequired[str]


class Rates(Grid):
    study: Literal["budget", "scale"]
    tokens: Positive
    run: str


class Start(TypedDict):
    row: str
    method: str
    preset: str | None
    seed: int | None
    signs: str | int | None  # as they are, or drawn from a seed
    settings: Json | None
    raw: bool | None
    again: NotRequired[bool]
    gaps: Json | None
    options: Json
    norm_ratio: dict[str, float] | None
    new_weight_structure: dict[str, Structure | None]
    heldout_documents: list[str]
    block_losses: Numbers
    perplexity: float
    document_perplexity: NotRequired[float | None]


class Nats(TypedDict):
    start: Numbers
    end: Numbers


class Heldout(TypedDict):
    groups: list[str]
    ids: list[str]
    nats: Nats
    bytes: list[int]
    targets: list[int]


class Domain(TypedDict):
    model: str
    learning_rate: float
    seed: int | None
    heldout: Heldout
    heldout_documents: list[str]
    steps: Annotated[list[Point], Field(min_length=1)]


class HumanEval(TypedDict):
    model: str
    problems: Annotated[list[str], Field(min_length=1)]
    passed: Annotated[list[bool], Field(min_length=1)]


class Scores(TypedDict):
    train: OfTrain
    test: OfTest


class VariantsKind(TypedDict):
    seeds: Annotated[dict[str, Scores], Field(min_length=1)]
    distance: dict[str, float]
    nearest_copy_mse: float | None


class Parity(TypedDict):
    split: str
    basis: str
    triples: dict[str, int]
    kinds: Annotated[dict[str, VariantsKind], Field(min_length=1)]


class Removal(TypedDict):
    heldout_documents: list[str]
    block_losses: Numbers
    block_losses_without: list[Numbers]


class Machine(TypedDict):
    processor: str
    cores: Positive
    memory_bytes: Positive
    torch: str
    date: str


class OfMethod(TypedDict):
    seconds: Numbers
    prefix_seconds_per_step: float


class Benchmark(TypedDict):
    machine: Machine
    methods: NotRequired[dict[str, OfMethod]]


class Device(TypedDict):
    device: str


class Provenance(TypedDict):
    machine: Device


SHAPES: dict[str, Any] = {
    "base": Base,
    "corpus": Corpus,
    "svd": Annotated[dict[str, Basis], Field(min_length=1)],
    "tasks": Tasks,
    "fit": Fit,
    "expand": Expand,
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "grid": Grid,
    "rates": Rates,
    "fits": Fit,
    "start": Start,
    "budget": StudyRun,
    "scale": StudyRun,
    "code": Domain,
    "humaneval": HumanEval,
    "sft": Domain,
    "official": Official,
    "removal": Removal,
    "benchmarks": Benchmark,
    "provenance": Provenance,
}
# How the file of a stage is called, by what it holds. Not so the grid's: another model's rate may
# have been copied.
NAMES = {
    "fit": "{preset}-{seed}",
    "expand": "{model}",
    "pretrain": "{model}",
    "evaluate": "{phase}/{model}",
    "rates": "{study}-{model}",
    "fits": "{preset}-{seed}",
    "start": "{row}",
    "budget": "{run}",
    "scale": "{run}",
    "code": "{model}",
    "humaneval": "{model}",
    "sft": "{model}",
    "official": "{model}-{phase}",
}


def shape_of(stage: str, value: Json) -> Any:
    """The type of a file's content; of the study variants, by what it holds."""
    if stage == "variants":
        return Parity if "split" in value else Json  # how a variant was trained is not read
    return SHAPES[stage]


def wrong(stage: str, name: str, value: Json) -> str | None:
    """What is wrong with the content of metrics/<stage>/<name>.json, or nothing.

    name: without its ending; empty for a stage of one file.
    """
    try:
        TypeAdapter(shape_of(stage, value)).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        *place, key = map(str, first["loc"])
        if first["type"] == "missing":
            return f"{'.'.join(place)} lacks the key {key!r}".lstrip()
        return f"{'.'.join((*place, key))}: {first['msg'].lower()}"
    if (pattern := NAMES.get(stage, "")) and (own := pattern.format(**value)) != name:
        return f"holds what belongs into {stage}/{own}.json"
    numbered = re.fullmatch(r".+-(\d+)", name)
    if stage in ("budget", "scale") and numbered and int(numbered[1]) != value["seed"]:
        return f"seed is {value['seed']} in {name}"
    if "steps" in value and stage != "variants":
        return wrong_steps(value)
    if stage == "humaneval" and len(value["passed"]) != len(value["problems"]):
        return "passed and problems must be equally long"
    if "block_losses" in value and len(value["block_losses"]) != len(value["heldout_documents"]):
        return "block_losses and heldout_documents must be equally long"
    return None


def wrong_steps(run: Json) -> str | None:
    """A training run has its points in order, from step 0 to its last, each with all blocks."""
    steps, last = [step["step"] for step in run["steps"]], run.get("max_steps")
    if steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
        return f"steps must rise from 0, and are {steps}"
    if last is not None and steps[-1] != last:
        return f"steps end at {steps[-1]}, and max_steps is {last}"
    for step in run["steps"]:
        for losses, documents in (
            ("block_losses", "heldout_documents"),
            ("second_text_block_losses", "second_text_documents"),
        ):
            if losses in step and len(step[losses]) != (blocks := len(run[documents])):
                return f"step {step['step']} must have {blocks} {losses}, as {documents} has"
    return None
