"""An independent re-run of LESA at scale, from the result files of OpT-DeUS's repository.

reports/opt_deus.csv holds, of every file, the accuracy of seven tasks and WikiText's perplexity a
word; where it comes from is in published.yaml. LESA is the official notebooks' there.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.tables import Measured, Row, Table

FILE = Path(__file__).with_name("opt_deus.csv")
SOURCES = "reports/opt_deus.csv"
LESA = "lesa_official"
BASES = {"11.5B": "Llama-3.1-8B", "1.72B": "Llama-3.2-1B"}  # by the size that each is grown to
LAST = 12_100  # steps of the whole budget, 1.5B tokens
NAMES = {
    LESA: "LESA",
    "llama_pro": "LLaMA Pro",
    "solar": "SOLAR",
    "opt_deus": "OpT-DeUS, top half",
    "average": "Avg-DeUS",
    "opt_deus_top_and_bottom": "OpT-DeUS, top and bottom",
    "opt_deus_bottom": "OpT-DeUS, bottom",
    "opt_deus_middle": "OpT-DeUS, middle",
    "base_all_layers_trained": "base, all layers trained",
}


@cache
def scores() -> pd.DataFrame:
    """A row a result file: its mean accuracy in percent with its error, and its perplexity.

    Tasks are fixed and their examples sampled, so the mean of k tasks has the error
    sqrt(sum of the tasks' squared errors) / k.
    """
    found = pd.read_csv(FILE)
    of_file = ["model", "phase", "method", "step"]
    tasks = found[found.metric == "acc"].groupby(of_file)
    error = tasks.stderr.agg(lambda of_tasks: np.sqrt((of_tasks**2).sum()) / len(of_tasks))
    words = found[found.metric == "word_perplexity"].set_index(of_file).value
    parts = {"accuracy": 100 * tasks.value.mean(), "error": 100 * error, "perplexity": words}
    return pd.DataFrame(parts)


def budgets() -> list[int]:
    """Steps of pre-training after which there are results."""
    steps = scores().xs("pretrain", level="phase").index.get_level_values("step")
    return sorted({int(step) for step in steps})


def percent(step: int) -> int:
    return round(100 * step / LAST)


def methods(model: str) -> list[str]:
    """The methods measured at a size, in the order of NAMES."""
    there = scores().xs(model, level="model").index.get_level_values("method")
    return [method for method in NAMES if method in there]


def accuracy(model: str, method: str, step: int, phase: str = "pretrain") -> Measured | None:
    key: Any = (model, phase, method, step)
    if key not in scores().index:
        return None
    row = scores().loc[key]
    return Measured(float(row.accuracy), float(row.error))


def perplexity(model: str, method: str, step: int) -> float:
    key: Any = (model, "pretrain", method, step)
    return float(scores().loc[key].perplexity)


def minus_lesa(model: str, method: str, step: int, phase: str = "pretrain") -> Measured | None:
    """Mean accuracy minus LESA's, in points. The files hold no example's result, so the error is
    that of two independent runs; paired by example it would be smaller."""
    ours, lesa = (accuracy(model, of, step, phase) for of in (method, LESA))
    if ours is None or lesa is None or ours.stderr is None or lesa.stderr is None:
        return None
    return Measured(ours.value - lesa.value, float(np.hypot(ours.stderr, lesa.stderr)))


def table(model: str) -> Table:
    """A row a method: where it stands after the first and the last part of the budget."""
    first, *_, last = budgets()
    sft = 812  # the step that was scored after SFT
    rows: list[Row] = []
    for method in methods(model):
        row: Row = {"method": NAMES[method]}
        for step in (first, last):
            at = f"at {percent(step)}%"
            row[f"accuracy {at}"] = accuracy(model, method, step)
            own = method == LESA
            row[f"minus LESA's {at}"] = "" if own else minus_lesa(model, method, step)
        for step in (first, last):
            row[f"word perplexity at {percent(step)}%"] = perplexity(model, method, step)
        row["accuracy after SFT"] = accuracy(model, method, sft, "sft")
        rows.append(row)
    return Table(
        f"rerun_{model}",
        f"An independent re-run, {BASES[model]} to {model}: mean accuracy of seven tasks in "
        "percent ± one standard error, and WikiText's perplexity a word, after parts of 1.5B "
        "tokens",
        SOURCES,
        rows,
    )


def every() -> Table:
    """Every result file, for the CSV only."""
    records: list[dict[Any, Any]] = scores().reset_index().to_dict("records")
    rows: list[Row] = [
        {
            "model": row["model"],
            "phase": row["phase"],
            "method": NAMES[row["method"]],
            "step": int(row["step"]),
            "accuracy": Measured(float(row["accuracy"]), float(row["error"])),
            "minus LESA's": minus_lesa(row["model"], row["method"], int(row["step"]), row["phase"]),
            "word perplexity": float(row["perplexity"]),
        }
        for row in records
    ]
    return Table("rerun", "Every result of the independent re-run", SOURCES, rows)
