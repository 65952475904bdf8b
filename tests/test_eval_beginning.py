"""Texts begin in lm-eval as the tokenizer begins them, against transformers' own logits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, models, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from eval.model import LanguageModel, load
from lesa.text.corpus import beginning
from tests.families import save_family

TEXT = "The town grew along the river, and the harbour with it.\nThen came the fire of 1871."
PAIR = ("The harbour of the town", " was large")
LONG = " ".join(f"In {year} the town had {year % 97} ships." for year in range(1800, 1830))
# What the post-processor puts before a text, and after it; None: what lm-eval starts with.
BEGINNINGS: dict[str, tuple[list[int], list[int]]] = {
    "none": ([], []),
    "bos": ([0], []),
    "two": ([255, 0], []),
    "bos and eos": ([0], [0]),
    "eos": ([], [0]),
}


@pytest.fixture(scope="module", params=list(BEGINNINGS))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny Gemma whose byte tokenizer begins texts in one of the ways, and the way."""
    folder = save_family("gemma", tmp_path_factory.mktemp("gemma"))
    before, after = BEGINNINGS[request.param]
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    if before or after:
        names = {i: tokenizer.convert_ids_to_tokens(i) for i in (*before, *after)}
        single = " ".join([*(names[i] for i in before), "$A", *(names[i] for i in after)])
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(name, i) for i, name in names.items()]
        )
        tokenizer.save_pretrained(folder)
        assert tokenizer("a")["input_ids"] == [*before, *octets("a", tokenizer), *after]
    return folder, before


@pytest.fixture(scope="module")
def model(checkpoint: tuple[Path, list[int]]) -> LanguageModel:
    return load(checkpoint[0], "float32", 3)


def octets(text: str, tokenizer: Any) -> list[int]:
    """One token a byte, found in the vocabulary by the byte-level alphabet."""
    from tokenizers.pre_tokenizers import ByteLevel

    pieces = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [tokenizer.get_vocab()[letter] for piece, _ in pieces for letter in piece]


def log_likelihood(folder: Path, context: list[int], tokens: list[int]) -> float:
    """Sum of the log-probabilities in nats of `tokens` after `context`, by transformers."""
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.eval()
    with torch.no_grad():
        logits = network(torch.tensor([[*context, *tokens]])).logits[0, len(context) - 1 : -1]
    log_probs = torch.log_softmax(logits.double(), dim=-1)
    return float(log_probs[torch.arange(len(tokens)), torch.tensor(tokens)].sum())


def ask(kind: Any, *args: str) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)


def test_beginning(checkpoint: tuple[Path, list[int]], model: LanguageModel) -> None:
    assert beginning(model.tokenizer) == checkpoint[1]


@pytest.mark.parametrize("starts", [[], [0]])
def test_beginning_of_a_vocabulary_without_latin_letters(starts: list[int]) -> None:
    """Of letters of DNA alone: no common probe has a token there."""
    vocabulary = {"<e>": 0, "A": 1, "C": 2, "G": 3, "T": 4}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), bos_token="<e>", eos_token="<e>"
    )
    if starts:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<e> $A", special_tokens=[("<e>", 0)]
        )
    assert tokenizer("ACG")["input_ids"] == [*starts, 1, 2, 3]
    assert beginning(tokenizer) == starts


def test_a_document_is_scored_after_what_begins_a_text(
    checkpoint: tuple[Path, list[int]], model: LanguageModel
) -> None:
    """Every token of the text is scored, once, and those before it are not."""
    folder, before = checkpoint
    (found,) = model.loglikelihood_rolling([ask("loglikelihood_rolling", TEXT)])
    wanted = log_likelihood(folder, before or [0], octets(TEXT, model.tokenizer))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_document_longer_than_the_positions(
    checkpoint: tuple[Path, list[int]], model: LanguageModel
) -> None:
    """Windows of 256 tokens, as lm-eval cuts them: the last sees its whole length of text."""
    folder, before = checkpoint
    tokens, size = octets(LONG, model.tokenizer), model.max_length
    start = [*(before or [0])]
    assert size == 256
    assert len(tokens) > 2 * size
    # One token of context a window, and in the first one the beginning, cut to what has room.
    wanted, done = 0.0, 0
    while done < len(tokens):
        count = min(size, len(tokens) - done)
        upto = done + count
        context = start if done == 0 else tokens[max(0, upto - size - 1) : done]
        room = size + 1 - count
        wanted += log_likelihood(folder, context[-room:], tokens[done:upto])
        done = upto
    (found,) = model.loglikelihood_rolling([ask("loglikelihood_rolling", LONG)])
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("context", [PAIR[0], PAIR[0] + " ", ""])
def test_continuation(
    context: str, checkpoint: tuple[Path, list[int]], model: LanguageModel
) -> None:
    folder, before = checkpoint
    continuation = PAIR[1].strip() if context.endswith(" ") else PAIR[1]
    ((found, _),) = model.loglikelihood([ask("loglikelihood", context, continuation)])
    stripped = context.rstrip()
    start = [*before, *octets(stripped, model.tokenizer)] if stripped else before or [0]
    wanted = log_likelihood(folder, start, octets(PAIR[1], model.tokenizer))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_nothing_changes_without_a_beginning(tmp_path: Path) -> None:
    """For a tokenizer that puts nothing before a text, lm-eval's own scores to the last digit."""
    from lm_eval.models.huggingface import HFLM

    folder = save_family("llama", tmp_path)
    ours = load(folder, "float32", 3)
    theirs = HFLM(pretrained=str(folder), dtype="float32", device=str(ours.device), batch_size=3)
    documents = [ask("loglikelihood_rolling", text) for text in (TEXT, LONG)]
    pairs = [ask("loglikelihood", *pair) for pair in (PAIR, ("", "harbour"))]
    assert ours.loglikelihood_rolling(documents) == theirs.loglikelihood_rolling(documents)
    assert ours.loglikelihood(pairs) == theirs.loglikelihood(pairs)
    assert math.isfinite(ours.loglikelihood(pairs)[0][0])
