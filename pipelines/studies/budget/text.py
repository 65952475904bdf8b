"""Stage text of the study budget: Python source, to tell what is forgotten.

It is a stage, since another version of Python has other source: its digest is in the study's lock.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer

from lesa.errors import UserError
from lesa.files import whole_folder
from lesa.params import Params
from lesa.training.blocks import load_blocks
from lesa.training.heldout import first_tokens
from pipelines.folders import BASE, CORPUS
from pipelines.stage import run_stage
from pipelines.study import params_file, study_params
from pipelines.tracking import Tracker

FOLDER = Path("artifacts/text/budget")


def source_blocks(modules: list[str], like: Dataset) -> Dataset:
    """A block of Python source from each module of the standard library, in the form of `like`.

    It begins in the middle of the file: the beginning is a licence and a description.
    """
    library, size = Path(sysconfig.get_paths()["stdlib"]), len(like[0]["input_ids"])
    key, rows = f"{params_file('budget')}: second_text", []
    for name in modules:
        path = library / f"{name}.py"
        if not path.is_file():
            raise UserError(f"{key}: {name!r}: no module of the standard library in one file")
        text = path.read_text(encoding="utf-8")
        rows.append({"id": name, "text": text[len(text) // 2 :]})
    found = first_tokens(rows, AutoTokenizer.from_pretrained(BASE), size)
    if short := [name for name in modules if name not in found or len(found[name]) < size]:
        raise UserError(f"{key}: {short[0]!r}: its second half has fewer than {size} tokens")
    columns = {"input_ids": [ids.tolist() for ids in found.values()], "document": list(found)}
    return Dataset.from_dict(columns, features=like.features)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    modules: list[str] = study_params("budget", "second_text", list[str])
    with whole_folder(FOLDER) as partial:
        source_blocks(modules, load_blocks(CORPUS / "test")).save_to_disk(partial / "second")


if __name__ == "__main__":
    run_stage("budget-text", work, measures=False)
