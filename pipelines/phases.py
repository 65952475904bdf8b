"""Models made and trained in phases, for the studies budget, scale and rates."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from datasets import concatenate_datasets
from pydantic import Field, model_validator

from baselines import table
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import read_json, whole_folder, write_json
from lesa.params import Count, Params, Positive, Rate, Strict, Train
from lesa.training.adapters import AdapterRun
from lesa.training.blocks import load_blocks
from lesa.training.heldout import perplexity
from lesa.training.outputs import fit
from lesa.training.pretrain import train
from lesa.upscaling.plan import everything_trains
from pipelines.closure import resumable
from pipelines.folders import BASE, PREFIX, SVD
from pipelines.rows import Row, chosen, described, write_row
from pipelines.study import params_file, study_params
from pipelines.tracking import Tracker

Json = dict[str, Any]


class Phase(Strict):
    """A part of a run, with a warm-up and a cosine of its own.

    trains: the `new` layers or those `original` ones that the method's plan marks, or `all`, the
    embedding too, whatever the plan says; or `lora`, adapters of nearly `parameters` parameters
    beside all layers (lesa.training.adapters), merged into them at the phase's end.
    """

    trains: Literal["new", "original", "all", "lora"]
    steps: Positive
    learning_rate: Rate
    parameters: Positive | None = None
    save_every: Positive | None = None

    @model_validator(mode="after")
    def lora_has_a_size(self) -> Phase:
        if (self.trains == "lora") != (self.parameters is not None):
            raise ValueError("parameters is for trains: lora, which must say it")
        return self


class Outputs(Strict):
    """A part of a run that fits the zeroed outputs of an identity start (lesa.training.outputs)
    on the tokens of so many steps, in so many rounds."""

    trains: Literal["outputs"]
    steps: Positive
    rounds: Positive
    learning_rate: Rate  # the first round's step size
    damping: Rate

    @model_validator(mode="after")
    def rounds_divide(self) -> Outputs:
        if self.steps % self.rounds:
            raise ValueError(f"rounds ({self.rounds}) must divide steps ({self.steps})")
        return self


class Training(Row):
    """seed: of the order of the data; predictors have their own, in `fit`. kept: do its
    checkpoints stay, beside its numbers? The report tells the seeds of a model by its runs' names.
    """

    seed: Count
    phases: list[Annotated[Outputs | Phase, Field(discriminator="trains")]] = Field(min_length=1)
    kept: bool = False

    @property
    def ending(self) -> str:
        return f"-{self.seed}"


class Schedule(Strict):
    """Of every phase. warmup: share of its steps. eval_every, save_every: as in `train`."""

    warmup: Rate
    eval_every: Positive
    save_every: Positive


@dataclass(frozen=True)
class Texts:
    """Folders of packed blocks: what a run trains on, what it is scored on, and those of another
    text, whose loss tells what is forgotten."""

    train: Path
    heldout: Path
    second: Path


def train_settings(phase: Outputs | Phase, seed: int, schedule: Schedule, train: Train) -> Train:
    own = phase.save_every if isinstance(phase, Phase) else None
    return train.model_copy(
        update={
            "max_steps": phase.steps,
            "eval_every": schedule.eval_every,
            "save_every": own or schedule.save_every,
            "warmup_steps": math.ceil(schedule.warmup * phase.steps),
            "seed": seed,
        }
    )


def check_trains(study: str, name: str, row: Training, params: Params) -> None:
    """Raise UserError if a phase says `new` or `original` of a plan that marks others to train:
    results would name what did not train alone."""
    plan = table()[row.method].plan(Checkpoint(BASE).num_layers, row.gaps or params.gaps)
    new = any(slot.new for slot in plan if slot.trainable)
    marked = "all" if everything_trains(plan) else "new" if new else "original"
    for i, phase in enumerate(row.phases):
        if phase.trains in ("new", "original") and phase.trains != marked:
            raise UserError(
                f"{params_file(study)}: {study}.{name}.phases.{i}.trains: {phase.trains}, but of "
                f"{row.method} {marked} layers train; say {marked}"
            )


def log_step(log: Tracker, before: int, numbers: dict[str, float], step: int) -> None:
    """What Trainer logs at a phase's `step`, but for the mean of what are two texts."""
    log.metrics({k: v for k, v in numbers.items() if k != "eval_loss"}, step + before)


def trained_phases(
    row: Training, texts: Texts, schedule: Schedule, params: Params, unfinished: Path, log: Tracker
) -> Iterator[tuple[int, Json]]:
    """Steps before each phase, and its curve; phase i goes from checkpoint i to i + 1.

    What a stopped run left of them is in `unfinished`.
    """
    folder, before = unfinished / "0", 0
    if not folder.is_dir():
        write_row(row, params, unfinished, folder)
    scored = concatenate_datasets([load_blocks(texts.heldout), load_blocks(texts.second)])
    for i, phase in enumerate(row.phases):
        after, numbers = unfinished / str(i + 1), unfinished / f"{i}.json"
        if not numbers.is_file():
            run = AdapterRun(
                folder,
                load_blocks(texts.train),
                scored.with_format("torch"),
                train_settings(phase, row.seed, schedule, params.train),
                phase.learning_rate,
                measure_start=i == 0,
                steps_before=before,
            )
            if isinstance(phase, Outputs):
                tensors, curve = fit(run, phase.rounds, phase.damping)
            else:
                prefix = PREFIX if params.train.prefix_cache else None
                own, on_log = unfinished / f"trainer-{i}", partial(log_step, log, before)
                run = replace(run, parameters=phase.parameters, everything=phase.trains == "all")
                tensors, curve = train(run, own, on_log, prefix_cache=prefix)
            run.save(tensors, after)
            write_json(numbers, curve)
        yield before, read_json(numbers)
        folder, before = after, before + phase.steps


def numbers_of(phases: list[tuple[int, Json]], documents: list[str]) -> Json:
    """The curves of all phases as one, the losses on `documents` and on the second text apart."""
    count, (_, first), (_, last) = len(documents), phases[0], phases[-1]
    steps, losses = [], []
    for before, curve in phases:
        for row in curve["steps"]:
            own, second = row["block_losses"][:count], row["block_losses"][count:]
            loss, step = fmean(own), row["step"] + before
            steps.append(
                {
                    "step": step,
                    "tokens": step * curve["tokens_per_step"],
                    "heldout_loss": loss,
                    "heldout_perplexity": perplexity(loss),
                    "block_losses": own,
                    "second_text_loss": fmean(second),
                    "second_text_block_losses": second,
                }
            )
        losses += [row | {"step": row["step"] + before} for row in curve["train"]]
    seconds = sum(curve["seconds"] for _, curve in phases)
    return {
        "dtype": first["dtype"],
        "trainable_parameters": last["trainable_parameters"],
        "tokens_per_step": first["tokens_per_step"],
        "heldout_documents": documents,
        "second_text_documents": first["heldout_documents"][count:],
        "steps": steps,
        "train": losses,
        "seconds": seconds,
        "prefix_seconds": sum(curve["prefix_seconds"] for _, curve in phases),
        "tokens_per_second": steps[-1]["tokens"] / seconds if seconds else 0.0,
    }


def record_run(study: str, name: str, texts: Texts, params: Params, log: Tracker) -> None:
    """Make and train the run `name` of the study's params.yaml, and write
    artifacts/<study>/<name>.json; beside it the folder <name>, with the checkpoints `start` and
    `checkpoint`, before and after training, if they are kept. A run that was stopped goes on."""
    row: Training = chosen(study, Training, name)
    schedule: Schedule = study_params(study, "schedule", Schedule)
    check_trains(study, name, row, params)
    settings = [train_settings(p, row.seed, schedule, params.train) for p in row.phases]
    of = [
        [row.model_dump(), [s.model_dump(exclude={"launch"}) for s in settings]],
        [params.gaps.model_dump(), params.fit.model_dump()],
    ]
    read = [BASE, SVD, texts.train, texts.heldout, texts.second]
    with resumable(f"{study}/{name}", "pipelines.phases", read, of) as unfinished:
        phases = list(trained_phases(row, texts, schedule, params, unfinished, log))
        found = {
            **described(row),
            **numbers_of(phases, list(load_blocks(texts.heldout)["document"])),
            "run": name,
            "seed": row.seed,
            "profile": params.profile,
            "trains": "_then_".join(phase.trains for phase in row.phases),
            "max_steps": sum(phase.steps for phase in row.phases),
            "learning_rate": row.phases[-1].learning_rate,
            "phases": [phase.model_dump() for phase in row.phases],
        }
        with whole_folder(Path("artifacts") / study / name) as folder:  # empty if none is kept
            if row.kept:
                shutil.copytree(unfinished / "0", folder / "start")
                shutil.copytree(unfinished / str(len(row.phases)), folder / "checkpoint")
        write_json(f"artifacts/{study}/{name}.json", found)
    for point in found["steps"]:
        losses = {key: point[key] for key in ("heldout_loss", "second_text_loss")}
        log.metrics(losses, point["step"])
    log.metrics({"tokens_per_second": found["tokens_per_second"]})
