"""The coefficients `V_1 … V_L` of one matrix kind, on disk: memory does not grow with the depth.

The file is L·r rows of d2 float32, layer after layer, with no header. A small one is read into
memory before training; of a large one each batch's rows are read when they are needed. The file is
not mapped: a page touched brings up to 2 MiB around it into the process, which a few batches of
scattered rows would fill with the whole file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lesa.files import whole_file

IN_MEMORY_BYTES = 256 * 2**20  # the largest file that training on a CPU reads whole


class Coefficients(Protocol):
    """`num_layers` matrices (rank, d2) of `dtype`, whose rows are numbered through all layers.

    `device` is where `take` returns them.
    """

    num_layers: int
    rank: int
    d2: int
    dtype: torch.dtype
    device: torch.device

    def take(self, index: Tensor) -> Tensor:
        """A copy (n, d2) of the rows at `index` (n,) int64, which lies on `device`."""


def rows_of(v: Coefficients, layer: int) -> Tensor:
    """Numbers (rank,) int64 of a layer's rows, on `v.device`."""
    return torch.arange(layer * v.rank, (layer + 1) * v.rank, device=v.device)


class InMemory:
    """Coefficients from one tensor (L, r, d2)."""

    def __init__(self, v: Tensor) -> None:
        self.num_layers, self.rank, self.d2 = v.shape
        self.dtype, self.device = v.dtype, v.device
        self._rows = v.flatten(0, 1)

    def take(self, index: Tensor) -> Tensor:
        return self._rows.index_select(0, index)


class OnDisk:
    """Coefficients float32 from a file of `write`, whose size tells the rank; rows on the CPU.

    Raises ValueError if the file's size fits no rank; `take` raises OSError if the file ends
    before a row does.
    """

    def __init__(self, path: Path, num_layers: int, d2: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        self.bytes = os.fstat(self._file.fileno()).st_size
        self.num_layers, self.d2 = num_layers, d2
        self.rank, rest = divmod(self.bytes, 4 * num_layers * d2)
        if rest:
            raise ValueError(
                f"{path}: {self.bytes} bytes are not {num_layers} layers of width {d2}"
            )
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def take(self, index: Tensor) -> Tensor:
        taken = torch.empty(len(index), self.d2)
        row_bytes = 4 * self.d2
        for row, i in zip(taken.numpy(), index.tolist(), strict=True):
            if os.preadv(self._file.fileno(), [row], i * row_bytes) != row_bytes:
                raise OSError(f"{self._file.name}: ends before row {i} does")
        return taken


def write(path: Path, layers: Iterable[Tensor]) -> None:
    """Write all layers' (r, d2) float32, one in memory at a time; the file is whole or absent."""
    with whole_file(path) as partial, open(partial, "wb") as file:
        for layer in layers:
            file.write(layer.cpu().contiguous().numpy().data)


def read(path: Path, num_layers: int, d2: int, device: torch.device) -> Coefficients:
    """The coefficients in `path`: in the memory of `device` if they fit there, else on disk."""
    v = OnDisk(path, num_layers, d2)
    if v.bytes > memory_limit(device):
        return v
    stacked = torch.empty(num_layers, v.rank, d2, device=device)
    for i in range(num_layers):
        stacked[i] = v.take(rows_of(v, i))
    return InMemory(stacked)


def memory_limit(device: torch.device) -> int:
    """The most bytes that coefficients may take on `device`: of a GPU, half of what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return IN_MEMORY_BYTES
