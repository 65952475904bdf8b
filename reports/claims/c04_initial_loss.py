"""C4: held-out loss of LESA, LLaMA Pro and SOLAR before any training."""

from __future__ import annotations

from reports.claims import three
from reports.measured import Metrics, files
from reports.tables import number

CLAIM = "LESA starts at the lowest loss of the three methods"
RULE = "held-out loss at step 0 below LLaMA Pro's and SOLAR's"


def evidence(m: Metrics) -> tuple[str, bool]:
    models = three(m)
    lesa, *others = (float(m.pretrain[name]["steps"][0]["heldout_loss"]) for name in models)
    shown = zip(models, (lesa, *others), strict=True)
    listed = ", ".join(f"{name} {number(loss)}" for name, loss in shown)
    return f"{listed}; {files('pretrain', list(models))}", lesa < min(others)
