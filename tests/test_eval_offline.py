"""The offline suite's data: the same bytes each time, and what each task promises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval import offline
from lesa.errors import UserError

PLACES = ("harbour", "castle", "market", "bridge", "forest", "library", "valley", "station")
NAMES = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir")


def article(name: str) -> str:
    """Two paragraphs a place; the second sentence of each first one ends in a repeated word."""
    lines = ["Overview"]
    for year, place in enumerate(PLACES, start=1801):
        lines.append(
            f"The town of {name} was known for its {place} since {year}. "
            f"Visitors from abroad still come to see the {place}. "
            f"Dr. J. Smith of {name} described it in {year + 90} at some length."
        )
        lines.append(
            f"In {year + 100} a fire destroyed part of the {place} and much else. "
            f"The council of {name} paid for the repairs within {year % 7 + 2} years."
        )
    return "\n".join(lines)


def write_heldout(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": str(number), "title": name, "text": article(name)}
        for number, name in enumerate(NAMES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def heldout(tmp_path: Path) -> Path:
    return write_heldout(tmp_path / "heldout.jsonl")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_same_text_gives_same_bytes(heldout: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        offline.build(heldout, tmp_path / folder, documents=3, examples=10, seed=seed)
    for name in offline.NAMES:
        a, b, c = ((tmp_path / f / "data" / f"{name}.jsonl").read_bytes() for f in "abc")
        assert a == b
        assert (a == c) == (name == "wiki_perplexity")  # the one task without a draw


def test_what_the_tasks_promise(heldout: Path, tmp_path: Path) -> None:
    suite = offline.build(heldout, tmp_path / "suite", documents=3, examples=12)
    assert suite.names == offline.NAMES
    texts = {str(number): article(name) for number, name in enumerate(NAMES)}

    documents = rows(tmp_path / "suite", "wiki_perplexity")
    assert [row["id"] for row in documents] == ["0", "1", "2"]
    for row in documents:
        assert len(row["text"]) <= offline.DOCUMENT_CHARACTERS
        assert texts[row["id"]].startswith(row["text"])
        assert row["text"].endswith(".")

    cloze = rows(tmp_path / "suite", "wiki_last_word")
    assert len(cloze) == 12
    for row in cloze:
        assert f"{row['context']} {row['word']}." in texts[row["id"]]
        assert row["word"] in row["context"].split()[:-1] or row["word"] in re.findall(
            r"\w+", row["context"]
        )
        assert len(row["context"]) <= offline.CONTEXT_CHARACTERS

    choice = rows(tmp_path / "suite", "wiki_continuation")
    assert len(choice) == 12
    for row in choice:
        true = row["choices"][row["label"]]
        assert f"{row['context']} {true}" in texts[row["id"]]
        assert len(set(row["choices"])) == 4
        for other in row["choices"]:
            assert other in texts[row["id"]]
            assert len(true) / 1.25 <= len(other) <= len(true) * 1.25
            assert f"{row['context']} {other}" not in texts[row["id"]] or other == true
    assert len({row["label"] for row in choice}) > 1


def test_sentences() -> None:
    text = (
        "History\nDr. A. Smith met Mr. Jones (c. 1900). "
        'They said "No." Then e.g. Rome fell.\nA list'
    )
    assert offline.sentences(text) == [
        ["Dr. A. Smith met Mr. Jones (c. 1900).", 'They said "No."', "Then e.g. Rome fell."]
    ]


def test_truncate() -> None:
    assert offline.truncate("One two. Three four. Five.", limit=20) == "One two. Three four."
    assert offline.truncate("One two. Three four. Five.", limit=19) == "One two."
    assert offline.truncate("one two three", limit=9) == "one two"
    assert offline.truncate("short", limit=9) == "short"


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"documents": 7, "examples": 1}, "evaluate.offline_documents"),
        ({"documents": 1, "examples": 10_000}, "evaluate.offline_examples"),
    ],
)
def test_too_little_text(heldout: Path, tmp_path: Path, sizes: dict[str, int], key: str) -> None:
    with pytest.raises(UserError, match=key):
        offline.build(heldout, tmp_path / "suite", **sizes)
    assert not (tmp_path / "suite").exists()


def test_bad_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        offline.build(tmp_path / "none.jsonl", tmp_path / "suite", documents=1, examples=1)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "0", "text": "x"}\n{"id"\n')
    with pytest.raises(UserError, match="line 2"):
        offline.build(bad, tmp_path / "suite", documents=1, examples=1)
