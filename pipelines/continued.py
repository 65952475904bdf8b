"""Training on a text of another domain, and what it does to that text's and the first one's loss.

The studies code, sft and variants are runs of this; each has its own text and its own params.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesa.files import read_json, tree_digest, write_json
from lesa.machine import compute_device
from lesa.params import Count, Name, Params, Positive
from lesa.training.adapters import AdapterRun
from lesa.training.blocks import load_blocks
from lesa.training.pretrain import Run, load_model, train
from lesa.training.sequences import Example, read_examples, sequence_losses
from pipelines.chosen_rate import chosen_for, rate_warnings, read_grid
from pipelines.closure import resumable
from pipelines.folders import BASE, CORPUS, PREFIX, SVD
from pipelines.rows import Row, chosen, described, write_row
from pipelines.study import TrainOverrides, with_train
from pipelines.tracking import Tracker


class Learner(Row):
    """A model that a study trains. rate_of: whose file in metrics/grid has its learning rate.
    adapters: of nearly so many parameters train beside all layers (`lesa.training.adapters`), in
    place of what the method's plan marks. seed: of the order of the training blocks, `train.seed`
    if None; a row that says one is called `<model>-<seed>`."""

    rate_of: Name
    adapters: Positive | None = None
    seed: Count | None = None

    @property
    def ending(self) -> str:
        return "" if self.seed is None else f"-{self.seed}"


@dataclass(frozen=True)
class Job:
    """One model of a study. study: the folder of its outputs. model: its name there. row: what
    makes it. text: the folder of the blocks `train` and of what they are, `SOURCE.json`.

    heldout: jsonl of `Example`, or None where another study measures.
    """

    study: str
    model: str
    row: Learner
    text: Path
    heldout: Path | None

    @property
    def trained(self) -> Path:
        return Path("artifacts/continued") / self.study / self.model


def cost(job: Job, run: Run, examples: list[Example]) -> str:
    """One line, before the work: how many tokens, and how long they take where that is known."""
    trained = run.settings.max_steps * run.tokens_per_step
    points = run.settings.max_steps // run.settings.eval_every + 1
    scored = points * sum(map(len, run.heldout_blocks))
    scored += 2 * sum(len(example.input_ids) for example in examples)
    line = f"{job.study} {job.model}: {trained:,} tokens to train on, {scored:,} to score"
    measured = Path(f"metrics/pretrain/{job.row.rate_of}.json")
    if not measured.is_file():
        return f"{line}; {measured}, which would tell how long, is not there"
    # A scored token costs less than a trained one: this is an upper bound.
    minutes = (trained + scored) / read_json(measured)["tokens_per_second"] / 60
    return f"{line}; at most {minutes:.0f} minutes at the speed of {measured}"


def losses(folder: Path, examples: list[Example], run: Run, done: Path) -> list[float]:
    """Summed nats of each example under the checkpoint in `folder`, kept in the file `done`.

    One longer than the blocks of the run is scored in windows of their length.
    """
    if not examples:
        return []
    if not done.is_file():
        length = len(run.train_blocks[0]["input_ids"])
        model = load_model(folder).to(compute_device())
        write_json(done, sequence_losses(model, examples, length, run.settings.bf16))
    found: list[float] = read_json(done)
    return found


def summary(nats: list[float], examples: list[Example]) -> dict[str, float]:
    """Of all examples together: nats a token, and bits a byte of the text that was predicted."""
    total = math.fsum(nats)
    return {
        "loss": total / sum(example.targets for example in examples),
        "bits_per_byte": total / sum(example.size for example in examples) / math.log(2),
    }


def continue_training(params: Params, log: Tracker, job: Job) -> dict[str, Any]:
    """Expand, train, save and score one model; returns the numbers of its metrics file.

    `steps` holds the loss on the experiment's own held-out blocks, which the training does not
    see: what is forgotten. `heldout` holds, for each held-out example of the domain, its nats
    before and after. A run that was stopped goes on where it was.
    """
    if job.row.seed is not None:
        params = params.model_copy(
            update={"train": params.train.model_copy(update={"seed": job.row.seed})}
        )
    path, grid = read_grid(job.row.rate_of)
    blocks = load_blocks(job.text / "train")
    examples = read_examples(job.heldout) if job.heldout else []
    of = [
        job.row.model_dump(mode="json"),
        params.gaps.model_dump(),
        {name: preset.model_dump() for name, preset in params.fit.presets.items()},
        params.train.model_dump(exclude={"launch"}),
        grid["best"],
        job.heldout.read_text(encoding="utf-8") if job.heldout else None,
    ]
    read = [BASE, SVD, CORPUS / "test", job.text / "train"]
    with resumable(
        f"{job.study}/{job.model}", f"pipelines.studies.{job.study}.train", read, of
    ) as unfinished:
        init = unfinished / "init"
        if not init.is_dir():
            write_row(job.row, params, unfinished, init)
        heldout = load_blocks(CORPUS / "test")
        run = AdapterRun(
            init, blocks, heldout, params.train, grid["best"], parameters=job.row.adapters
        )
        own = {"model": job.row.method, **chosen_for(params, tree_digest(init))}
        warnings = rate_warnings(path, grid, own)
        print(*warnings, cost(job, run, examples), sep="\n", flush=True)
        before = losses(init, examples, run, unfinished / "before.json")
        prefix = PREFIX if params.train.prefix_cache else None
        trained, curve = train(run, unfinished / "trainer", log.metrics, prefix_cache=prefix)
        run.save(trained, job.trained)
        after = losses(job.trained, examples, run, unfinished / "after.json")
        report = {"model": job.model, "profile": params.profile, **described(job.row), **curve}
        report |= {"rate_of": job.row.rate_of, "rate_warnings": warnings}
        report |= {"seed": params.train.seed}
        report |= {"trained_on": read_json(job.text / "SOURCE.json")}
        if examples:
            report["heldout"] = of_examples(examples, before, after)
        write_json(f"artifacts/{job.study}/{job.model}.json", report)
    log.params({**params.train.model_dump(), "learning_rate": grid["best"]})
    return report


def continue_on_study_text(params: Params, log: Tracker, study: str, model: str) -> None:
    """`continue_training` of one of the study's models, on the text that its stage `text` made."""
    row: Learner = chosen(study, Learner, model)
    text = Path("artifacts/text") / study
    job = Job(study, model, row, text, text / "heldout.jsonl")
    report = continue_training(with_train(params, study, "train", TrainOverrides), log, job)
    log.metrics({f"heldout/{name}": value for name, value in report["heldout"]["end"].items()})


def of_examples(examples: list[Example], before: list[float], after: list[float]) -> dict[str, Any]:
    """Every example's nats at the start and at the end, for pairing, and what they come to."""
    return {
        "ids": [example.id for example in examples],
        "groups": [example.group for example in examples],
        "bytes": [example.size for example in examples],
        "targets": [example.targets for example in examples],
        "nats": {"start": before, "end": after},
        "start": summary(before, examples),
        "end": summary(after, examples),
    }
