"""This project's own start, fitted outputs (docs/fitted-outputs.md), beside the published ones."""

from __future__ import annotations

from reports.contest import nats, sides
from reports.measured import Metrics
from reports.tables import counted
from reports.training_runs import called, difference, shared_seeds

RIVAL = "llama_pro"  # in whose places it stands, and whose start has the base's loss
FITTED = f"fitted_{RIVAL}"
OTHERS = {RIVAL: "LLaMA Pro's", "lesa": "LESA's", "solar": "SOLAR's"}


def begins(m: Metrics) -> list[str]:
    """Where it begins, and whether it keeps ahead in training; nothing without its run."""
    own, rival = called(m.budget, FITTED), called(m.budget, RIVAL)
    if own is None or rival is None or not (seeds := shared_seeds(own, rival)):
        return []
    last = own.tokens
    fitted_to = own.tokens * int(own.first["phases"][0]["steps"]) // own.max_steps
    if fitted_to not in own.points:
        return []

    def beside(tokens: int, at: int) -> str:
        """Its loss after `tokens` beside those of others after `at`."""
        return sides(
            (f"{whose} {nats(gap)}", gap)
            for name, whose in OTHERS.items()
            if (other := called(m.budget, name)) and (gap := difference(own, other, tokens, at))
        )

    return [
        f"**A start below the base:** this project's `{FITTED}` (docs/fitted-outputs.md; "
        f"{counted(len(seeds), 'seed')}) fits the outputs of LLaMA Pro's layers to {fitted_to:,} "
        "tokens. Beside others that were trained on as many its loss is then "
        f"{beside(fitted_to, fitted_to)}; beside their starts, of which LLaMA Pro's is the base, "
        f"it is {beside(fitted_to, 0)}. After {last:,} tokens it is {beside(last, last)}."
    ]
