"""The base stage's sources, on tiny random checkpoints and a hand-made wheel."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lesa import downloads
from lesa.checkpoints import writer
from lesa.checkpoints.base import copy_checkpoint, prepare
from lesa.checkpoints.check import check
from lesa.checkpoints.reader import INDEX
from lesa.errors import UserError
from lesa.files import read_json, sha256, whole_folder, write_json
from lesa.params import HubBase, PackageBase, PathBase, RandomBase
from tests.conftest import write_wheel

RANDOM = RandomBase(
    source="random", num_hidden_layers=2, hidden_size=16, intermediate_size=24,
    num_attention_heads=2, num_key_value_heads=1, seed=3, license="none",
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    with whole_folder(folder) as partial:
        prepare(RANDOM, partial)
    return folder


@pytest.fixture
def sharded(checkpoint: Path) -> Path:
    """The same checkpoint in bfloat16, one shard a layer and one for the rest."""
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    where = {}
    for name in tensors:
        shard = name.split(".")[2] if ".layers." in name else "rest"
        where[name] = f"model-{shard}.safetensors"
    for file in set(where.values()):
        part = {n: tensors[n].bfloat16() for n, f in where.items() if f == file}
        save_file(part, checkpoint / file, metadata={"format": "pt"})
    write_json(checkpoint / INDEX, {"metadata": {}, "weight_map": where})
    return checkpoint


def test_random_base_loads_offline_and_repeats(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again = tmp_path / "again"
    again.mkdir()
    prepare(RANDOM, again)
    assert sha256(again / "model.safetensors") == sha256(checkpoint / "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = "naïve “Text”\n 1 <|endoftext|>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert model(torch.tensor([ids])).logits.isfinite().all()
    found = check(checkpoint)
    assert (found["model_type"], found["num_hidden_layers"], found["hidden_size"]) == (
        "llama", 2, 16,
    )  # fmt: skip
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert read_json(checkpoint / "LICENSE_NOTE.json")["license"] == "none"


def test_local_shards_are_copied_bit_for_bit(sharded: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    found = prepare(PathBase(source="path", path=str(sharded), license="MIT"), target)
    assert len(found["files"]) == 3
    for name in [*found["files"], INDEX, "config.json", "tokenizer.json"]:
        assert (target / name).read_bytes() == (sharded / name).read_bytes()
    assert read_json(target / "LICENSE_NOTE.json") == {
        "license": "MIT", "source": "local folder checkpoint",
    }  # fmt: skip


def test_bad_checkpoint_writes_nothing(sharded: Path, tmp_path: Path) -> None:
    """What is refused, and how: test_checkpoint.py."""
    (sharded / "model-0.safetensors").unlink()
    with (
        pytest.raises(UserError, match=r"names the file model-0\.safetensors"),
        whole_folder(tmp_path / "target") as partial,
    ):
        copy_checkpoint(sharded, partial)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_side_files_are_copied_and_nothing_else(sharded: Path, tmp_path: Path) -> None:
    """Folders beside the weights, a stale shard and somebody's notes do not come along."""
    templates = sharded / "additional_chat_templates"
    templates.mkdir()
    (templates / "tool_use.jinja").write_text("{{ tools }}")
    (sharded / "LICENSE.txt").write_text("MIT")
    for folder in ("LICENSES", "original", "runs"):
        (sharded / folder).mkdir()
        (sharded / folder / "file.txt").write_text("a")
    (sharded / "stale.safetensors").write_bytes(b"")
    (sharded / "notes.txt").write_text("mine")
    target = tmp_path / "target"
    target.mkdir()
    prepare(PathBase(source="path", path=str(sharded), license="MIT"), target)
    found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {"additional_chat_templates/tool_use.jinja", "LICENSE.txt", INDEX} <= found
    assert not found & {"stale.safetensors", "notes.txt", "original/file.txt"}


def words_alone(folder: Path) -> None:
    """A tokenizer that is a list of words, in place of tokenizer.json."""
    (folder / "tokenizer.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "text", "of", "lines", "2", "3"]
    (folder / "vocab.txt").write_text("\n".join(words))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]", "unk_token": "[UNK]"},
    )


def test_a_tokenizer_without_tokenizer_json_comes_along(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    words_alone(checkpoint)
    target = tmp_path / "target"
    target.mkdir()
    prepare(PathBase(source="path", path=str(checkpoint), license="MIT"), target)
    assert AutoTokenizer.from_pretrained(target)("text of 2 lines")["input_ids"][1:-1] == [
        6,
        7,
        9,
        8,
    ]


def test_a_tokenizer_that_does_not_come_along_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one would be of which a file has a name that is not known here."""
    words_alone(checkpoint)
    (checkpoint / "added_tokens.json").write_text('{"naïve": 11}')
    kept = [name for name in writer.SIDE_FILES if name != "added_tokens.json"]
    monkeypatch.setattr(writer, "SIDE_FILES", kept)
    with (
        pytest.raises(UserError, match=r"its tokenizer is not that of .*checkpoint"),
        whole_folder(tmp_path / "target") as partial,
    ):
        copy_checkpoint(checkpoint, partial)


def test_all_files_of_transformers_tokenizers_are_side_files() -> None:
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    classes = (
        getattr(transformers, name, None) for name in set(TOKENIZER_MAPPING_NAMES.values()) if name
    )
    found = {file for one in classes for file in getattr(one, "vocab_files_names", {}).values()}
    assert {"vocab.txt", "spiece.model", "merges.txt"} <= found
    assert not [
        file for file in found if not any(fnmatch.fnmatch(file, name) for name in writer.SIDE_FILES)
    ]


def test_missing_folder_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"base\.path: .*nowhere: no such folder"):
        prepare(PathBase(source="path", path=str(tmp_path / "nowhere"), license="MIT"), tmp_path)


def test_hub_failure_names_id_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*args: object, **named: object) -> str:
        raise ConnectionError("no network\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    base = HubBase(source="hub", id="some/model", revision="abc", license="MIT")
    with pytest.raises(UserError) as raised:
        prepare(base, tmp_path)
    assert str(raised.value) == ("base.id: cannot get some/model at base.revision abc: no network")


def test_hub_snapshot_takes_the_shards_that_the_index_names(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index first, then its shards, whatever they are called; no other weights."""
    import huggingface_hub

    index = read_json(sharded / INDEX)
    (sharded / "model-0.safetensors").rename(sharded / "weights.a.safetensors")
    for tensor, file in index["weight_map"].items():
        if file == "model-0.safetensors":
            index["weight_map"][tensor] = "weights.a.safetensors"
    write_json(sharded / INDEX, index)
    (sharded / "consolidated.safetensors").write_bytes(bytes(100))
    cache = tmp_path / "cache"
    asked: list[tuple[str, ...]] = []

    def download(repo: str, *, revision: str, allow_patterns: tuple[str, ...]) -> str:
        asked.append(tuple(allow_patterns))
        cache.mkdir(exist_ok=True)
        for path in sharded.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, cache / path.name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    target = tmp_path / "target"
    target.mkdir()
    base = HubBase(source="hub", id="some/model", revision="abc", license="MIT")
    assert prepare(base, target)["num_hidden_layers"] == 2
    assert set(asked[1]) == set(index["weight_map"].values())
    assert not (cache / "consolidated.safetensors").exists()


DATA = b"the data" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def wheel_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds one wheel, `toy-data==1.0`, and no network."""
    index = tmp_path / "index"
    path = index / "toy_data-1.0-py3-none-any.whl"
    write_wheel(path, {"toy_data/data.bin": DATA}, "Requires-Dist: absent==9\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.chdir(tmp_path)
    return index


def test_member_of_a_wheel_is_fetched_once(
    wheel_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = downloads.take_member("toy-data==1.0", "toy_data/data.bin", DIGEST, "base")
    assert path.read_bytes() == DATA
    assert [entry.name for entry in path.parent.iterdir()] == ["data.bin"]  # no wheel left
    monkeypatch.setattr(downloads, "download", None)
    assert downloads.take_member("toy-data==1.0", "toy_data/data.bin", DIGEST, "base") == path


@pytest.mark.parametrize(
    ("requirement", "member", "digest", "words"),
    [
        ("toy-data==2.0", "toy_data/data.bin", DIGEST, "base.requirement: pip could not download"),
        ("toy-data==1.0", "toy_data/none.bin", DIGEST, "base.member: toy_data-1.0"),
        ("toy-data==1.0", "toy_data/data.bin", "0" * 64, "base.sha256: toy_data/data.bin"),
    ],
)
def test_bad_wheel_is_one_line_and_leaves_nothing(
    requirement: str, member: str, digest: str, words: str, wheel_index: Path, tmp_path: Path
) -> None:
    base = PackageBase(
        source="package", requirement=requirement, member=member, sha256=digest, license="MIT"
    )
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(UserError) as raised:
        prepare(base, target)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list(target.iterdir())
    assert not list(Path("artifacts/downloads").iterdir())
