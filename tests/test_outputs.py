"""Fitted outputs: moments, whitening and step against numpy, scipy and autograd by other ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import fractional_matrix_power
from torch import Tensor

from lesa.errors import UserError
from lesa.training.outputs import (
    Moments,
    fit_outputs,
    inverse_root,
    moments,
    whitened_step,
    zeroed_projections,
)
from lesa.training.saving import save
from lesa.upscaling.plan import LayerPlan
from tests.families import CONFIGS, deepen, load, save_family

BLOCKS = list(torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(5)))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LayerPlan]:
    """LLaMA Pro's expansion of a tiny Llama."""
    folder = tmp_path_factory.mktemp("outputs")
    save_family("llama", folder / "base")
    return deepen(folder / "base", "llama_pro", folder)


def summed_loss(model: Any) -> Tensor:
    """Of all blocks, by transformers' own loss."""
    losses = [model(input_ids=b[None], labels=b[None]).loss * (len(b) - 1) for b in BLOCKS]
    return torch.stack(losses).sum()


def test_zeroed_projections(start: tuple[Path, LayerPlan]) -> None:
    folder, plan = start
    new = [slot.layer_idx for slot in plan if slot.new]
    found = zeroed_projections(load(folder), plan)
    suffixes = ("self_attn.o_proj", "mlp.down_proj")
    assert set(found) == {f"model.layers.{i}.{suffix}" for i in new for suffix in suffixes}


def test_moments_are_of_what_enters_and_leaves_a_projection(start: tuple[Path, LayerPlan]) -> None:
    """Of what enters and leaves each projection: both from a copy that adds zeros that train."""
    folder, plan = start
    model = load(folder)
    found = moments(model, zeroed_projections(model, plan), BLOCKS, bf16=False)

    probed = load(folder)
    entered: dict[str, list[Tensor]] = {}
    added: dict[str, list[Tensor]] = {}

    def probe(name: str) -> Any:
        def hook(_: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            zeros = torch.zeros_like(out, requires_grad=True)
            entered.setdefault(name, []).append(args[0].detach()[0])
            added.setdefault(name, []).append(zeros)
            return out + zeros

        return hook

    for name in found:
        probed.get_submodule(name).register_forward_hook(probe(name))
    summed_loss(probed).backward()
    for name, m in found.items():
        x = torch.cat(entered[name]).double().numpy()
        slopes = [zeros.grad[0] for zeros in added[name] if zeros.grad is not None]
        g = torch.cat(slopes).double().numpy()
        assert m.tokens == len(x) == len(g) == 60
        np.testing.assert_allclose(m.slope, g.T @ x, atol=1e-4)
        np.testing.assert_allclose(m.features, x.T @ x, atol=1e-4)
        np.testing.assert_allclose(m.gradients, g.T @ g, atol=1e-4)


def test_moments_leave_the_model_as_it_was(start: tuple[Path, LayerPlan]) -> None:
    folder, plan = start
    model, untouched = load(folder), load(folder)
    moments(model, zeroed_projections(model, plan), BLOCKS, bf16=False)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(summed_loss(model), summed_loss(untouched))


@settings(max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31), st.floats(0.01, 10))
def test_whitened_step(rows: int, columns: int, seed: int, damping: float) -> None:
    generator = np.random.default_rng(seed)
    g, x = generator.normal(size=(40, rows)), generator.normal(size=(40, columns))
    slope, features, gradients = g.T @ x, x.T @ x, g.T @ g
    sums = [torch.from_numpy(a) for a in (slope, features, gradients)]
    found = whitened_step(Moments(sums[0], sums[1], sums[2], 40), 0.3, damping)

    def damped(matrix: Any) -> Any:
        mean = matrix / 40
        shifted = mean + damping * np.diag(mean).mean() * np.eye(len(mean))
        return fractional_matrix_power(shifted, -0.5)

    wanted = -0.3 * damped(gradients) @ (slope / 40) @ damped(features)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    assert (found.numpy() * slope).sum() <= 0  # against the slope


def test_white_moments_give_the_plain_step() -> None:
    """With A = 4 · 1, S = 9 · 1 and no damping the step is -η C / 6."""
    slope = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, 1.0]])
    m = Moments(10 * slope, 40 * torch.eye(3), 90 * torch.eye(2), 10)
    torch.testing.assert_close(whitened_step(m, 0.6, 0.0), -0.1 * slope)


def test_step_does_not_depend_on_units() -> None:
    """As Adam's and Muon's: neither on the size of features nor on that of the loss."""
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(30, 5, generator=generator), torch.randn(30, 4, generator=generator)
    plain = whitened_step(Moments(g.T @ x, x.T @ x, g.T @ g, 30), 0.2, 0.1)
    x, g = 7 * x, 0.01 * g
    other = whitened_step(Moments(g.T @ x, x.T @ x, g.T @ g, 30), 0.2, 0.1)
    torch.testing.assert_close(other, plain)


def test_inverse_root_of_a_singular_matrix() -> None:
    row = torch.tensor([[3.0, 4.0]])
    found = inverse_root(row.T @ row, 0.08)  # mean of the diagonal 12.5: one is added
    torch.testing.assert_close(found @ found @ (row.T @ row + torch.eye(2)), torch.eye(2))


def test_fitted_start_is_below_the_base(start: tuple[Path, LayerPlan], tmp_path: Path) -> None:
    """The loss on the tokens it was fitted on falls, in the checkpoint that is written, too."""
    folder, plan = start
    model = load(folder)
    with torch.no_grad():
        before = float(summed_loss(model))
    fitted = fit_outputs(model, plan, [BLOCKS], 0.05, 0.1, bf16=False)
    save(fitted, folder, tmp_path / "fitted")
    with torch.no_grad():
        after = float(summed_loss(load(tmp_path / "fitted")))
        assert after == pytest.approx(float(summed_loss(model)), abs=1e-3)
    assert after < before
    changed = load(tmp_path / "fitted").state_dict()
    for name, tensor in load(folder).state_dict().items():
        assert torch.equal(tensor, changed[name]) == (name not in fitted)


def test_rounds_step_from_where_the_last_one_led(start: tuple[Path, LayerPlan]) -> None:
    """Two rounds are a step of the whole size, and one of half on the moments after it."""
    folder, plan = start
    model, by_hand = load(folder), load(folder)
    fitted = fit_outputs(model, plan, [BLOCKS[:2], BLOCKS[2:]], 0.08, 0.1, bf16=False)
    projections = zeroed_projections(by_hand, plan)
    for blocks, size in ((BLOCKS[:2], 0.08), (BLOCKS[2:], 0.04)):
        steps = {
            name: whitened_step(m, size, 0.1)
            for name, m in moments(by_hand, projections, blocks, bf16=False).items()
        }
        for name, step in steps.items():
            projections[name].weight.data += step
    for name, projection in projections.items():
        torch.testing.assert_close(fitted[f"{name}.weight"], projection.weight.data)


STACKED = {"mixtral", "qwen3_moe"}  # transformers stacks their experts


@pytest.mark.parametrize("name", [n for n, (kind, _) in CONFIGS.items() if kind != "gpt2"])
def test_every_family_of_linear_projections_can_be_fitted(name: str, tmp_path: Path) -> None:
    """Every family whose output projections are `nn.Linear`, its biases and norms as they are."""
    save_family(name, tmp_path / "base")
    folder, plan = deepen(tmp_path / "base", "llama_pro", tmp_path)
    model = load(folder)
    if CONFIGS[name][0] in STACKED:
        with pytest.raises(UserError, match=r"xperts is not fitted, only nn\.Linear is"):
            zeroed_projections(model, plan)
        return
    fitted = fit_outputs(model, plan, [BLOCKS], 0.05, 0.1, bf16=False)
    assert all(tensor.isfinite().all() and tensor.any() for tensor in fitted.values())


def test_other_projections_and_plans_of_no_zeroed_ones_are_refused(tmp_path: Path) -> None:
    save_family("gpt2", tmp_path / "gpt2")
    folder, plan = deepen(tmp_path / "gpt2", "llama_pro", tmp_path / "work")
    with pytest.raises(UserError, match=r"Conv1D is not fitted, only nn\.Linear is"):
        zeroed_projections(load(folder), plan)
    save_family("llama", tmp_path / "llama")
    folder, plan = deepen(tmp_path / "llama", "average", tmp_path / "other")
    with pytest.raises(UserError, match="there is nothing to fit"):
        zeroed_projections(load(folder), plan)
