"""Stage of the study humaneval: pass@1 of a checkpoint. What it writes is run, isolated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.humaneval import Problem, complete, problems, solves
from eval.sandbox import check_isolation
from lesa.files import read_json, write_json
from lesa.machine import compute_device
from lesa.params import Params, Positive, Strict
from lesa.training.pretrain import load_model
from pipelines.closure import resumable
from pipelines.stage import run_stage
from pipelines.study import entry, study_params
from pipelines.tracking import Tracker


class Scored(Strict):
    folder: str  # of the checkpoint


class Settings(Strict):
    limit: Positive | None  # problems, the first ones; None: all
    max_new_tokens: Positive  # of a completion
    batch_size: Positive  # problems at a time


def write_completions(
    checkpoint: Path, chosen: list[Problem], own: Settings, unfinished: Path
) -> dict[str, str]:
    """The checkpoint's completions by task_id; each batch is kept when it is done.

    Problems of like lengths stand together, so that little is padded.
    """
    from transformers import AutoTokenizer

    model = load_model(checkpoint).to(compute_device()).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    ordered = sorted(chosen, key=lambda problem: len(tokenizer(problem["prompt"])["input_ids"]))
    found: dict[str, str] = {}
    with tqdm(total=len(ordered), desc="HumanEval", unit="problem") as bar:
        for i in range(0, len(ordered), own.batch_size):
            batch, done = ordered[i : i + own.batch_size], unfinished / f"{i}.json"
            if not done.is_file():
                prompts = [problem["prompt"] for problem in batch]
                written = complete(model, tokenizer, prompts, own.max_new_tokens)
                ids = [problem["task_id"] for problem in batch]
                write_json(done, dict(zip(ids, written, strict=True)))
            found |= read_json(done)
            bar.update(len(batch))
    return found


def scores(checkpoint: Path, own: Settings, unfinished: Path) -> dict[str, Any]:
    """pass@1 of one greedy sample a problem: the share that is solved. And every completion."""
    check_isolation()
    chosen = problems()[: own.limit]
    tokens = len(chosen) * own.max_new_tokens
    print(f"HumanEval: {len(chosen)} problems, at most {tokens:,} tokens to write", flush=True)
    written = write_completions(checkpoint, chosen, own, unfinished)
    ids = [problem["task_id"] for problem in chosen]
    passed = [
        solves(problem, written[problem["task_id"]])
        for problem in tqdm(chosen, desc="HumanEval, programs run", unit="problem")
    ]
    return {
        "pass_at_1": sum(passed) / len(passed),
        "max_new_tokens": own.max_new_tokens,
        "problems": ids,
        "passed": passed,
        "completions": [written[task_id] for task_id in ids],
    }


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    scored: Scored = entry("humaneval", "humaneval", Scored, args.model)
    folder = Path(scored.folder)
    own: Settings = study_params("humaneval", "settings", Settings)
    module = "pipelines.studies.humaneval.score"
    with resumable(f"humaneval/{args.model}", module, [folder], own.model_dump()) as unfinished:
        found = {"model": args.model, "profile": params.profile, **scores(folder, own, unfinished)}
        write_json(f"artifacts/humaneval/{args.model}.json", found)
    log.metrics({"pass_at_1": found["pass_at_1"]})


if __name__ == "__main__":
    run_stage("humaneval", work, "model")
