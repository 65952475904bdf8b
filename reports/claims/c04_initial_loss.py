"""C4: held-out loss of LESA, LLaMA Pro and SOLAR before any training."""

from __future__ import annotations

import numpy as np

from reports import start
from reports.claims import RIVALS, Finding, Verdict, attempted, below, cannot, every, three
from reports.measured import Metrics, files, losses_at, start_losses
from reports.paired import paired
from reports.tables import show_interval

IDENTITY = (
    "; it starts as the base itself, so that only a start better than the base could be lower"
)
NO_IDENTITY = "every start that is no identity"
CLAIM = "LESA starts at the lowest loss of the three methods"
SHORT = "LESA starts at the lowest loss of the three"
SECTION = "Perplexity before training"
RULE = "held-out loss at step 0 minus each baseline's, below 0 by its interval"
PAPER = "training-loss curves alone; no number stated"


def findings(m: Metrics) -> list[Finding]:
    return [*draws(m), *attempted(default_run, m), *beats_others(m)]


def default_run(m: Metrics) -> list[Finding]:
    """The three models of this run, paired by document."""
    models, untouched = three(m), m.model_of("base")
    lesa, found = models["lesa"], []
    for method, rival in RIVALS.items():
        name = models[method]
        losses = losses_at(m.pretrain[name], 0)
        difference = paired(losses_at(m.pretrain[lesa], 0), losses)
        said = f"{lesa} minus {name} {show_interval(difference)} nats"
        short = f"LESA minus {rival} {show_interval(difference)} nats"
        if untouched and np.array_equal(losses, losses_at(m.pretrain[untouched], 0)):
            said += IDENTITY
            short += ", whose start is the base"
        sources = files("pretrain", [lesa, name])
        found.append(
            Finding(
                f"this run against {name}",
                said,
                below(difference),
                sources,
                number=short,
                case="this run",
                rival=rival,
            )
        )
    return found


def draws(m: Metrics) -> list[Finding]:
    """Each preset over draws of seed and signs, which count as a sample beside the documents."""
    if not m.start:
        return [cannot("draws of seed and signs", "not measured", "make study NAME=start")]
    found = []
    for lesa in start.lesa_starts(m):
        for method, shown in RIVALS.items():
            subject = f"preset {lesa.preset} against {shown}"
            if (other := start.of_method(m, method)) is None:
                found.append(cannot(subject, "not measured", "make study NAME=start"))
                continue
            difference, draws = start.difference(lesa, other), len(lesa.rows)
            said = f"mean of {draws} draws minus {shown}'s {show_interval(difference)} nats"
            found.append(
                Finding(
                    subject,
                    said,
                    below(difference),
                    start.SOURCES,
                    number=f"LESA minus {shown} {show_interval(difference)} nats, {draws} draws",
                    case=f"preset {lesa.preset}",
                    rival=shown,
                )
            )
    return found


def beats_others(m: Metrics) -> list[Finding]:
    """LESA of each preset against every other method's start that is not the base's loss."""
    lesas, base = start.lesa_starts(m), start.of_method(m, "base")
    if not lesas or base is None:
        return [cannot(NO_IDENTITY, "not measured", "make study NAME=start", beside=True)]
    loss = start_losses(base.rows[0])
    others = [
        other
        for other in start.starts(m)
        if other.method != "lesa"
        and "gaps" not in other.options
        and not all(np.allclose(start_losses(row), loss, atol=1e-6) for row in other.rows)
    ]
    return [
        beats(lesa, [other for other in others if other.preset in (lesa.preset, None)])
        for lesa in lesas
    ]


def beats(lesa: start.Start, others: list[start.Start]) -> Finding:
    subject = f"{NO_IDENTITY}, preset {lesa.preset}"
    if not others:
        return cannot(subject, "none was measured", "make study NAME=start", beside=True)
    verdicts = {other.name: below(start.difference(lesa, other)) for other in others}
    listed = "; ".join(
        f"{words}: {', '.join(names) or 'none'}"
        for verdict, words in (
            (Verdict.HOLDS, "lower than"),
            (Verdict.FAILS, "not lower than"),
            (Verdict.UNDECIDED, "not decided against"),
        )
        for names in [[name for name, of in verdicts.items() if of == verdict]]
    )
    said = f"mean of {len(lesa.rows)} draws, {listed}"
    return Finding(subject, said, every(verdicts.values()), start.SOURCES, beside=True)
