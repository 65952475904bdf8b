"""C11: loss after supervised fine-tuning (SFT), and after pre-training on code."""

from __future__ import annotations

import math

import numpy as np

from reports.claims import Finding, below, cannot
from reports.measured import Json, Metrics, files
from reports.paired import Interval, ratio
from reports.tables import show_interval

# Name, unit, what the nats are divided by, and nats a unit.
STUDIES = {
    "code": ("code", "bits a byte of the packages held out", "bytes", math.log(2)),
    "sft": ("SFT", "nats a token of the completions held out", "targets", 1.0),
}
GROUPS = 6  # fewer packages or modules are too few to resample: their files or examples are
CLAIM = "After SFT, and in the code domain, LESA stays ahead"
SHORT = "LESA stays ahead after SFT and on code"
SECTION = "After SFT and on code"
RULE = (
    "held-out loss minus each baseline's below 0 by its interval, paired and resampled by package "
    f"or module, or by file or example where there are fewer than {GROUPS}"
)
PAPER = (
    "HumanEval pass@1 25.00 against 10.98 (LLaMA Pro) and 2.44 (SOLAR); average after SFT 31.57, "
    "of which LLaMA Pro reaches 77% and SOLAR 84%"
)


def findings(m: Metrics) -> list[Finding]:
    return [finding for study in STUDIES for finding in compared(m, study)]


def compared(m: Metrics, study: str) -> list[Finding]:
    name, unit, size, nats = STUDIES[study]
    content: dict[str, Json] = getattr(m, study)
    others = [other for other in ("llama_pro", "solar") if other in content]
    if "lesa" not in content or not others:
        return [cannot(name, "not measured", f"make study NAME={study}")]
    found = []
    for other in others:
        gap, by = difference(content["lesa"]["heldout"], content[other]["heldout"], size, nats)
        said = f"lesa minus {other} {show_interval(gap)} {unit}, by {gap.n} {by}"
        sources = files(study, ["lesa", other])
        found.append(Finding(f"{name}, against {other}", said, below(gap), sources))
    return found


def difference(ours: Json, theirs: Json, size: str, nats: float) -> tuple[Interval, str]:
    """Of all held-out nats over their size, after training; and what was resampled."""
    grouped = len(set(ours["groups"])) >= GROUPS
    owners = ours["groups"] if grouped else ours["ids"]
    order = {owner: i for i, owner in enumerate(dict.fromkeys(owners))}
    index = [order[owner] for owner in owners]
    excess = np.subtract(ours["nats"]["end"], theirs["nats"]["end"]) / nats
    gap = ratio(np.bincount(index, weights=excess), np.bincount(index, weights=ours[size]))
    return gap, "groups" if grouped else "examples"
