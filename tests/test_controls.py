"""LESA's controls and options, against numpy and scikit-learn, where families store matrices."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from baselines.constant_row import constant_row
from baselines.permuted import derangement
from baselines.ridge import regression
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.method.basis import Basis, load_basis
from lesa.params import Gaps
from lesa.upscaling import lesa
from tests.conftest import tensors_of
from tests.families import CONFIGS, LAYERS, deepen, save_family

Array = NDArray[np.float64]
NEW = (3, 5, 7)  # layers that tests.families.GAPS add to six
BETWEEN = ((2, 3), (3, 4), (4, 5))


def array(tensor: torch.Tensor) -> Array:
    found: Array = tensor.double().numpy()
    return found


@pytest.fixture(scope="module", params=["llama", "phi3", "gpt2", "mixtral"])
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of the family in "base", and LESA's expansion of it in "lesa"."""
    folder = tmp_path_factory.mktemp(request.param)
    deepen(save_family(request.param, folder / "base"), "lesa", folder)
    return folder


def assert_same_but_matrices(one: Path, other: Path) -> None:
    """Two expansions differ in the new layers' matrices alone."""
    left, right = Checkpoint(one), Checkpoint(other)
    matrices = {left.layer_tensor(i, view.tensor) for i in NEW for view in left.views.values()}
    assert left.names() == right.names()
    for name in set(left.names()) - matrices:
        assert torch.equal(left.tensor(name), right.tensor(name)), name


def test_constant_row_is_the_closest_of_its_kind(work: Path) -> None:
    folder, _ = deepen(work / "base", "constant_row", work)
    assert_same_but_matrices(folder, work / "lesa")
    found, wanted = Checkpoint(folder), Checkpoint(work / "lesa")
    for kind in wanted.kinds:
        basis = load_basis(work / "svd", kind)
        a = array(basis.u) @ np.diag(array(basis.s)) @ np.ones(len(basis.s))
        for i in NEW:
            w, row = array(wanted.matrix(kind, i)), array(found.matrix(kind, i))
            c, *_ = np.linalg.lstsq(a[:, None], w, rcond=None)
            fit = a[:, None] * c
            fit *= np.linalg.norm(w) / np.linalg.norm(fit)
            assert np.abs(row - fit).max() < 1e-4 * np.abs(fit).max()


def test_a_matrix_of_one_row_is_its_own_constant_row() -> None:
    generator = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(6, 4, generator=generator))
    basis = Basis(u, torch.tensor([4.0, 3.0, 2.0, 1.0]))
    coefficients = torch.randn(1, 5, generator=generator).expand(4, 5)
    weight = basis.reconstruct(coefficients)
    assert torch.allclose(constant_row(basis, weight), weight, atol=1e-5)
    assert not constant_row(basis, torch.zeros(6, 5)).any()  # and is no NaN


def test_permuted_puts_each_prediction_into_another_gap(work: Path) -> None:
    folder, _ = deepen(work / "base", "lesa_permuted", work)
    assert_same_but_matrices(folder, work / "lesa")
    found, wanted = Checkpoint(folder), Checkpoint(work / "lesa")
    orders = set()
    for kind in wanted.kinds:
        predictions = [wanted.matrix(kind, i) for i in NEW]
        order = []
        for i in NEW:
            moved = found.matrix(kind, i)
            order += [place for place in range(3) if torch.equal(moved, predictions[place])]
        orders.add(tuple(order))
    assert len(orders) == 1  # the kinds of a layer move together
    assert orders <= {(1, 2, 0), (2, 0, 1)}  # the two derangements of three


def test_derangements_are_drawn_alike() -> None:
    drawn = Counter(tuple(derangement(4, seed)) for seed in range(900))
    assert all(place != i for order in drawn for place, i in enumerate(order))
    assert len(drawn) == 9  # of four; each 100 times, give or take five standard deviations
    assert all(abs(count - 100) < 5 * math.sqrt(900 / 9 * 8 / 9) for count in drawn.values())
    assert derangement(4, 5) == [3, 2, 0, 1]  # by the seed alone, in every run


def test_one_gap_cannot_be_permuted(work: Path) -> None:
    with pytest.raises(UserError, match=r"^params\.yaml: gaps: lesa_permuted has 1 gap; .*2"):
        deepen(work / "base", "lesa_permuted", work, Gaps(first=2, last=2), out="one")
    assert not (work / "one").exists()


def coefficients(work: Path, kind: str) -> list[Array]:
    """`V_1 … V_L` float64, in the signs of the stored basis."""
    base, basis = Checkpoint(work / "base"), load_basis(work / "svd", kind)
    u, s = array(basis.u), array(basis.s)
    return [(u.T @ array(base.matrix(kind, i))) / s[:, None] for i in range(LAYERS)]


def test_ridge_predicts_as_scikit_learn_does(work: Path) -> None:
    folder, _ = deepen(work / "base", "ridge", work, penalty=0.1)
    assert_same_but_matrices(folder, work / "lesa")
    found = Checkpoint(folder)
    for kind in found.kinds:
        v, basis = coefficients(work, kind), load_basis(work / "svd", kind)
        middles = range(1, LAYERS - 1)
        x = np.concatenate([np.concatenate([v[i - 1], v[i + 1]], axis=1) for i in middles])
        alpha = 0.1 * np.square(x - x.mean(axis=0)).sum(axis=0).mean()
        fitted = Ridge(alpha=alpha).fit(x, np.concatenate([v[i] for i in middles]))
        for layer_idx, (lower, upper) in zip(NEW, BETWEEN, strict=True):
            row = fitted.predict(np.concatenate([v[lower], v[upper]], axis=1))
            wanted = array(basis.u) @ np.diag(array(basis.s)) @ row
            error = np.abs(array(found.matrix(kind, layer_idx)) - wanted).max()
            assert error < 1e-3 * np.abs(wanted).max(), kind


def test_ridge_finds_a_linear_map_from_parts() -> None:
    """With next to no penalty and targets that are linear in the inputs."""
    generator = np.random.default_rng(0)
    b, intercept = generator.normal(size=(8, 4)), generator.normal(size=4)
    inputs = generator.normal(size=(40, 8)) + 3
    pairs = [
        (torch.from_numpy(x), torch.from_numpy(x @ b + intercept)) for x in np.split(inputs, 5)
    ]
    weights, constant = regression(iter(pairs), 4, 1e-8, torch.device("cpu"))
    assert np.allclose(weights.numpy(), b, atol=1e-4)
    assert np.allclose(constant.numpy(), intercept, atol=1e-3)


def test_ridge_is_fitted_once_a_kind(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*given: Any) -> Any:
        calls.append(1)
        return regression(*given)

    monkeypatch.setattr("baselines.ridge.regression", counted)
    kinds = len(Checkpoint(work / "base").kinds)
    for out in ("once", "twice"):  # and anew for the next expansion
        deepen(work / "base", "ridge", work, out=out)
    assert len(calls) == 2 * kinds


def test_ridge_needs_a_triple(tmp_path: Path) -> None:
    base = save_family("llama", tmp_path / "base", num_hidden_layers=2)
    with pytest.raises(UserError, match=r"^params\.yaml: base: 2 layers; .* 3"):
        deepen(base, "ridge", tmp_path, Gaps(first=0, last=0))


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("gemma")])
def test_scaled_norms_give_scaled_inputs(name: str, tmp_path: Path) -> None:
    """Every norm of transformers' own new layer gives 0.25 times what it gave; all else stays."""
    from transformers import AutoModelForCausalLM

    base = save_family(name, tmp_path / "base")
    folders = [deepen(base, "lesa", tmp_path, out=f"{s}", norm_scale=s)[0] for s in (1.0, 0.25)]
    plain, scaled = (tensors_of(folder) for folder in folders)
    models: list[Any] = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    path = Checkpoint(folders[0]).family.layers
    changed = set()
    for i in NEW:
        one, other = (model.get_submodule(f"{path}.{i}") for model in models)
        for norm, module in one.named_modules():
            if "norm" in type(module).__name__.lower():
                width = next(module.parameters()).shape[0]
                x = torch.randn(3, width, generator=torch.Generator().manual_seed(i))
                given, quarter = module(x), other.get_submodule(norm)(x)
                assert torch.allclose(0.25 * given, quarter, rtol=1e-5, atol=1e-6), norm
                changed |= {f"{path}.{i}.{norm}.{p}" for p, _ in module.named_parameters()}
    assert {key for key in plain if not torch.equal(plain[key], scaled[key])} == changed


def test_norms_are_never_negative_or_endless() -> None:
    for scale in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="norm_scale"):
            lesa.Options(unpredicted="layer_0", norm_scale=scale)
    assert lesa.Options(unpredicted="layer_0").norm_scale == 1
