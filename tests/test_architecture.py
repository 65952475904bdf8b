"""Shapes from a config alone, against transformers' own counts and really expanded checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from baselines import table
from lesa.checkpoints.base import prepare
from lesa.checkpoints.depth import deepened_config
from lesa.checkpoints.reader import Checkpoint
from lesa.checkpoints.writer import PLAN_FILE
from lesa.errors import UserError
from lesa.files import write_json
from lesa.params import Gaps, HubBase, PackageBase, PathBase, RandomBase, parse
from lesa.planning.architecture import architecture, find_config
from lesa.planning.model_costs import trainable
from lesa.training.freezing import freeze
from lesa.upscaling.plan import LayerPlan, to_json
from pipelines.profile import compose
from tests.conftest import tensors_of
from tests.families import CONFIGS, LAYERS, save_family

MODELS = Path("conf/models")
NOWHERE = Path("nowhere")
GAPS = Gaps(first=3, last=4)  # two new layers: they divide the six


def described(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((MODELS / f"{name}.yaml").read_text())["config"]
    return config


def family_config(name: str) -> dict[str, Any]:
    """Raw, as on hubs: without what the config class derives."""
    model_type, settings = CONFIGS[name]
    return {"model_type": model_type, **settings}


def meta_model(config: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))


def counted(config: dict[str, Any]) -> int:
    """Parameters by transformers; tied ones once."""
    return int(meta_model(config).num_parameters())


def trained(config: dict[str, Any], plan: LayerPlan, folder: Path) -> int:
    """Parameters of what a plan trains, by the policy that training applies."""
    write_json(folder / PLAN_FILE, to_json(plan))
    return freeze(meta_model(config), folder)


@pytest.mark.parametrize(
    ("name", "layers", "before", "after"),
    [  # before: as the model cards and metrics/base.json count
        ("smollm2-135m", 45, 134_515_008, 187_616_448),
        ("llama3-8b", 48, 8_030_261_248, 11_520_053_248),  # the paper's 11.5B
        ("qwen2.5-1.5b", 42, 1_543_714_304, 2_198_883_840),
    ],
)
def test_described_models_count_as_transformers_does(
    name: str, layers: int, before: int, after: int
) -> None:
    config = described(name)
    a = architecture(config, name)
    assert a.parameters(a.num_layers) == counted(config) == before
    deep = deepened_config(config, [i % a.num_layers for i in range(layers)], name)
    assert a.parameters(layers) == counted(deep) == after
    assert a.hidden_size == config["hidden_size"]
    assert a.vocab_size == config["vocab_size"]
    assert a.kinds["down_proj"] == (config["hidden_size"], config["intermediate_size"])


@pytest.mark.parametrize("path", sorted(Path("conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_finds_its_config_without_a_network(path: Path) -> None:
    params = parse(compose(path.stem), path.stem)
    config, where = find_config(params.base, MODELS, NOWHERE)
    assert architecture(config, where).num_layers > params.gaps.after[-1] + 1


PLANS = {json.dumps(to_json(m.plan(LAYERS, GAPS))): name for name, m in table().items()}


@pytest.mark.parametrize("method", sorted(PLANS.values()))  # one of those that share a plan
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_counts_as_transformers_does(name: str, method: str, tmp_path: Path) -> None:
    config, plan = family_config(name), table()[method].plan(LAYERS, GAPS)
    a = architecture(config, name)
    assert a.parameters(LAYERS) == counted(config)
    deep = deepened_config(config, [slot.source_idx for slot in plan], name)
    assert a.parameters(len(plan)) == counted(deep)
    assert trainable(a, plan) == trained(deep, plan, tmp_path)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_has_the_shapes_of_its_files(name: str, tmp_path: Path) -> None:
    base = Checkpoint(save_family(name, tmp_path))
    a = architecture(base.config, name)
    assert a.kinds == {kind: base.shape(kind) for kind in base.kinds}
    assert a.layer_parameters == base.layer_parameters()
    assert a.parameters(base.num_layers) == base.parameters()
    assert (a.vocab_size, a.hidden_size) == base.stored_shape(base.family.embedding)
    assert (a.query_width, a.key_value_width) == (a.kinds["q_proj"][0], a.kinds["k_proj"][0])


def test_a_token_meets_the_chosen_experts_of_a_mixture_alone() -> None:
    found = {name: architecture(family_config(name), name) for name in ("llama", "mixtral")}
    dense, mixture = found["llama"], found["mixtral"]
    experts, router = 3 * 48 * 32, 4 * 32
    assert dense.active_parameters == dense.layer_matrices
    assert mixture.active_parameters == dense.active_parameters + experts + router
    assert mixture.layer_matrices == dense.layer_matrices + 3 * experts
    assert (dense.feed_forward_width, mixture.feed_forward_width) == (48, 2 * 48)
    no_gate = architecture(family_config("gpt2"), "gpt2")
    assert (dense.gated, mixture.gated, no_gate.gated) == (True, True, False)


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
    a = architecture(*find_config(random_base(), MODELS, NOWHERE))
    assert (a.parameters(a.num_layers), a.num_layers) == (
        found["parameters"],
        found["num_hidden_layers"],
    )
    made = json.loads((tmp_path / "config.json").read_text())
    assert architecture(made, "made") == a


def test_path_base_reads_its_folder(qwen: Path) -> None:
    base = PathBase(source="path", path=str(qwen), license="none")
    config, where = find_config(base, MODELS, NOWHERE)
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
    assert find_config(package(), MODELS, tmp_path)[0] == config
    with pytest.raises(UserError, match=r"other\.gguf of the wheel x==1.*dvc repro base"):
        find_config(package("other.gguf"), MODELS, tmp_path)


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
    assert find_config(hub("abc"), MODELS, NOWHERE)[0] == {"model_type": "llama"}
    assert asked == [("org/name", "config.json", "abc")]


def test_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise OSError("offline mode is on\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(
        UserError, match=r"^base\.id: cannot get .*org/name.*abc: offline mode is on$"
    ):
        find_config(hub("abc"), MODELS, NOWHERE)


def test_a_described_model_holds_for_its_revision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = yaml.safe_load((MODELS / "llama3-8b.yaml").read_text())["base"]
    base = HubBase(source="hub", id=tree["id"], revision=tree["revision"], license="x")
    assert find_config(base, MODELS, NOWHERE)[1] == str(MODELS / "llama3-8b.yaml")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(NOWHERE))
    with pytest.raises(UserError, match="nowhere"):
        find_config(base.model_copy(update={"revision": "other"}), MODELS, NOWHERE)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bloom"}, "'bloom' is not supported; known are llama"),
        ({"hidden_size": 8}, "model type None"),
        ({"model_type": "llama", "hidden_size": "wide"}, "hidden_size"),
        ({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}, "30"),
        ({"model_type": "gpt2", "n_layer": 3, "n_embd": 30, "n_head": 4}, "divisible"),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "scale_attn"),
        ({"model_type": "llama", "num_hidden_layers": 0, "hidden_size": 32}, "0 layers; must be"),
        ({"model_type": "llama", "dtype": "float3"}, "float3"),
        ({"model_type": "gpt_neox", "rotary_pct": 3.0}, "a model of it that cannot run"),
    ],
)
def test_configs_that_will_not_do_are_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^where: .*{message}") as caught:
        architecture(config, "where")
    assert "\n" not in str(caught.value)
