"""`lesa expand`: a deeper checkpoint from one's own, checked before it appears."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lesa import __version__
from lesa.checkpoints.check import check
from lesa.checkpoints.reader import Checkpoint
from lesa.commands.evaluate import windows_of
from lesa.commands.growth import chosen, gaps_of, layer_plan
from lesa.commands.output import alone, check_out, work_of
from lesa.commands.presets import preset_of
from lesa.commands.workshop import Model, Workshop
from lesa.files import key_of, tree_digest, work_folder


@dataclass(frozen=True)
class Expansion(Model):
    """A deepened checkpoint.

    seconds: by step, of this run alone: what an earlier, stopped one did is not in them.
    peak_memory: bytes of this process at its peak, and of the largest of its workers.
    """

    out: str
    seconds: dict[str, float]
    peak_memory: int


def expand(
    base: str | Path,
    out: str | Path,
    *,
    method: str = "lesa",
    layers: int | None = None,
    positions: str | None = None,
    preset: str = "paper",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    text: str | Path | None = None,
) -> Expansion:
    """Deepen the checkpoint in the folder `base` into the new folder `out`.

    layers: of the deeper model; positions: where the new ones go (`lesa.commands.growth.gaps_of`).
    preset, seed: how LESA's predictors are fitted. options: the method's own. text: a UTF-8 file
    that the result is scored on.

    `out` appears once the checkpoint is whole, loads in transformers and has a finite loss on the
    text. What a stopped run has finished, in `.<out>.work` beside it, is used by the next one with
    the same base, preset and seed. Raises UserError for bad input, CheckError for a result that is
    no model.
    """
    base, out, scored = Path(base), Path(out), Path(text) if text is not None else None
    check_out(base, out, scored)
    with alone(out):
        how, own = chosen(method, seed, options or {})
        settings = preset_of(preset)
        check(base)
        source = Checkpoint(base)
        gaps = gaps_of(source.num_layers, layers, positions)
        layer_plan(how, source.num_layers, gaps)  # refused here, and not after minutes
        if scored is not None:
            windows_of(base, scored)  # refused here, too
        key = key_of(__version__, tree_digest(base), settings.model_dump(), seed)
        with work_folder(work_of(out), key) as folder:
            workshop, made = Workshop(source, folder, settings, seed), folder / "checkpoint"
            model = workshop.make(method, how, own, gaps, made, scored)
            made.rename(out)
    return Expansion(
        **vars(model), out=str(out), seconds=workshop.seconds, peak_memory=peak_memory()
    )


def peak_memory() -> int:
    """Bytes that this process held at its peak, plus those of its largest worker; on a GPU plus
    those that torch held there."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    host = unit * sum(resource.getrusage(one).ru_maxrss for one in who)
    return host + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
