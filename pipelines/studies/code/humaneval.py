"""Stage humaneval of the study code: pass@1 of a trained model, or of the untouched base.

What a model writes is run only if the key `humaneval.run` is true, and then isolated
(`eval.sandbox`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.humaneval import Problem, complete, problems, solves
from eval.sandbox import check_isolation
from lesa.files import key_of, read_json, tree_digest, work_folder, write_json
from lesa.machine import compute_device
from lesa.params import Params, Positive, Strict
from lesa.training.pretrain import load_model
from pipelines.closure import code_digest
from pipelines.stage import run_stage
from pipelines.study import study_params
from pipelines.tracking import Tracker

UNTOUCHED = "untouched"  # the base before any training
OFF = "humaneval.run is false: no generated code was run"


class HumanEval(Strict):
    run: bool  # run what the models write, isolated; off unless asked for
    limit: Positive | None  # problems, the first ones; None: all
    max_new_tokens: Positive  # of a completion


def measure(folder: Path, chosen: list[Problem], own: HumanEval, unfinished: Path) -> list[bool]:
    """Which problems the checkpoint's completions solve; each is kept when it is done."""
    from transformers import AutoTokenizer

    model = load_model(folder).to(compute_device()).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for problem in tqdm(chosen, desc="HumanEval", unit="problem"):
        done = unfinished / f"{problem['task_id'].replace('/', '-')}.json"
        if not done.is_file():
            written = complete(model, tokenizer, problem["prompt"], own.max_new_tokens)
            passed = solves(problem, written)
            write_json(done, {"completion": written, "passed": passed})
        found.append(bool(read_json(done)["passed"]))
    return found


def scores(folder: Path, own: HumanEval, unfinished: Path) -> dict[str, Any]:
    """pass@1 of one greedy sample a problem: the share that is solved."""
    check_isolation()
    chosen = problems()[: own.limit]
    tokens = len(chosen) * own.max_new_tokens
    print(f"HumanEval: {len(chosen)} problems, at most {tokens:,} tokens to write", flush=True)
    passed = measure(folder, chosen, own, unfinished)
    ids = [problem["task_id"] for problem in chosen]
    return {"pass_at_1": sum(passed) / len(passed), "problems": ids, "passed": passed}


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    own, model = study_params("code", "humaneval", HumanEval), args.model
    trained = Path("artifacts/continued/code") / model
    folder = Path("artifacts/base") if model == UNTOUCHED else trained
    path = f"artifacts/code/humaneval-{model}.json"
    common = {"model": model, "profile": params.profile}
    if not own.run:
        write_json(path, common | {"pass_at_1": None, "reason": OFF})
        return
    asked = own.limit, own.max_new_tokens
    key = key_of(tree_digest(folder), asked, code_digest("pipelines.studies.code.humaneval"))
    with work_folder(f"artifacts/work/code-humaneval/{model}", key) as unfinished:
        found = scores(folder, own, unfinished)
        write_json(path, common | found)
    log.metrics({"pass_at_1": found["pass_at_1"]})


if __name__ == "__main__":
    run_stage("code-humaneval", work, "model")
