"""C9: LESA with every layer trained."""

from __future__ import annotations

from reports.claims import NotTestedError
from reports.measured import Metrics

CLAIM = "Without freezing the original layers the loss falls more slowly and fluctuates"
RULE = "needs LESA with every layer trained"


def evidence(m: Metrics) -> tuple[str, bool]:
    raise NotTestedError("this run does not compare the two")
