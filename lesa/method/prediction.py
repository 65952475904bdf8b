"""LESA's new layers: `U Σ G([V_i, V_{i+1}])` for every matrix kind (docs/method.md step 6)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lesa.checkpoints.reader import Checkpoint
from lesa.machine import compute_device
from lesa.method import predictor
from lesa.method.basis import Basis


def load_predictor(folder: str | Path, kind: str) -> nn.Sequential:
    """The fitted G_W in `<kind>.safetensors`, on the CPU; its widths are those of the weights."""
    state = load_file(Path(folder) / f"{kind}.safetensors")
    model = predictor.network(state["4.weight"].shape[0], state["0.weight"].shape[0])
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def predict(
    base: Checkpoint, basis: Basis, model: nn.Module, kind: str, between: tuple[int, int]
) -> Tensor:
    """The matrix (d1, d2) predicted between two adjacent base layers, in the base's dtype.

    `U Σ G([Σ⁻¹ Uᵀ W_i, Σ⁻¹ Uᵀ W_{i+1}])`. The predictor begins and ends with a matrix product,
    and these are done first: U is then multiplied with hidden_size columns in place of d2, and
    once for both neighbours. Computed in float32 on `compute_device()`, returned on the CPU.
    """
    device = compute_device()
    basis = basis.to(device)
    u, s = basis.u, basis.s[:, None]
    first, second, last = (m for m in model.to(device).modules() if isinstance(m, nn.Linear))
    lower, upper = (base.matrix(kind, i).to(device) for i in between)
    for_lower, for_upper = first.weight.chunk(2, dim=1)  # (hidden_size, d2) each
    inputs = lower.float() @ for_lower.T + upper.float() @ for_upper.T  # (d1, hidden_size)
    hidden = torch.relu((u.T @ inputs).div_(s) + first.bias)
    hidden = torch.relu(second(hidden))  # (r, hidden_size)
    # The last bias becomes one more column of the weights, and each row gets a one for it.
    outputs = u @ (s * nn.functional.pad(hidden, (0, 1), value=1.0))  # (d1, hidden_size + 1)
    weights = torch.cat([last.weight, last.bias[:, None]], dim=1)
    return (outputs @ weights.T).to(lower.dtype).cpu()
