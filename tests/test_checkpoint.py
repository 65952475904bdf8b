"""Reading and writing checkpoints, and what the base stage answers a bad one with."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lesa.checkpoints import writer
from lesa.checkpoints.check import check, check_same_tokenizer
from lesa.checkpoints.families import FAMILIES
from lesa.checkpoints.reader import INDEX, Checkpoint
from lesa.checkpoints.writer import write_checkpoint
from lesa.errors import UserError
from tests.conftest import resave, tensors_of
from tests.families import LAYERS, family_model, logits, save_family

Damage = Callable[[Path], None]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkpoint of one's own to damage: a sharded Qwen3 with a tokenizer."""
    return save_family("qwen3", tmp_path / "copy")


def test_reads_every_tensor_as_stored(copy: Path) -> None:
    wanted, model = tensors_of(copy), family_model("qwen3")
    base = Checkpoint(copy)
    assert sorted(base.names()) == sorted(wanted)
    assert base.num_layers == LAYERS
    for name, tensor in wanted.items():
        assert base.tensor(name).dtype == tensor.dtype
        assert torch.equal(base.tensor(name), tensor)
        assert base.stored_shape(name) == tuple(tensor.shape)
        empty = base.empty(name)
        assert (empty.shape, empty.dtype) == (tensor.shape, tensor.dtype)
    for kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
        weight = getattr(model.model.layers[3].self_attn, kind).weight
        assert torch.equal(base.matrix(kind, 3), weight)
        assert base.shape(kind) == tuple(weight.shape)
    for kind in ("gate_proj", "up_proj", "down_proj"):
        assert torch.equal(base.matrix(kind, 3), getattr(model.model.layers[3].mlp, kind).weight)
    assert len(base.suffixes()) == 11
    layer = model.model.layers[0]
    assert base.layer_parameters() == sum(p.numel() for p in layer.parameters())
    assert base.parameters() == model.num_parameters()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_nothing_stays_mapped_or_open(copy: Path) -> None:
    base = Checkpoint(copy)
    matrix = base.matrix("q_proj", 0)
    assert matrix.isfinite().all()
    del matrix
    for name in base.names():
        base.tensor(name)
    assert str(copy) not in Path("/proc/self/maps").read_text()
    opened = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in opened if path.startswith(str(copy))]


def test_a_tensors_name_tells_its_layer_and_the_rest() -> None:
    llama, gpt2 = FAMILIES["llama"], FAMILIES["gpt2"]
    assert llama.split("model.layers.17.mlp.up_proj.weight") == (17, "mlp.up_proj.weight")
    assert llama.split("model.norm.weight") is None
    assert llama.split("lm_head.weight") is None
    for name in ("transformer.h.3.ln_1.bias", "h.3.ln_1.bias"):
        assert gpt2.split(name) == (3, "ln_1.bias")
    assert gpt2.split("transformer.wte.weight") is None


def test_writes_shards_and_their_index(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 40_000)
    tensors, folder = tensors_of(copy), tmp_path / "written"
    folder.mkdir()
    write_checkpoint(folder, iter(tensors.items()))
    index = json.loads((folder / INDEX).read_text())
    found = {name: load_file(folder / file)[name] for name, file in index["weight_map"].items()}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in tensors.items())
    sizes = {
        path.name: sum(t.nbytes for t in load_file(path).values())
        for path in folder.glob("*.safetensors")
    }
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert len(sizes) > 2
    assert max(sizes.values()) <= 43_000  # the embedding alone is larger
    assert set(sizes) == set(index["weight_map"].values())
    assert len(list(folder.iterdir())) == len(sizes) + 1


def single(folder: Path) -> None:
    """One file in place of the shards."""
    resave(folder, tensors_of(folder))


def shards_of_any_name(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    for number, name in enumerate(sorted(set(index["weight_map"].values()))):
        (folder / name).rename(folder / f"part.{number}.safetensors")
        for tensor, file in index["weight_map"].items():
            if file == name:
                index["weight_map"][tensor] = f"part.{number}.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def stale_file_beside(folder: Path) -> None:
    """Of an older model, in a file that no index names."""
    save_file({"model.layers.9.mlp.up_proj.weight": torch.ones(2, 2)}, folder / "a.safetensors")
    save_file({"model.norm.weight": torch.ones(32) * 7}, folder / "zz.safetensors")


def index_beside_a_single_file(folder: Path) -> None:
    """transformers reads the single file, and so the old index says nothing."""
    index = (folder / INDEX).read_text()
    single(folder)
    (folder / INDEX).write_text(index)


def index_of_buffers(folder: Path) -> None:
    """Of those that an older transformers stored and that a rewritten shard no longer has."""
    index = json.loads((folder / INDEX).read_text())
    file = min(index["weight_map"].values())
    index["weight_map"]["model.layers.0.self_attn.rotary_emb.inv_freq"] = file
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "change",
    [single, shards_of_any_name, stale_file_beside, index_beside_a_single_file, index_of_buffers],
)
def test_reads_the_files_that_transformers_reads(copy: Path, change: Damage) -> None:
    from transformers import AutoModelForCausalLM

    change(copy)
    check(copy)
    model: Any = AutoModelForCausalLM.from_pretrained(copy)
    state, base = model.state_dict(), Checkpoint(copy)
    assert set(base.names()) == set(state)
    assert all(torch.equal(base.tensor(name), tensor) for name, tensor in state.items())


def remove_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def cut_data(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:40])


def empty_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].write_bytes(b"")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def config_cut_short(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[-1].unlink()


def configured(**changes: Any) -> Damage:
    """Another value in config.json; None takes the entry out."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        config = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def changed(change: Callable[[dict[str, Tensor]], Any]) -> Damage:
    """Other tensors, in one file."""

    def damage(folder: Path) -> None:
        tensors = tensors_of(folder)
        change(tensors)
        resave(folder, tensors)

    return damage


def no_query_norms(tensors: dict[str, Tensor]) -> None:
    for i in range(LAYERS):
        del tensors[f"model.layers.{i}.self_attn.q_norm.weight"]


def norms_of_another_family(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.pre_feedforward_layernorm.weight"] = torch.ones(32)


def quantised(tensors: dict[str, Tensor]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.int8)


def not_finite(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.3.mlp.up_proj.weight"][1, 2] = torch.nan


def large(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.3.mlp.up_proj.weight"][1, 2] = -1e19


def tokenizer_beyond(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{i}" for i in range(80)])
    tokenizer.save_pretrained(folder)


def tokenizer_by_chance(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] = {"type": "BPE", "dropout": 0.1, "vocab": {"a": 0}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def damaged_note(folder: Path) -> None:
    (folder / "LICENSE_NOTE.json").write_text('{"license": ')


def tokenizer_config_alone(folder: Path) -> None:
    """Of which transformers makes a tokenizer that knows no word."""
    (folder / "tokenizer.json").unlink()
    config = {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tokenizer_empty(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def tokenizer_not_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def tokenizer_a_list(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("[]")


def embedding_as_output_layer(folder: Path) -> None:
    configured(tie_word_embeddings=True)(folder)
    changed(lambda tensors: tensors.pop("model.embed_tokens.weight"))(folder)


def layers_under_two_names(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if ".layers.3." in name]:
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def embedding_under_two_names(tensors: dict[str, Tensor]) -> None:
    tensors["embed_tokens.weight"] = tensors["model.embed_tokens.weight"] + 1


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')


BAD: list[tuple[Damage, str]] = [
    (cut_data, "not a whole safetensors file"),
    (cut_header, "not a whole safetensors file"),
    (empty_shard, "not a whole safetensors file"),
    (no_config, r"config\.json: cannot be read \(No such file or directory\)"),
    (config_cut_short, r"config\.json: not JSON"),
    (remove_weights, "holds neither model.safetensors nor"),
    (no_shard, "which is not there"),
    (configured(model_type="nonesuch"), "'nonesuch' is not supported; known are llama, mistral"),
    (configured(model_type="opt"), "'opt' is not supported"),
    (changed(layers_under_two_names), r"holds layers as layers\. and as model\.layers\."),
    (
        changed(embedding_under_two_names),
        r"holds model\.embed_tokens\.weight and embed_tokens\.weight; one must do",
    ),
]
FOUND_BY_BASE: list[tuple[Damage, str]] = [
    (changed(no_query_norms), r"lacks model\.layers\.0\.self_attn\.q_norm\.weight"),
    (changed(lambda t: t.pop("model.norm.weight")), r"lacks model\.norm\.weight"),
    (
        changed(lambda t: t.pop("model.layers.2.input_layernorm.weight")),
        r"lacks model\.layers\.2\.input_layernorm\.weight",
    ),
    (
        changed(lambda t: t.pop("model.layers.4.mlp.up_proj.weight")),
        r"lacks model\.layers\.4\.mlp\.up_proj\.weight",
    ),
    (changed(lambda t: t.pop("lm_head.weight")), r"lacks lm_head\.weight"),
    (changed(norms_of_another_family), r"holds model\.layers\.0\.pre_feedforward_layernorm"),
    (changed(quantised), "is quantised"),
    (changed(not_finite), r"layers\.3\.mlp\.up_proj\.weight holds numbers that are not finite"),
    (
        changed(lambda t: t.update({"model.norm.weight": t["model.norm.weight"].double() * 1e300})),
        r"model\.norm\.weight holds numbers that are not finite",
    ),
    (changed(large), r"layers\.3\.mlp\.up_proj\.weight holds numbers beyond 1e\+15"),
    (configured(num_hidden_layers=7), r"lacks model\.layers\.6\."),
    (configured(num_hidden_layers=5), r"holds model\.layers\.5\."),
    (configured(vocab_size=300), r"weight is \(320, 32\), but \(300, 32\)"),
    (configured(num_key_value_heads=4), r"k_proj\.weight is \(16, 32\), but \(32, 32\)"),
    (configured(attention_bias=True), r"lacks model\.layers\.0\.self_attn\.\w_proj\.bias"),
    (configured(quantization_config={"quant_method": "gptq"}), "quantization_config"),
    (configured(auto_map={"AutoModelForCausalLM": "code.Model"}, model_type="mine"), "'mine'"),
    (configured(transformers_weights="other.safetensors"), "transformers_weights: names other"),
    (configured(configuration_files=["config.5.0.0.json"]), "configuration_files: names other"),
    (configured(is_causal=False), "is_causal: False is of a model that sees the tokens"),
    (adapter_beside, r"adapter_config\.json: transformers would put this adapter"),
    (embedding_as_output_layer, r"holds lm_head\.weight and no model\.embed_tokens\.weight"),
    (configured(tie_word_embeddings=True), "tie_word_embeddings is true, but lm_head.weight"),
    (configured(hidden_size="wide"), r"config\.json: transformers refuses it"),
    (no_tokenizer, "has no tokenizer"),
    (damaged_note, r"LICENSE_NOTE\.json: not JSON"),
    (tokenizer_config_alone, r"no tokenizer; tokenizer\.json or vocab\.txt must be there"),
    (tokenizer_empty, "its tokenizer cannot be loaded"),
    (tokenizer_not_json, r"tokenizer\.json: not JSON"),
    (tokenizer_a_list, r"tokenizer_config\.json: must hold a JSON object"),
    (tokenizer_by_chance, r"tokenizer\.json: model\.dropout: 0\.1: cuts a text otherwise"),
    (configured(text_config="plain"), "text_config: transformers takes it for the config of the"),
    (configured(generator="me"), "generator: transformers takes it for the config of the"),
    (tokenizer_beyond, "'word63' with id 320.*vocabulary ends at 319"),
]


def answer(folder: Path, read: Callable[[Path], object], damage: Damage, says: str) -> None:
    """The damage is answered with one line that names the folder and says so."""
    check(folder)  # whole before
    damage(folder)
    with pytest.raises(UserError, match=says) as error:
        read(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def case_name(value: object) -> str:
    """The same in every worker: of a function no address."""
    return str(getattr(value, "__name__", value))[:30]


@pytest.mark.parametrize("read", [Checkpoint, check])
@pytest.mark.parametrize(("damage", "says"), BAD, ids=case_name)
def test_bad_checkpoint(
    copy: Path, read: Callable[[Path], object], damage: Damage, says: str
) -> None:
    answer(copy, read, damage, says)


@pytest.mark.parametrize(
    ("damage", "says"), FOUND_BY_BASE, ids=lambda x: getattr(x, "__name__", x)[:30]
)
def test_what_cannot_be_loaded_is_found_at_the_base(
    copy: Path, damage: Damage, says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer(copy, check, damage, says)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())  # transformers' own pages


def test_code_beside_a_known_type_is_not_run(copy: Path) -> None:
    """Phi-3's hub folders name code of their own; transformers' class is used."""
    configured(auto_map={"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"})(copy)
    (copy / "code.py").write_text("raise SystemExit('run')\n")
    assert check(copy)["model_type"] == "qwen3"


def test_a_tensor_that_no_file_holds_is_named(copy: Path) -> None:
    """A checkpoint that was not checked may lack some of a layer's."""
    name = "model.layers.2.self_attn.q_proj.weight"
    changed(lambda tensors: tensors.pop(name))(copy)
    checkpoint = Checkpoint(copy)
    for read in (
        lambda: checkpoint.matrix("q_proj", 2),
        lambda: checkpoint.tensor(name),
        lambda: checkpoint.empty(name),
        lambda: checkpoint.layer(2),
    ):
        with pytest.raises(UserError, match=rf"{re.escape(str(copy))}: holds no {re.escape(name)}"):
            read()


def test_special_tokens_beyond_the_vocabulary_are_left_alone(copy: Path) -> None:
    """As a text model has of its multimodal kin: no plain text holds them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([f"<unused{i}>" for i in range(80)], special_tokens=True)
    tokenizer.save_pretrained(copy)
    check(copy)


def test_vocabulary_and_merges_are_a_tokenizer(tmp_path: Path) -> None:
    """GPT-2's own two files, without a tokenizer.json."""
    base = save_family("gpt2", tmp_path / "base")
    vocab = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    no_tokenizer(base)
    (base / "vocab.json").write_text(json.dumps(vocab))
    (base / "merges.txt").write_text("#version: 0.2\n")
    (base / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"})
    )
    check(base)


def test_a_tokenizer_that_lacks_its_own_unknown_token_is_refused(tmp_path: Path) -> None:
    """It loads, and reads plain letters: a text with another sign is what it fails at."""
    base = save_family("gemma", tmp_path / "base")
    ends = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GemmaTokenizer", **ends})
    )
    with pytest.raises(UserError, match=r"base: its tokenizer cannot be loaded: Unk token .<unk>"):
        check(base)


def test_an_index_that_names_what_no_shard_or_another_one_has(tmp_path: Path) -> None:
    """transformers and the reader go by the shards' own names: a tied head that is not stored, and
    a norm said to stand elsewhere, are no fault; a tensor that nothing has is."""
    base = save_family("qwen2", tmp_path / "base", tie_word_embeddings=True)
    path = base / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    where = index["weight_map"]
    first, norm = min(where.values()), where["model.norm.weight"]
    assert first != norm
    where |= {"lm_head.weight": first, "model.norm.weight": first}
    path.write_text(json.dumps(index))
    check(base)
    assert torch.isfinite(logits(base)).all()
    tensors = load_file(base / norm)
    del tensors["model.norm.weight"]
    save_file(tensors, base / norm, {"format": "pt"})
    with pytest.raises(UserError, match=r"base: lacks model\.norm\.weight, which "):
        check(base)


def test_another_tokenizer_is_not_the_sources(copy: Path, tmp_path: Path) -> None:
    """Of other words, and of the same words that it cuts otherwise."""
    again = shutil.copytree(copy, tmp_path / "again")
    check_same_tokenizer(again, copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    (again / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"again: its tokenizer is not that of .*copy"):
        check_same_tokenizer(again, copy)
    shutil.copyfile(copy / "tokenizer.json", again / "tokenizer.json")
    tokenizer_beyond(again)
    with pytest.raises(UserError, match=r"again: its tokenizer is not that of .*copy"):
        check_same_tokenizer(again, copy)


def test_copy_keeps_the_original(copy: Path, tmp_path: Path) -> None:
    again = shutil.copytree(copy, tmp_path / "again")
    assert check(again) == check(copy)
