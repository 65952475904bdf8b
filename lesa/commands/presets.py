"""How predictors are fitted where no params.yaml says it: the published ways, by name.

conf/default.yaml has the same numbers for the pipeline, with what is known of each; a test compares
the two.
"""

from __future__ import annotations

from lesa.errors import UserError
from lesa.params import Predictor

RANK_TOLERANCE = 1e-6  # singular values below this times the largest are dropped
PAPER = Predictor(
    norm_weight=5e-5,
    epochs=5,
    hidden_size=256,
    batch_size=64,
    learning_rate=1e-3,
    weight_decay=0.01,
)
PRESETS = {
    "paper": PAPER,
    "official_code": PAPER.model_copy(update={"norm_weight": 5e-4, "epochs": 10}),
}


def preset_of(name: str) -> Predictor:
    if name not in PRESETS:
        raise UserError(f"preset: unknown preset {name!r}; known are {', '.join(PRESETS)}")
    return PRESETS[name]
