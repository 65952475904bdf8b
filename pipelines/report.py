"""Stage report: metrics to the report in all its formats; README's results block."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from lesa.params import Params
from pipelines import model_card
from pipelines.stage import run_stage
from pipelines.tracking import Tracker
from reports import tables, terminal
from reports.render import write

OUT, METRICS, README = Path("reports"), Path("metrics"), Path("README.md")
SHOWN = (
    "REPORT.md",
    "report.html",
    "report.pdf",
    "results.md",
    "summary.json",
    "figures",
    "tables",
)


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    m, found = write(params, METRICS, OUT, README)
    print(terminal.text(tables.main(m)))
    print("claims:", ", ".join(f"{n} {name}" for name, n in found["claims"].items()), flush=True)
    # Of the pipeline run as a whole: what two of them are compared by.
    log.parent.metrics(dict(pd.json_normalize(found, sep="/").iloc[0]))
    log.parent.tags({"mlflow.note.content": (OUT / "results.md").read_text(encoding="utf-8")})
    for name in SHOWN:
        log.parent.artifact(OUT / name)
    for name, card in model_card.cards(m).items():
        log.parent.text(card, f"models/{name}.md")


if __name__ == "__main__":
    run_stage("report", work, measures=False)
