"""`lesa fit-outputs`: an identity start brought below its base's loss before any training."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from lesa import __version__
from lesa.checkpoints.check import check
from lesa.checkpoints.writer import PLAN_FILE
from lesa.commands.evaluate import Score, check_text, evaluate, windows
from lesa.commands.expand import check_out
from lesa.commands.workshop import check_made
from lesa.errors import UserError
from lesa.files import key_of, read_json, tree_digest, work_folder
from lesa.machine import compute_device
from lesa.training import outputs
from lesa.training.pretrain import load_model
from lesa.training.saving import save
from lesa.upscaling.plan import from_json


@dataclass(frozen=True)
class Fitted:
    """A fitted start. tokens: read, and to be counted as training; seconds: of the fit alone;
    before, after: scores on the held-out text, if there was one."""

    out: str
    tokens: int
    rounds: int
    seconds: float
    before: Score | None
    after: Score | None


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
    scored = Path(text) if text is not None else None
    check_out(start, out)
    for path in filter(None, (train, scored)):
        check_text(path)
    if not (start / PLAN_FILE).is_file():
        raise UserError(f"{start}: has no {PLAN_FILE}; give a folder that `lesa expand` made")
    if rounds < 1 or tokens < rounds:
        raise UserError(f"rounds: {rounds}: must be 1 or more, and no more than tokens ({tokens})")
    if not 0 < step_size < math.inf:
        raise UserError(f"step_size: {step_size}: must be a finite number above 0")
    if not 0 <= damping < math.inf:
        raise UserError(f"damping: {damping}: must be a finite number, 0 or above")
    check(start)
    settings = (tokens, rounds, step_size, damping)
    key = key_of(__version__, tree_digest(start), str(train.resolve()), settings)
    with work_folder(out.with_name(f".{out.name}.work"), key) as folder:
        made, begun = folder / "checkpoint", time.perf_counter()
        read = fit(start, made, train, settings)
        seconds = time.perf_counter() - begun
        check_made(made)
        before, after = (evaluate(path, scored) if scored else None for path in (start, made))
        made.rename(out)
    return Fitted(str(out), read, rounds, seconds, before, after)


def fit(start: Path, made: Path, train: Path, settings: tuple[int, int, float, float]) -> int:
    """Write the fitted checkpoint; returns how many tokens were read."""
    from transformers import AutoTokenizer

    tokens, rounds, step_size, damping = settings
    model = load_model(start).to(compute_device())
    tokenizer = AutoTokenizer.from_pretrained(start, local_files_only=True)
    found = windows(tokenizer, model.config, train)
    size = len(found[0])
    count = max(rounds, tokens // size)  # a round has one window at least
    whole = [block for block in found if len(block) == size][:count]
    if len(whole) < count:
        have = sum(map(len, found))
        raise UserError(f"train: {train}: {have} tokens; {count * size} are to be read")
    share = count // rounds
    parts = [whole[i * share : (i + 1) * share] for i in range(rounds)]
    plan = from_json(read_json(start / PLAN_FILE))
    weights = outputs.fit_outputs(model, plan, parts, step_size, damping, bf16=False)
    save({name: weight.cpu() for name, weight in weights.items()}, start, made)
    return rounds * share * size
