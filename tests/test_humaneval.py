"""HumanEval's completions, answered in batches, are those of each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eval.humaneval import complete, cut, problems, solves
from eval.sandbox import check_isolation
from lesa.checkpoints.base import byte_tokenizer
from lesa.errors import UserError
from tests.families import CONFIGS, WINDOW, family_model

TOKENS = 12
PROMPTS = ("def f():\n", "def add(a, b):\n" * 3, "x")


def greedy(model: Any, tokenizer: Any, prompt: str) -> str:
    """By whole forward passes over one prompt, with no cache and no padding."""
    ids = list(tokenizer(prompt)["input_ids"])
    given = len(ids)
    for _ in range(TOKENS):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(ids[given:], skip_special_tokens=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_completion_is_the_greedy_one_of_its_prompt_alone(name: str) -> None:
    """Also where the padding is longer than a sliding window."""
    assert len(PROMPTS[1]) - len(PROMPTS[2]) > WINDOW
    model, tokenizer = family_model(name), byte_tokenizer()
    with torch.no_grad():  # as it is drawn a tied model repeats the last token, whatever it attends
        for block in model.base_model.children():
            if isinstance(block, torch.nn.ModuleList):
                for parameter in block.parameters():
                    parameter.mul_(4.0)
    wanted = [cut(greedy(model, tokenizer, prompt)) for prompt in PROMPTS]
    assert len(set(wanted)) == len(PROMPTS)
    assert complete(model, tokenizer, list(PROMPTS), TOKENS) == wanted


def test_the_packages_own_solutions_pass_and_no_body_does() -> None:
    """After prompts that end before the line break."""
    try:
        check_isolation()
        every = problems()
    except UserError as error:
        pytest.skip(f"HumanEval's problems NOT tested: {error}")
    assert len(every) == 164
    for problem in every[::8]:
        assert not problem["prompt"].endswith("\n")
        assert solves(problem, "\n" + problem["canonical_solution"]), problem["task_id"]
        assert not solves(problem, "\n    pass"), problem["task_id"]
