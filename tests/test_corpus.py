"""The corpus stage's sources, splits and packing, on invented text."""

from __future__ import annotations

import argparse
import bz2
import codecs
import json
import random
import tracemalloc
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk

from lesa.checkpoints.base import BYTE_VOCABULARY, byte_tokenizer, random_checkpoint
from lesa.errors import UserError
from lesa.files import tree_digest
from lesa.params import Corpus, FileText, HubText, RandomBase
from lesa.text import corpus as text_corpus
from lesa.text.documents import documents
from lesa.text.wikitext import Document, articles, plain
from lesa.training.heldout import first_tokens
from pipelines import inputs
from pipelines.corpus import work
from pipelines.tracking import Tracker

BLOCK = 16


def write_jsonl(path: Path) -> Path:
    """Documents of one letter each, 40 to 51 characters: a block's letters tell its documents."""
    rows = [{"body": chr(ord("a") + i) * (40 + i), "title": f"T{i}"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def corpus(path: Path, **changes: Any) -> Corpus:
    values: dict[str, Any] = {
        "text": FileText(source="files", paths=[str(path)], text_field="body", license="CC0"),
        "min_characters": 10,
        "max_documents": None,
        "heldout_documents": 5,
        "block_size": BLOCK,
        "blocks_per_document": 1,
        "seed": 1,
    }
    return Corpus(**(values | changes))


def build(settings: Corpus, tokenizer: Any, folder: Path, **config: Any) -> dict[str, Any]:
    """The corpus of a model with 64 positions and the random base's vocabulary."""
    from transformers import LlamaConfig

    shape = {"vocab_size": BYTE_VOCABULARY, "max_position_embeddings": 64} | config
    return text_corpus.build(settings, tokenizer, LlamaConfig(**shape), folder)


def stream(folder: Path) -> list[int]:
    """All tokens of a split, in order."""
    return [i for ids in load_from_disk(str(folder))["input_ids"] for i in ids]


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


@pytest.mark.parametrize("count", [1, 2])
def test_every_heldout_document_gives_the_same_number_of_blocks(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    settings = corpus(write_jsonl(tmp_path / "a.jsonl"), blocks_per_document=count)
    build(settings, byte_tokenizer(), folder)
    lines = (folder / "documents" / "heldout.jsonl").read_text().splitlines()
    letter = {str(row["id"]): row["text"][0] for row in map(json.loads, lines)}
    blocks = load_from_disk(str(folder / "test"))
    assert sorted(blocks["document"]) == sorted([*letter] * count)
    assert len({tuple(ids) for ids in blocks["input_ids"]}) >= len(letter)
    for ids, document in zip(blocks["input_ids"], blocks["document"], strict=True):
        text = byte_tokenizer().decode(ids).replace("<|endoftext|>", "")
        most = max(set(text), key=text.count)
        assert most == letter[document]


def test_a_block_counts_as_the_document_of_its_middle_token() -> None:
    documents = [np.full(n, n, dtype=np.int32) for n in (5, 2, 9)]
    blocks, owners = text_corpus.pack(documents, 4)
    assert blocks.tolist() == [[5] * 4, [5, 2, 2, 9], [9] * 4, [9] * 4]
    assert owners.tolist() == [0, 1, 2, 2]
    assert text_corpus.of_each_document(owners, 1, "test") == [0, 1, 3]
    assert text_corpus.of_each_document(owners, 2, "test") == [2, 3]  # of the one that has two


def test_same_seed_same_bytes_other_seed_other_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl")
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        build(corpus(path, seed=seed), byte_tokenizer(), tmp_path / name)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    assert tree_digest(tmp_path / "one") != tree_digest(tmp_path / "three")


def test_end_of_text_stands_between_documents(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    build(corpus(write_jsonl(tmp_path / "a.jsonl")), tokenizer, tmp_path / "corpus")
    pieces = tokenizer.decode(stream(tmp_path / "corpus" / "train")).split("<|endoftext|>")
    assert len(pieces) >= 7
    assert all(len(set(piece)) <= 1 for piece in pieces)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_characters": 1000}, "corpus.text: holds no document"),
        ({"heldout_documents": 12}, "corpus.heldout_documents: 12 of 12"),
        ({"heldout_documents": 1}, "corpus.heldout_documents: 1 of 12"),
        ({"max_documents": 5}, "corpus.heldout_documents: 5 of 5"),
        ({"blocks_per_document": 99}, "corpus.blocks_per_document: 99, but no validation document"),
        ({"block_size": 65}, "corpus.block_size: 65 tokens; must be 2 to 64, the positions"),
        ({"heldout_documents": 11, "block_size": 60},
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


def begin(tokenizer: Any, template: str) -> Any:
    """Let the tokenizer make of every text what the template says, as Gemma's and Llama-3's do."""
    from tokenizers.processors import TemplateProcessing

    added = ["<s>", "<t>", "<sep>"]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ["<|endoftext|>", *added]]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=ids
    )
    return tokenizer


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("$A", [], []),
        ("<s> $A", ["<s>"], []),
        ("<s> <t> $A", ["<s>", "<t>"], []),
        ("<|endoftext|> $A", ["<|endoftext|>"], []),
        ("<s> $A <|endoftext|>", ["<s>"], []),
        ("<s> $A <sep>", ["<s>"], ["<sep>"]),
    ],
)
def test_documents_begin_and_end_as_the_tokenizer_has_it(
    template: str, before: list[str], after: list[str], tmp_path: Path
) -> None:
    path, folder = write_jsonl(tmp_path / "a.jsonl"), tmp_path / "corpus"
    tokenizer = begin(byte_tokenizer(), template)
    metrics = build(corpus(path, block_size=2), tokenizer, folder)
    assert metrics["begins_with"] == before

    end = "<|endoftext|>"
    expected = {}  # of every document, with what stands before and after its letters
    for row in map(json.loads, path.read_text().splitlines()):
        expected[row["body"][0]] = [*before, *row["body"], *after, end]
    tokens = tokenizer.convert_ids_to_tokens(stream(folder / "train"))
    seen = "".join(dict.fromkeys(token for token in tokens if len(token) == 1))
    whole = [token for letter in seen for token in expected[letter]]
    assert len(seen) == metrics["documents"]["train"]
    assert tokens == whole[: len(tokens)]
    assert len(whole) - len(tokens) < 2  # less than a block is dropped


def test_end_of_text_that_a_text_ends_with_is_not_doubled(tmp_path: Path) -> None:
    rows = [{"body": letter * 20 + "<|endoftext|>"} for letter in "abcdefgh"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(corpus(tmp_path / "a.jsonl"), byte_tokenizer(), tmp_path / "corpus")
    ids = stream(tmp_path / "corpus" / "train")
    assert 0 in ids
    assert all(pair != (0, 0) for pair in pairwise(ids))


def test_token_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    rows = [{"body": letter * 20, "id": letter} for letter in "abcdefgh"]
    rows[3]["body"] += "<image>"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    beyond = len(tokenizer) - 1
    with pytest.raises(UserError) as raised:
        build(corpus(tmp_path / "a.jsonl"), tokenizer, tmp_path / "no", vocab_size=beyond)
    assert str(raised.value) == (
        f"corpus.text: document 'd' holds the token '<image>' with id {beyond}, but the base's "
        f"vocabulary ends at {beyond - 1}"
    )
    build(corpus(tmp_path / "a.jsonl"), tokenizer, tmp_path / "yes", vocab_size=beyond + 1)


def test_duplicates_stand_in_no_two_splits(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl")
    once = build(corpus(path), byte_tokenizer(), tmp_path / "once")
    assert once["duplicates"] == 0
    text = path.read_text()
    again = "".join(line.replace('": "', '": " \\n', 1) + "\n" for line in text.splitlines())
    path.write_text(text + again + text)
    metrics = build(corpus(path), byte_tokenizer(), tmp_path / "thrice")
    assert metrics["duplicates"] == 24
    assert metrics["digest"] == once["digest"]  # the first of each are the documents


def test_words_apart_are_no_duplicate_of_one_word() -> None:
    texts = ["a b c d e f", "a  b\nc d\te f", "ab c d e f", "A b c d e f"]
    entries: list[Document] = [{"id": text, "title": "", "text": text} for text in texts]
    settings = corpus(Path("a.txt"), min_characters=1)
    chosen, duplicates = text_corpus.choose_documents(entries, settings)
    assert [entry["text"] for entry in chosen] == [texts[0], texts[2], texts[3]]
    assert duplicates == 1


def test_documents_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Rows of two files of one name, and rows that give one id: each is scored, as itself."""
    paths = []
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "a.jsonl"
        rows = [{"body": f"{folder} {letter} " * 30} for letter in "abcdef"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(str(path))
    settings = corpus(Path("a.txt"), min_characters=1)
    text = settings.text.model_copy(update={"paths": paths})
    build(settings.model_copy(update={"text": text}), byte_tokenizer(), tmp_path / "corpus")
    lines = (tmp_path / "corpus" / "documents" / "heldout.jsonl").read_text().splitlines()
    found = first_tokens(map(json.loads, lines), byte_tokenizer(), 100)
    assert len(found) == len(lines)
    chosen, _ = text_corpus.choose_documents(documents(text), settings)
    assert len({entry["id"] for entry in chosen}) == 12
    assert {"a.jsonl:3", "a.jsonl:3 (2)"} <= {entry["id"] for entry in chosen}


def test_a_number_is_given_to_one_document_alone() -> None:
    """Also where a document's own id is such a name."""
    ids = ("x", "x", "x (2)", "x", "x (2)")
    source = [{"id": i, "title": "", "text": f"{n} " * 40} for n, i in enumerate(ids)]
    chosen, _ = text_corpus.choose_documents(source, corpus(Path("a.txt"), min_characters=1))
    assert [entry["id"] for entry in chosen] == ["x", "x (2)", "x (2) (2)", "x (3)", "x (2) (3)"]


def test_documents_without_the_blocks_asked_for_are_told_and_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"body": f"{n} {'word ' * (200 if n % 2 else 4)}"} for n in range(40)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = corpus(path, min_characters=1, heldout_documents=10, blocks_per_document=2)
    found = build(settings, byte_tokenizer(), tmp_path / "corpus")
    told = capsys.readouterr().out
    for name in ("test", "validation"):
        blocks = load_from_disk(str(tmp_path / "corpus" / name))
        assert found["documents"][name] == len(set(blocks["document"])) < 5
        assert f"corpus: {5 - found['documents'][name]} of 5 {name} documents have fewer" in told


def test_nothing_is_read_beyond_max_documents() -> None:
    def source() -> Iterator[Document]:
        for text in ("short", "one " * 9, "one " * 9, "two " * 9):
            yield {"id": "", "title": "", "text": text}
        raise AssertionError("read on")

    settings = corpus(Path("a.txt"), max_documents=2)
    chosen, duplicates = text_corpus.choose_documents(source(), settings)
    assert [entry["text"][:3] for entry in chosen] == ["one", "two"]
    assert duplicates == 1


def test_stage_asks_the_base_for_its_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, base = write_jsonl(tmp_path / "a.jsonl"), tmp_path / "artifacts" / "base"
    shape = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    random_checkpoint(RandomBase(source="random", seed=0, license="none", **shape, **heads), base)
    arguments = argparse.Namespace()

    def params(block_size: int) -> Any:
        return SimpleNamespace(corpus=corpus(path, block_size=block_size))

    work(params(BLOCK), Tracker(), arguments)
    metrics = json.loads(Path("metrics/corpus.json").read_text())
    assert (metrics["begins_with"], metrics["duplicates"]) == ([], 0)
    with pytest.raises(UserError, match=r"^corpus\.block_size: 4097 .* 4096, the positions"):
        work(params(4097), Tracker(), arguments)


def test_no_python_object_is_made_of_a_token(tmp_path: Path) -> None:
    blocks = np.arange(2**18, dtype=np.int32).reshape(-1, 512)
    text_corpus.save(blocks[:1], ["a"], tmp_path / "imports")
    tracemalloc.start()
    text_corpus.save(blocks, ["a"] * len(blocks), tmp_path / "blocks")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * blocks.nbytes  # a list of them alone has 8 bytes a token, an int 28
    assert stream(tmp_path / "blocks") == blocks.ravel().tolist()


def read(path: Path | str) -> list[Document]:
    text = FileText(source="files", paths=[str(path)], text_field="body", license="CC0")
    return list(documents(text))


def parquet(*texts: Any, type_: Any = None) -> bytes:
    """A parquet file of one column `body`, in pages that are not compressed."""
    sink = pa.BufferOutputStream()
    table = pa.table({"body": pa.array(texts, type=type_)})
    pq.write_table(
        table, sink, compression="none", use_dictionary=False, write_statistics=False,
        row_group_size=2,
    )  # fmt: skip
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("suffix", [".txt", ".TXT"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_text_is_what_an_editor_shows(
    suffix: str, newline: str, mark: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(mark + newline.join(["Grüße", "", "пока 👋"]).encode())
    assert read(path) == [{"id": path.name, "title": "a", "text": "Grüße\n\nпока 👋"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".JSONL"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_rows_may_have_a_byte_order_mark_and_other_line_ends(
    suffix: str, mark: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    rows = ['{"body": "one\u2028 \\u2028", "id": 0}', '{"body": "two", "id": null, "title": null}']
    path.write_bytes(mark + "\r\n\r\n".join(rows).encode() + b"\r\n")
    assert read(path) == [
        {"id": "0", "title": f"{path.name}:0", "text": "one\u2028 \u2028".strip()},
        {"id": f"{path.name}:1", "title": f"{path.name}:1", "text": "two"},
    ]


def test_parquet_is_read_whatever_its_case_and_batches(tmp_path: Path) -> None:
    (tmp_path / "a.PARQUET").write_bytes(parquet(*[f"text {i}" for i in range(2500)]))
    assert [entry["text"] for entry in read(tmp_path / "a.PARQUET")] == [
        f"text {i}" for i in range(2500)
    ]


GOOD = b'{"body": "x"}\n'
PATHS, FIELD = "corpus.text.paths", "corpus.text.text_field"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "none.txt: no such file"),
        ("a.csv", b"x", "a.csv: must end in .txt, .jsonl or .parquet"),
        ("a.jsonl.gz", b"x", "a.jsonl.gz: must end in .txt, .jsonl or .parquet"),
        ("txt", b"x", "txt: must end in .txt, .jsonl or .parquet"),
        ("a.txt", b"", "a.txt: holds no text"),
        ("a.txt", codecs.BOM_UTF8 + b" \n", "a.txt: holds no text"),
        ("a.jsonl", b"", "a.jsonl: holds no row"),
        ("a.jsonl", codecs.BOM_UTF8 + b"\n\n", "a.jsonl: holds no row"),
        ("a.parquet", parquet(type_=pa.string()), "a.parquet: holds no row"),
        ("a.txt", "Grüße".encode("utf-16"), "a.txt: is UTF-16, as its byte order mark says; save"),
        ("a.txt", codecs.BOM_UTF16_BE + b"\0x", "a.txt: is UTF-16"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), "a.jsonl: is UTF-16"),
        ("a.txt", b"one\ntwo\nthr\xfcee", "a.txt: line 3: byte 0xfc is not UTF-8"),
        ("a.txt", b"one\ntwo\0\n", "a.txt: line 2 holds a NUL byte"),
        ("a.txt", "one".encode("utf-16-le"), "a.txt: line 1 holds a NUL byte"),
        ("a.jsonl", GOOD + b'\n{"body": "\xfc"}\n', "a.jsonl: line 3: byte 0xfc is not UTF-8"),
        ("a.jsonl", GOOD * 2 + b'{"body": "\0"}\n', "a.jsonl: line 3 holds a NUL byte"),
        ("a.jsonl", b"{", "a.jsonl, line 1: not JSON ("),
        ("a.jsonl", GOOD + b"\n" + GOOD + b"{'body': 1}\n", "a.jsonl, line 4: not JSON ("),
        ("a.jsonl", GOOD + b'{"body": "x"', "a.jsonl, line 2: not JSON ("),
        ("a.jsonl", GOOD + b"[" * 100000, "a.jsonl, line 2: not JSON (too deeply nested)"),
        ("a.jsonl", GOOD + b"9" * 5000, "a.jsonl, line 2: not JSON ("),
        ("a.jsonl", GOOD + b'["x"]', "a.jsonl, line 2: is no object with named fields, but of"),
        ("a.jsonl", b'\n"x"', "a.jsonl, line 2: is no object with named fields, but of type str"),
        ("a.jsonl", b"null", "a.jsonl, line 1: is no object with named fields, but of type null"),
        ("a.jsonl", GOOD + b'{"text": "x", "n": 1}', f"{FIELD}: * line 2 has no field 'body'; it ha"
         "s text, n"),
        ("a.jsonl", b"{}", f"{FIELD}: * line 1 has no field 'body'; it has none"),
        ("a.jsonl", GOOD + b'{"body": ["x"]}', f"{FIELD}: * line 2: the field 'body' is of type a"),
        ("a.jsonl", b'{"body": null}', f"{FIELD}: * line 1: the field 'body' is of type null"),
        ("a.jsonl", b'{"body": 7}', f"{FIELD}: * line 1: the field 'body' is of type int"),
        ("a.jsonl", GOOD + rb'{"body": "\ud83d"}', r"a.jsonl, line 2: holds '\ud83d', half of a s"),
        ("a.jsonl", GOOD + rb'{"body": "x", "title": "\ud83d"}', "a.jsonl, line 2: holds '"),
        ("a.parquet", b"x", "a.parquet: damaged at row 1 or later ("),
        ("a.parquet", b"", "a.parquet: damaged at row 1 or later ("),
        ("a.parquet", parquet("one", "two")[:-9], "a.parquet: damaged at row 1 or later ("),
        ("a.parquet", parquet("one", "two", "xyzzy").replace(b"xyzzy", b"xyz\xff\xff"),
         "a.parquet: damaged at row 3 or later ("),
        ("a.parquet", parquet("one", "two", "xyzzy").replace(b"\5\0\0\0xyzzy", b"\xff\0\0\0xyzzy"),
         "a.parquet: damaged at row 3 or later ("),
        ("a.parquet", parquet("one", None), f"{FIELD}: * row 2: the field 'body' is of type null"),
        ("a.parquet", parquet(b"one"), f"{FIELD}: * row 1: the field 'body' is of type bytes"),
        ("a.parquet", parquet(1, 2), f"{FIELD}: * row 1: the field 'body' is of type int"),
    ],
)  # fmt: skip
def test_bad_file_is_one_line(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        read(tmp_path / name)
    said = str(raised.value)
    for part in words.split("*"):
        assert part in said
    assert str(tmp_path / name) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**52], pa.timestamp("ms")),
        pa.array([10**7], pa.date32()),
        pa.array([2**60], pa.duration("ms")),
        pa.array([1], pa.timestamp("s", tz="Mars/Base")),
    ],
)
def test_columns_of_a_parquet_file_that_are_not_asked_for_are_not_read(
    column: Any, tmp_path: Path
) -> None:
    """Python has no value for these; where one is the id, that is one line."""
    pq.write_table(pa.table({"body": ["text"], "when": column}), tmp_path / "a.parquet")
    assert [row["text"] for row in read(tmp_path / "a.parquet")] == ["text"]
    pq.write_table(pa.table({"body": ["text"], "id": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: damaged at row 1 or later \("):
        read(tmp_path / "a.parquet")


def test_damage_anywhere_in_a_parquet_file_is_one_line_or_none(tmp_path: Path) -> None:
    """Pages have no checksums by default: some damage is another text, which nobody can see."""
    whole, generator = parquet(*["some text"] * 5), random.Random(0)
    refused: list[str] = []
    for _ in range(300):
        content = bytearray(whole)
        content[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        (tmp_path / "a.parquet").write_bytes(content)
        try:
            read(tmp_path / "a.parquet")
        except UserError as error:
            refused.append(str(error))
    assert refused
    assert all("a.parquet" in said and "\n" not in said for said in refused)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".", f"{PATHS}: .: is a folder; name the files in it"),
        ("folder.txt", f"{PATHS}: folder.txt: is a folder; name the files in it"),
        ("", f"{PATHS}: : is a folder"),
        ("x" * 300 + ".txt", ".txt: cannot be read (File name too long)"),
        ("a\0b.txt", "no such file"),
        ("~nobody-of-this-name/a.txt", f"{PATHS}: ~nobody-of-this-name/a.txt: cannot be read ("),
        ("loop.txt", f"{PATHS}: loop.txt: no such file"),
    ],
)
def test_bad_path_is_one_line(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.txt").mkdir()
    Path("loop.txt").symlink_to("loop.txt")
    with pytest.raises(UserError) as raised:
        read(name)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_file_that_the_system_refuses_to_read_is_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.symlink_to("/proc/self/mem")  # there, a file, and reading its first byte is an error
    for reader in (read, partial(inputs.digest, known={})):
        with pytest.raises(UserError) as raised:
            reader(path)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)


def test_all_paths_are_tried_before_the_first_is_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl")
    paths = [str(tmp_path / "a.jsonl"), str(tmp_path / "none.txt")]
    text = FileText(source="files", paths=paths, text_field="body", license="CC0")
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        next(documents(text))


HUB = HubText(
    source="hub", id="some/text", config=None, revision="abc", split="train", text_field="text",
    license="CC0",
)  # fmt: skip


def test_hub_failure_names_all_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*args: object, **named: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError) as raised:
        list(documents(HUB))
    assert str(raised.value) == (
        "corpus.text.id: cannot read some/text, config default, split train, at revision abc: no "
        "network"
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"body": "x"}, f"{FIELD}: some/text, row 2 has no field 'text'; it has body"),
        ({"text": None}, f"{FIELD}: some/text, row 2: the field 'text' is of type null"),
    ],
)
def test_bad_hub_row_is_one_line(
    row: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: iter([{"text": "first"}, row]))
    found = documents(HUB)
    assert next(found) == {"id": "0", "title": "0", "text": "first"}
    with pytest.raises(UserError) as raised:
        next(found)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


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
