"""Study budget: longer training runs of several seeds, each with its model made on the way.

A run of pipelines/studies/budget/params.yaml is a stage: a model, and the phases it trains in.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import yaml
from datasets import Dataset, concatenate_datasets
from pydantic import Field, model_validator
from transformers import AutoTokenizer

from lesa.files import key_of, read_json, tree_digest, whole_folder, work_folder, write_json
from lesa.params import Params, Positive, Rate, Strict, Train
from lesa.training.adapters import AdapterRun, merged
from lesa.training.blocks import load_blocks, training_order
from lesa.training.heldout import first_tokens
from lesa.training.outputs import fit
from lesa.training.pretrain import train
from lesa.training.saving import save
from pipelines.closure import code_digest
from pipelines.pretrain import CORPUS, PREFIX
from pipelines.rows import BASE, SVD, Row, chosen, described, write_row
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

PARAMS = Path("pipelines/studies/budget/params.yaml")
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
    """seed: of the order of the data; predictors have their own, in `fit`. kept: does the trained
    checkpoint stay, beside its numbers?"""

    seed: int
    phases: list[Outputs | Phase] = Field(min_length=1)
    kept: bool = False


class Schedule(Strict):
    """Of every phase. warmup: share of its steps. eval_every, save_every: as in `train`."""

    warmup: Rate
    eval_every: Positive
    save_every: Positive


class Study(Strict):
    """What all runs share. second_text: modules of Python's standard library, a block of each."""

    schedule: Schedule
    second_text: list[str]
    phases: dict[str, list[Outputs | Phase]]
    budget: dict[str, Any]


@dataclass(frozen=True)
class LaterRun(AdapterRun):
    """A phase that goes on in the order of the data where the steps before it have stopped."""

    steps_before: int = 0

    def ordered_blocks(self) -> Dataset:
        steps = self.steps_before + self.settings.max_steps
        order = training_order(
            len(self.train_blocks), steps * self.sequences_per_step, self.settings.seed
        )
        return self.train_blocks.select(order[self.steps_before * self.sequences_per_step :])


def load_study() -> Study:
    return Study.model_validate(yaml.safe_load(PARAMS.read_text(encoding="utf-8")))


def source_blocks(modules: list[str], like: Dataset) -> Dataset:
    """A block of Python source from each module of the standard library, in the form of `like`.

    It begins in the middle of the file: the beginning is a licence and a description.
    """
    library, size = Path(sysconfig.get_paths()["stdlib"]), len(like[0]["input_ids"])
    texts = {name: (library / f"{name}.py").read_text(encoding="utf-8") for name in modules}
    rows = [{"id": name, "text": text[len(text) // 2 :]} for name, text in texts.items()]
    found = first_tokens(rows, AutoTokenizer.from_pretrained(BASE), size)
    columns = {"input_ids": [ids.tolist() for ids in found.values()], "document": list(found)}
    return Dataset.from_dict(columns, features=like.features)


def settings_of(phase: Outputs | Phase, seed: int, schedule: Schedule, train: Train) -> Train:
    return train.model_copy(
        update={
            "max_steps": phase.steps,
            "eval_every": schedule.eval_every,
            "save_every": schedule.save_every,
            "warmup_steps": math.ceil(schedule.warmup * phase.steps),
            "seed": seed,
        }
    )


def log_step(log: Tracker, before: int, numbers: dict[str, float], step: int) -> None:
    """What Trainer logs at a phase's `step`, but for the mean of what are two texts."""
    log.metrics({k: v for k, v in numbers.items() if k != "eval_loss"}, step + before)


def trained_phases(
    row: Training, study: Study, params: Params, unfinished: Path, log: Tracker
) -> Iterator[tuple[int, Json]]:
    """Steps before each phase, and its curve; phase i goes from checkpoint i to i + 1.

    What a stopped run left of them is in `unfinished`.
    """
    folder, before = unfinished / "0", 0
    if not folder.is_dir():
        write_row(row, params, unfinished, folder)
    heldout = load_blocks(CORPUS, "test")
    scored = concatenate_datasets([heldout, source_blocks(study.second_text, heldout)])
    for i, phase in enumerate(row.phases):
        after, numbers = unfinished / str(i + 1), unfinished / f"{i}.json"
        if not numbers.is_file():
            run = LaterRun(
                folder,
                load_blocks(CORPUS, "train"),
                scored.with_format("torch"),
                settings_of(phase, row.seed, study.schedule, params.train),
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
                if phase.trains == "lora":
                    tensors = merged(tensors, folder)
            save(tensors, folder, after)
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
                    "heldout_perplexity": math.exp(loss),
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


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    name, study = args.run, load_study()
    row: Training = chosen("budget", Training, name)
    settings = [settings_of(p, row.seed, study.schedule, params.train) for p in row.phases]
    key = key_of(
        [row.model_dump(), study.second_text, [s.model_dump(exclude={"launch"}) for s in settings]],
        [params.gaps.model_dump(), params.fit.model_dump()],
        [tree_digest(folder) for folder in (BASE, SVD, CORPUS)],
        code_digest("pipelines.budget"),
    )
    with work_folder(f"artifacts/work/budget/{name}", key) as unfinished:
        phases = list(trained_phases(row, study, params, unfinished, log))
        found = {
            **described(row),
            **numbers_of(phases, list(load_blocks(CORPUS, "test")["document"])),
            "run": name,
            "seed": row.seed,
            "profile": params.profile,
            "trains": "_then_".join(phase.trains for phase in row.phases),
            "max_steps": sum(phase.steps for phase in row.phases),
            "learning_rate": row.phases[-1].learning_rate,
            "phases": [phase.model_dump() for phase in row.phases],
        }
        with whole_folder(Path("artifacts/budget") / name) as folder:  # empty if none is kept
            if row.kept:
                shutil.copytree(unfinished / str(len(row.phases)), folder / "checkpoint")
        write_json(f"artifacts/budget/{name}.json", found)
    for point in found["steps"]:
        losses = {key: point[key] for key in ("heldout_loss", "second_text_loss")}
        log.metrics(losses, point["step"])
    log.metrics({"tokens_per_second": found["tokens_per_second"]})


if __name__ == "__main__":
    run_stage("budget", work, "run")
