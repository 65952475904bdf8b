"""Reading and writing checkpoints, and what a bad one is answered with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lesa.checkpoints import reader as checkpoint
from lesa.checkpoints.check import check
from lesa.checkpoints.reader import (
    KINDS,
    Checkpoint,
    deepened_config,
    split_layer,
    write_checkpoint,
)
from lesa.errors import UserError
from tests.conftest import LAYERS, tensors_of


@pytest.fixture
def copy(tiny32: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own to damage, with a tokenizer file."""
    shutil.copytree(tiny32, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").write_text("{}")
    return tmp_path / "copy"


def test_reads_every_tensor_as_stored(tiny: Path) -> None:
    wanted = tensors_of(tiny)
    base = Checkpoint(tiny)
    assert sorted(base.names()) == sorted(wanted)
    assert base.num_layers == LAYERS
    for name, tensor in wanted.items():
        assert base.tensor(name).dtype == tensor.dtype
        assert torch.equal(base.tensor(name), tensor)
    for kind, suffix in KINDS.items():
        assert torch.equal(base.matrix(kind, 3), wanted[f"model.layers.3.{suffix}"])
    assert len(base.suffixes()) == 9


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_nothing_stays_mapped_or_open(tiny: Path) -> None:
    base = Checkpoint(tiny)
    kept = base.matrix("q_proj", 0)
    assert kept.isfinite().all()
    del kept
    for name in base.names():
        base.tensor(name)
    assert str(tiny) not in Path("/proc/self/maps").read_text()
    opened = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in opened if path.startswith(str(tiny))]


def test_reads_a_single_file(tiny32: Path, tmp_path: Path) -> None:
    shutil.copy(tiny32 / "config.json", tmp_path)
    save_file(tensors_of(tiny32), tmp_path / "model.safetensors")
    base = Checkpoint(tmp_path)
    assert base.num_layers == LAYERS


def test_split_layer() -> None:
    assert split_layer("model.layers.17.mlp.up_proj.weight") == (17, "mlp.up_proj.weight")
    assert split_layer("model.norm.weight") is None
    assert split_layer("lm_head.weight") is None


def test_writes_shards_and_their_index(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 20_000)
    tensors = tensors_of(tiny)
    parameters = write_checkpoint(tmp_path, iter(tensors.items()))
    assert parameters == sum(t.numel() for t in tensors.values())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    found = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())
    sizes = {
        path.name: sum(t.nbytes for t in load_file(path).values())
        for path in tmp_path.glob("*.safetensors")
    }
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert len(sizes) > 2
    assert max(sizes.values()) <= 20_000
    assert set(sizes) == set(index["weight_map"].values())
    assert len(list(tmp_path.iterdir())) == len(sizes) + 1


def test_deepened_config_carries_settings_of_each_layer() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "hidden_size": 8}
    assert deepened_config(config, [0, 1, 1, 2]) == {
        "num_hidden_layers": 4,
        "layer_types": ["a", "b", "b", "c"],
        "hidden_size": 8,
    }
    assert config["num_hidden_layers"] == 3


def cut_data(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:40])


def empty(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].write_bytes(b"")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def fused_attention(folder: Path) -> None:
    """Phi-3's way: q, k and v in one matrix."""
    no_weights(folder)
    tensors = {
        f"model.layers.{i}.{name}.weight": torch.zeros(4, 4)
        for i in range(LAYERS)
        for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj")
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "phi3", "num_hidden_layers": 6}')


def gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    no_weights(folder)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(folder)


BAD: list[tuple[Callable[[Path], None], str]] = [
    (cut_data, "not a whole safetensors file"),
    (cut_header, "not a whole safetensors file"),
    (empty, "not a whole safetensors file"),
    (no_config, r"config\.json"),
    (no_weights, "safetensors"),
    (fused_attention, "'phi3' lacks .*q_proj.*q_proj, k_proj, v_proj, o_proj, gate_proj"),
    (gpt2, "'gpt2'.*q_proj, k_proj, v_proj, o_proj, gate_proj"),
]


@pytest.mark.parametrize("reader", [Checkpoint, check])
@pytest.mark.parametrize(("damage", "says"), BAD, ids=lambda x: getattr(x, "__name__", ""))
def test_bad_checkpoint(
    copy: Path, reader: Callable[[Path], object], damage: Callable[[Path], None], says: str
) -> None:
    check(copy)  # whole before
    damage(copy)
    with pytest.raises(UserError, match=says) as error:
        reader(copy)
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


def test_config_that_is_not_json(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    for reader in (Checkpoint, check):
        with pytest.raises(UserError, match=r"config\.json.*not JSON") as error:
            reader(copy)
        assert "\n" not in str(error.value)


def test_shard_missing(copy: Path) -> None:
    sorted(copy.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(UserError, match="which is not there"):
        check(copy)
