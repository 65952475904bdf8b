"""This project's own start, fitted outputs (docs/fitted-outputs.md), beside the published ones."""

from __future__ import annotations

from reports.contest import nats, placed
from reports.measured import Metrics
from reports.tables import counted, series
from reports.training_runs import called, difference, shared_seeds

RIVAL = "llama_pro"  # in whose places it stands, and whose start has the base's loss
OWN = f"fitted_{RIVAL}"
STARTS = {RIVAL: "LLaMA Pro's start, the base", "lesa": "LESA's", "solar": "SOLAR's"}


def begins(m: Metrics) -> list[str]:
    """Where it begins, and whether it keeps ahead in training; nothing without its run."""
    own, rival = called(m.budget, OWN), called(m.budget, RIVAL)
    if own is None or rival is None or not (seeds := shared_seeds(own, rival)):
        return []
    fitted_to = own.tokens * int(own.first["phases"][0]["steps"]) // own.max_steps
    if fitted_to not in own.points:
        return []
    starts = [
        f"{placed(gap)} {whose} {nats(gap)}"
        for name, whose in STARTS.items()
        if (other := called(m.budget, name)) and (gap := difference(own, other, fitted_to, 0))
    ]
    later = [
        f"{placed(gap)} LLaMA Pro after {tokens:,} tokens {nats(gap)}"
        for tokens in (fitted_to, own.tokens)
        if (gap := difference(own, rival, tokens, tokens))
    ]
    return [
        f"**A start below the base:** this project's `{OWN}` (docs/fitted-outputs.md; "
        f"{counted(len(seeds), 'seed')}) fits the outputs of LLaMA Pro's layers to {fitted_to:,} "
        f"tokens. Its loss is then {series(starts)}; with those tokens counted as training it is "
        f"{series(later)}."
    ]
