"""The offline suite: three lm-eval tasks made from held-out Wikipedia articles.

- `wiki_perplexity`: the first documents, each truncated at a sentence end.
- `wiki_last_word`: LAMBADA's way; the last word of a passage, which also occurs before in it.
- `wiki_continuation`: the true next sentence among four, the others from elsewhere in the
  same article and of similar length.

Lengths are bounded in characters, not tokens, so that the examples do not depend on the model's
tokenizer; English Wikipedia has somewhat above four characters a token. The same text, sizes and
seed give the same bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from eval.suite import TASKS, Suite, write_yaml
from lesa.errors import UserError
from lesa.files import write_text

NAMES = ("wiki_perplexity", "wiki_last_word", "wiki_continuation")
DOCUMENT_CHARACTERS = 2000
CONTEXT_CHARACTERS = 240  # about 60 tokens
CHOICE_CHARACTERS = (40, 110)  # at most about 30 tokens
LENGTH_RATIO = 1.25  # of a distractor to the true sentence, either way
APART = 3  # sentences between the true continuation and a distractor, at least
SHORTEST_WORD = 4  # letters of a last word to predict: shorter ones are mostly function words

_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Col|Capt|Lt|Rev|No|Vol|v|vs|ca|cf|c|e\.g|i\.e"
    r"|etc|al|approx|fl|lit|Mt|Ft|pp|p|ed|eds|Inc|Ltd|Co|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)"
    r"|\.[A-Za-z])\.$"
)
_SENTENCE = re.compile(r"[A-Z0-9\"'(].*[.!?][\"')\]]*", re.DOTALL)
_LAST = re.compile(r"(.*\S)\s+([A-Za-z]+)[.!?]", re.DOTALL)


def build(heldout: Path, folder: Path, *, documents: int, examples: int, seed: int = 0) -> Suite:
    """Write the three datasets and their task YAMLs below `folder`.

    `heldout` is a jsonl of {"id", "title", "text"}, one article a line. Raises UserError where
    it is missing, is not such a file, or holds too little text for the wanted sizes.
    """
    articles = _read(heldout)
    if len(articles) < documents:
        raise UserError(
            f"evaluate.offline_documents: {heldout} holds {len(articles)} documents, "
            f"not {documents}; lower it, or raise corpus.heldout_documents"
        )
    rows = {
        "wiki_perplexity": [
            {"id": article["id"], "text": truncate(article["text"])}
            for article in articles[:documents]
        ],
        "wiki_last_word": _choose("wiki_last_word", last_words, articles, examples, seed, heldout),
        "wiki_continuation": _choose(
            "wiki_continuation", continuations, articles, examples, seed, heldout
        ),
    }
    for name in NAMES:
        data = (folder / "data" / f"{name}.jsonl").resolve()
        write_text(data, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[name]))
        write_yaml(
            folder / "tasks",
            name,
            {
                "include": str((TASKS / f"{name}.yaml").resolve()),
                "dataset_kwargs": {
                    "data_files": {"test": str(data)},
                    "cache_dir": str((folder / "cache").resolve()),
                },
            },
        )
    return Suite(NAMES, "offline", (folder / "tasks",))


def sentences(text: str) -> list[list[str]]:
    """Runs of whole sentences, each within one paragraph (line); headings have none.

    A piece that is not a sentence ends a run, so that neighbours in a run are neighbours in the
    text.
    """
    runs: list[list[str]] = []
    for line in text.splitlines():
        runs.append([])
        for piece in _split(line.strip()):
            if _SENTENCE.fullmatch(piece):
                runs[-1].append(piece)
            else:
                runs.append([])
    return [run for run in runs if run]


def truncate(text: str, limit: int = DOCUMENT_CHARACTERS) -> str:
    """`text` up to the last sentence end within `limit` characters (or else the last space)."""
    text = text.strip()
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    ends = [match.end() for match in re.finditer(r"[.!?][\"')\]]*(?=\s)", head)]
    end = max((end for end in ends if end <= limit), default=head.rfind(" "))
    return text[: end if end > 0 else limit].rstrip()


def last_words(article: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows {"id", "context", "word"}; at most one for each final sentence."""
    for paragraph in sentences(article["text"]):
        for last in range(1, len(paragraph)):
            # The shortest passage of two to four sentences in which the word has come before.
            for first in range(last - 1, max(last - 4, -1), -1):
                match = _LAST.fullmatch(" ".join(paragraph[first : last + 1]))
                if match is None or len(match[0]) > CONTEXT_CHARACTERS:
                    break
                context, word = match.groups()
                if len(word) >= SHORTEST_WORD and re.search(rf"(?<![\w-]){word}(?![\w-])", context):
                    yield {"id": article["id"], "context": context, "word": word}
                    break


def continuations(article: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows {"id", "context", "true", "others"}: `others` are all sentences fit to distract."""
    paragraphs = sentences(article["text"])
    flat = [sentence for paragraph in paragraphs for sentence in paragraph]
    shortest, longest = CHOICE_CHARACTERS
    start = 0
    for paragraph in paragraphs:
        for here in range(1, len(paragraph)):
            true = paragraph[here]
            context = _context(paragraph[:here])
            if context is None or not shortest <= len(true) <= longest:
                continue
            others = {
                other: None  # a dict: distinct and in order
                for at, other in enumerate(flat)
                if abs(at - start - here) > APART
                and shortest <= len(other) <= longest
                and len(true) / LENGTH_RATIO <= len(other) <= len(true) * LENGTH_RATIO
                and other != true
                and other not in context
            }
            if len(others) >= 3:
                yield {
                    "id": article["id"],
                    "context": context,
                    "true": true,
                    "others": list(others),
                }
        start += len(paragraph)


def _context(before: list[str]) -> str | None:
    """The last sentences of `before`, at most three, that fit; None where not one does."""
    for count in (3, 2, 1):
        context = " ".join(before[-count:])
        if len(context) <= CONTEXT_CHARACTERS:
            return context
    return None


def _split(line: str) -> Iterator[str]:
    """Sentences of one line; a full stop after an abbreviation or initial ends none."""
    start = 0
    for match in _BOUNDARY.finditer(line):
        if not _ABBREVIATION.search(line[start : match.end()].rstrip()):
            yield line[start : match.end()].strip()
            start = match.end()
    if line[start:].strip():
        yield line[start:].strip()


def _choose(
    name: str,
    candidates: Callable[[dict[str, str]], Iterable[dict[str, Any]]],
    articles: list[dict[str, str]],
    examples: int,
    seed: int,
    heldout: Path,
) -> list[dict[str, Any]]:
    """A seeded sample of `examples` candidates of all articles, in a seeded order."""
    rng = random.Random(f"{seed} {name}")
    rows = [row for article in articles for row in candidates(article)]
    if len(rows) < examples:
        raise UserError(
            f"evaluate.offline_examples: {heldout} yields {len(rows)} examples of {name}, "
            f"not {examples}; lower it, or raise corpus.heldout_documents"
        )
    return [_shuffled(row, rng) for row in rng.sample(rows, examples)]


def _shuffled(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
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


def _read(heldout: Path) -> list[dict[str, str]]:
    """Articles of the jsonl, in file order."""
    if not heldout.is_file():
        raise UserError(f"{heldout}: not found; the corpus stage writes it")
    articles = []
    with heldout.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                articles.append({"id": str(row["id"]), "text": str(row["text"])})
            except (json.JSONDecodeError, KeyError, TypeError):
                raise UserError(
                    f"{heldout}: line {number} is not a JSON object with id and text"
                ) from None
    return articles
