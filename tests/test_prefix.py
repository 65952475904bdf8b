"""The kept output of the frozen layers: transformers' own, the same curve, never a damaged file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Qwen2ForCausalLM

from lesa.checkpoints.writer import PLAN_FILE
from lesa.errors import UserError
from lesa.files import read_json, write_json
from lesa.params import Gaps
from lesa.training import prefix, pretrain
from lesa.training.freezing import first_trainable
from lesa.training.prefix import PrefixCache, cut, entering, prefix_key
from lesa.training.pretrain import Run, train
from tests.conftest import VOCABULARY, save_random, tiny_config
from tests.families import deepen, save_family
from tests.test_pretrain import (
    BLOCK,
    HELD_OUT,
    HELD_OUT_ROWS,
    RATE,
    deepened,
    frozen,
    settings,
    tokens,
)

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
    states = entering(model, FIRST, tokens_in)
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
        found[name] = train(
            Run(init, blocks, HELD_OUT_ROWS, chosen, RATE), tmp_path / "work", prefix_cache=cache
        )
        shutil.rmtree(tmp_path / "work")
    for name in ("first", "again"):
        assert losses(found[name][1]) == pytest.approx(losses(found["plain"][1]), rel=tolerance)
    assert losses(found["again"][1]) == losses(found["first"][1])
    # What the layers below cost is counted in a run that found them computed, too.
    assert found["plain"][1]["prefix_seconds"] == 0
    assert found["again"][1]["prefix_seconds"] == found["first"][1]["prefix_seconds"] > 0
    for name, tensor in found["again"][0].items():
        assert torch.equal(tensor, found["first"][0][name])


def test_computed_once_for_all_methods_epochs_and_evaluations(
    tiny32: Path, blocks: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    write = PrefixCache.write

    def counted(self: PrefixCache, block: Tensor, states: Tensor, seconds: float) -> None:
        computed.append(self.folder.name)
        write(self, block, states, seconds)

    monkeypatch.setattr(PrefixCache, "write", counted)

    def run(init: Path, **changes: Any) -> int:
        computed.clear()
        cache = tmp_path / "cache"
        work = tmp_path / "work"
        chosen = settings(**changes)
        train(
            Run(init, blocks, HELD_OUT_ROWS, chosen, RATE),
            work,
            resumable=False,
            prefix_cache=cache,
        )
        return len(computed)

    average = deepened(tiny32, "average", tmp_path)
    assert run(average, max_steps=2) == 4 + len(HELD_OUT)  # of nine blocks, two batches of two
    assert run(average) == 5  # eight steps see all nine
    other = changed(average, f"model.layers.{FIRST}.mlp.up_proj.weight", tmp_path / "other")
    assert run(other) == 0  # another method's new layers, the same below
    assert run(deepened(tiny32, "llama_pro", tmp_path)) == 9 + len(HELD_OUT)
    assert len(set(computed)) == 1  # its first new layer is lower
    for name in ("solar", "base"):
        assert run(deepened(tiny32, name, tmp_path)) == 0  # they train everything


def test_key_is_of_all_that_the_states_depend_on(averaged: Path, tmp_path: Path) -> None:
    def key(**changes: Any) -> str:
        own: dict[str, Any] = {"init": averaged, "layer_idx": FIRST, "bf16": False, "device": "cpu"}
        return prefix_key(**(own | changes))

    def with_change(name: str) -> Path:
        return changed(averaged, name, tmp_path / name)

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
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    refused(
        r"2 blocks need 0 MiB in .*cache, 0 MiB are free",
        lambda: cache.fill(model, FIRST, list(ids(2, BLOCK)), False),
    )
    assert list(cache.folder.iterdir()) == []


def test_not_with_a_sharded_model(averaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    cpu = torch.device("cpu")
    refused(
        "FSDP",
        lambda: prefix.skip_prefix(frozen(averaged), averaged, [], False, cpu, Path("unused")),
    )


@pytest.mark.parametrize(
    "dropout", [{"attn_pdrop": 0.1}, {"resid_pdrop": 0.1}, {"embd_pdrop": 0.1}], ids=str
)
def test_with_dropout_it_is_not_used(
    tmp_path: Path, blocks: Dataset, capsys: pytest.CaptureFixture[str], dropout: dict[str, Any]
) -> None:
    """The frozen layers then give other states in every step."""
    off: dict[str, Any] = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    base = save_family("gpt2", tmp_path / "base", **(off | dropout))
    run = Run(
        deepen(base, "average", tmp_path)[0], blocks, HELD_OUT_ROWS, settings(max_steps=2), RATE
    )
    curves = [
        train(run, tmp_path / "work", resumable=False, prefix_cache=cache)[1]
        for cache in (None, tmp_path / "cache")
    ]
    said = [line for line in capsys.readouterr().out.splitlines() if "prefix_cache" in line]
    assert said == ["train.prefix_cache: not used, as the model's frozen layers have dropout"]
    assert losses(curves[0]) == losses(curves[1])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {}),
        ("gemma2", {}),
        ("gemma3", {}),
        ("gpt2", {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
        ("gpt_neox", {}),
        ("phi3", {}),
        ("mixtral", {}),
        ("smollm3", {}),
    ],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_every_family_has_the_curve_that_it_has_without(
    tmp_path: Path, blocks: Dataset, name: str, changes: dict[str, Any], bf16: bool
) -> None:
    """Whatever the model does to its inputs before the first layer, and on whatever masks."""
    init, _ = deepen(save_family(name, tmp_path / "base", **changes), "average", tmp_path)
    run = Run(init, blocks, HELD_OUT_ROWS, settings(max_steps=3, bf16=bf16), RATE)
    curves = [
        train(run, tmp_path / "work", resumable=False, prefix_cache=cache)[1]
        for cache in (None, tmp_path / "cache")
    ]
    assert list((tmp_path / "cache").iterdir())
    tolerance = 1e-3 if bf16 else 1e-5
    assert losses(curves[1]) == pytest.approx(losses(curves[0]), rel=tolerance)


def test_key_leaves_out_what_is_of_the_layers_above(tmp_path: Path) -> None:
    """Lists of the config and its depth, whatever a family calls it; other settings count."""
    for name in ("gpt2", "gemma3", "smollm3"):
        base = save_family(name, tmp_path / name / "base")
        folders = [
            deepen(base, "average", tmp_path / name, Gaps(first=3, last=last), out=str(last))[0]
            for last in (3, 4)
        ]
        keys = [prefix_key(folder, 4, False, "cpu") for folder in folders]
        assert keys[0] == keys[1], name
        config = read_json(folders[0] / "config.json")
        write_json(folders[0] / "config.json", config | {"hidden_act": "relu"})
        assert prefix_key(folders[0], 4, False, "cpu") != keys[0], name
