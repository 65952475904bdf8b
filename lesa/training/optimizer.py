"""Muon for the matrices of layers, AdamW for the rest, as one optimizer.

Muon (torch.optim.Muon) orthogonalises the momentum of a matrix, so that a step has all directions
in one size. Embeddings, output layers, biases and norms are AdamW's, as its authors advise. The
size of a step is matched to AdamW's (arXiv:2502.16982), so one learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from lesa.training.freezing import model_family


class MuonAdamW(Optimizer):
    """A step of Muon on `matrices`, each (out, in), and one of AdamW on `others`.

    Its state and its parameter groups are those of the two, so it is saved and restored as any
    optimizer is.
    """

    def __init__(self, matrices: list[Tensor], others: list[Tensor], lr: float) -> None:
        self.parts: list[Optimizer] = [
            Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        ]
        if others:
            self.parts.append(AdamW(others, lr=lr, weight_decay=0.0))
        super().__init__([part.param_groups[0] for part in self.parts], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure else None
        # A scheduler or a checkpoint may have put other groups and states into this one.
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step()
        return loss


def muon(model: nn.Module, lr: float) -> MuonAdamW:
    """For what `model` trains: its layers' matrices by Muon, all else by AdamW."""
    family = model_family(model)
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = family.split(name) is not None and parameter.dim() == 2
            (matrices if inside else others).append(parameter)
    return MuonAdamW(matrices, others, lr)
