"""C3: seconds to fit the predictors of all kinds once, of the slowest preset and seed."""

from __future__ import annotations

from reports.measured import Metrics, files
from reports.tables import number

FIT_SECONDS = 300.0
CLAIM = "Fitting the predictors takes under 5 minutes"
RULE = f"all kinds together under {FIT_SECONDS:.0f} s, for every preset and seed"


def evidence(m: Metrics) -> tuple[str, bool]:
    seconds = {
        run: sum(float(c["seconds"]) for c in content["kinds"].values())
        for run, content in m.fit.items()
    }
    slowest = max(seconds, key=lambda run: seconds[run])
    return (
        f"slowest {number(seconds[slowest])} s ({slowest}), on a base of "
        f"{m.base['parameters']:,} parameters; {files('fit', list(seconds))}"
    ), seconds[slowest] < FIT_SECONDS
