"""lm-eval on one checkpoint, as data: every metric with its standard error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lm_eval
import torch
from lm_eval.api.group import Group
from lm_eval.models.huggingface import HFLM
from safetensors import SafetensorError

from eval.statistics import bootstrap_stderr
from eval.suite import Suite, task_manager
from lesa.errors import UserError
from lesa.training.processes import group

SEED = 1234  # lm-eval's own default, for its generators and for the bootstrap here


def evaluate(
    checkpoint: Path,
    suites: Sequence[Suite],
    *,
    dtype: Literal["bfloat16", "float32"],
    batch_size: int,
    limit: int | None,
    bootstrap_iters: int,
) -> dict[str, Any] | None:
    """Score the Hugging Face folder `checkpoint` on every task of `suites`, zero-shot.

    `limit` bounds the examples of each official task; the offline suite is always scored whole.
    Returns {"dtype", "tasks": {task: {"metrics": {metric: {"value", "stderr",
    "higher_is_better"}}, "examples", "source"}}}; a group (blimp) also has "subtasks", the
    metrics and examples of each member. Several processes of one launcher share the documents of
    each task: the first returns the scores, the others None. Raises UserError for a checkpoint
    that cannot be loaded, data that cannot be read, or a score that is not finite.
    """
    _check(checkpoint)
    loaded = [(suite, suite.load()) for suite in suites]  # bad data shows before the model loads
    model = _load(checkpoint, dtype, batch_size)
    tasks: dict[str, Any] = {}
    for suite, objects in loaded:
        results = lm_eval.simple_evaluate(
            model=model,
            tasks=objects,
            limit=None if suite.source == "offline" else limit,
            bootstrap_iters=bootstrap_iters,
            log_samples=True,
            # The tasks are built already; without this lm-eval indexes all its own, for 10 s.
            task_manager=task_manager(()),
            random_seed=SEED,
            numpy_random_seed=SEED,
            torch_random_seed=SEED,
            fewshot_random_seed=SEED,
        )
        if results is None:  # lm-eval's to all processes but the first
            continue
        for name, whole in zip(suite.names, objects, strict=True):
            if isinstance(whole, Group):
                members = {
                    task.task_name: _task(task.task_name, task, results, bootstrap_iters)
                    for task in whole.get_all_tasks()
                }
                scored = {
                    "metrics": _metrics(name, None, results, bootstrap_iters),
                    "examples": sum(member["examples"] for member in members.values()),
                    "subtasks": members,
                }
            else:
                scored = _task(name, whole, results, bootstrap_iters)
            tasks[name] = {**scored, "source": suite.source}
    return {"dtype": dtype, "tasks": tasks} if group().is_main_process else None


def _load(checkpoint: Path, dtype: str, batch_size: int) -> HFLM:
    """What lm-eval's model="hf" builds, once for all suites, from local files alone."""
    among = group()
    try:
        model = HFLM(
            pretrained=str(checkpoint.resolve()),  # absolute: never taken for a hub id
            dtype=dtype,
            device="cuda" if torch.cuda.is_available() else "cpu",
            batch_size=batch_size,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{checkpoint}: cannot be loaded ({line[:200]})") from error
    # Of itself lm-eval shares documents only between the GPUs of one machine.
    model._rank, model._world_size = among.process_index, among.num_processes
    return model


def _task(name: str, task: Any, results: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    return {
        "metrics": _metrics(name, task, results, iterations),
        "examples": int(results["n-samples"][name]["effective"]),
    }


def _metrics(
    name: str, task: Any | None, results: Mapping[str, Any], iterations: int
) -> dict[str, dict[str, Any]]:
    """lm-eval's "acc,none" and "acc_stderr,none" as one entry `acc`; groups have no `task`."""
    found = results["results"][name]
    metrics: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        if not math.isfinite(value):
            raise UserError(
                f"evaluate: {metric} of {name} is {value}: the checkpoint's logits are unusable"
            )
        stderr = found.get(f"{metric}_stderr,{filtered}")
        if not isinstance(stderr, (int, float)):  # lm-eval's "N/A"
            stderr = None
            if task is not None:
                # Several processes give them in another order, and a bootstrap depends on it.
                samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
                values = [
                    sample[metric]
                    for sample in samples
                    if sample["filter"] == filtered and metric in sample
                ]
                stderr = bootstrap_stderr(values, task.aggregation()[metric], iterations, SEED)
        metrics[metric if filtered == "none" else key] = {
            "value": float(value),
            "stderr": None if stderr is None or not math.isfinite(stderr) else float(stderr),
            "higher_is_better": bool(results["higher_is_better"][name][metric]),
        }
    return metrics


def _check(checkpoint: Path) -> None:
    """Refuse a folder that transformers could not load, with one line that says why."""
    config = checkpoint / "config.json"
    if not config.is_file():
        raise UserError(f"{checkpoint}: not a checkpoint: config.json is missing")
    if not any(checkpoint.glob("*.safetensors")):
        raise UserError(f"{checkpoint}: not a checkpoint: no safetensors file in it")
    if not any((checkpoint / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"{checkpoint}: has no tokenizer (tokenizer.json or tokenizer.model)")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{config}: not JSON") from None
