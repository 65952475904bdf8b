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

from lesa.checkpoints.families import View
from lesa.params import Count
from lesa.upscaling import lesa
from lesa.upscaling.methods import Layer, Method, Source
from lesa.upscaling.plan import Slot, insert_predicted

Draw = Callable[[Tensor, torch.Generator], Tensor]


class Options(lesa.Options):
    """seed: of the random matrices."""

    seed: Count


def resized(matrix: Tensor, weight: Tensor) -> Tensor:
    """`matrix` float32, which is overwritten, scaled to the Frobenius norm of `weight`.

    A matrix of zeros stays what it is.
    """
    size = float(torch.linalg.matrix_norm(matrix))
    return matrix.mul_(float(torch.linalg.matrix_norm(weight.float())) / size if size else 0.0)


def gaussian(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian (d1, d2) float32 with the Frobenius norm of `weight`."""
    return resized(torch.randn(weight.shape, generator=generator), weight)


def spectrum(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Random (d1, d2) float32 with the singular values of `weight` and Haar-distributed vectors."""
    values: Tensor = torch.linalg.svdvals(weight.float())

    def directions(size: int) -> Tensor:
        q, r = torch.linalg.qr(torch.randn(size, len(values), generator=generator))
        haar: Tensor = q * r.diagonal().sign()  # QR's own signs would bias it (Mezzadri 2007)
        return haar

    rows, columns = (directions(size) for size in weight.shape)
    return (rows * values) @ columns.T


def generator_of(source: Source, slot: Slot, kind: str) -> torch.Generator:
    """A seed of its own for every matrix: no draw depends on the order of writing.

    Hashed with the run's seed into 32 bits, as torch's CPU generator ignores the bits above.
    """
    view = source.base.views[kind]
    name = source.base.layer_tensor(slot.layer_idx, view.tensor)
    label = name if view == View(view.tensor) else f"{name} {kind}"
    seed = zlib.crc32(f"{source.options.seed} {label}".encode())
    return torch.Generator().manual_seed(seed)


def control(draw: Draw) -> Method:
    def layer(source: Source, slot: Slot) -> Layer:
        def drawn(kind: str) -> Tensor:
            weight = lesa.predicted(source, kind, slot.neighbours)
            return draw(weight, generator_of(source, slot, kind))

        return lesa.assembled(source, slot, drawn)

    return Method(insert_predicted, layer, fits=1, options=Options)


METHODS = {"noise": control(gaussian), "spectrum": control(spectrum)}
