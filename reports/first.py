"""What is known before any training: the first, short report of a run that takes up to an hour."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from tabulate import tabulate

from lesa.files import write_text
from lesa.params import Params
from reports.measured import files, read
from reports.tables import Row, Table

NAME = "initialisation.md"


def table(params: Params, metrics: Path) -> Table:
    """Layers, parameters and perplexity of each model as its method made it."""
    rows: list[Row] = []
    for model in params.models:
        made = read(metrics, f"expand/{model}")
        found = read(metrics, f"evaluate/init/{model}").get("document_perplexity")
        shares = [s["rank_one_share"] for s in made["new_weight_structure"].values() if s]
        rows.append(
            {
                "model": model,
                "layers": len(made["plan"]),
                "parameters": int(made["parameters_after"]),
                "new matrices' share of rank one": fmean(shares) if shares else None,
                "perplexity before training": found["value"] if found else None,
            }
        )
    return Table(
        "initialisation",
        "Before any training: mean over held-out documents of exp(loss)",
        f"{files('expand', params.models)}, {files('evaluate/init', params.models)}",
        rows,
    )


def write(params: Params, metrics: Path, out: Path) -> Table:
    """Write `out`/initialisation.md; returns its table."""
    found = table(params, metrics)
    lines = [
        f"# {found.caption}",
        "",
        tabulate(found.cells, found.header, "github"),
        "",
        f"Source: {found.sources}.",
    ]
    write_text(out / NAME, "\n".join(lines) + "\n")
    return found
