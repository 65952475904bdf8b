"""The controls: LESA's new layers with each predicted matrix replaced by a random one.

Same gaps, same layer norms and biases. `noise` keeps a matrix's Frobenius norm: what LESA gains
over it is what its predictor knows beyond the size of a layer. `spectrum` keeps all singular values
and draws the singular vectors: what LESA gains over it is what its predictor knows beyond the
shape of a spectrum, the directions themselves.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from lesa import plan
from lesa.checkpoint import Checkpoint, layer_tensor
from lesa.methods import KIND_OF, Method, Source, register
from lesa.plan import Slot

Draw = Callable[[Tensor, torch.Generator], Tensor]


def gaussian(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian (d1, d2) float32 with the Frobenius norm of `weight`."""
    noise = torch.randn(weight.shape, generator=generator)
    scale = torch.linalg.matrix_norm(weight.float()) / torch.linalg.matrix_norm(noise)
    return noise.mul_(float(scale))


def spectrum(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Random (d1, d2) float32 with the singular values of `weight` and Haar-distributed vectors."""
    values: Tensor = torch.linalg.svdvals(weight.float())

    def directions(size: int) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(size, len(values), generator=generator))
        haar: Tensor = q * r.diagonal().sign()  # QR's own signs would bias it (Mezzadri 2007)
        return haar

    rows, columns = (directions(size) for size in weight.shape)
    return (rows * values) @ columns.T


def _control(draw: Draw) -> Method:
    def tensor(source: Source, slot: Slot, suffix: str) -> Tensor:
        """`source.needs` is the LESA checkpoint that is matched."""
        name = layer_tensor(slot.layer_idx, suffix)
        weight = Checkpoint(source.needs).tensor(name)
        if suffix not in KIND_OF:
            return weight
        # A seed of its own for every matrix: no draw depends on the order of writing. Hashed with
        # the run's seed into 32 bits, as torch's CPU generator ignores the bits above.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{source.seed} {name}".encode()))
        return draw(weight, generator).to(weight.dtype)

    return Method(plan=plan.insert_between, tensor=tensor)


register("noise", _control(gaussian))
register("spectrum", _control(spectrum))
