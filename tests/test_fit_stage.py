"""The fit stage: every kind and seed draws weights of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pipelines.fit as stage
from lesa.checkpoint import KINDS
from lesa.params import Predictor

SETTINGS = Predictor(
    norm_weight=5e-5, epochs=1, hidden_size=4, batch_size=8, learning_rate=1e-3, weight_decay=0.01
)


def test_kinds_of_equal_shape_start_from_different_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    real = stage.fit

    def spy(*args: Any) -> Any:
        used.append(args[3])
        return real(*args)

    monkeypatch.setattr(stage, "BASE", tiny)
    monkeypatch.setattr(stage, "coefficients", lambda base, kind: torch.randn(6, 5, 3))
    monkeypatch.setattr(stage, "fit", spy)
    for seed in (0, 1):
        for kind in KINDS:
            weights, done = tmp_path / f"{kind}-{seed}", tmp_path / f"{kind}-{seed}.json"
            stage.fit_kind(kind, SETTINGS, seed, 2, weights, done)
    # Twice for each kind and seed: the predictor that is used and the one scored on unseen triples.
    assert len(used) == 2 * 2 * len(KINDS)
    assert len(set(used)) == 2 * len(KINDS)
