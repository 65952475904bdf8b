"""C1: continuity of the layers' top coefficient rows, signs included."""

from __future__ import annotations

import numpy as np

from lesa.method.continuity import continuity, smallest_p
from reports.claims import CannotTestError, Finding, Verdict, cannot
from reports.measured import Metrics
from reports.tables import number

LEVEL = 0.05
SHOWN = "gate_proj"  # the kind of the paper's figure
CLAIM = "Neighbouring layers' SVD coefficients show continuity (shown for gate_proj)"
SHORT = "gate_proj coefficients of neighbouring layers lie close"
SECTION = "Continuity of the layers"
RULE = (
    f"gate_proj alone: permutation p < {LEVEL} in the raw row space holds, p ≥ 0.5 (no nearer than "
    "a random order's median) does not; the other kinds stand beside it, each with its own p"
)
PAPER = "a figure of gate_proj, no number stated"


def verdict(p: float) -> Verdict:
    if p < LEVEL:
        return Verdict.HOLDS
    return Verdict.FAILS if p >= 0.5 else Verdict.UNDECIDED


def findings(m: Metrics) -> list[Finding]:
    rows = {kind: np.asarray(c["top_rows"], dtype=np.float64) for kind, c in m.svd.items()}
    layers = min(len(top) for top in rows.values())
    if smallest_p(layers) >= LEVEL:
        raise CannotTestError(
            f"{layers} layers are too few for any order to reach p < {LEVEL}",
            "make profile PROFILE=default",
        )
    found = []
    for kind, top in sorted(rows.items(), key=lambda item: not item[0].endswith(SHOWN)):
        result = continuity(top, "raw")
        ratio, p = number(result.ratio), number(result.p_value)
        low, high = (number(end) for end in result.random_orders)
        said = f"distance of neighbours over that of all pairs {ratio} "
        said += f"(95% of random orders: [{low}, {high}]), p {p}"
        beside = not kind.endswith(SHOWN)
        found.append(Finding(kind, said, verdict(result.p_value), "metrics/svd.json", beside))
    if all(finding.beside for finding in found):
        why, command = f"this family has no {SHOWN}", "make profile PROFILE=default"
        found.append(cannot("the kind of the paper's figure", why, command))
    return found
