"""Every metrics file the report reads, found and checked before anything is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lesa.errors import UserError
from lesa.files import read_object
from lesa.params import Params
from reports.paired import Array, document_means
from reports.record import Json as Json  # also of those who read what is loaded here
from reports.record import wrong

PHASES = ("init", "trained")
HELDOUT = ("ids", "groups", "bytes", "targets")  # of what studies code and sft hold out
TRAINING_STUDIES = ("budget", "scale")  # the studies of training runs
STUDIES = (
    *TRAINING_STUDIES,
    "fits",
    "start",
    "rates",
    "variants",
    "code",
    "humaneval",
    "sft",
    "official",
    "removal",
)


@dataclass(frozen=True)
class Metrics:
    """The content of the metrics folder, by stage. Models keep the order of `params.models`."""

    params: Params
    base: Json
    corpus: Json
    svd: dict[str, Json]  # kind -> spectrum and top rows
    fit: dict[str, Json]  # name in fit.runs -> file
    expand: dict[str, Json]
    pretrain: dict[str, Json]
    evaluate: dict[str, dict[str, Json]]  # phase -> model -> file
    # Optional: what was measured.
    tasks: Json  # offline tasks that fit the text, and why others do not
    grid: dict[str, Json]  # model -> file, of this profile or another
    benchmarks: dict[str, Json]  # of no profile
    # Of studies, what was measured on this profile, by file.
    fits: dict[str, Json]
    start: dict[str, Json]
    budget: dict[str, Json]
    scale: dict[str, Json]
    rates: dict[str, Json]
    variants: dict[str, Json]
    code: dict[str, Json]
    humaneval: dict[str, Json]
    sft: dict[str, Json]
    official: dict[str, Json]
    removal: dict[str, Json]
    provenance: dict[str, Json]  # of the runs of studies, by study and run: `budget-lesa-0`

    @property
    def models(self) -> list[str]:
        return self.params.models

    @property
    def base_name(self) -> str:
        """The base's name: the last part of the path that its source begins with, if it does."""
        path = str(self.base["source"]).split(" ")[0]
        return path.rsplit("/", 1)[1].removesuffix(".gguf") if "/" in path else self.base["source"]

    @property
    def first_runs(self) -> dict[str, str]:
        """The name in `fit` of the first seed of each preset that is fitted."""
        runs: dict[str, str] = {}
        for name, run in self.params.fit.runs.items():
            runs.setdefault(run.preset, name)
        return {preset: runs[preset] for preset in self.params.fit.presets if preset in runs}

    @property
    def fits_by_preset(self) -> dict[str, dict[str, Json]]:
        """Every fit of this run, by preset and then by name."""
        found: dict[str, dict[str, Json]] = {}
        for name, content in self.fit.items():
            found.setdefault(str(content["preset"]), {})[name] = content
        return found

    @property
    def seeds_by_preset(self) -> dict[str, dict[str, Json]]:
        """`fits_by_preset` and, of the same presets, what study `fits` has of other seeds."""
        found = self.fits_by_preset
        for name, content in self.fits.items():
            if content["preset"] in found and name not in self.fit:
                found[content["preset"]][name] = content
        return found

    def fit_files(self, names: Iterable[str]) -> str:
        """How captions name the files of `seeds_by_preset`."""
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault("fit" if name in self.fit else "fits", []).append(name)
        return ", ".join(files(stage, own) for stage, own in found.items())

    @property
    def kind_groups(self) -> dict[str, list[str]]:
        """Matrix kinds, those of a mixture's experts together: `experts.*.up_proj`."""
        groups: dict[str, list[str]] = {}
        for kind in self.svd:
            groups.setdefault(re.sub(r"\d+", "*", kind), []).append(kind)
        return groups

    @property
    def other_profiles(self) -> dict[str, str]:
        """Models whose learning rate was chosen on another profile, and which one that is."""
        own = self.params.profile
        chosen = {model: str(grid.get("profile", own)) for model, grid in self.grid.items()}
        return {model: profile for model, profile in chosen.items() if profile != own}

    def model_of(self, name: str) -> str | None:
        """The model called `name`, else the first one made by the method `name`."""
        methods = self.params.methods
        made = (model for model, entry in methods.items() if entry.method == name)
        return name if name in methods else next(made, None)


def index_at(run: Json, share: float) -> int | None:
    """Where in `steps` a share of the training was done; None where nothing was measured there."""
    last = run["steps"][-1]["step"]
    return next((i for i, row in enumerate(run["steps"]) if row["step"] == share * last), None)


def losses_at(run: Json, index: int) -> Array:
    """Mean held-out loss of each document (documents,) at `steps[index]` of a training run."""
    return document_means(run["heldout_documents"], run["steps"][index]["block_losses"])


def start_losses(row: Json) -> Array:
    """Mean held-out loss of each document (documents,) of a row of the study `start`."""
    return document_means(row["heldout_documents"], row["block_losses"])


def with_error(perplexity: float, losses: Array) -> tuple[float, float | None]:
    """A perplexity and its standard error: by the delta method from that of the mean of `losses`,
    one for each document or seed; None for one loss."""
    if len(losses) < 2:
        return perplexity, None
    return perplexity, perplexity * float(losses.std(ddof=1)) / len(losses) ** 0.5


def perplexity_at(run: Json, index: int) -> tuple[float, float | None]:
    """Held-out perplexity of `steps[index]` and its standard error over documents."""
    return with_error(float(run["steps"][index]["heldout_perplexity"]), losses_at(run, index))


def dtypes(runs: Iterable[Json]) -> str:
    """The dtypes of the runs' matrix products, in words."""
    return ", ".join(sorted({str(run.get("dtype", "not recorded")) for run in runs}))


def whole_seconds(run: Json) -> float:
    """Seconds of a run's steps and of its frozen layers below, had nothing been cached before."""
    return float(run["seconds"]) + float(run["prefix_seconds"])


def fit_seconds(m: Metrics, model: str) -> float:
    """Seconds of fitting the predictors that a model of this run reads, all kinds one by one."""
    kinds = [kind for fit in m.params.methods[model].needs for kind in m.fit[fit]["kinds"].values()]
    return sum(float(kind["seconds"]) for kind in kinds)


def files(stage: str, names: list[str]) -> str:
    """How captions name a stage's metrics files: `metrics/pretrain/{base,lesa}.json`."""
    inner = names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    return f"metrics/{stage}/{inner}.json"


def read(folder: Path, name: str) -> Json:
    """The file of `name`, such as `pretrain/lesa`: the stage that wrote it comes first."""
    path, (stage, _, inner) = folder / f"{name}.json", name.partition("/")
    again = "`make bench`" if stage == "benchmarks" else f"stage {stage}"
    if not path.is_file():
        raise UserError(f"{path}: not found; run stage {stage} first (`dvc repro`)")
    try:
        value = read_object(path)
    except UserError as error:
        raise UserError(f"{error}; run {again} again") from None
    if said := wrong(stage, inner, value):
        raise UserError(f"{path}: {said}; run {again} again")
    return value


def load(folder: str | Path, params: Params) -> Metrics:
    """Read what the params list, and of the optional files those that are there.

    Raises UserError naming a file that is missing or broken.
    """
    folder = Path(folder)

    def every(stage: str, names: Iterable[str]) -> dict[str, Json]:
        return {name: read(folder, f"{stage}/{name}") for name in names}

    def present(stage: str, start: str = "") -> list[str]:
        """The names of a stage's files, of those that begin with `start`."""
        return sorted(path.stem for path in (folder / stage).glob(f"{start}*.json"))

    def study(name: str) -> dict[str, Json]:
        """What a study measured on this profile: a committed file may be of another one."""
        found, own = every(name, present(name)), params.profile
        return {name: c for name, c in found.items() if c.get("profile", own) == own}

    found = Metrics(
        params=params,
        base=read(folder, "base"),
        corpus=read(folder, "corpus"),
        svd=read(folder, "svd"),
        fit=every("fit", list(params.fit.runs)),
        expand=every("expand", params.models),
        pretrain=every("pretrain", params.models),
        evaluate={phase: every(f"evaluate/{phase}", params.models) for phase in PHASES},
        tasks=read(folder, "tasks") if (folder / "tasks.json").is_file() else {"left_out": {}},
        grid=every("grid", [model for model in params.models if model in present("grid")]),
        benchmarks=every("benchmarks", present("benchmarks")),
        **{name: study(name) for name in STUDIES},
        provenance=every(
            "provenance", [n for s in TRAINING_STUDIES for n in present("provenance", f"{s}-")]
        ),
    )
    for stage in ("pretrain", "start", "budget", "scale", "code", "sft"):
        _check_documents(folder / stage, getattr(found, stage))
    if (profile := found.base["profile"]) != params.profile:
        raise UserError(
            f"{folder / 'base.json'}: is of profile {profile!r}, and params.yaml of "
            f"{params.profile!r}; `dvc repro`, or `make profile PROFILE={profile}`"
        )
    return found


def _check_documents(folder: Path, contents: dict[str, Json]) -> None:
    """What is compared was scored on the same blocks, and on the same text of the study's own."""
    first = next(iter(contents), "")
    for name, content in contents.items():
        for key in ("heldout_documents", *HELDOUT):
            own, theirs = (
                one.get(key, one.get("heldout", {}).get(key)) for one in (content, contents[first])
            )
            if own != theirs:
                raise UserError(
                    f"{folder / name}.json: {key} must be those of {first}.json; run "
                    f"{folder.name} again for both"
                )
