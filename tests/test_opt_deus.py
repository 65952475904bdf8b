"""OpT-DeUS against closed forms, and against a recomputation in numpy in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines import table
from baselines.opt_deus import sinkhorn, times_n
from lesa.checkpoints.reader import Checkpoint
from lesa.upscaling.methods import Layer, NoOptions, Source
from lesa.upscaling.plan import Slot
from tests.conftest import resave, tensors_of
from tests.families import GAPS, LAYERS, save_family

Array = NDArray[np.float64]
METHODS = ("opt_deus_code", "opt_deus", "half_upper")
SLOT = Slot(3, None, (2, 3), True, True)
NORM = "post_attention_layernorm.weight"
NORMS = {"llama-biases": NORM, "phi3": NORM, "mixtral": NORM, "gpt2": "ln_2.weight"}
NORMS |= {"gemma2": "pre_feedforward_layernorm.weight"}


def made(base: Checkpoint, name: str) -> Layer:
    """The layer between base layers 2 and 3."""
    method = table()[name]
    assert SLOT in method.plan(LAYERS, GAPS)
    return method.layer(Source(base, base.folder, (), NoOptions()), SLOT)


def rows(count: int, width: int, scale: float, seed: int = 0) -> Tensor:
    return scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def numpy_plan(a: Array, b: Array) -> Array:
    """Sinkhorn's scaling written out: uniform marginals, Euclidean cost, regulariser 0.06."""
    kernel = np.exp(-np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)) / 0.06)
    share, v = 1 / len(a), np.ones(len(b))
    for _ in range(5_000):
        u = share / (kernel @ v)
        v = share / (kernel.T @ u)
    plan: Array = u[:, None] * kernel * v
    return plan


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", list(NORMS))
def test_layer_equals_a_recomputation(tmp_path: Path, family: str, name: str) -> None:
    base = Checkpoint(save_family(family, tmp_path))
    layer, lower, upper = made(base, name), base.layer(2), base.layer(3)
    assert layer.keys() == lower.keys()

    def matrices(kind: str) -> tuple[Array, Array]:
        a, b = (base.matrix(kind, i).double().numpy() for i in (2, 3))
        return a, b

    def plan(a: Array, b: Array) -> Array:
        scale = {"opt_deus_code": 1, "opt_deus": len(a), "half_upper": 0}[name]
        return scale * numpy_plan(a, b)

    attention = plan(*matrices("o_proj"))
    ends = {base.views[kind].tensor for kind in base.kinds if kind.endswith(("o_proj", "wn_proj"))}
    for kind, view in base.views.items():
        found = view.read(layer[view.tensor]).double().numpy()
        a, b = matrices(kind)
        if view.tensor in ends:
            assert not found.any(), kind
            continue
        if kind.endswith(("gate_proj", "up_proj")):
            a = a @ attention
        wanted = (plan(a, b).T @ a + b) / 2
        assert np.linalg.norm(found - wanted) <= 1e-3 * np.linalg.norm(wanted), kind

    fused = {view.tensor for view in base.views.values()}
    for suffix in layer.keys() - fused:
        a, b = (t[suffix].double().numpy() for t in (lower, upper))
        wanted = (a + b) / 2
        if suffix == NORMS[family]:
            wanted = ((0.5 * a @ attention + 0.5 * a) + b) / 2
        elif suffix.removesuffix("bias") + "weight" in ends:
            wanted = np.zeros_like(a)
        elif suffix == "block_sparse_moe.gate.weight":
            wanted = a
        assert np.allclose(layer[suffix].numpy(), wanted, rtol=1e-3, atol=1e-6), suffix


@pytest.fixture
def permuted(tmp_path: Path) -> Checkpoint:
    """A Llama whose layer 2 is layer 3 with each matrix's rows in another order, and with its
    residual stream, from the attention on, in the order of o's rows."""
    tensors = tensors_of(save_family("llama", tmp_path))
    base = Checkpoint(tmp_path)
    order = {
        kind: torch.randperm(base.shape(kind)[0], generator=torch.Generator().manual_seed(seed))
        for seed, kind in enumerate(base.kinds)
    }
    for kind, view in base.views.items():
        upper = 100 * base.matrix(kind, 3)  # rows then lie some 80 apart: 1,300 regularisers
        tensors[base.layer_tensor(3, view.tensor)] = upper
        lower = upper[order[kind]]
        if kind in ("gate_proj", "up_proj"):
            lower = lower[:, order["o_proj"]]
        tensors[base.layer_tensor(2, view.tensor)] = lower
    norm = tensors[base.layer_tensor(3, NORM)]
    tensors[base.layer_tensor(2, NORM)] = norm[order["o_proj"]]
    resave(tmp_path, tensors)
    return Checkpoint(tmp_path)


def test_transport_aligns_permuted_neighbours(permuted: Checkpoint) -> None:
    """Rows that are far apart but for their twins: the mean of both neighbours is the upper one,
    but for the half of the norm that the identity keeps."""
    layer, lower, upper = made(permuted, "opt_deus"), permuted.layer(2), permuted.layer(3)
    for kind in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        suffix = permuted.views[kind].tensor
        assert not torch.allclose(lower[suffix], upper[suffix])
        assert torch.allclose(layer[suffix], upper[suffix], rtol=1e-5, atol=1e-4), kind
    assert torch.allclose(layer[NORM], 0.75 * upper[NORM] + 0.25 * lower[NORM], atol=1e-5)


def test_times_n_of_permuted_rows_is_the_permutation() -> None:
    upper = rows(50, 16, 100.0)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(times_n(upper[order], upper), torch.eye(50)[order], atol=1e-5)


def test_times_n_is_a_mean_of_rows_however_far_they_lie() -> None:
    for scale in (0.1, 1.0, 30.0):
        plan = times_n(rows(40, 24, scale, 1), rows(40, 24, scale, 2))
        assert torch.allclose(plan.sum(dim=1), torch.ones(40), atol=1e-3)
        assert float((plan.sum(dim=0) - 1).square().mean().sqrt()) < 2e-3
        assert bool((plan >= 0).all())


def test_the_published_plan_sums_to_one_in_all() -> None:
    plan = sinkhorn(rows(40, 24, 0.1, 1), rows(40, 24, 0.1, 2))
    assert float(plan.sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("far", [False, True])
def test_published_layer_is_half_the_upper_one_to_within_an_nth(tmp_path: Path, far: bool) -> None:
    """`|Tᵀ A| ≤ max|A| / n`; rows so far apart that the solver overflows give exactly the half."""
    tensors = tensors_of(save_family("llama", tmp_path))
    resave(tmp_path, {name: t * (100.0 if far else 1.0) for name, t in tensors.items()})
    base = Checkpoint(tmp_path)
    code, half = made(base, "opt_deus_code"), made(base, "half_upper")
    for kind in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
        suffix = base.views[kind].tensor
        lower, upper = (base.matrix(kind, i) for i in (2, 3))
        assert torch.equal(half[suffix], upper / 2)
        error = float((code[suffix] - upper / 2).abs().max())
        if far:
            assert error == 0
        else:
            assert 0 < error <= 1.001 * float(lower.abs().max()) / len(lower) / 2
    # The plan of o that leads the norm is as small: a quarter of the lower one, half the upper one.
    lower, upper = (base.tensor(base.layer_tensor(i, NORM)) for i in (2, 3))
    assert torch.allclose(half[NORM], lower / 4 + upper / 2, rtol=1e-6)


@pytest.mark.parametrize(("given", "found"), [(None, "false"), ("true", "true")])
def test_jax_is_not_to_take_the_gpu_for_itself(given: str | None, found: str) -> None:
    """POT starts it where it is installed; a user's own choice stays."""
    key = "XLA_PYTHON_CLIENT_PREALLOCATE"
    environment = {k: v for k, v in os.environ.items() if k != key}
    if given is not None:
        environment[key] = given
    script = (
        "import os, torch; from baselines.opt_deus import sinkhorn; "
        f"sinkhorn(torch.eye(2), torch.eye(2)); print(os.environ[{key!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1], env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == found
