"""C8: LESA without the SVD, predicting raw weights."""

from __future__ import annotations

from reports.claims import NotTestedError
from reports.measured import Metrics

CLAIM = "Without SVD LESA is worse, but still beats LLaMA Pro"
RULE = "needs a model whose predictor reads raw weights"


def evidence(m: Metrics) -> tuple[str, bool]:
    raise NotTestedError("this run has no predictor of raw weights")
