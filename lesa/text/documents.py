"""Documents of a text source, one at a time: `{"id", "title", "text"}`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lesa.downloads import explained, take_member
from lesa.errors import UserError
from lesa.params import FileText, HubText, WikipediaPackage
from lesa.text.wikitext import Document, articles

Text = WikipediaPackage | HubText | FileText


def documents(text: Text) -> Iterator[Document]:
    """Every document of the source, in its own order; texts may be empty."""
    if isinstance(text, WikipediaPackage):
        yield from articles(
            take_member(text.requirement, text.member, text.sha256, key="corpus.text")
        )
    elif isinstance(text, HubText):
        yield from hub_rows(text)
    else:
        for name in text.paths:
            yield from file_rows(Path(name).expanduser(), text.text_field)


def describe(text: Text) -> str:
    """Where the text comes from, in words."""
    if isinstance(text, WikipediaPackage):
        return f"{text.member} of the wheel {text.requirement}"
    if isinstance(text, HubText):
        return f"{text.id} ({text.config or 'default'}, {text.split}) at revision {text.revision}"
    return "local files " + ", ".join(Path(name).name for name in text.paths)


def hub_rows(text: HubText) -> Iterator[Document]:
    """Rows of a hub dataset, streamed: a bounded corpus downloads no more than it uses."""
    from datasets import load_dataset

    with explained(f"corpus.text.id: cannot read {text.id} at revision {text.revision}"):
        rows = load_dataset(
            text.id, text.config, split=text.split, revision=text.revision, streaming=True
        )
        for number, row in enumerate(rows):
            yield document(row, text.text_field, f"{text.id}, row {number}", str(number))


def file_rows(path: Path, field: str) -> Iterator[Document]:
    """One document of a `.txt`; one a row of a `.jsonl` or `.parquet`."""
    if not path.is_file():
        raise UserError(f"corpus.text.paths: {path}: no such file")
    try:
        if path.suffix == ".txt":
            text = path.read_text(encoding="utf-8").strip()
            yield {"id": path.name, "title": path.stem, "text": text}
        elif path.suffix in (".jsonl", ".parquet"):
            rows = json_rows(path) if path.suffix == ".jsonl" else parquet_rows(path)
            for number, row in enumerate(rows):
                yield document(row, field, f"{path}, row {number}", f"{path.name}:{number}")
        else:
            raise UserError(f"corpus.text.paths: {path}: must end in .txt, .jsonl or .parquet")
    except ValueError as error:  # JSON, UTF-8 and Arrow errors are ValueErrors
        raise UserError(f"corpus.text.paths: {path}: unreadable ({error})") from None


def json_rows(path: Path) -> Iterator[Any]:
    with open(path, encoding="utf-8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def parquet_rows(path: Path) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield from batch.to_pylist()


def document(row: Any, field: str, where: str, name: str) -> Document:
    """A row as a document; `name` is its id where the row has none."""
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        raise UserError(f"corpus.text.text_field: {where} has no text in a field {field!r}")
    return {
        "id": str(row.get("id", name)),
        "title": str(row.get("title", name)),
        "text": row[field].strip(),
    }
