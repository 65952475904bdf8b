"""The corpus stage's sources, splits and packing, on invented text."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk

from lesa.checkpoints.base import byte_tokenizer
from lesa.errors import UserError
from lesa.files import tree_digest
from lesa.params import Corpus, FileText, HubText
from lesa.text.corpus import build
from lesa.text.documents import documents
from lesa.text.wikitext import articles, plain

BLOCK = 16


def write_jsonl(path: Path, count: int = 12) -> Path:
    """Documents of one letter each, 40 to 51 characters: a block's letters tell its documents."""
    rows = [{"body": chr(ord("a") + i) * (40 + i), "title": f"T{i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def corpus(path: Path, **changes: Any) -> Corpus:
    values: dict[str, Any] = {
        "text": FileText(source="files", paths=[str(path)], text_field="body", license="CC0"),
        "min_characters": 10,
        "max_documents": None,
        "heldout_documents": 5,
        "block_size": BLOCK,
        "heldout_blocks": 3,
        "validation_blocks": 2,
        "seed": 1,
    }
    return Corpus(**(values | changes))


def letters(folder: Path) -> set[str]:
    """Letters in the blocks of a split."""
    blocks = load_from_disk(str(folder))
    assert blocks.features["input_ids"].feature.dtype == "int32"
    assert {len(ids) for ids in blocks["input_ids"]} == {BLOCK}
    text = byte_tokenizer().decode([i for ids in blocks["input_ids"] for i in ids])
    return set(text.replace("<|endoftext|>", ""))


def test_splits_share_no_document_and_sizes_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    metrics = build(corpus(write_jsonl(tmp_path / "a.jsonl")), byte_tokenizer(), folder)
    seen = {name: letters(folder / name) for name in ("train", "validation", "test")}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    assert len(seen["test"]) == 3  # three blocks from three documents, not all from the first
    lines = (folder / "documents" / "heldout.jsonl").read_text().splitlines()
    texts = [json.loads(line) for line in lines]
    assert {entry["text"][0] for entry in texts} == seen["test"]
    assert set(texts[0]) == {"id", "title", "text"}
    assert metrics["documents"] == {"train": 7, "heldout": 5, "test": 3, "validation": 2}
    assert metrics["blocks"]["test"] == 3
    assert metrics["blocks"]["validation"] == 2
    assert metrics["tokens"]["train"] == metrics["blocks"]["train"] * BLOCK
    assert json.loads((folder / "SOURCE.json").read_text())["license"] == "CC0"


def test_same_seed_same_bytes_other_seed_other_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl")
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        build(corpus(path, seed=seed), byte_tokenizer(), tmp_path / name)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    assert tree_digest(tmp_path / "one") != tree_digest(tmp_path / "three")


def test_end_of_text_stands_between_documents(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    build(corpus(write_jsonl(tmp_path / "a.jsonl")), tokenizer, tmp_path / "corpus")
    blocks = load_from_disk(str(tmp_path / "corpus" / "train"))["input_ids"]
    stream = tokenizer.decode([i for ids in blocks for i in ids])
    pieces = stream.split("<|endoftext|>")
    assert len(pieces) >= 7
    assert all(len(set(piece)) <= 1 for piece in pieces)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_characters": 1000}, "corpus.text: holds no document"),
        ({"heldout_documents": 12}, "corpus.heldout_documents: 12 of 12"),
        ({"heldout_documents": 1}, "corpus.heldout_documents: 1 of 12"),
        ({"max_documents": 5}, "corpus.heldout_documents: 5 of 5"),
        ({"heldout_blocks": 99}, "corpus.heldout_blocks: 99 blocks wanted"),
        ({"validation_blocks": 99}, "corpus.validation_blocks: 99 blocks wanted"),
        ({"heldout_documents": 11, "block_size": 60, "heldout_blocks": 1, "validation_blocks": 1},
         "corpus.block_size: the training text has"),
    ],
)  # fmt: skip
def test_too_little_text_names_the_key(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    with pytest.raises(UserError) as raised:
        build(corpus(write_jsonl(tmp_path / "a.jsonl"), **changes), byte_tokenizer(), folder)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not folder.exists()


def test_text_jsonl_and_parquet_are_documents(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(" first \n")
    (tmp_path / "two.jsonl").write_text('{"body": "second", "id": 7}\n\n')
    pq.write_table(pa.table({"body": ["third"], "title": ["T"]}), tmp_path / "three.parquet")
    paths = [str(tmp_path / name) for name in ("one.txt", "two.jsonl", "three.parquet")]
    text = FileText(source="files", paths=paths, text_field="body", license="CC0")
    assert list(documents(text)) == [
        {"id": "one.txt", "title": "one", "text": "first"},
        {"id": "7", "title": "two.jsonl:0", "text": "second"},
        {"id": "three.parquet:0", "title": "T", "text": "third"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "none.txt: no such file"),
        ("a.csv", b"x", "must end in .txt, .jsonl or .parquet"),
        ("a.jsonl", b"{", "unreadable"),
        ("a.jsonl", b'{"other": "x"}', "has no text in a field 'body'"),
        ("a.parquet", b"x", "unreadable"),
        ("a.txt", b"\xff\xfe\xff", "unreadable"),
    ],
)
def test_bad_file_is_one_line(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    text = FileText(source="files", paths=[str(tmp_path / name)], text_field="body", license="CC0")
    with pytest.raises(UserError) as raised:
        list(documents(text))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_hub_failure_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*args: object, **named: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    text = HubText(
        source="hub", id="some/text", config=None, revision="abc", split="train",
        text_field="text", license="CC0",
    )  # fmt: skip
    with pytest.raises(UserError, match=r"corpus\.text\.id: cannot read some/text .*no network"):
        list(documents(text))


WIKITEXT = """{{Infobox|name=[[Nobody]]}}[[File:a.png|thumb|A ''caption'' [[x]]]]
'''Alabaster''' ({{IPA|a}}; {{x}}, from Greek) is [[rock|stone]].<ref name=x>No</ref><ref name=x />
{| class="wikitable"
| cell
|}
== History ==
It is &ldquo;old&rdquo; {{cn}}.<!-- hidden --> See [http://example.org this page].
* one
=== Rome ===
Used there.
== See also ==
* [[Gypsum]]
=== More ===
* [[Marble]]
== Later ==
The end.
[[Category:Stones]] [[fr:Albâtre]]
{| unclosed
| rest
"""


def test_wikitext_becomes_prose() -> None:
    assert plain(WIKITEXT) == (
        "Alabaster (from Greek) is stone.\n\n"
        "History\nIt is “old”. See this page.\none\n"
        "Rome\nUsed there.\n"
        "Later\nThe end."
    )


def dump(path: Path) -> bytes:
    """A dump with an article, a redirect and a talk page; also written to `path`."""
    pages = [
        ("A", "0", "", "''Text''"),
        ("B", "0", '<redirect title="A"/>', "#R"),
        ("C", "1", "", "t"),
    ]
    body = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns><id>{i}</id>{redirect}"
        f"<revision><id>9</id><text>{text}</text></revision></page>"
        for i, (title, ns, redirect, text) in enumerate(pages)
    )
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{body}</mediawiki>'
    path.write_bytes(bz2.compress(xml.encode()))
    return path.read_bytes()


def test_dump_yields_articles_only(tmp_path: Path) -> None:
    dump(tmp_path / "dump.bz2")
    assert list(articles(tmp_path / "dump.bz2")) == [{"id": "0", "title": "A", "text": "Text"}]


@pytest.mark.parametrize("keep", [0, 10, 100])
def test_damaged_dump_is_one_line(keep: int, tmp_path: Path) -> None:
    content = dump(tmp_path / "dump.bz2")
    (tmp_path / "dump.bz2").write_bytes(content[:keep])
    with pytest.raises(UserError, match=r"dump\.bz2: not a whole Wikipedia"):
        list(articles(tmp_path / "dump.bz2"))
