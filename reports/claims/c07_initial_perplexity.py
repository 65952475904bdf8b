"""C7: perplexity at initialisation of LESA and SOLAR at 1.5 times the layers."""

from __future__ import annotations

from reports.claims import NotTestedError
from reports.measured import Metrics, files, perplexity_at
from reports.tables import number

CLAIM = "At initialisation LESA's perplexity is below SOLAR's at 1.5 times the layers"
RULE = "held-out perplexity at step 0 below SOLAR's"


def evidence(m: Metrics) -> tuple[str, bool]:
    lesa, solar = m.model_of("lesa"), m.model_of("solar")
    if lesa is None or solar is None:
        raise NotTestedError("LESA or SOLAR is not among the models of this run")
    growth = [len(m.expand[name]["plan"]) / m.base["num_hidden_layers"] for name in (lesa, solar)]
    if any(abs(factor - 1.5) > 1e-9 for factor in growth):
        raise NotTestedError(f"layers grew by {growth[0]:.3g} and {growth[1]:.3g} here, not by 1.5")
    ours, theirs = (perplexity_at(m.pretrain[name], 0)[0] for name in (lesa, solar))
    return (
        f"{lesa} {number(ours)}, {solar} {number(theirs)}; on this base only; SOLAR's divergence "
        f"on Qwen2.5-32B is not tested; {files('pretrain', [lesa, solar])}"
    ), ours < theirs
