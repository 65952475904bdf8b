"""Checkpoints, texts and mirrors that went wrong: a right result or one line, never a traceback
and never half an output."""

from __future__ import annotations

import bz2
import json
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from eval import mirror
from eval.suite import OFFICIAL, mirrored
from lesa.checkpoints.base import prepare
from lesa.checkpoints.check import check_layers
from lesa.checkpoints.reader import INDEX, Checkpoint, read_config
from lesa.errors import UserError
from lesa.files import whole_folder
from lesa.params import PathBase
from lesa.text.documents import file_documents, local_file
from lesa.text.wikitext import articles
from tests.conftest import resave, tensors_of
from tests.families import load, save_family
from tests.fuzzing import LEAVES, ODD_NAMES, VALUES, answered, as_json, damaged, examples


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sharded Llama of two layers. Read only."""
    folder = tmp_path_factory.mktemp("original") / "base"
    return save_family("llama", folder, num_hidden_layers=2, shards="40KB")


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a fresh copy, in place of the last one."""

    def fresh() -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return shutil.copytree(original, tmp_path / "copy")

    return fresh


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor, as the stages read them."""
    base = Checkpoint(folder)
    check_layers(base)  # by the stage base, before any other reads
    for kind in base.kinds:
        for i in range(base.num_layers):
            base.matrix(kind, i)
    return {name: base.tensor(name) for name in base.names()}


def is_prepared_whole(folder: Path, out: Path) -> None:
    """The stage base refuses the checkpoint and leaves nothing, or what it makes loads and is the
    same."""
    shutil.rmtree(out, ignore_errors=True)

    def work() -> bool:
        with whole_folder(out) as partial:
            prepare(PathBase(source="path", path=str(folder), license="none"), partial)
        return True

    if answered(work):
        found, wanted = dict(load(out).named_parameters()), tensors_of(folder)
        assert all(bool(tensor.isfinite().all()) for tensor in found.values())
        assert tensors_of(out).keys() == wanted.keys()
    assert out.is_dir() or not out.exists()
    assert not list(out.parent.glob(".*.partial"))


CONFIG_KEYS = (
    "model_type", "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
    "vocab_size", "tie_word_embeddings", "max_position_embeddings", "rope_parameters", "head_dim",
    "intermediate_size", "hidden_act", "rms_norm_eps", "dtype", "architectures", "eos_token_id",
    "layer_types", "quantization_config", "auto_map", "attention_bias", "num_experts",
    "pad_token_id", "transformers_version", "_attn_implementation", "surprise",
)  # fmt: skip


@examples(150)
@given(st.sampled_from(CONFIG_KEYS), VALUES)
def test_a_config_of_any_values_is_read_or_refused(original: Path, key: str, value: Any) -> None:
    """What is accepted has numbers that a model can be made of, and can be written as JSON."""
    config = json.loads((original / "config.json").read_text()) | {key: value}
    found = answered(lambda: read_config(config, "config.json"))
    assert found is None or found.model_type in config["model_type"]


@examples(40)
@given(st.sampled_from(CONFIG_KEYS), VALUES)
def test_checkpoints_with_other_configs(
    copy: Callable[[], Path], tmp_path: Path, key: str, value: Any
) -> None:
    folder = copy()
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(as_json(config))
    is_prepared_whole(folder, tmp_path / "out")


@examples(60)
@given(st.data())
def test_damaged_checkpoint_files(
    copy: Callable[[], Path], tmp_path: Path, data: st.DataObject
) -> None:
    folder = copy()
    names = sorted(path.name for path in folder.iterdir())
    path = folder / data.draw(st.sampled_from(names))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    is_prepared_whole(folder, tmp_path / "out")


@examples(80)
@given(st.data())
def test_an_index_of_any_values_is_followed_or_refused(
    copy: Callable[[], Path], data: st.DataObject
) -> None:
    folder = copy()
    index = json.loads((folder / INDEX).read_text())
    where = index["weight_map"]
    names = st.sampled_from(sorted(where)) | st.sampled_from(ODD_NAMES)
    change = data.draw(st.sampled_from(["file", "remove", "map", "index"]))
    if change == "file":
        where[data.draw(names)] = data.draw(LEAVES | st.sampled_from(sorted(where.values())))
    elif change == "remove":
        del where[data.draw(st.sampled_from(sorted(where)))]
    elif change == "map":
        index["weight_map"] = data.draw(VALUES)
    else:
        index = data.draw(VALUES)
    (folder / INDEX).write_text(as_json(index))
    found = answered(lambda: read_all(folder))
    if found is not None:
        wanted = tensors_of(folder)
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def with_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the header of the first shard, and leave its data."""
    path = min(folder.glob("*.safetensors"))
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = change(json.loads(content[8 : 8 + size]))
    text = as_json(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


@examples(80)
@given(st.data())
def test_a_header_of_any_values_is_read_or_refused(
    copy: Callable[[], Path], data: st.DataObject
) -> None:
    """Other types, shapes, places and names in the header of a shard."""
    folder = copy()
    sizes = st.lists(st.sampled_from([0, 1, 32, 64, 2**31, 2**63, -1, 1.5]), max_size=4)

    def change(header: dict[str, Any]) -> Any:
        name = data.draw(st.sampled_from(sorted(header.keys() - {"__metadata__"})))
        kind = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "name", "entry"]))
        if kind == "dtype":
            types = ["F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "U64", "F4", "C64", "nothing"]
            header[name]["dtype"] = data.draw(st.sampled_from(types) | LEAVES)
        elif kind == "shape":
            header[name]["shape"] = data.draw(sizes | LEAVES)
        elif kind == "data_offsets":
            header[name]["data_offsets"] = data.draw(sizes | LEAVES)
        elif kind == "name":
            layers = ["0", "7", "-1", "00", "٣", "9" * 30, "9" * 5000]
            names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in layers]
            header[data.draw(st.sampled_from([*names, *ODD_NAMES]))] = header.pop(name)
        else:
            header[name] = data.draw(VALUES)
        return header

    with_header(folder, change)
    answered(lambda: read_all(folder))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_that_are_no_numbers(
    copy: Callable[[], Path], tmp_path: Path, name: str, number: float
) -> None:
    folder = copy()
    tensors = tensors_of(folder)
    tensors[name].view(-1)[-1] = number
    resave(folder, tensors)
    with pytest.raises(UserError, match=rf"{name} holds numbers that are not finite"):
        prepare(PathBase(source="path", path=str(folder), license="none"), tmp_path)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn], ids=str)
def test_weights_of_other_types(
    copy: Callable[[], Path], tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    folder = copy()
    tensors = tensors_of(folder)
    tensors[name] = tensors[name].to(dtype)
    resave(folder, tensors)
    with pytest.raises(UserError, match=rf"{name} is of {dtype}; expected floating point"):
        prepare(PathBase(source="path", path=str(folder), license="none"), tmp_path)


def test_a_tensor_in_two_shards(copy: Callable[[], Path]) -> None:
    folder = copy()
    first, last = (f(folder.glob("*.safetensors")) for f in (min, max))
    name = "model.norm.weight"
    assert name in stored_in(last)
    save_file(stored_in(first) | {name: torch.ones(32)}, first, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{last.name}: holds {name}, which {first.name} holds"):
        Checkpoint(folder)


def stored_in(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@examples(30)
@given(st.sampled_from(ODD_NAMES) | st.text(max_size=30))
def test_paths_of_a_base_and_of_texts(tmp_path: Path, name: str) -> None:
    base = PathBase.model_construct(source="path", path=name, license="none")
    with pytest.raises(UserError) as raised:
        prepare(base, tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError) as raised:
        local_file(name + ".md", "key", [".txt", ".jsonl"])
    assert "\n" not in str(raised.value)


LINES = "\n".join(
    json.dumps({"id": i, "title": f"t{i}", "text": f"Text {i}, “naïve”."}) for i in range(4)
).encode()


@examples(150)
@given(damaged(LINES), st.sampled_from(["a.jsonl", "a.txt"]))
def test_damaged_texts(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    check_documents(path)


@examples(80)
@given(st.lists(st.dictionaries(st.sampled_from(["id", "title", "text", "x"]), VALUES), max_size=3))
def test_rows_of_any_kind(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(as_json, rows)))
    check_documents(path)


def check_documents(path: Path) -> None:
    """Every document is text that can be written as UTF-8, or the file is refused in one line."""
    found = answered(lambda: list(file_documents(path, "text")))
    for document in found or []:
        assert document.keys() == {"id", "title", "text"}
        assert all(isinstance(value, str) for value in document.values())
        json.dumps(document, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import pandas

    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    pandas.DataFrame({"id": ["a", "b"], "text": ["One text.", "Another."]}).to_parquet(path)
    return path.read_bytes()


@examples(80)
@given(st.data())
def test_damaged_parquet(tmp_path: Path, parquet: bytes, data: st.DataObject) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(data.draw(damaged(parquet)))
    check_documents(path)


DUMP = (
    b'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">'
    b"<page><title>A</title><ns>0</ns><id>1</id><revision><id>2</id>"
    b"<text>'''A''' is a [[letter|Letter]] {{cite|x}} &lt;ref&gt;b&lt;/ref&gt;.</text>"
    b"</revision></page></mediawiki>"
)


@examples(80)
@given(damaged(DUMP), st.data())
def test_damaged_dumps(tmp_path: Path, content: bytes, data: st.DataObject) -> None:
    packed = bz2.compress(content)
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(data.draw(damaged(packed)) if data.draw(st.booleans()) else packed)
    for document in answered(lambda: list(articles(path))) or []:
        assert document.keys() == {"id", "title", "text"}


PIQA = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}


@examples(60)
@given(st.data())
def test_a_mirror_of_any_rows_is_counted_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Rows that lack a field or have a value of another kind."""
    folder = tmp_path / "data" / "baber/piqa"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Any] = [dict(PIQA) for _ in range(3)]
    row = data.draw(st.sampled_from(rows))
    key = data.draw(st.sampled_from(sorted(PIQA)))
    if data.draw(st.booleans()):
        row[key] = data.draw(VALUES)
    else:
        del row[key]
    content = "\n".join(map(as_json, rows)).encode()
    (folder / "validation.jsonl").write_bytes(
        data.draw(damaged(content)) if data.draw(st.booleans()) else content
    )
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    mirror.write(["piqa"], str(tmp_path / "data"), tmp_path / "out")
    found = answered(mirrored(["piqa"], tmp_path / "out").check)
    assert found is None or 0 < found["piqa"] <= 4


@examples(30)
@given(st.lists(st.sampled_from(["piqa", *ODD_NAMES]), max_size=2), st.sampled_from(ODD_NAMES))
def test_names_of_tasks_and_mirrors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], place: str
) -> None:
    """No name leads out of the folder that the tasks are written into."""
    # Of an unknown name the whole of lm-eval is searched, for ten seconds.
    monkeypatch.setattr(mirror, "official_folders", lambda names: (OFFICIAL / "piqa",))
    (tmp_path / "data").mkdir(exist_ok=True)
    out = tmp_path / "in" / "out"
    for data in (tmp_path / "data", tmp_path / "data" / place):
        answered(partial(mirror.write, ["nonesuch", *names], str(data), out))
        assert {path.name for path in tmp_path.iterdir()} <= {"data", "in"}
