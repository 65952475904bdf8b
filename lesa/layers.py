"""LESA's new layers: `U Σ G([V_i, V_{i+1}])` for every matrix kind (docs/method.md step 6)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lesa import predictor
from lesa.basis import Basis
from lesa.checkpoint import Checkpoint
from lesa.machine import compute_device


def save_basis(basis: Basis, path: Path) -> None:
    save_file({"u": basis.u.cpu(), "s": basis.s.cpu()}, path)


def load_basis(folder: str | Path, kind: str) -> Basis:
    tensors = load_file(Path(folder) / f"{kind}.safetensors")
    return Basis(tensors["u"], tensors["s"])


def load_predictor(folder: str | Path, kind: str) -> nn.Sequential:
    """Read a fitted G_W; its widths are those of the stored weights."""
    state = load_file(Path(folder) / f"{kind}.safetensors")
    model = predictor.network(state["4.weight"].shape[0], state["0.weight"].shape[0])
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def predict(
    base: Checkpoint, basis: Basis, model: nn.Module, kind: str, between: tuple[int, int]
) -> Tensor:
    """The matrix (d1, d2) predicted between two adjacent base layers, in the base's dtype.

    Computed on `compute_device()`, given on the CPU.
    """
    device = compute_device()
    basis = Basis(basis.u.to(device), basis.s.to(device))
    left, right = (base.matrix(kind, i).to(device) for i in between)
    inputs = torch.cat([basis.coefficients(left), basis.coefficients(right)], dim=1)
    return basis.reconstruct(model.to(device)(inputs)).to(left.dtype).cpu()
