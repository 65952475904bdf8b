"""Study official: benchmarks from a mirror, for checkpoints before and after the study `budget`.

A checkpoint of pipelines/studies/official/params.yaml is a stage.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from eval import mirror
from eval.harness import run, scores
from eval.model import load
from eval.suite import mirrored
from lesa.errors import UserError
from lesa.files import write_json
from lesa.params import Count, Params, Positive, Strict
from pipelines.stage import run_stage
from pipelines.study import entry, params_file, study_params
from pipelines.tracking import Tracker

METRIC = "acc"


class Scored(Strict):
    """A checkpoint, as metrics/evaluate names it; `longer`: after the longer runs of `budget`. A
    model of another seed than 0 is called `<model>-<seed>`, as in study `code`."""

    model: str
    seed: Count = 0
    phase: Literal["init", "trained", "longer"]
    folder: str


def benchmarks(
    checkpoint: Path, tasks: dict[str, int], params: Params, folder: Path
) -> dict[str, Any]:
    """Scores of the tasks in `folder`, as metrics/evaluate has them; a group's examples are its
    members'. tasks: examples of each, of a group those of every member."""
    loaded = mirrored(list(tasks), folder).load()
    options, found = params.evaluate, {}
    model = load(checkpoint, options.dtype, options.batch_size)
    for (name, limit), task in zip(tasks.items(), loaded, strict=True):
        results = run(model, [task], limit, options.bootstrap_iters)
        scored = scores(name, task, results, options.bootstrap_iters)
        found[name] = whole(scored) if "subtasks" in scored else scored
    return {"dtype": options.dtype, "tasks": found}


def whole(group: dict[str, Any]) -> dict[str, Any]:
    """A group's scores with its members' examples, one member after the other."""
    examples = [
        result
        for member in group["subtasks"].values()
        for result in member["metrics"][METRIC]["examples"]
    ]
    metrics = {METRIC: group["metrics"][METRIC] | {"examples": examples}}
    return {"metrics": metrics, "examples": len(examples)}


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    scored: Scored = entry("official", "official", Scored, args.checkpoint)
    tasks: dict[str, int] = study_params("official", "tasks", dict[str, Positive])
    data: str = study_params("official", "mirror", str)  # a folder in the hub's layout
    try:
        with TemporaryDirectory() as folder:
            mirror.write(list(tasks), data, Path(folder))
            found = benchmarks(Path(scored.folder), tasks, params, Path(folder))
    except UserError as error:  # of the experiment's own tasks this would be params.yaml's
        line = str(error).replace("evaluate.", f"{params_file('official')}: ", 1)
        raise UserError(line) from None
    said = scored.model_dump(exclude={"folder"}) | {"profile": params.profile}
    write_json(f"artifacts/official/{args.checkpoint}.json", {**said, **found})
    log.metrics({name: task["metrics"][METRIC]["value"] for name, task in found["tasks"].items()})


if __name__ == "__main__":
    run_stage("official", work, "checkpoint")
