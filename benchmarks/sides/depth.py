"""LESA end to end on one checkpoint: `python -m benchmarks.sides.depth <base> <work folder>`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.base import ROOT
from benchmarks.measure import report
from benchmarks.memory import watched
from benchmarks.shapes import upper_gaps
from benchmarks.sides import opened
from lesa import params
from lesa.checkpoints.reader import Checkpoint
from lesa.commands.presets import RANK_TOLERANCE
from lesa.method.basis import from_gram, gram, save_basis
from lesa.method.fitting import ALL_TRIPLES, Job, fit_kinds
from lesa.params import Predictor as Settings
from lesa.upscaling.expand import expand
from lesa.upscaling.lesa import METHODS, Options
from lesa.upscaling.methods import Source

EPOCHS = 1  # over all triples; the paper's preset has five, which take five times as long
ALL = "all kinds"


@dataclass
class Record:
    """What the stages took: seconds by stage and kind, largest anonymous bytes by stage."""

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    anonymous: dict[str, int | None] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str, kind: str) -> Iterator[None]:
        start = time.perf_counter()
        with watched() as peak:
            yield
        self.seconds.setdefault(stage, {})[kind] = time.perf_counter() - start
        before = self.anonymous.get(stage)
        self.anonymous[stage] = None if peak.value is None else max(peak.value, before or 0)


def settings() -> Settings:
    """The paper's preset, cut to EPOCHS."""
    paper = params.load(ROOT / "conf" / "default.yaml").fit.presets["paper"]
    return paper.model_copy(update={"epochs": EPOCHS})


def make_basis(base: Checkpoint, kind: str, folder: Path, record: Record) -> None:
    with record.of("extract", kind):
        total = gram(base.matrices(kind))
    with record.of("svd", kind):
        save_basis(from_gram(total, RANK_TOLERANCE), folder / f"{kind}.safetensors")


def make_predictors(base: Path, svd: Path, folder: Path, chosen: Settings) -> dict[str, float]:
    """The fit stage's own call: all kinds, by workers, on every triple; seconds of each kind."""
    job = Job(base, svd, folder, chosen, seed=0, heldout_every=ALL_TRIPLES)
    return {kind: entry["seconds"] for kind, entry in fit_kinds(job, "fit").items()}


def batches(shape: Sequence[int], layers: int, chosen: Settings) -> int:
    """Steps of the optimiser for one kind of full rank: a batch is of rows of all triples."""
    return chosen.epochs * -(-(layers - 2) * shape[0] // chosen.batch_size)


def end_to_end(base: Checkpoint, work: Path, chosen: Settings) -> dict[str, Any]:
    """Extract, basis, fit and expand: the stages of dvc.yaml in one."""
    record = Record()
    svd, fits = work / "svd", work / "fit"
    svd.mkdir()
    for kind in base.kinds:
        make_basis(base, kind, svd, record)
    layers = base.num_layers
    with record.of("fit", ALL):
        fit_seconds = make_predictors(base.folder, svd, fits, chosen)
    with record.of("expand", ALL):
        source = Source(base, svd, (fits,), Options(unpredicted="layer_0"))
        plan = expand(source, "lesa", METHODS["lesa"], upper_gaps(layers), work / "deepened")
    return {
        "layers": layers,
        "layers_after": len(plan),
        "parameters_after": Checkpoint(work / "deepened").parameters(),
        "fit": chosen.model_dump(),
        "fit_batches": {kind: batches(base.shape(kind), layers, chosen) for kind in base.kinds},
        "fit_seconds": fit_seconds,
        "seconds_by_kind": record.seconds,
        "seconds_by_stage": {stage: sum(k.values()) for stage, k in record.seconds.items()},
        "peak_anonymous_bytes_by_stage": record.anonymous,
    }


if __name__ == "__main__":
    base, chosen = opened(Path(sys.argv[1])), settings()
    report(lambda: end_to_end(base, Path(sys.argv[2]), chosen))
