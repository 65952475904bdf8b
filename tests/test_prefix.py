"""The kept output of the frozen layers: transformers' own, the same curve, never a damaged file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import GraniteConfig, GraniteForCausalLM, Qwen2ForCausalLM

from lesa.checkpoints.reader import PLAN_FILE
from lesa.errors import UserError
from lesa.training import prefix, pretrain
from lesa.training.prefix import PrefixCache, cut, entering, first_trainable, prefix_key
from tests.conftest import VOCABULARY, save_random, tiny_config
from tests.test_pretrain import BLOCK, HELD_OUT, RATE, deepened, settings, tokens

FIRST = 4  # the lowest new layer where gaps 3 and 4 get one each


@pytest.fixture(scope="module")
def blocks() -> Dataset:
    return Dataset.from_dict({"input_ids": tokens(9, 1).int().tolist()}).with_format("torch")


@pytest.fixture(scope="module")
def averaged(tiny32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deepened(tiny32, "average", tmp_path_factory.mktemp("averaged"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deepened Qwen2 with tied embeddings whose upper layers attend within a window of four."""
    config = tiny_config(
        "qwen2",
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=3,
    )
    folder = tmp_path_factory.mktemp("windowed")
    return deepened(
        save_random(Qwen2ForCausalLM(config), folder / "base", torch.float32), "average", folder
    )


@pytest.fixture(params=["averaged", "windowed"])
def init(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def frozen(folder: Path) -> Any:
    model = pretrain.load_model(folder)
    pretrain.freeze(model, folder)
    return model


def ids(*shape: int) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(5))


def changed(init: Path, name: str, folder: Path) -> Path:
    """A copy of a checkpoint in which one number of the tensor `name` is another."""
    model = pretrain.load_model(init)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] += 1e-3
    model.save_pretrained(folder)
    shutil.copyfile(init / PLAN_FILE, folder / PLAN_FILE)
    return folder


def losses(curve: dict[str, Any]) -> list[float]:
    heldout = [row["heldout_loss"] for row in curve["steps"]]
    return heldout + [row["loss"] for row in curve["train"]]


def test_states_and_the_rest_of_the_model_are_those_of_transformers(init: Path) -> None:
    model, tokens_in = frozen(init), ids(2, BLOCK)
    with torch.no_grad():
        wanted = model(input_ids=tokens_in, output_hidden_states=True)
    assert first_trainable(model) == FIRST
    states = entering(model, FIRST, input_ids=tokens_in)
    assert torch.equal(states, wanted.hidden_states[FIRST])
    cut(model, FIRST)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=states).logits, wanted.logits)


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, 1e-6), (True, 1e-3)])
def test_same_curve_as_without(
    init: Path, blocks: Dataset, tmp_path: Path, bf16: bool, tolerance: float
) -> None:
    chosen = settings(bf16=bf16)
    found = {}
    for name, cache in (("plain", None), ("first", tmp_path / "c"), ("again", tmp_path / "c")):
        found[name] = pretrain.train(
            init, blocks, HELD_OUT, chosen, RATE, tmp_path / "work", prefix_cache=cache
        )
        shutil.rmtree(tmp_path / "work")
    for name in ("first", "again"):
        assert losses(found[name][1]) == pytest.approx(losses(found["plain"][1]), rel=tolerance)
    assert losses(found["again"][1]) == losses(found["first"][1])
    for name, tensor in found["again"][0].items():
        assert torch.equal(tensor, found["first"][0][name])


def test_computed_once_for_all_methods_epochs_and_evaluations(
    tiny32: Path, blocks: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def counted(model: nn.Module, layer_idx: int, **inputs: Tensor) -> Tensor:
        if "input_ids" in inputs:
            computed.append(layer_idx)
        return entering(model, layer_idx, **inputs)

    monkeypatch.setattr(prefix, "entering", counted)

    def run(init: Path, **changes: Any) -> int:
        computed.clear()
        cache = tmp_path / "cache"
        work = tmp_path / "work"
        chosen = settings(**changes)
        pretrain.train(
            init, blocks, HELD_OUT, chosen, RATE, work, resumable=False, prefix_cache=cache
        )
        return len(computed)

    average = deepened(tiny32, "average", tmp_path)
    assert run(average, max_steps=2) == 4 + len(HELD_OUT)  # of nine blocks, two batches of two
    assert run(average) == 5  # seven steps see all nine
    other = changed(average, f"model.layers.{FIRST}.mlp.up_proj.weight", tmp_path / "other")
    assert run(other) == 0  # another method's new layers, the same below
    assert run(deepened(tiny32, "llama_pro", tmp_path)) == 9 + len(HELD_OUT)
    assert set(computed) == {3}  # its first new layer is lower
    assert run(deepened(tiny32, "solar", tmp_path)) == run(tiny32) == 0  # they train everything


def test_key_is_of_all_that_the_states_depend_on(averaged: Path, tmp_path: Path) -> None:
    def key(**changes: Any) -> str:
        return prefix_key(
            **({"init": averaged, "layer_idx": FIRST, "bf16": False, "device": "cpu"} | changes)
        )

    def with_change(name: str) -> Path:
        return changed(averaged, name, tmp_path / name)

    assert key() == key()
    assert key(init=with_change(f"model.layers.{FIRST}.mlp.up_proj.weight")) == key()
    others = [
        key(bf16=True),
        key(device="cuda"),
        key(layer_idx=FIRST - 1),
        key(init=with_change("model.embed_tokens.weight")),
        key(init=with_change(f"model.layers.{FIRST - 1}.mlp.up_proj.weight")),
    ]
    assert len({key(), *others}) == 6


def test_damaged_or_half_written_files_are_made_anew(averaged: Path, tmp_path: Path) -> None:
    model, cache = frozen(averaged), PrefixCache(tmp_path / "cache")
    some = list(ids(4, BLOCK))
    cache.fill(model, FIRST, some, False)
    wanted = [cache.read(block).clone() for block in some]
    cut_short, flipped, gone, other = (cache.path(block) for block in some)
    cut_short.write_bytes(cut_short.read_bytes()[:-5])
    content = bytearray(flipped.read_bytes())
    content[-3] ^= 1
    flipped.write_bytes(content)
    gone.unlink()
    other.write_bytes(b"")
    assert not any(cache.intact(block) for block in some)
    cache.fill(model, FIRST, some, False)
    assert all(torch.equal(cache.read(b), w) for b, w in zip(some, wanted, strict=True))


def test_a_failed_write_leaves_nothing(
    averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cache = frozen(averaged), PrefixCache(tmp_path / "cache")

    def full(path: Path, data: bytes) -> int:
        with open(path, "wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        cache.fill(model, FIRST, list(ids(2, BLOCK)), False)
    assert list(cache.folder.iterdir()) == []


def refused(match: str, call: Any) -> None:
    with pytest.raises(UserError, match=match) as error:
        call()
    assert str(error.value).startswith("params.yaml: train.prefix_cache: ")
    assert "false" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_room_is_said_before_any_work(
    averaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cache = frozen(averaged), PrefixCache(tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))  # type: ignore[attr-defined]
    refused(
        r"2 blocks need 0 MiB in .*cache, 0 MiB are free",
        lambda: cache.fill(model, FIRST, list(ids(2, BLOCK)), False),
    )
    assert list(cache.folder.iterdir()) == []


def test_models_it_is_not_for(averaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = tiny_config().to_dict() | {"model_type": "granite"}
    config = GraniteConfig(**(sizes | {"embedding_multiplier": 2.0}))
    scaling = GraniteForCausalLM(config)
    refused("'granite' scales", lambda: cut(scaling, 1))
    dropping = frozen(averaged)
    dropping.config.attention_dropout = 0.1
    refused("has dropout", lambda: cut(dropping, 1))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refused(
        "FSDP",
        lambda: pretrain.skip_prefix(
            frozen(averaged), averaged, [], False, torch.device("cpu"), Path("unused")
        ),
    )
