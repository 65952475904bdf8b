"""The run in a few numbers, for `dvc metrics` and MLflow, and in small files for `dvc plots`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from lesa.files import whole_folder, write_json
from reports.claims import Claim, Verdict, overall
from reports.measured import Metrics, whole_seconds

POINTS = 64  # of a spectrum
VERDICTS: dict[str, str] = {
    Verdict.HOLDS: "hold",
    Verdict.FAILS: "do_not_hold",
    Verdict.UNDECIDED: "not_decided",
    Verdict.CANNOT: "cannot_be_tested",
}


def rounded(value: float) -> float:
    """Five significant digits: what two runs are compared by, and a line of a terminal."""
    return float(f"{value:.5g}")


def numbers(m: Metrics, judged: list[Claim]) -> dict[str, Any]:
    """Perplexities of each model, seconds of all training, and how many claims came out how."""
    counts = Counter(VERDICTS.get(overall(claim.findings), "differ") for claim in judged)
    return {
        "perplexity": {
            name: {
                phase: rounded(run["steps"][index]["heldout_perplexity"])
                for phase, index in (("initial", 0), ("trained", -1))
            }
            for name, run in m.pretrain.items()
        },
        "training_seconds": rounded(sum(whole_seconds(run) for run in m.pretrain.values())),
        "claims": {name: counts[name] for name in [*VERDICTS.values(), "differ"]},
    }


def losses(m: Metrics) -> pd.DataFrame:
    rows = [
        {"series": name, "tokens": step["tokens"], "heldout_loss": step["heldout_loss"]}
        for name, run in m.pretrain.items()
        for step in run["steps"]
    ]
    return pd.DataFrame(rows)


def spectra(m: Metrics) -> pd.DataFrame:
    """Singular values over the largest, by rank over the number of them."""
    rows = []
    for kind, content in m.svd.items():
        values = content["singular_values"]
        for index in range(0, len(values), max(1, len(values) // POINTS)):
            share, value = (index + 1) / len(values), values[index] / values[0]
            rows.append({"series": kind, "share": rounded(share), "value": rounded(value)})
    return pd.DataFrame(rows)


def predictors(m: Metrics) -> pd.DataFrame:
    """Mean squared error over that of predicting zero, on triples fitted and held out."""
    rows = []
    for name, fit in m.fit.items():
        for kind, content in fit["kinds"].items():
            for split in ("train", "heldout"):
                if errors := content[split]:
                    error = rounded(errors["mse"] / errors["zero_mse"])
                    rows.append({"series": f"{name}, {split}", "kind": kind, "error": error})
    return pd.DataFrame(rows)


PLOTS = {"losses": losses, "spectra": spectra, "predictors": predictors}


def write(m: Metrics, judged: list[Claim], out: Path) -> dict[str, Any]:
    """Write `out`/summary.json, which is returned, and a CSV a plot below `out`/plots."""
    with whole_folder(out / "plots") as folder:
        for name, plot in PLOTS.items():
            plot(m).to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    found = numbers(m, judged)
    write_json(out / "summary.json", found)
    return found
