"""The coefficients `V_1 … V_L` of one matrix kind, on disk: memory does not grow with the depth.

The file is L·r rows of d2 float32, layer after layer, with no header. A process that trains on it
maps it and gives the mapped pages back whenever it has touched `KEPT_BYTES` of them; they stay in
the system's file cache as long as there is room.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from lesa.files import whole_file

KEPT_BYTES = 256 * 2**20  # mapped at most; a file no larger stays mapped whole
AROUND_BYTES = 2 * 64 * 2**10  # what the kernel may map beside a row, up to 64 KiB on either side


def write(path: Path, layers: Iterable[Tensor]) -> None:
    """Write all layers' (r, d2) float32, one in memory at a time; the file is whole or absent."""
    with whole_file(path) as partial, open(partial, "wb") as file:
        for layer in layers:
            file.write(layer.cpu().contiguous().numpy().data)


class Coefficients:
    """Rows of `V_1 … V_L`, from a file or a tensor; `v[i]` is a layer's (r, d2)."""

    def __init__(self, rows: Tensor, layers: int, mapped: mmap.mmap | None = None) -> None:
        """`rows`: (L·r, d2), layer after layer; `mapped`: the file they lie in, if they do."""
        self.layers = layers
        self.rows, self.d2 = rows.shape[0] // layers, rows.shape[1]
        self.dtype, self.device = rows.dtype, rows.device
        self._all = rows
        self._map = mapped
        self._touched = 0

    def __getitem__(self, layer: int) -> Tensor:
        """`V_i` (r, d2), a view."""
        self._touch(self.rows)
        return self._all[layer * self.rows : (layer + 1) * self.rows]

    def take(self, index: Tensor) -> Tensor:
        """A copy of the rows at `index` (n,), counted over all layers: (n, d2)."""
        self._touch(len(index))
        return self._all.index_select(0, index.to(self.device))

    def to(self, device: torch.device) -> Coefficients:
        """A copy in the memory of `device`, made layer by layer."""
        rows = torch.empty(self._all.shape, dtype=self.dtype, device=device)
        for i in range(self.layers):
            rows[i * self.rows : (i + 1) * self.rows] = self[i]
        return Coefficients(rows, self.layers)

    def _touch(self, rows: int) -> None:
        if self._map is None or len(self._map) <= KEPT_BYTES:
            return
        self._touched += rows * (self.d2 * self.dtype.itemsize + AROUND_BYTES)
        if self._touched > KEPT_BYTES:
            # Only this process's view of the file goes; a later access maps the page again.
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0


def read(path: Path, layers: int, d2: int) -> Coefficients:
    """Map a file of `write`: the rank is what its size says. ValueError if nothing fits."""
    with open(path, "r+b") as file:  # writable, or torch warns; nobody writes
        mapped = mmap.mmap(file.fileno(), 0)
    if len(mapped) % (4 * layers * d2):
        raise ValueError(f"{path}: {len(mapped)} bytes are not {layers} layers of width {d2}")
    rows = torch.frombuffer(mapped, dtype=torch.float32).view(-1, d2)
    return Coefficients(rows, layers, mapped)


def near(v: Coefficients, device: torch.device) -> Coefficients:
    """The rows where training on `device` reads them fastest.

    In a GPU's own memory if half of what is free there holds them; else in the file, from which
    the batches travel.
    """
    if device.type != "cuda":
        return v
    free, _ = torch.cuda.mem_get_info(device)
    size = v.layers * v.rows * v.d2 * v.dtype.itemsize
    return v.to(device) if size <= free // 2 else v
