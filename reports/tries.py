"""What was tried to keep a lead over LLaMA Pro while only new layers train: tries, no study.

reports/tries.json holds the loss of each of 12 validation blocks, a document each, at each measured
step: SmolLM2-135M-Instruct, 15 new layers at LLaMA Pro's places unless the start says otherwise, 48
steps of 1,024 tokens or as many as there are, one seed, bfloat16. They were run by hand and are no
stage's output; the first is LLaMA Pro as study `budget` trains it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from lesa.files import read_json
from reports.measured import Json
from reports.paired import paired
from reports.tables import Row, Table

FILE = Path(__file__).with_name("tries.json")
SOURCES = "reports/tries.json"
SHOWN = (8, 16, 24, 48)


@cache
def tries() -> list[Json]:
    found: list[Json] = read_json(FILE)["tries"]
    return found


def table() -> Table:
    """Losses minus the base's, and the difference to LLaMA Pro where a try ends."""
    first = tries()[0]
    base = np.mean(first["block_losses"][first["steps"].index(0)])
    rows: list[Row] = []
    for one in tries():
        losses = dict(zip(one["steps"], one["block_losses"], strict=True))
        last = one["steps"][-1]
        there = first["block_losses"][first["steps"].index(last)]
        row: Row = {"start": one["start"], "then": one["then"]}
        for step in SHOWN:
            row[f"after {step}"] = float(np.mean(losses[step]) - base) if step in losses else "–"
        row["at its end, minus the first row's"] = (
            paired(losses[last], there) if one is not first else "–"
        )
        rows.append(row)
    return Table(
        "tries",
        "Tries to stay ahead of LLaMA Pro (first row) while only new layers train: loss on 12 "
        "validation documents minus the untouched base's, after so many steps of 1,024 tokens, a "
        "fit's included. One seed; run by hand, no stage of a study",
        SOURCES,
        rows,
    )
