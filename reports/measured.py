"""Every metrics file the report reads, found and checked before anything is drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesa.errors import UserError
from lesa.params import Params

Json = dict[str, Any]
PHASES = ("init", "trained")
# What a file must hold at its top level for the report to be written.
REQUIRED: dict[str, tuple[str, ...]] = {
    "base": ("profile", "source", "license", "num_hidden_layers", "parameters"),
    "corpus": ("documents", "tokens", "block_size", "license", "source"),
    "fit": ("preset", "seed", "kinds"),
    "expand": ("plan", "parameters_after", "new_weight_structure"),
    "spread": ("heldout_tokens", "base", "seeds"),
    "pretrain": ("learning_rate", "trainable_parameters", "steps", "tokens_per_second", "seconds"),
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
    fit: dict[str, dict[int, Json]]  # preset -> seed -> file; the first seed is always there
    expand: dict[str, Json]  # no entry for the unexpanded base
    spread: dict[str, Json]  # optional: presets that were measured
    pretrain: dict[str, Json]
    grid: dict[str, Json]  # optional: models that were measured
    evaluate: dict[str, dict[str, Json]]  # phase -> model -> file
    benchmarks: dict[str, Json]  # optional: those that were run, of no profile

    @property
    def models(self) -> list[str]:
        return list(self.params.models)

    @property
    def kinds(self) -> list[str]:
        return list(self.svd)

    def first_fit(self, preset: str) -> Json:
        """The fit metrics of a preset's first seed."""
        return next(iter(self.fit[preset].values()))

    def model_of(self, name: str) -> str | None:
        """The first listed model called `name`, else the first made by the method `name`."""
        if name in self.models:
            return name
        methods = self.params.methods  # "base" is a model without a method
        return next((m for m in self.models if m in methods and methods[m].method == name), None)


def perplexity_at(pretrain: Json, index: int) -> tuple[float, float | None]:
    """Held-out perplexity of `steps[index]` and its standard error where the stage gives one.

    The error of the mean loss becomes one of its exponential by the delta method.
    """
    step = pretrain["steps"][index]
    value, error = float(step["heldout_perplexity"]), step.get("heldout_loss_se")
    return value, None if error is None else value * float(error)


def files(stage: str, names: list[str]) -> str:
    """How captions name a stage's metrics files: `metrics/pretrain/{base,lesa}.json`."""
    inner = names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    return f"metrics/{stage}/{inner}.json"


def _read(path: Path, stage: str) -> Json:
    if not path.is_file():
        raise UserError(f"{path}: not found; run stage {stage} first (`dvc repro`)")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); run stage {stage} again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; run stage {stage} again")
    for key in REQUIRED.get(stage, ()):
        if key not in value:
            raise UserError(f"{path}: lacks the key {key!r}; run stage {stage} again")
    if stage == "pretrain" and not value["steps"]:
        raise UserError(f"{path}: steps is empty; step 0 must be measured, run pretrain again")
    return value


def _optional(folder: Path, stage: str, names: list[str]) -> dict[str, Json]:
    paths = {name: folder / stage / f"{name}.json" for name in names}
    return {name: _read(path, stage) for name, path in paths.items() if path.is_file()}


def load(folder: str | Path, params: Params) -> Metrics:
    """Read the metrics folder; a missing file of a listed model raises UserError naming it."""
    folder = Path(folder)
    models = params.models

    def fits(preset: str) -> dict[int, Json]:
        first, *others = params.fit.seeds(preset)
        found = {first: _read(folder / "fit" / f"{preset}-{first}.json", "fit")}
        for seed in others:
            for content in _optional(folder, "fit", [f"{preset}-{seed}"]).values():
                found[seed] = content
        return found

    return Metrics(
        params=params,
        base=_read(folder / "base.json", "base"),
        corpus=_read(folder / "corpus.json", "corpus"),
        svd=_read(folder / "svd.json", "svd"),
        fit={preset: fits(preset) for preset in params.fit.presets if params.fit.seeds(preset)},
        expand={m: _read(folder / "expand" / f"{m}.json", "expand") for m in models if m != "base"},
        spread=_optional(folder, "spread", list(params.fit.presets)),
        pretrain={m: _read(folder / "pretrain" / f"{m}.json", "pretrain") for m in models},
        # Committed outside the default run: a grid of another profile says nothing of this one.
        grid={
            name: content
            for name, content in _optional(folder, "grid", models).items()
            if content.get("profile", params.profile) == params.profile
        },
        evaluate={
            phase: {m: _read(folder / "evaluate" / phase / f"{m}.json", "evaluate") for m in models}
            for phase in PHASES
        },
        benchmarks=_optional(
            folder, "benchmarks", sorted(path.stem for path in folder.glob("benchmarks/*.json"))
        ),
    )
