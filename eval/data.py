"""Rows of examples for lm-eval's tasks, read here so that what is wrong is said in one line.

lm-eval's own reader, `datasets.load_dataset`, keeps copies in the user's cache, fills a row's
missing fields with None, and answers damage with pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from lesa.errors import UserError
from lesa.text.rows import rows as file_rows


def read(
    files: dict[str, str], config_source: str, fields: Sequence[str] = (), **metadata: Any
) -> DatasetDict:
    """The splits of one task: what lm-eval calls for a YAML's `custom_dataset`.

    `files` are the paths of its splits, relative to the folder of the YAML `config_source`, so
    that the folder can be used from anywhere; `fields` are what rows must have. Held in memory.
    """
    folder = Path(config_source).parent
    splits = {split: rows(folder / file, fields) for split, file in files.items()}
    return DatasetDict({split: Dataset.from_list(found) for split, found in splits.items()})


def rows(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a `.jsonl` or `.parquet`: all have `fields`, and whatever the first has.

    Raises UserError, naming file and line, for what is no such file or holds no row.
    """
    found = list(file_rows(path))
    for where, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object")
        if lacking := sorted({*fields, *found[0][1]} - row.keys()):
            raise UserError(f"{where}: lacks the field {lacking[0]!r}")
    return [row for _, row in found]
