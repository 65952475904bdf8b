"""The offline suite: up to three lm-eval tasks made from held-out documents.

- `wiki_perplexity`: the first documents, each truncated at a sentence end.
- `wiki_last_word`: LAMBADA's way; the last word of a passage, which also occurs before in it.
- `wiki_continuation`: the true next sentence among four, the others from elsewhere in the
  same document and of similar length.

Lengths are bounded in characters, not tokens, so that the examples do not depend on the model's
tokenizer; English Wikipedia has somewhat above four characters a token. The same text, sizes and
seed give the same bytes. A text without enough examples of a task (code, or Chinese, which does
not set words apart) goes without that task.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eval.data import rows
from eval.sentences import CLOSING, SPACED, UNSPACED, sentences, separates_words, truncate
from eval.suite import write_task
from lesa.errors import UserError
from lesa.files import write_json_lines

Row = dict[str, Any]

TEMPLATES = Path(__file__).parent / "tasks"
DOCUMENT_CHARACTERS = 2000
CONTEXT_CHARACTERS = 240  # about 60 tokens
CHOICE_CHARACTERS = (40, 110)  # at most about 30 tokens
LENGTH_RATIO = 1.25  # of a distractor to the true sentence, either way
DISTRACTOR_DISTANCE = 3  # sentences between the true continuation and a distractor, at least
SHORTEST_WORD = 4  # letters of a last word to predict: shorter ones are mostly function words

LAST_WORD = re.compile(
    rf"(.*\S)\s+([^\W\d_]+)[{SPACED}{UNSPACED}][{re.escape(CLOSING)}]*", re.DOTALL
)


@dataclass
class Built:
    """What the held-out text gave: examples of each task, and one sentence where it gave less."""

    examples: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def build(heldout: Path, folder: Path, *, documents: int, examples: int, seed: int = 0) -> Built:
    """Write the YAML and data of every task that the text fits into `folder`.

    `heldout` is a jsonl of {"id", "title", "text"}, one document a line. Fewer than `documents`
    are all taken; a task of fewer than `examples` candidates is left out. Raises UserError where
    the file is missing, is not such a file, or holds no text.
    """
    texts = read(heldout)
    built = Built()
    write_perplexity(texts[:documents], folder)
    built.examples["wiki_perplexity"] = len(texts[:documents])
    if len(texts) < documents:
        built.notes["wiki_perplexity"] = (
            f"All {len(texts)} held-out documents are scored, fewer than "
            f"evaluate.offline_documents ({documents})."
        )
    makers = {"wiki_last_word": last_words, "wiki_continuation": continuations}
    for name, candidates in makers.items():
        found = [row for document in texts for row in candidates(document)]
        if len(found) < examples:
            built.left_out[name] = (
                f"The held-out text has {len(found)} examples, fewer than "
                f"evaluate.offline_examples ({examples})."
            )
            continue
        rng = random.Random(f"{seed} {name}")
        write(name, [finish(row, rng) for row in rng.sample(found, examples)], folder)
        built.examples[name] = examples
    return built


def write_perplexity(documents: list[Row], folder: Path) -> None:
    """Where words are not set apart there is no perplexity of words: e to the nats of a line."""
    cut = [
        {"id": document["id"], "text": truncate(document["text"], DOCUMENT_CHARACTERS)}
        for document in documents
    ]
    left_out = () if separates_words(row["text"] for row in cut) else ("word_perplexity",)
    write("wiki_perplexity", cut, folder, without=left_out)


def write(name: str, data: list[Row], folder: Path, without: Iterable[str] = ()) -> None:
    """Write a task's data, and its YAML less the metrics `without`."""
    file = f"{name}.jsonl"
    write_json_lines(folder / file, data)
    config = yaml.safe_load((TEMPLATES / f"{name}.yaml").read_text(encoding="utf-8"))
    config["metric_list"] = [m for m in config["metric_list"] if m["metric"] not in without]
    write_task(folder, config, {"test": file})


def last_words(document: Row) -> Iterator[Row]:
    """Rows {"id", "context", "word"}; at most one for each final sentence."""
    for run in sentences(document["text"]):
        for final in range(1, len(run)):
            # The shortest passage of two to four sentences in which the word has come before.
            for first in range(final - 1, max(final - 4, -1), -1):
                match = LAST_WORD.fullmatch("".join(run[first : final + 1]).strip())
                if match is None or len(match[0]) > CONTEXT_CHARACTERS:
                    break
                context, word = match.groups()
                if len(word) >= SHORTEST_WORD and re.search(rf"(?<![\w-]){word}(?![\w-])", context):
                    yield {"id": document["id"], "context": context, "word": word}
                    break


def continuations(document: Row) -> Iterator[Row]:
    """Rows {"id", "context", "true", "others"}: `others` are all sentences fit to distract.

    The context ends in the white space that stands before its continuation in the text.
    """
    runs = sentences(document["text"])
    everything = [sentence.strip() for run in runs for sentence in run]
    shortest, longest = CHOICE_CHARACTERS
    start = 0
    for run in runs:
        for here in range(1, len(run)):
            true = run[here].strip()
            context = context_before(run[:here])
            if context is None or not shortest <= len(true) <= longest:
                continue
            others = {
                other: None  # a dict: distinct and in order
                for at, other in enumerate(everything)
                if abs(at - start - here) > DISTRACTOR_DISTANCE
                and shortest <= len(other) <= longest
                and len(true) / LENGTH_RATIO <= len(other) <= len(true) * LENGTH_RATIO
                and other != true
                and other not in context
            }
            if len(others) >= 3:
                yield {
                    "id": document["id"],
                    "context": context,
                    "true": true,
                    "others": list(others),
                }
        start += len(run)


def context_before(before: list[str]) -> str | None:
    """The last sentences of `before`, at most three, that fit; None where not one does."""
    for count in (3, 2, 1):
        context = "".join(before[-count:])
        if len(context.strip()) <= CONTEXT_CHARACTERS:
            return context
    return None


def finish(row: Row, rng: random.Random) -> Row:
    """Put a continuation among three of its distractors; other rows pass unchanged."""
    if "others" not in row:
        return row
    choices = [row["true"], *rng.sample(row["others"], 3)]
    rng.shuffle(choices)
    return {
        "id": row["id"],
        "context": row["context"],
        "choices": choices,
        "label": choices.index(row["true"]),
    }


def read(heldout: Path) -> list[Row]:
    """Documents of the jsonl that are not empty, in file order."""
    if not heldout.is_file():
        raise UserError(f"{heldout}: not found; the corpus stage writes it")
    documents = [row for row in rows(heldout, ("id", "text")) if str(row["text"]).strip()]
    if not documents:
        raise UserError(f"{heldout}: holds no text")
    return documents
