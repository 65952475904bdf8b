"""The loss in chunks: torch's loss and gradient, nothing of the logits' size, eval untouched."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import GraniteConfig, GraniteForCausalLM

from lesa.training import head_loss
from lesa.training.head_loss import IGNORED, ROWS, NextTokenLoss, TrainingHead, chunked_loss
from lesa.training.pretrain import Run, train
from tests.conftest import VOCABULARY, tiny_config
from tests.test_pretrain import HELD_OUT_ROWS, RATE, deepened, frozen, settings, tokens

HIDDEN = 16
COUNT = torch.tensor(7)  # what the sum is divided by


def drawn(count: int, vocabulary: int, seed: int, ignored: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, HIDDEN, generator=generator)
    weight = torch.randn(vocabulary, HIDDEN, generator=generator)
    targets = torch.randint(vocabulary, (count,), generator=generator)
    if ignored:
        targets[::3] = IGNORED
    return hidden, weight, targets


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    loss: Tensor = NextTokenLoss.apply(hidden, weight, targets, COUNT)  # type: ignore[no-untyped-call]
    return loss


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = (hidden @ weight.T).float()
    return nn.functional.cross_entropy(logits, targets, reduction="sum") / COUNT


def with_gradient(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], hidden: Tensor, *others: Tensor, bf16: bool
) -> tuple[Tensor, Tensor]:
    leaf = hidden.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss(leaf, *others)
    (value * 0.25).backward()  # what comes back is not always one
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@given(
    count=st.integers(1, 3 * ROWS + 1),
    vocabulary=st.integers(2, 70),
    seed=st.integers(0, 99),
    ignored=st.booleans(),
)
def test_loss_and_gradient_of_torch(count: int, vocabulary: int, seed: int, ignored: bool) -> None:
    some = drawn(count, vocabulary, seed, ignored)
    found, wanted = (with_gradient(loss, *some, bf16=False) for loss in (chunked, plain))
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-5)


def test_autocast_rounds_no_more_than_in_torchs_own_path() -> None:
    some = drawn(3 * ROWS + 5, 300, 0, False)
    exact = with_gradient(plain, *some, bf16=False)
    found, torchs = (with_gradient(loss, *some, bf16=True) for loss in (chunked, plain))
    assert found[0].dtype == found[1].dtype == torch.float32
    assert float(found[0]) == pytest.approx(float(torchs[0]), rel=1e-5)
    errors = [float((gradient - exact[1]).norm()) for gradient in (found[1], torchs[1])]
    assert 0 < errors[0] <= errors[1] * 1.05


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_iter(out) if isinstance(t, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


def test_no_tensor_has_the_size_of_the_logits() -> None:
    some = drawn(8 * ROWS, 1000, 0, False)
    largest = {}
    for loss in (chunked, plain):
        with Largest() as mode:  # type: ignore[no-untyped-call]
            with_gradient(loss, *some, bf16=True)
        largest[loss] = mode.elements
    assert largest[chunked] == ROWS * 1000
    assert largest[plain] == 8 * ROWS * 1000


@pytest.mark.parametrize("base", ["tiny32", "qwen"])  # with a head of its own, with a tied one
def test_model_has_transformers_loss_and_gradients(
    base: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss, "ROWS", 5)
    init = deepened(request.getfixturevalue(base), "average", tmp_path)
    ids = tokens(3, 1)
    labels = ids.clone()
    labels[0, 4:7] = IGNORED
    model, other = frozen(init), frozen(init)
    names = [name for name, _ in model.named_parameters()]
    loss = chunked_loss(model, False)
    assert loss is not None
    for count in (None, torch.tensor(50), 50):
        found = loss(model.train()(input_ids=ids), labels, num_items_in_batch=count)
        wanted = other.train()(input_ids=ids, labels=labels, num_items_in_batch=count).loss
        assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
        for trained, one in ((model, found), (other, wanted)):
            trained.zero_grad()
            one.backward()
        for name, parameter in other.named_parameters():
            own = model.get_parameter(name).grad
            assert (own is None) == (parameter.grad is None)
            if own is not None:
                torch.testing.assert_close(own, parameter.grad, rtol=1e-4, atol=1e-7)
    assert [name for name, _ in model.named_parameters()] == names
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, other.eval()(input_ids=ids).logits)


def left_alone(model: Any) -> None:
    head = model.get_output_embeddings()
    training = model.training
    assert chunked_loss(model, False) is None
    assert model.get_output_embeddings() is head
    assert isinstance(head, nn.Linear)
    assert model.training is training


def test_models_it_is_not_for(tiny32: Path, tmp_path: Path) -> None:
    left_alone(frozen(deepened(tiny32, "base", tmp_path)))  # the head trains
    sizes = tiny_config().to_dict() | {"model_type": "granite"}
    scaling = GraniteForCausalLM(GraniteConfig(**(sizes | {"logits_scaling": 3.0})))
    left_alone(scaling.requires_grad_(False).eval())
    biased = frozen(deepened(tiny32, "average", tmp_path))
    head = nn.Linear(biased.config.hidden_size, VOCABULARY).requires_grad_(False)
    biased.set_output_embeddings(head)
    left_alone(biased)


def test_training_uses_it(tiny32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve is that of the plain loop (tests/test_pretrain.py); here, that it came this way."""
    trained = []
    apply = TrainingHead.forward

    def watched(self: TrainingHead, hidden_states: Tensor) -> Tensor:
        trained.append(self.training)
        return apply(self, hidden_states)

    monkeypatch.setattr(TrainingHead, "forward", watched)
    data = Dataset.from_dict({"input_ids": tokens(9, 1).tolist()}).with_format("torch")
    init = deepened(tiny32, "average", tmp_path)
    for cache, bf16 in product((None, tmp_path / "cache"), (False, True)):
        trained.clear()
        train(
            Run(init, data, HELD_OUT_ROWS, settings(bf16=bf16), RATE),
            tmp_path / "work",
            resumable=False,
            prefix_cache=cache,
        )
        assert trained.count(True) == 8 + 1  # steps, and the probe
        assert trained.count(False) == 3 * 3  # evaluations of five blocks, two at once
    trained.clear()
    base = deepened(tiny32, "base", tmp_path)
    train(Run(base, data, HELD_OUT_ROWS, settings(), RATE), tmp_path / "work", resumable=False)
    assert not trained  # the base trains its head
