"""C7: perplexity at initialisation of LESA and SOLAR at 1.5 times the layers."""

from __future__ import annotations

import numpy as np

from reports import start
from reports.claims import CannotTestError, Finding, above, below, cannot
from reports.measured import Metrics, files, losses_at
from reports.paired import exact_share, paired
from reports.tables import number, show_interval

CLAIM = "At initialisation LESA's perplexity is below SOLAR's at 1.5 times the layers"
SHORT = "LESA starts below SOLAR's perplexity"
SECTION = "Perplexity before training"
RULE = (
    "for each preset, the probability that a draw of predictor seed and signs is below SOLAR: "
    "above 1/2 by its Clopper-Pearson interval, which is the least that the paper's six of six can "
    "mean; draws that share a seed or signs count as "
    "independent: how many of each seed's are below SOLAR stands with it, and the run's own "
    "difference beside it"
)
PAPER = "below for six models of 1.5B to 70B; their perplexities are not stated"


def findings(m: Metrics) -> list[Finding]:
    lesa, solar = m.model_of("lesa"), m.model_of("solar")
    if lesa is None or solar is None:
        raise CannotTestError(
            "LESA or SOLAR is not among the models of this run", "make profile PROFILE=default"
        )
    growth = [len(m.expand[name]["plan"]) / m.base["num_hidden_layers"] for name in (lesa, solar)]
    if any(abs(factor - 1.5) > 1e-9 for factor in growth):
        raise CannotTestError(
            f"layers grew by {growth[0]:.3g} and {growth[1]:.3g} here, not by 1.5",
            "make profile PROFILE=default",
        )
    gap = paired(*(losses_at(m.pretrain[name], 0) for name in (lesa, solar)))
    factor = f"{number(float(np.exp(gap.estimate)))} times SOLAR's perplexity"
    said = f"{lesa} minus {solar} {show_interval(gap)} nats, {factor}; one draw"
    own = Finding(
        "this run's draw",
        said,
        below(gap),
        files("pretrain", [lesa, solar]),
        bool(start.lesa_starts(m)),
    )
    unseen = cannot(
        "SOLAR's divergence on Qwen2.5-32B",
        "needs a GPU and a profile of it in conf/",
        "make profile PROFILE=qwen2.5-32b && dvc repro",
        beside=True,
    )
    return [*draws(m), own, unseen]


def draws(m: Metrics) -> list[Finding]:
    """Each preset's draws, and beside them those that were fitted again where the SVD has other
    last digits."""
    solar, drawn = start.of_method(m, "solar"), start.lesa_starts(m)
    if solar is None or not drawn:
        return [cannot("draws of seed and signs", "not measured", "make study NAME=start")]
    found = []
    for lesa in [*drawn, *start.lesa_starts(m, start.AGAIN)]:
        share = start.below_share(lesa, solar)
        said = (
            f"{round(share.estimate * share.n)} of {share.n} draws below SOLAR "
            f"({number(float(solar.perplexities[0]))}), {show_interval(share)}; median "
            f"{number(float(np.median(lesa.perplexities)))}{by_seed(lesa, solar)}"
        )
        short = f"share of {share.n} draws below SOLAR {show_interval(share)}"
        of = ", ".join(filter(None, (f"preset {lesa.preset}", lesa.settings)))
        beside = lesa not in drawn
        found.append(Finding(of, said, above(share, 0.5), start.SOURCES, beside, number=short))
        found += as_in_the_code(of, lesa, solar)
    return found


def as_in_the_code(of: str, lesa: start.Start, solar: start.Start) -> list[Finding]:
    """The same by the official code's perplexity, where it was measured of every draw."""
    ours, theirs = lesa.document_perplexities, solar.document_perplexities
    if ours is None or theirs is None:
        return []
    lower = int((ours < theirs[0]).sum())
    share = exact_share(lower, len(ours))
    said = (
        f"{lower} of {len(ours)} draws below SOLAR ({number(float(theirs[0]))}) in the mean over "
        f"documents of exp(loss), {show_interval(share)}; median {number(float(np.median(ours)))}"
    )
    subject, verdict = f"{of}, the code's perplexity", above(share, 0.5)
    return [Finding(subject, said, verdict, start.SOURCES, beside=True)]


def by_seed(lesa: start.Start, solar: start.Start) -> str:
    """How many draws of each predictor seed are below SOLAR: a seed that made the start would have
    all of its draws on one side."""
    found: dict[int, list[bool]] = {}
    for row, loss in zip(lesa.rows, lesa.losses, strict=True):
        found.setdefault(int(row["seed"]), []).append(bool(loss < solar.losses[0]))
    said = [f"{sum(below)} of {len(below)}" for _, below in sorted(found.items())]
    return f"; by predictor seed {', '.join(said)}" if len(found) > 1 else ""
