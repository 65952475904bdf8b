"""One kind's basis, by either way: `python -m benchmarks.sides.basis <way> <checkpoint> <kind>`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import report
from benchmarks.sides import opened
from lesa.checkpoints.reader import Checkpoint
from lesa.method.basis import from_concat, from_gram, gram

TOLERANCE = 1e-6  # svd.rank_tolerance; the library's constant would bring pydantic into the memory


def basis(way: str, base: Checkpoint, kind: str) -> dict[str, Any]:
    """`way`: `gram`, layer after layer, or `concat`, an SVD of all layers side by side.

    Of `gram`, `gram_seconds` are those before the eigenvectors.
    """
    weights = base.matrices(kind)
    if way == "concat":
        return {"singular_values": from_concat(weights, TOLERANCE).s.tolist()}
    start = time.perf_counter()
    total = gram(weights)
    seconds = time.perf_counter() - start
    return {"singular_values": from_gram(total, TOLERANCE).s.tolist(), "gram_seconds": seconds}


if __name__ == "__main__":
    _, way, checkpoint, kind = sys.argv
    base = opened(Path(checkpoint))
    report(lambda: basis(way, base, kind))
