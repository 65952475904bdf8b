"""C6: training seconds for the same tokens, against how much equal work differs.

Models of LESA's own layer plan do LESA's work with other numbers, so their seconds are
measurements of the same quantity: LESA's is the slowest of them, and their range is printed.
"""

from __future__ import annotations

from reports.claims import three_of_equal_tokens
from reports.measured import Metrics, files
from reports.tables import number

CLAIM = "LESA's training time is the lowest"
RULE = "training seconds of all models with LESA's layer plan below both baselines'"


def evidence(m: Metrics) -> tuple[str, bool]:
    models = three_of_equal_tokens(m)
    seconds = {name: float(p["seconds"]) for name, p in m.pretrain.items()}
    lesa, *others = (seconds[name] for name in models)
    plan = m.expand[models[0]]["plan"]
    equal = [name for name in m.models if m.expand[name]["plan"] == plan]
    times = [seconds[name] for name in equal]
    shares = ", ".join(
        f"{name} {number(seconds[name])} s ({100 * seconds[name] / lesa:.0f}%)" for name in models
    )
    # With the cache, the timed steps leave frozen layers out.
    cached = "; frozen layers below a model's first trainable one ran before (train.prefix_cache)"
    read = [name for name in m.models if name in models or name in equal]
    return (
        f"{shares}; the same work took {number(min(times))} to {number(max(times))} s "
        f"({', '.join(equal)}){cached if m.params.train.prefix_cache else ''}; "
        f"{files('pretrain', read)}"
    ), max(times) < min(others)
