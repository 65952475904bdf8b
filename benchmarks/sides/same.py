"""Compare two checkpoints tensor by tensor: `python -m benchmarks.sides.same <one> <other>`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import report
from lesa.checkpoints.reader import Checkpoint

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(one: Tensor, other: Tensor) -> bool:
    integer = INTEGERS[one.element_size()]
    return torch.equal(one.contiguous().view(integer), other.contiguous().view(integer))


def same(one: Path, other: Path) -> dict[str, Any]:
    """Counts of tensors, and names of those that differ in value, shape or dtype, or are missing.

    `zeros_differ_in_sign`: equal in value, not in bits. A product with 0.0 keeps a sign that a
    written zero has not.
    """
    counts = {"tensors": 0, "bit_for_bit": 0, "zeros_differ_in_sign": 0}
    first, second = Checkpoint(one), Checkpoint(other)
    names = set(first.names()), set(second.names())
    different = sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1]):
        a, b = first.tensor(name), second.tensor(name)
        counts["tensors"] += 1
        if a.dtype != b.dtype or not torch.equal(a, b):
            different.append(name)
        else:
            counts["bit_for_bit" if same_bits(a, b) else "zeros_differ_in_sign"] += 1
    return {**counts, "different": different}


if __name__ == "__main__":
    report(lambda: same(Path(sys.argv[1]), Path(sys.argv[2])))
