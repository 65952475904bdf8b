"""Every metrics file the report reads, found and checked before anything is drawn."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesa.errors import UserError
from lesa.params import Params
from reports.paired import Array, document_means

Json = dict[str, Any]
PHASES = ("init", "trained")
TRAINED = ("budget", "scale")  # the studies of training runs
TRAINING_RUN = (
    "run",
    "method",
    "preset",
    "seed",
    "trains",
    "max_steps",
    "learning_rate",
    "seconds",
    "prefix_seconds",
    "heldout_documents",
    "steps",
    "train",
)
# What a stage's files must hold at their top level for the report to be written.
REQUIRED: dict[str, tuple[str, ...]] = {
    "base": ("profile", "source", "license", "num_hidden_layers", "parameters"),
    "corpus": ("documents", "tokens", "block_size", "license", "source"),
    "tasks": ("left_out",),
    "fit": ("preset", "seed", "kinds"),
    "expand": ("plan", "parameters_after", "new_weight_structure"),
    "pretrain": (
        "learning_rate",
        "trainable_parameters",
        "tokens_per_second",
        "seconds",
        "prefix_seconds",
        "heldout_documents",
        "steps",
    ),
    "start": (
        "row",
        "method",
        "preset",
        "seed",
        "signs",
        "settings",
        "raw",
        "gaps",
        "options",
        "norm_ratio",
        "heldout_documents",
        "block_losses",
        "perplexity",
    ),
    "budget": TRAINING_RUN,
    "scale": TRAINING_RUN,
    "rates": ("study", "model", "max_steps", "tokens", "runs", "best"),
    "provenance": ("machine",),
    "removal": ("heldout_documents", "block_losses", "block_losses_without"),
    "grid": ("runs", "best"),
    "evaluate": ("tasks",),
    "benchmarks": ("machine",),
}


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
    start: dict[str, Json]
    budget: dict[str, Json]
    scale: dict[str, Json]
    rates: dict[str, Json]
    variants: dict[str, Json]
    code: dict[str, Json]
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


def losses_at(run: Json, index: int) -> Array:
    """Mean held-out loss of each document (documents,) at `steps[index]` of a training run."""
    return document_means(run["heldout_documents"], run["steps"][index]["block_losses"])


def start_losses(row: Json) -> Array:
    """Mean held-out loss of each document (documents,) of a row of the study `start`."""
    return document_means(row["heldout_documents"], row["block_losses"])


def perplexity_at(pretrain: Json, index: int) -> tuple[float, float | None]:
    """Held-out perplexity of `steps[index]` and its standard error, None for one document.

    The error of the documents' mean loss becomes one of its exponential by the delta method.
    """
    value, losses = (
        float(pretrain["steps"][index]["heldout_perplexity"]),
        losses_at(pretrain, index),
    )
    if len(losses) < 2:
        return value, None
    return value, value * float(losses.std(ddof=1)) / len(losses) ** 0.5


def whole_seconds(run: Json) -> float:
    """Seconds of a run's steps and of its frozen layers below, had nothing been cached before."""
    return float(run["seconds"]) + float(run["prefix_seconds"])


def files(stage: str, names: list[str]) -> str:
    """How captions name a stage's metrics files: `metrics/pretrain/{base,lesa}.json`."""
    inner = names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    return f"metrics/{stage}/{inner}.json"


def read(folder: Path, name: str) -> Json:
    """The file of `name`, such as `pretrain/lesa`: the stage that wrote it comes first."""
    path, stage = folder / f"{name}.json", name.partition("/")[0]
    again = "`make bench`" if stage == "benchmarks" else f"stage {stage}"
    if not path.is_file():
        raise UserError(f"{path}: not found; run stage {stage} first (`dvc repro`)")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); run {again} again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; run {again} again")
    for key in REQUIRED.get(stage, ()):
        if key not in value:
            raise UserError(f"{path}: lacks the key {key!r}; run stage {stage} again")
    if stage in ("pretrain", "budget", "scale"):
        _check_steps(path, stage, value)
    if stage == "fit":
        _check_heldout(path, value)
    return value


def _check_heldout(path: Path, fit: Json) -> None:
    """A predictor scored on triples it did not see is scored on its own and beside zero, too."""
    for kind, content in fit["kinds"].items():
        for key in ("fitted", "zero_mse"):
            if content["heldout"] and key not in content["heldout"]:
                raise UserError(
                    f"{path}: kinds.{kind}.heldout lacks the key {key!r}; run stage fit again"
                )


def _check_steps(path: Path, stage: str, run: Json) -> None:
    """Every point of a training run has a loss for each held-out block."""
    if not run["steps"]:
        raise UserError(f"{path}: steps is empty; step 0 must be measured, run {stage} again")
    blocks = len(run["heldout_documents"])
    for step in run["steps"]:
        if len(step.get("block_losses", ())) != blocks:
            raise UserError(
                f"{path}: step {step.get('step')} must have {blocks} block_losses, as "
                f"heldout_documents has; run {stage} again"
            )


def load(folder: str | Path, params: Params) -> Metrics:
    """Read what the params list, and of the optional files those that are there.

    Raises UserError naming a file that is missing or broken.
    """
    folder = Path(folder)

    def every(stage: str, names: list[str]) -> dict[str, Json]:
        return {name: read(folder, f"{stage}/{name}".lstrip("/")) for name in names}

    def present(stage: str, names: list[str]) -> dict[str, Json]:
        return every(stage, [n for n in names if (folder / stage / f"{n}.json").is_file()])

    def study(name: str) -> dict[str, Json]:
        """What a study measured on this profile: a committed file may be of another one."""
        found = present(name, sorted(path.stem for path in (folder / name).glob("*.json")))
        own = params.profile
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
        tasks=present("", ["tasks"]).get("tasks", {"left_out": {}}),
        grid=present("grid", params.models),
        benchmarks=present("benchmarks", sorted(p.stem for p in folder.glob("benchmarks/*.json"))),
        start=study("start"),
        budget=study("budget"),
        scale=study("scale"),
        rates=study("rates"),
        variants=study("variants"),
        code=study("code"),
        sft=study("sft"),
        official=study("official"),
        removal=study("removal"),
        provenance=present(
            "provenance",
            sorted(p.stem for s in TRAINED for p in folder.glob(f"provenance/{s}-*.json")),
        ),
    )
    for stage, content in (
        ("pretrain", found.pretrain),
        ("start", found.start),
        ("budget", found.budget),
        ("scale", found.scale),
    ):
        _check_documents(folder / stage, content)
    return found


def _check_documents(folder: Path, contents: dict[str, Json]) -> None:
    """What is compared was scored on the same blocks."""
    for name, content in contents.items():
        first = next(iter(contents))
        if content["heldout_documents"] != contents[first]["heldout_documents"]:
            raise UserError(
                f"{folder / name}.json: heldout_documents must be those of {first}.json; run "
                f"{folder.name} again for both"
            )
