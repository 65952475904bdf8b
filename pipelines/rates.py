"""Study rates: learning rates of other studies' long schedules, sought on validation text.

A row of pipelines/studies/rates/params.yaml names a run: its model, what it trains and the rate
at which the search begins.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from pydantic import field_validator

from lesa.errors import UserError
from lesa.files import tree_digest, write_json
from lesa.params import Params, Positive, Rate, Strict
from lesa.training.adapters import AdapterRun
from lesa.training.blocks import load_blocks
from pipelines import budget, scale
from pipelines.choose_rate import Try, best_of, measure, report
from pipelines.closure import resumable
from pipelines.folders import BASE, CORPUS, SVD
from pipelines.phases import (
    Phase,
    Schedule,
    Texts,
    Training,
    check_trains,
    train_settings,
)
from pipelines.rows import chosen, write_row
from pipelines.stage import run_stage
from pipelines.study import entry, params_file, study_params, with_train
from pipelines.tracking import Tracker

LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


class Sought(Strict):
    """run: of the study, in one phase. begin: the first rate, of LADDER. steps: of each try.

    The run's own rate is what the search is for: it begins here, wherever it was copied to.
    """

    run: str
    begin: Rate
    steps: Positive

    @field_validator("begin")
    @classmethod
    def on_the_ladder(cls, rate: float) -> float:
        if rate not in LADDER:
            raise ValueError(f"must be one of {', '.join(f'{step:g}' for step in LADDER)}")
        return rate


def lowest(loss_at: Callable[[float], float], begin: float) -> dict[float, float]:
    """Losses of the rates of LADDER that were tried: `begin`, its neighbours, and on, until the
    best has both of its neighbours tried or is the ladder's end."""
    tried: dict[float, float] = {}
    best = begin
    while True:
        place = LADDER.index(best)
        wanted = [rate for rate in LADDER[max(place - 1, 0) : place + 2] if rate not in tried]
        if not wanted:
            return tried
        tried |= {rate: loss_at(rate) for rate in wanted}
        best = min(tried, key=lambda rate: tried[rate])


def seek(study: str, name: str, sought: Sought, texts: Texts, params: Params, log: Tracker) -> None:
    """Write artifacts/rates/<study>-<name>.json. `texts.heldout` is validation text.

    Raises UserError if the run has several phases.
    """
    row: Training = chosen(study, Training, sought.run)
    phase = row.phases[0]
    if not isinstance(phase, Phase) or len(row.phases) > 1:
        raise UserError(
            f"{params_file('rates')}: {study}.{name}.run: {sought.run} must train in one phase"
        )
    check_trains(study, sought.run, row, params)
    schedule: Schedule = study_params(study, "schedule", Schedule)
    # A run's own checkpoints may be further apart than a try is long.
    quarter = max(sought.steps // 4, 1)
    short = phase.model_copy(
        update={"steps": sought.steps, "learning_rate": sought.begin, "save_every": quarter}
    )
    own = schedule.model_copy(update={"eval_every": sought.steps})
    settings = train_settings(short, row.seed, own, params.train)
    of = [
        [row.model_dump(exclude={"phases"}), short.model_dump()],
        settings.model_dump(exclude={"launch"}),
        [params.gaps.model_dump(), params.fit.model_dump()],
    ]
    read = [BASE, SVD, texts.train, texts.heldout]
    with resumable(f"rates/{study}-{name}", "pipelines.rates", read, of) as unfinished:
        init = unfinished / "init"
        if not init.is_dir():
            write_row(row, params, unfinished, init)
        run = AdapterRun(
            init,
            load_blocks(texts.train),
            load_blocks(texts.heldout),
            settings,
            sought.begin,
            parameters=phase.parameters,
            everything=phase.trains == "all",
        )
        tried: list[Try] = []
        losses = lowest(lambda rate: measure(run, rate, tried, unfinished, log), sought.begin)
        of_whom = {"study": study, "model": name, "run": sought.run}
        found = report(params, run, tried, best_of(losses)) | {"checkpoint": tree_digest(init)}
        write_json(f"artifacts/rates/{study}-{name}.json", of_whom | found)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    study, name = args.study, args.model
    sought: Sought = entry("rates", study, Sought, name)
    if study == "scale":
        params = with_train(params, "scale", "batch", scale.Batch)
    texts = {
        "budget": replace(budget.TEXTS, heldout=CORPUS / "validation"),
        "scale": replace(scale.TEXTS, heldout=scale.TEXT / "validation"),
    }
    seek(study, name, sought, texts[study], params, log)


if __name__ == "__main__":
    run_stage("rates", work, "study", "model")
