"""Local text files, read so that what is wrong with one is said in one line with its place.

Lines and rows are counted from 1. A row comes with where it stands, for the errors of its reader.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lesa.errors import UserError, explained
from lesa.params import HubRows

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BATCH = 1000  # rows of a parquet file that are held in memory at a time


def read_text(path: Path) -> str:
    """A whole UTF-8 file, with or without a byte order mark; its lines end in a line feed."""
    with readable(path):
        text = decode(path.read_bytes(), path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode(data: bytes, path: Path, line: int = 1) -> str:
    """UTF-8 `data` that begins at `line` of the file, less a byte order mark."""
    if line == 1 and data.startswith(UTF16):
        raise UserError(f"{path}: is UTF-16, as its byte order mark says; save it as UTF-8")
    if b"\0" in data:
        line += data[: data.index(b"\0")].count(b"\n")
        raise UserError(f"{path}: line {line} holds a NUL byte; expected text in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        byte = error.object[error.start]
        raise UserError(f"{path}: line {line}: byte {byte:#04x} is not UTF-8") from None


def rows(path: Path, fields: Collection[str] | None = None) -> Iterator[tuple[str, Any]]:
    """Every row of a `.jsonl` or `.parquet`, one or more, each after where it stands.

    A row of a `.jsonl` is whatever value its line holds. Of a `.parquet` the columns `fields` alone
    have values, others None: they may hold what Python has no value for, as far dates. Without
    `fields` all have.
    """
    found = READERS[path.suffix.lower()](path, fields)
    first = next(found, None)
    if first is None:
        raise UserError(f"{path}: holds no row")
    yield first
    yield from found


def hub_rows(source: HubRows, key: str) -> Iterator[tuple[str, Any]]:
    """Every row of a hub data set, each after where it stands; `key` names the params in errors.

    They are streamed: what reads a few downloads no more than these.
    """
    from datasets import load_dataset

    with explained(f"{key}.id: cannot read {source.described}"):
        found = load_dataset(
            source.id, source.config, split=source.split, revision=source.revision, streaming=True
        )
        for number, row in enumerate(found, start=1):
            yield f"{source.id}, row {number}", row


def json_rows(path: Path, fields: Collection[str] | None) -> Iterator[tuple[str, Any]]:
    """The values of all lines that are not empty, whatever their fields."""
    with readable(path), open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            text = decode(line, path, number)
            if text.strip():
                where = f"{path}, line {number}"
                yield where, parse(text, where)


def parse(text: str, where: str) -> Any:
    """One JSON value."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
    except ValueError as error:  # an integer of too many digits
        reason = str(error)
    except RecursionError:
        reason = "too deeply nested"
    raise UserError(f"{where}: not JSON ({reason}); expected one object a line")


def parquet_rows(
    path: Path, fields: Collection[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """All rows, by column name; the values of `fields`, or of all columns."""
    import pyarrow
    import pyarrow.parquet

    number = 1
    with readable(path), open(path, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(BATCH, row_groups=[group]):
                    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                    for index in range(batch.num_rows):
                        row = {
                            name: column[index].as_py()
                            if fields is None or name in fields
                            else None
                            for name, column in columns.items()
                        }
                        yield f"{path}, row {number}", row
                        number += 1
        except (pyarrow.ArrowException, OSError, LookupError, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: damaged at row {number} or later ({reason})") from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read a file, as for want of rights, into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({reason})") from None


READERS = {".jsonl": json_rows, ".parquet": parquet_rows}
