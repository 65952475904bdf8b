"""Shapes from a config alone, against transformers' own counts and really expanded checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lesa.checkpoints.base import prepare
from lesa.checkpoints.reader import deepened_config
from lesa.errors import UserError
from lesa.files import write_json
from lesa.params import HubBase, PackageBase, PathBase, RandomBase, parse
from lesa.planning.architecture import architecture, find_config
from lesa.planning.model_costs import trainable
from lesa.training.pretrain import freeze, load_model
from pipelines.profile import compose
from tests.conftest import LAYERS, tensors_of
from tests.test_expand import CONTROLS, NAMES, deepen, plan_of
from tests.test_expand import prepare as prepare_fits

KEPT = Path("conf/models")
NOWHERE = Path("nowhere")


def kept(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((KEPT / f"{name}.yaml").read_text())["config"]
    return config


def counted(config: dict[str, Any]) -> int:
    """Parameters by transformers, of the model on the meta device; tied ones once."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "layers", "before", "after"),
    [  # before: as the model cards and metrics/base.json count
        ("smollm2-135m", 45, 134_515_008, 187_616_448),
        ("llama3-8b", 48, 8_030_261_248, 11_520_053_248),  # the paper's 11.5B
        ("qwen2.5-1.5b", 42, 1_543_714_304, 2_198_883_840),
    ],
)
def test_kept_architectures_count_as_transformers_does(
    name: str, layers: int, before: int, after: int
) -> None:
    config = kept(name)
    a = architecture(config, name)
    assert a.parameters(a.layers) == counted(config) == before
    deep = deepened_config(config, list(range(layers)))
    assert a.parameters(layers) == counted(deep) == after
    assert a.hidden == config["hidden_size"]
    assert a.vocabulary == config["vocab_size"]
    assert a.kinds["down_proj"] == (config["hidden_size"], config["intermediate_size"])


@pytest.mark.parametrize("path", sorted(Path("conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_finds_its_config_without_a_network(path: Path) -> None:
    params = parse(compose(path.stem), path.stem)
    config, where = find_config(params.base, KEPT, NOWHERE)
    assert architecture(config, where).layers > params.gaps.last + 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base_name", ["tiny32", "qwen"])
def test_equals_what_expanding_writes(
    base_name: str, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(base_name)
    prepare_fits(base, tmp_path)
    if name in CONTROLS:
        deepen(base, "lesa", tmp_path)
    folder = deepen(base, name, tmp_path)
    a = architecture(json.loads((base / "config.json").read_text()), "base")
    found, plan = tensors_of(folder), plan_of(folder)
    assert a.layers == LAYERS
    assert a.parameters(len(plan)) == sum(tensor.numel() for tensor in found.values())
    assert trainable(a, plan) == freeze(load_model(folder), folder)
    assert trainable(a, []) == sum(tensor.numel() for tensor in tensors_of(base).values())


def test_bytes_are_those_of_the_stored_dtype(tiny: Path) -> None:
    a = architecture(json.loads((tiny / "config.json").read_text()), "tiny")
    assert {a.itemsize} == {tensor.element_size() for tensor in tensors_of(tiny).values()}


def random_base() -> RandomBase:
    return RandomBase(
        source="random",
        num_hidden_layers=4,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        seed=0,
        license="none",
    )


def test_random_base_is_what_the_base_stage_makes(tmp_path: Path) -> None:
    found = prepare(random_base(), tmp_path)
    a = architecture(*find_config(random_base(), KEPT, NOWHERE))
    assert (a.parameters(a.layers), a.layers) == (found["parameters"], found["num_hidden_layers"])
    made = json.loads((tmp_path / "config.json").read_text())
    assert architecture(made, "made") == a


def test_path_base_reads_its_folder(qwen: Path) -> None:
    base = PathBase(source="path", path=str(qwen), license="none")
    config, where = find_config(base, KEPT, NOWHERE)
    assert config == json.loads((qwen / "config.json").read_text())
    assert where == str(qwen / "config.json")


def package(member: str = "m.gguf") -> PackageBase:
    return PackageBase(
        source="package", requirement="x==1", member=member, sha256="0" * 64, license="none"
    )


def test_package_base_takes_what_the_base_stage_left(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 8}
    write_json(tmp_path / "config.json", config)
    write_json(tmp_path / "LICENSE_NOTE.json", {"source": "m.gguf of the wheel x==1"})
    assert find_config(package(), KEPT, tmp_path)[0] == config
    with pytest.raises(UserError, match=r"other\.gguf of the wheel x==1.*dvc repro base"):
        find_config(package("other.gguf"), KEPT, tmp_path)


def hub(revision: str) -> HubBase:
    return HubBase(source="hub", id="org/name", revision=revision, license="none")


def test_hub_base_fetches_one_file_at_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str]] = []

    def fetch(repository: str, file: str, revision: str) -> str:
        asked.append((repository, file, revision))
        write_json(tmp_path / file, {"model_type": "llama"})
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert find_config(hub("abc"), KEPT, NOWHERE)[0] == {"model_type": "llama"}
    assert asked == [("org/name", "config.json", "abc")]


def test_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise OSError("offline mode is on\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(
        UserError, match=r"^base\.id: cannot get .*org/name.*abc: offline mode is on$"
    ):
        find_config(hub("abc"), KEPT, NOWHERE)


def test_a_kept_architecture_holds_for_its_revision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = yaml.safe_load((KEPT / "llama3-8b.yaml").read_text())["base"]
    base = HubBase(source="hub", id=tree["id"], revision=tree["revision"], license="x")
    assert find_config(base, KEPT, NOWHERE)[1] == str(KEPT / "llama3-8b.yaml")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(NOWHERE))
    with pytest.raises(UserError, match="nowhere"):
        find_config(base.model_copy(update={"revision": "other"}), KEPT, NOWHERE)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "nonesuch"}, "nonesuch"),
        ({"hidden_size": 8}, "model_type"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}, "30"),
        ({"model_type": "gpt2", "n_layer": 3, "n_embd": 8, "n_head": 2}, "lacks.*q_proj"),
        ({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32}, "at least 3"),
        ({"model_type": "llama", "dtype": "float3"}, "float3"),
    ],
)
def test_configs_that_will_not_do_are_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^where: .*{message}") as caught:
        architecture(config, "where")
    assert "\n" not in str(caught.value)
