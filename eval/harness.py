"""lm-eval on one checkpoint, as data: every metric with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lm_eval
from lm_eval.api.group import Group

from eval.documents import document_perplexity
from eval.model import LanguageModel, load
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
    heldout: Path | None,
    document_tokens: int,
) -> dict[str, Any] | None:
    """Score the Hugging Face folder `checkpoint` on every task of `suites`, zero-shot.

    `limit` bounds the examples of each official task; the offline suite is always scored whole.
    `heldout` and `document_tokens`: as `eval.documents` has them; None: no document perplexity.
    Returns {"dtype", "document_perplexity", if asked for, "tasks": {task: {"metrics": {metric:
    {"value", "stderr", "higher_is_better", "examples"}}, "examples", "source"}}}; a metric's
    examples are its value for each one; a group (blimp) has "subtasks" in their place, the metrics
    and examples of each member. Several processes of one launcher share the documents of
    each task: the first returns the scores, the others None. Raises UserError for a checkpoint
    that cannot be loaded, data that cannot be read, or a score that is not finite.
    """
    loaded = [(suite, suite.load()) for suite in suites]  # bad data shows before the model loads
    model = load(checkpoint, dtype, batch_size)
    tasks: dict[str, Any] = {}
    for suite, objects in loaded:
        results = run(model, objects, None if suite.source == "offline" else limit, bootstrap_iters)
        if results is None:
            continue
        for name, task in zip(suite.names, objects, strict=True):
            scored = scores(name, task, results, bootstrap_iters)
            tasks[name] = {**scored, "source": suite.source}
    documents = document_perplexity(model, heldout, document_tokens) if heldout else None
    if not group().is_main_process:
        return None
    found = {"document_perplexity": documents} if documents else {}
    return {"dtype": dtype, **found, "tasks": tasks}


def run(model: LanguageModel, tasks: list[Any], limit: int | None, iterations: int) -> Any:
    """lm-eval's results of built tasks; None in all processes but the first."""
    try:
        return lm_eval.simple_evaluate(
            model=model,
            tasks=tasks,
            limit=limit,
            bootstrap_iters=iterations,
            log_samples=True,
            # The tasks are built already; without this lm-eval indexes all its own, for 10 s.
            task_manager=task_manager(()),
            random_seed=SEED,
            numpy_random_seed=SEED,
            torch_random_seed=SEED,
            fewshot_random_seed=SEED,
        )
    except OverflowError:
        raise UserError(
            "evaluate: a perplexity is beyond all numbers: the checkpoint's logits are unusable"
        ) from None


def scores(name: str, task: Any, results: Mapping[str, Any], iterations: int) -> dict[str, Any]:
    """Scores of a task, or of a group and, as "subtasks", of each task in it."""
    if not isinstance(task, Group):
        return {
            "metrics": metrics_of(name, task, results, iterations),
            "examples": int(results["n-samples"][name]["effective"]),
        }
    members = {
        member.task_name: scores(member.task_name, member, results, iterations)
        for member in task.get_all_tasks()
    }
    return {
        "metrics": metrics_of(name, None, results, iterations),
        "examples": sum(member["examples"] for member in members.values()),
        "subtasks": members,
    }


def metrics_of(
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
        examples = examples_of(name, metric, filtered, results)
        stderr = found.get(f"{metric}_stderr,{filtered}")
        if not isinstance(stderr, (int, float)):  # lm-eval's "N/A"
            stderr = None
            if task is not None:
                aggregate = task.aggregation()[metric]
                stderr = bootstrap_stderr(examples, aggregate, iterations, SEED)
        metrics[metric if filtered == "none" else key] = {
            "value": float(value),
            "stderr": None if stderr is None or not math.isfinite(stderr) else float(stderr),
            "higher_is_better": bool(results["higher_is_better"][name][metric]),
            "examples": examples,
        }
    return metrics


def examples_of(name: str, metric: str, filtered: str, results: Mapping[str, Any]) -> list[Any]:
    """What each example of a task adds to a metric, in the task's order; none for a group.

    A number, or for a text's perplexity its log-likelihood in nats and its number of units.
    Several processes give them in another order.
    """
    samples = sorted(results["samples"].get(name, []), key=lambda sample: sample["doc_id"])
    return [
        sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample
    ]
