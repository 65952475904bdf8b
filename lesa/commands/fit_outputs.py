"""`lesa fit-outputs`: an identity start brought below its base's loss before any training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lesa.checkpoints.reader import Checkpoint
from lesa.commands.evaluate import whole_windows, windows_of
from lesa.commands.numbers import check_count, check_positive
from lesa.commands.output import check_out
from lesa.commands.retrained import Retrained, retrained
from lesa.errors import UserError
from lesa.machine import compute_device
from lesa.training import outputs
from lesa.training.pretrain import load_model
from lesa.training.saving import save
from lesa.upscaling.plan import read_plan


@dataclass(frozen=True)
class Fitted(Retrained):
    """A fitted start. tokens: to be counted as training; rounds: in so many steps."""

    rounds: int


def fit_outputs(
    start: str | Path,
    out: str | Path,
    train: str | Path,
    *,
    tokens: int = 8192,
    rounds: int = 4,
    step_size: float = 0.2,
    damping: float = 0.1,
    text: str | Path | None = None,
) -> Fitted:
    """Fit the zeroed output projections of the deepened checkpoint `start` into the folder `out`.

    The first `tokens` tokens of the UTF-8 file `train` are read, in windows of 512, in so many
    rounds (`lesa.training.outputs`). `text` is held out: the result is scored on it. `out` appears
    once the checkpoint loads and has a finite loss. Raises UserError for bad input, and for a start
    that is no identity; CheckError for a result that is no model.
    """
    start, out, train = Path(start), Path(out), Path(train)
    heldout = Path(text) if text is not None else None
    check_out(start, out, train, heldout)
    plan = read_plan(start, Checkpoint(start).num_layers)
    check_count("tokens", tokens, 1)
    check_count("rounds", rounds, 1)
    if tokens < rounds:
        raise UserError(f"rounds: {rounds}: must be no more than tokens ({tokens})")
    check_positive("step_size", step_size)
    check_positive("damping", damping)

    def make(_: Path, made: Path) -> int:
        if heldout:
            windows_of(start, heldout)  # refused here, and not when all is done
        model = load_model(start).to(compute_device())
        whole = whole_windows(start, train)
        size = len(whole[0])
        count = max(rounds, tokens // size)  # a round has one window at least
        if len(whole) < count:
            have = len(whole) * size
            raise UserError(f"train: {train}: {have} tokens; {count * size} are to be read")
        share = count // rounds
        parts = [whole[i * share : (i + 1) * share] for i in range(rounds)]
        weights = outputs.fit_outputs(model, plan, parts, step_size, damping, bf16=False)
        save({name: weight.cpu() for name, weight in weights.items()}, start, made)
        return rounds * share * size

    settings = {"fit": [tokens, rounds, step_size, damping]}
    found = retrained(start, out, (train, heldout), settings, make)
    return Fitted(**vars(found), rounds=rounds)
