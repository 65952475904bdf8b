"""Fitted outputs: an identity start whose output projections take whitened gradient steps.

A new layer whose output projections are zeroed adds nothing, but what enters them is computed all
the same. For one of them let x be what enters it at a token, (in,), g the gradient of the summed
next-token loss by what leaves it, (out,), and over some thousand tokens

    C = mean g xᵀ (out, in),   A = mean x xᵀ (in, in),   S = mean g gᵀ (out, out).

C is the slope of the loss by the projection, to which is added

    -η (S + δ s 1)^(-1/2) C (A + δ a 1)^(-1/2),

with a and s the means of the diagonals of A and S: a step against the slope, in coordinates in
which features and gradients are white. A and S are the factors of K-FAC (arXiv:1503.05671), which
multiplies by their inverses; with so few tokens these amplify what is noise in C. A plain step
(-η C) or least squares (-η C A⁻¹) follows the few directions in which features or
gradients are large. docs/fitted-outputs.md compares them.

The tokens are training tokens, and count as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lesa.errors import UserError
from lesa.machine import compute_device
from lesa.training.blocks import tokens_of
from lesa.training.freezing import model_depth, model_family
from lesa.training.heldout import block_losses
from lesa.training.pretrain import Run, load_model, result
from lesa.training.trainer import now
from lesa.upscaling.plan import LayerPlan, read_plan


@dataclass(frozen=True)
class Moments:
    """Sums over `tokens` tokens at one projection, in float32: see the module's docstring.

    slope: (out, in). features: (in, in). gradients: (out, out).
    """

    slope: Tensor
    features: Tensor
    gradients: Tensor
    tokens: int


def zeroed_projections(model: nn.Module, plan: LayerPlan) -> dict[str, nn.Linear]:
    """The new layers' matrices that are zero throughout, by their modules' names.

    Raises UserError if there is none, or one that is no `nn.Linear` (GPT-2's transposed ones, the
    stacked experts of a mixture).
    """
    family = model_family(model)
    new = {slot.layer_idx for slot in plan if slot.new}
    found: dict[str, nn.Linear] = {}
    for name, parameter in model.named_parameters():
        layer = family.split(name)
        if layer is None or layer[0] not in new or parameter.dim() < 2 or parameter.any():
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(module, nn.Linear):
            raise UserError(f"{name}: {type(module).__name__} is not fitted, only nn.Linear is")
        found[name.removesuffix(".weight")] = module
    if not found:
        raise UserError("no output projection of a new layer is zero: there is nothing to fit")
    return found


def moments(
    model: nn.Module, projections: dict[str, nn.Linear], blocks: Iterable[Tensor], bf16: bool
) -> dict[str, Moments]:
    """Moments at each projection over blocks of tokens, each (block_size,) int64.

    One forward and one backward pass a block; of all weights only the projections' get a gradient,
    which is the slope. `bf16`: passes under bfloat16 autocast, sums in float32.
    """
    device = next(model.parameters()).device
    model.requires_grad_(False).eval()
    features, gradients = {}, {}
    for name, projection in projections.items():
        features[name] = torch.zeros([projection.in_features] * 2, device=device)
        gradients[name] = torch.zeros([projection.out_features] * 2, device=device)

    def add(total: Tensor, rows: Tensor) -> None:
        flat = rows.detach().flatten(0, -2).float()
        total.addmm_(flat.T, flat)

    def entered(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        add(features[name], args[0])

    def left(name: str, _: nn.Module, args: Any, output: Tensor) -> None:
        output.register_hook(partial(add, gradients[name]))

    hooks = []
    for name, projection in projections.items():
        projection.weight.requires_grad = True
        projection.weight.grad = None
        hooks.append(projection.register_forward_pre_hook(partial(entered, name)))
        hooks.append(projection.register_forward_hook(partial(left, name)))
    tokens = 0
    try:
        for block in tqdm(list(blocks), desc="moments", unit="block", leave=False):
            ids = block[None].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            nn.functional.cross_entropy(logits.float(), ids[0, 1:], reduction="sum").backward()
            tokens += len(block)
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for name, projection in projections.items():
        assert projection.weight.grad is not None
        found[name] = Moments(projection.weight.grad, features[name], gradients[name], tokens)
        projection.weight.grad = None
        projection.weight.requires_grad = False
    return found


def inverse_root(matrix: Tensor, damping: float) -> Tensor:
    """(M + damping · mean(diag M) · 1)^(-1/2) of a positive semi-definite M, in M's dtype."""
    values, vectors = torch.linalg.eigh(matrix)
    roots = (values.clamp_min(0) + damping * matrix.diagonal().mean()).rsqrt()
    root: Tensor = (vectors * roots) @ vectors.T
    return root


def whitened_step(m: Moments, step_size: float, damping: float) -> Tensor:
    """The step of the module's docstring, (out, in); zero where the slope is."""
    if not m.slope.any():
        return torch.zeros_like(m.slope)
    left = inverse_root(m.gradients / m.tokens, damping)
    right = inverse_root(m.features / m.tokens, damping)
    return -step_size * (left @ (m.slope / m.tokens) @ right)


def fit_outputs(
    model: nn.Module,
    plan: LayerPlan,
    rounds: Sequence[Sequence[Tensor]],
    step_size: float,
    damping: float,
    bf16: bool,
) -> dict[str, Tensor]:
    """New weights of the zeroed output projections, by their names in transformers' model.

    A round is the blocks of one step of all projections together; the next round's moments are
    those of the model as the step has left it. Steps shrink linearly, from `step_size` towards
    zero. The model gets the weights, too.
    """
    projections = zeroed_projections(model, plan)
    for i, blocks in enumerate(rounds):
        size = step_size * (1 - i / len(rounds))
        for name, found in moments(model, projections, blocks, bf16).items():
            projections[name].weight.data += whitened_step(found, size, damping)
    return {f"{name}.weight": p.weight.detach().clone() for name, p in projections.items()}


def fit(run: Run, rounds: int, damping: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`fit_outputs` on the tokens of the run's steps, as `lesa.training.pretrain.train` trains; it
    cannot be resumed.

    The run's learning rate is the step size. Held-out loss is measured at step 0, if the run says
    so, and at the end. Raises UserError as `zeroed_projections` does.
    """
    model = load_model(run.init).to(compute_device())
    plan = read_plan(run.init, model_depth(model))
    bf16, size = run.settings.bf16, run.settings.per_device_batch_size

    def scored(step: int) -> dict[str, Any]:
        losses = block_losses(model, run.heldout_blocks, bf16, size)
        return {"step": step, "eval_loss": fmean(losses), "eval_block_losses": losses}

    steps = run.settings.max_steps
    log = [scored(0)] if run.measure_start else []
    start = now()
    blocks = tokens_of(run.ordered_blocks())
    share = len(blocks) // rounds
    parts = [blocks[i * share : (i + 1) * share] for i in range(rounds)]
    fitted = fit_outputs(model, plan, parts, run.learning_rate, damping, bf16)
    log.append({"seconds": (now() - start) / steps, "prefix_seconds": 0.0})
    log.append(scored(steps))
    trained = {name: tensor.cpu() for name, tensor in fitted.items()}
    return trained, result(run, trained, log)
