"""One kind's basis, by either way: `python -m benchmarks.sides.basis <way> <checkpoint> <kind>`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import report
from lesa.basis import from_concat, from_gram, gram
from lesa.checkpoint import Checkpoint

TOLERANCE = 1e-6  # svd.rank_tolerance of every profile


def basis(way: str, checkpoint: Path, kind: str) -> dict[str, Any]:
    """`way`: `gram`, layer after layer, or `concat`, an SVD of all layers side by side."""
    base = Checkpoint(checkpoint)
    weights = (base.matrix(kind, i) for i in range(base.num_layers))
    if way == "gram":
        found = from_gram(gram(weights), TOLERANCE)
    else:
        found = from_concat(weights, TOLERANCE)
    return {"singular_values": found.s.tolist()}


if __name__ == "__main__":
    _, way, checkpoint, kind = sys.argv
    report(lambda: basis(way, Path(checkpoint), kind))
