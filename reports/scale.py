"""The study `scale`: training runs on many times the tokens of Python source, none seen twice."""

from __future__ import annotations

from reports.measured import Metrics
from reports.tables import Table
from reports.training_runs import (
    BASE,
    LLAMA_PRO,
    LORA,
    called,
    ends,
    file_of,
    groups,
    minus_llama_pro,
)

SOURCES = "metrics/scale/*.json"


def table(m: Metrics) -> Table:
    """A row a model: where it ends, and what that took."""
    rivals = LLAMA_PRO | BASE | (LORA if called(m.scale, "lora") else {})
    return Table(
        "scale",
        "The models of the study that were measured, at their end; differences of losses in nats a "
        "token on packages that this training leaves out (the base may have read them), over the "
        "seeds that both have, a package an observation (∞: not reached; linear in tokens between "
        "points). Rates were sought at a quarter of these steps. Wikipedia: what is forgotten, on "
        "this run's own test text",
        SOURCES,
        ends(m, "scale", groups(m.scale), rivals, "Wikipedia"),
        lambda row, _: file_of("scale", called(m.scale, str(row["run"]))),
    )


def longer(m: Metrics) -> Table:
    """Each model's loss minus LLaMA Pro's, on the way."""
    return minus_llama_pro(m, "scale_longer", "Study `scale`", "scale", groups(m.scale))
