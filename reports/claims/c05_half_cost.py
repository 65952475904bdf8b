"""C5: LESA's loss at half of its steps against the baselines' last, and the seconds of both."""

from __future__ import annotations

from reports.claims import NotTestedError, three_of_equal_tokens
from reports.measured import Metrics, files
from reports.tables import number

CLAIM = "LESA at half the steps beats both baselines at full steps: under half the cost"
RULE = "loss at half of the steps below both final ones, in under half of each one's seconds"


def evidence(m: Metrics) -> tuple[str, bool]:
    models = three_of_equal_tokens(m)
    lesa, *others = (m.pretrain[name] for name in models)
    total = lesa["steps"][-1]["step"]
    half = next((s for s in lesa["steps"] if 0 < 2 * s["step"] == total), None)
    if half is None:
        raise NotTestedError(f"no held-out loss was measured at half of the {total} steps")
    loss, spent = float(half["heldout_loss"]), float(lesa["seconds"]) * half["step"] / total
    ends = [(float(p["steps"][-1]["heldout_loss"]), float(p["seconds"])) for p in others]
    listed = ", ".join(
        f"{name} {number(end)} after {number(seconds)} s"
        for name, (end, seconds) in zip(models[1:], ends, strict=True)
    )
    return (
        f"{models[0]} {number(loss)} at step {half['step']} of {total}, "
        f"after {number(spent)} s (its share of the run); {listed}; "
        f"{files('pretrain', list(models))}"
    ), all(loss < end and spent < seconds / 2 for end, seconds in ends)
