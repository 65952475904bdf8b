"""The control: LESA's new layers with each predicted matrix replaced by Gaussian noise.

Same gaps, same Frobenius norm of every matrix, same layer norms and biases: what LESA gains over
this is what its predictor knows beyond the size of a layer.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from lesa import plan
from lesa.checkpoint import Checkpoint, layer_tensor
from lesa.methods import KIND_OF, Method, Source, register
from lesa.plan import Slot


def _tensor(source: Source, slot: Slot, suffix: str) -> Tensor:
    """`source.needs` is the LESA checkpoint whose norms are matched."""
    name = layer_tensor(slot.layer_idx, suffix)
    with Checkpoint(source.needs) as lesa:
        tensor = lesa.tensor(name)
    if suffix not in KIND_OF:
        return tensor
    # A seed of its own for every matrix: no draw depends on the order of writing. Hashed with the
    # run's seed into 32 bits, as torch's CPU generator ignores the bits above.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{source.seed} {name}".encode()))
    noise = torch.randn(tensor.shape, generator=generator)
    scale = torch.linalg.matrix_norm(tensor.float()) / torch.linalg.matrix_norm(noise)
    return noise.mul_(float(scale)).to(tensor.dtype)


register("noise", Method(plan=plan.insert_between, tensor=_tensor))
