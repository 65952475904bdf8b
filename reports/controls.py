"""What can stand in for LESA's predictions, before training and after it."""

from __future__ import annotations

from collections.abc import Mapping

from reports import rates
from reports.budget import SOURCES, longer_runs
from reports.claims import in_order
from reports.measured import Metrics, dtypes
from reports.tables import Row, Table, listed, series
from reports.training_runs import Runs, difference, file_of, on_one_machine, shared_seeds

# Models of study `budget`, and what each has in place of LESA's predictions; what else makes a
# layer of LESA's is as in LESA.
REPLACED = {
    "lesa_again": "nothing: LESA once more, where the controls of one seed were trained",
    "lesa_other_digits": "nothing, on an SVD of other last digits",
    "noise": "Gaussian matrices of their norms",
    "spectrum": "random matrices of their singular values",
    "constant_row": "constant rows of their norms",
    "lesa_permuted": "LESA's predictions in one another's gaps",
    "lesa_shuffled": "predictions fitted on layers in shuffled order",
    "lesa_on_noise": "predictions fitted on Gaussian noise",
    "lesa_signs": "predictions fitted with drawn signs of U's columns",
    "lesa_raw": "predictions fitted without the SVD",
    "lesa_no_norm_term": "predictions fitted without the norm term",
    "lesa_zeroed": "LESA's predictions, outputs zeroed",
    "lesa_norms_half": "LESA's predictions, the layer norms before them halved",
    "lesa_norms_neighbours": "LESA's predictions, with the neighbours' mean layer norms",
    "lesa_official": "predictions of the official code's preset",
    "ridge": "ridge regression in closed form",
    "average": "means of the two neighbours",
    "average_zeroed": "means of the two neighbours, outputs zeroed",
    "identity": "copies of the layer below, outputs zeroed",
    "original_layers": "no new layer: as many of the base's own train",
}
ENDS = {  # of one control, of several
    "below": ("ends below it", "end below it"),
    "above": ("ends above it", "end above it"),
    "level": ("is not told apart from it", "are not told apart from it"),
}
NO_CONTROLS = ("lesa_again", "lesa_other_digits", "lesa_official", "identity", "original_layers")


def limits(m: Metrics, study: str, runs: Mapping[str, Runs], names: list[str]) -> str:
    """Which controls have one seed, and which the rate that was sought for LESA."""
    said: dict[str, list[str]] = {}
    for words, exempt in (
        ("one seed", [n for n in names if len(shared_seeds(runs[n], runs["lesa"])) > 1]),
        ("LESA's rate", [n for n in names if rates.sought_for(m, study, runs[n])]),
    ):
        if len(exempt) < len(names):
            but = f", but for {listed(exempt)}" if exempt else ""
            said.setdefault(but, []).append(words)
    return "; ".join(f"{series(words)}{but}" for but, words in said.items())


def ends(m: Metrics, study: str, runs: Mapping[str, Runs]) -> list[str]:
    """Which controls end below LESA, which above it, and which are not told apart from it."""
    found: dict[str, list[str]] = {"below": [], "above": [], "level": []}
    names = [name for name in REPLACED if name in runs and name not in NO_CONTROLS]
    for name in names:
        lesa = on_one_machine(m, study, runs, "lesa", runs[name])
        if (gap := difference(runs[name], lesa)) is not None:
            found[in_order(gap, "below", "above", "level")].append(name)
    said = [limits(m, study, runs, names)]
    if len(names) > 1:
        said.append(f"{len(names)} comparisons, not corrected for")
    few = f" ({'; '.join(filter(None, said))})" if any(said) else ""
    parts = [f"{listed(of)} {ENDS[place][len(of) > 1]}" for place, of in found.items() if of]
    where = {"budget": "controls", "scale": "scale"}[study]
    link = f"Of [what stands in](#table-{where}) for its predictions{few}"
    return [f"{link} {'; '.join(parts)}"] if parts else []


def beside_lesa(m: Metrics) -> dict[str, Runs]:
    """The runs of the longer schedule by model; none where LESA has none there."""
    runs = {found.model: found for found in longer_runs(m)}
    return runs if "lesa" in runs else {}


def table(m: Metrics) -> Table:
    """A row a control of the longer schedule: its loss minus LESA's before training and after it.
    No rows without LESA."""
    runs = beside_lesa(m)
    rows: list[Row] = [
        {
            "in place of LESA's predictions": REPLACED[name],
            "model": name,
            "seeds": len(shared_seeds(runs[name], runs["lesa"])),
            "learning rate": float(runs[name].first["learning_rate"]),
            "sought for it": "yes" if rates.sought_for(m, "budget", runs[name]) else "no",
            "computed in": dtypes(runs[name].by_seed.values()),
            "before training": difference(runs[name], lesa, 0, 0),
            f"after {runs['lesa'].tokens:,} tokens": difference(runs[name], lesa),
            "after them, minus `identity`": ""
            if name == "identity" or "identity" not in runs
            else difference(runs[name], runs["identity"]),
        }
        for name in REPLACED
        if name in runs
        for lesa in [on_one_machine(m, "budget", runs, "lesa", runs[name])]
    ]
    return Table(
        "controls",
        "What LESA's start is worth after training: held-out loss minus LESA's, nats a token, over "
        "the seeds that both have. A rate that was not sought for a control is the one that was "
        "sought for LESA, which favours LESA. Those of one seed that a CPU trained are minus "
        "`lesa_again`, LESA on a CPU; minus `identity`, which a GPU trained, the difference of the "
        "machines is in them",
        SOURCES,
        rows,
        lambda row, _: file_of("budget", runs[str(row["model"])]),
    )
