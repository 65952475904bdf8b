"""C11: scores after supervised fine-tuning (SFT), and after pre-training on code."""

from __future__ import annotations

from reports.claims import NotTestedError
from reports.measured import Metrics

CLAIM = "After SFT, and in the code domain, LESA stays ahead"
RULE = "needs SFT and code pre-training"


def evidence(m: Metrics) -> tuple[str, bool]:
    raise NotTestedError("this run has neither SFT nor code")
