"""HumanEval's completions, answered in batches, are those of each prompt alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eval.humaneval import complete, cut
from lesa.checkpoints.base import byte_tokenizer
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
