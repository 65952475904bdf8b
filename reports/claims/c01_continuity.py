"""C1: continuity of the layers' top coefficient rows, signs included."""

from __future__ import annotations

import numpy as np

from reports.claims import NotTestedError
from reports.continuity import continuity, smallest_p
from reports.measured import Metrics
from reports.tables import number

LEVEL = 0.05  # significance, shared between the kinds (Bonferroni)
CLAIM = "Neighbouring layers' SVD coefficients show continuity"
RULE = f"permutation p < {LEVEL} / number of kinds in the raw row space, for every kind"


def evidence(m: Metrics) -> tuple[str, bool]:
    bar = LEVEL / len(m.svd)
    rows = {kind: np.asarray(c["top_rows"], dtype=np.float64) for kind, c in m.svd.items()}
    layers = min(len(top) for top in rows.values())
    if smallest_p(layers) >= bar:
        raise NotTestedError(f"{layers} layers are too few for any order to reach p < {bar:.2g}")
    results = {kind: continuity(top, "raw") for kind, top in rows.items()}
    passed = [kind for kind, result in results.items() if result.p_value < bar]
    ratios = [result.ratio for result in results.values()]
    return (
        f"{len(passed)} of {len(rows)} kinds reach p < {bar:.2g} "
        f"({', '.join(passed) or 'none'}); ratio {number(min(ratios))} to "
        f"{number(max(ratios))}, metrics/svd.json"
    ), len(passed) == len(rows)
