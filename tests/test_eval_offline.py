"""The offline suite's data: the same bytes each time, and what each task promises."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval import offline
from lesa.errors import UserError

PLACES = ("harbour", "castle", "market", "bridge", "forest", "library", "valley", "station")
TASKS = ("wiki_perplexity", "wiki_last_word", "wiki_continuation")
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
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_same_text_gives_same_bytes(heldout: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        offline.build(heldout, tmp_path / folder, documents=3, examples=10, seed=seed)
    for name in TASKS:
        a, b, c = ((tmp_path / f / f"{name}.jsonl").read_bytes() for f in "abc")
        assert a == b
        assert (a == c) == (name == "wiki_perplexity")  # the one task without a draw


def test_what_the_tasks_promise(heldout: Path, tmp_path: Path) -> None:
    built = offline.build(heldout, tmp_path / "suite", documents=3, examples=12)
    assert built.examples == {"wiki_perplexity": 3, "wiki_last_word": 12, "wiki_continuation": 12}
    assert not built.left_out
    assert not built.notes
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
        assert row["context"].endswith(" ")
        assert f"{row['context']}{true}" in texts[row["id"]]
        assert len(set(row["choices"])) == 4
        for other in row["choices"]:
            assert other in texts[row["id"]]
            assert len(true) / 1.25 <= len(other) <= len(true) * 1.25
            assert f"{row['context']}{other}" not in texts[row["id"]] or other == true
    assert len({row["label"] for row in choice}) > 1


def write_texts(path: Path, texts: list[str]) -> Path:
    lines = (json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def wrapped(text: str) -> str:
    """Each line of `text` as a paragraph of lines of at most 72 columns, as in mail."""
    return "\n\n".join(textwrap.fill(line, 72) for line in text.splitlines())


CYRILLIC = "\n".join(
    f"Город Новый Посад был известен с {year} г. своей крепостью {place}. "
    f"Путешественники из дальних стран до сих пор едут посмотреть на {place}. "
    f"А. С. Петров подробно описал эти места в своей книге {year + 90} года."
    f" Совет города заплатил за {year % 7 + 2} года работы мастеров и каменщиков."
    for year, place in enumerate(
        ("замок", "рынок", "мост", "собор", "театр", "вокзал", "остров", "колодец"), start=1801
    )
)
CHINESE = "\n".join(
    f"这座城市从{year}年起就以它的古老城堡和美丽的花园闻名于世，许多人都喜欢这里的风景和四季的变化，并常常向朋友讲起。"
    f"来自各地的游客至今仍然在每年的春天来到这里参观古迹，"
    f"他们在第{year - 1800}座古老的石桥上拍照留念，然后慢慢回家。"
    f"“你为什么来？”老人问道。"
    for year in range(1801, 1811)
)
CODE = "\n".join(
    f"def function_{number}(values, limit={number}):\n"
    f"    total = sum(value for value in values if value > limit)\n"
    f"    return total / {number + 1}.5\n"
    for number in range(60)
)


@pytest.mark.parametrize("change", [wrapped, str.lower, lambda text: wrapped(text.lower())])
def test_prose_in_another_layout(change: Callable[[str], str], tmp_path: Path) -> None:
    """Wrapped at 72 columns or in lower case, prose has as many examples as it had before."""
    plain = [article(name) for name in NAMES]

    def counts(texts: list[str]) -> list[int]:
        documents = [{"id": "0", "text": text} for text in texts]
        makers = (offline.last_words, offline.continuations)
        return [sum(len(list(maker(d))) for d in documents) for maker in makers]

    assert counts([change(text) for text in plain]) == counts(plain)
    heldout = write_texts(tmp_path / "heldout.jsonl", [change(text) for text in plain])
    built = offline.build(heldout, tmp_path / "suite", documents=3, examples=12)
    assert set(built.examples) == set(TASKS)


def test_cyrillic_has_every_task(tmp_path: Path) -> None:
    heldout = write_texts(tmp_path / "heldout.jsonl", [CYRILLIC] * 2)
    built = offline.build(heldout, tmp_path / "suite", documents=2, examples=6)
    assert built.examples == {"wiki_perplexity": 2, "wiki_last_word": 6, "wiki_continuation": 6}
    for row in rows(tmp_path / "suite", "wiki_last_word"):
        assert f"{row['context']} {row['word']}." in CYRILLIC
        assert row["word"] in re.findall(r"\w+", row["context"])


def test_chinese_has_continuations_and_no_last_words(tmp_path: Path) -> None:
    """No words set apart: no last word and no perplexity of words, but continuations."""
    heldout = write_texts(tmp_path / "heldout.jsonl", [CHINESE] * 2)
    built = offline.build(heldout, tmp_path / "suite", documents=2, examples=6)
    assert built.examples == {"wiki_perplexity": 2, "wiki_continuation": 6}
    assert list(built.left_out) == ["wiki_last_word"]
    for row in rows(tmp_path / "suite", "wiki_continuation"):
        assert row["context"] + row["choices"][row["label"]] in CHINESE  # no space between
    config = (tmp_path / "suite" / "wiki_perplexity.yaml").read_text()
    assert "byte_perplexity" in config
    assert "word_perplexity" not in config
    assert not (tmp_path / "suite" / "wiki_last_word.yaml").exists()


def test_code_has_a_perplexity_alone_and_ends_with_a_line(tmp_path: Path) -> None:
    heldout = write_texts(tmp_path / "heldout.jsonl", [CODE])
    built = offline.build(heldout, tmp_path / "suite", documents=1, examples=1)
    assert built.examples == {"wiki_perplexity": 1}
    assert set(built.left_out) == {"wiki_last_word", "wiki_continuation"}
    (row,) = rows(tmp_path / "suite", "wiki_perplexity")
    assert CODE.startswith(row["text"] + "\n")  # cut at the end of a line
    assert len(row["text"]) > 1900


def test_too_few_of_everything(tmp_path: Path) -> None:
    """One short document: perplexity of it, and a sentence for what there is not."""
    heldout = write_texts(tmp_path / "heldout.jsonl", ["a note", "  "])
    built = offline.build(heldout, tmp_path / "suite", documents=6, examples=32)
    assert built.examples == {"wiki_perplexity": 1}
    assert rows(tmp_path / "suite", "wiki_perplexity") == [{"id": "0", "text": "a note"}]
    assert "evaluate.offline_documents (6)" in built.notes["wiki_perplexity"]
    for name in ("wiki_last_word", "wiki_continuation"):
        assert "0 examples" in built.left_out[name]
        assert "evaluate.offline_examples (32)" in built.left_out[name]
        assert built.left_out[name].count(".") == 2  # a key's, and one sentence's


def test_bad_file(tmp_path: Path) -> None:
    def refused(reason: str, content: bytes | None = None) -> None:
        path = tmp_path / "heldout.jsonl"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=reason) as raised:
            offline.build(path, tmp_path / "suite", documents=1, examples=1)
        assert "\n" not in str(raised.value)
        assert str(path) in str(raised.value)
        assert not (tmp_path / "suite").exists()

    refused("not found")
    refused("line 2", b'{"id": "0", "text": "x"}\n{"id"\n')
    refused("line 1: byte 0xff is not UTF-8", b'{"id": "0", "text": "\xff"}\n')
    refused("line 1: not a JSON object", b"[]\n")
    refused("line 3: lacks the field 'text'", b'{"id": "0", "text": "x"}\n\n{"id": "1"}\n')
    refused("line 1: lacks the field 'text'", b'{"id": "0"}\n')
    refused("no row", b"\n")
    refused("no text", b'{"id": "0", "text": " "}\n')
