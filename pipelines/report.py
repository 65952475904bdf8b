"""Stage report: metrics to REPORT.md, report.html, figures and tables; README's results block."""

from __future__ import annotations

import argparse
from pathlib import Path

from lesa.params import Params
from pipelines.stage import run_stage
from pipelines.tracking import Tracker
from reports.render import render, replace_results

OUT = Path("reports")


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    render(params, "metrics", OUT)
    replace_results("README.md", OUT / "results.md")
    for name in ("REPORT.md", "report.html", "results.md", "figures", "tables"):
        log.artifact(OUT / name)


if __name__ == "__main__":
    run_stage("report", work, measures=False)
