"""Every family with every method, against transformers' own models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines import table
from lesa.checkpoints.check import check
from lesa.checkpoints.depth import deepened_config, per_layer
from lesa.checkpoints.families import FAMILIES, View, ends_block
from lesa.checkpoints.reader import Checkpoint, read_config
from lesa.errors import UserError
from lesa.method.basis import load_basis
from lesa.method.prediction import load_predictor, predict
from lesa.params import parse
from lesa.training.saving import stored_tensors
from lesa.upscaling.plan import LayerPlan
from pipelines.profile import compose
from pipelines.stage import check_plans
from tests.conftest import ROOT, resave, tensors_of
from tests.families import (
    CONFIGS,
    LAYERS,
    SHAPE,
    VARIANTS,
    deepen,
    family_model,
    load,
    logits,
    logits_of,
    save_family,
)

METHODS = sorted(table())
IDENTITY_STARTS = {
    "llama_pro", "llama_pro_upper", "identity", "identity_upper", "average_zeroed", "lesa_zeroed",
    "opt_deus", "opt_deus_code", "half_upper",
}  # fmt: skip
SAME_LOGITS = IDENTITY_STARTS | {"base", "original_layers"}
# What depends on how a family stores a layer: matrices written into its tensors, its outputs
# zeroed, its layers copied alone, and tensors told apart by the module they belong to.
EVERYWHERE = ("lesa", "llama_pro", "solar", "half_upper")
# Each way to store a layer: fused; transposed, with biases; experts; four norms and windows.
LAYOUTS = ("phi3", "gpt2", "mixtral", "gemma2")
PAIRS = [
    pytest.param(
        family, method, marks=() if method in EVERYWHERE or family in LAYOUTS else pytest.mark.slow
    )
    for family in CONFIGS
    for method in METHODS
]
every_pair = pytest.mark.parametrize(("family", "name"), PAIRS, indirect=["family"])


@pytest.fixture(scope="module", autouse=True)
def no_solver() -> Iterator[None]:
    """OpT-DeUS's plans, which take seconds each, are looked at in test_opt_deus.py."""

    def plan(lower: Tensor, upper: Tensor, **solver: object) -> Tensor:
        return torch.eye(len(lower)) / len(lower)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("baselines.opt_deus.sinkhorn", plan)
        yield


@pytest.fixture(scope="module", params=list(CONFIGS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of each family, its config without derived entries, as on hubs."""
    return save_family(request.param, tmp_path_factory.mktemp("family") / request.param)


@pytest.fixture(scope="module")
def deepened(
    family: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, LayerPlan]]:
    """A method's expansion of the family's checkpoint and its plan, made when first asked for."""
    work = tmp_path_factory.mktemp("work")
    return cache(lambda name: deepen(family, name, work))


@pytest.fixture(scope="module")
def wanted(family: Path) -> Callable[[torch.dtype], Tensor]:
    """The logits of the family's checkpoint in a dtype."""
    return cache(lambda dtype: logits(family, dtype))


def test_every_family_has_a_config_here() -> None:
    assert {model_type for model_type, _ in CONFIGS.values()} == set(FAMILIES)


def test_base_is_accepted(family: Path) -> None:
    found = check(family)
    assert found["parameters"] == load(family).num_parameters()
    assert (found["num_hidden_layers"], found["hidden_size"]) == (LAYERS, 32)


def test_views_cover_a_layers_matrices_once(family: Path) -> None:
    """Each entry of a tensor that holds matrices belongs to exactly one of them."""
    base = Checkpoint(family)
    counts = {
        view.tensor: torch.zeros_like(base.layer(0)[view.tensor]) for view in base.views.values()
    }
    for kind, view in base.views.items():
        added = torch.zeros_like(counts[view.tensor])
        view.write(added, torch.ones(base.shape(kind)))
        counts[view.tensor] += added
    assert all(bool((count == 1).all()) for count in counts.values())
    assert sum(map(ends_block, base.kinds)) == 1 + max(1, sum("gate_proj" in k for k in base.kinds))


def test_reading_and_writing_a_view_are_inverse(family: Path) -> None:
    base = Checkpoint(family)
    layer = base.layer(1)
    for kind, view in base.views.items():
        assert torch.equal(base.matrix(kind, 1), view.read(layer[view.tensor]))
        copy = torch.full_like(layer[view.tensor], torch.nan)
        view.write(copy, base.matrix(kind, 1))
        assert torch.equal(view.read(copy), base.matrix(kind, 1))


@every_pair
def test_loads_and_keeps_what_is_not_new(
    family: Path,
    deepened: Callable[[str], tuple[Path, LayerPlan]],
    wanted: Callable[[torch.dtype], Tensor],
    name: str,
) -> None:
    """Identity starts have the base's logits bit for bit, on sequences longer than the sliding
    window; the other methods' are others."""
    folder, plan = deepened(name)
    base, new = Checkpoint(family), Checkpoint(folder)
    before, after = tensors_of(family), tensors_of(folder)
    for key, tensor in before.items():
        if base.family.split(key) is None:
            assert torch.equal(after[key], tensor), key
            assert after[key].dtype == tensor.dtype
    for slot in plan:
        if not slot.new:
            assert slot.copy_of is not None
            for suffix, tensor in base.layer(slot.copy_of).items():
                assert torch.equal(after[new.layer_tensor(slot.layer_idx, suffix)], tensor)
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    model = load(folder)
    assert model.config.num_hidden_layers == len(plan)
    assert new.parameters() == model.num_parameters()
    found = logits_of(model)
    assert bool(found.isfinite().all())
    assert torch.equal(found, wanted(torch.float32)) == (name in SAME_LOGITS)
    if name in SAME_LOGITS:
        assert torch.equal(logits(folder, torch.bfloat16), wanted(torch.bfloat16))


@every_pair
def test_per_layer_settings_are_those_of_the_source(
    family: Path, deepened: Callable[[str], tuple[Path, LayerPlan]], name: str
) -> None:
    from transformers import AutoConfig

    folder, plan = deepened(name)
    before = per_layer(AutoConfig.from_pretrained(family))
    after = AutoConfig.from_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    for key, row in before.items():
        wanted = [row[slot.source_idx] for slot in plan]
        assert list(getattr(after, key)) == wanted == written[key], key


def test_windows_and_ropes_are_of_several_kinds() -> None:
    """The configs above do mix layers of unlike settings, else the test before says nothing."""
    from transformers import AutoConfig

    for name in ("qwen2-windows", "qwen3", "gemma2", "gemma3", "smollm3", "smollm3-windows"):
        model_type, settings = CONFIGS[name]
        lists = per_layer(AutoConfig.for_model(model_type, **settings))
        assert any(len(set(row)) > 1 for row in lists.values()), name


def test_solar_equals_modules_stacked_by_hand(
    family: Path, deepened: Callable[[str], tuple[Path, LayerPlan]]
) -> None:
    folder, plan = deepened("solar")
    model = load(family)
    layers = model.get_submodule(Checkpoint(family).family.layers)
    stack = [layers[slot.copy_of] for slot in plan]
    config = model.config
    for key, row in per_layer(config).items():
        setattr(config, key, [row[slot.source_idx] for slot in plan])
    config.num_hidden_layers = len(plan)
    owner = model.get_submodule(Checkpoint(family).family.layers.rpartition(".")[0])
    setattr(owner, Checkpoint(family).family.layers.rpartition(".")[2], torch.nn.ModuleList(stack))
    ids = torch.randint(1, 256, (2, 24), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        wanted = model(input_ids=ids, use_cache=False).logits
    assert torch.equal(logits(folder), wanted)


def test_lesa_predicts_every_kind(
    family: Path, deepened: Callable[[str], tuple[Path, LayerPlan]]
) -> None:
    """New matrices are the predictor's, wherever a family stores them; the rest is as asked."""
    folder, plan = deepened("lesa")
    base, new, work = Checkpoint(family), Checkpoint(folder), folder.parent
    router = base.family.router
    for slot in (slot for slot in plan if slot.new):
        assert slot.between is not None
        for kind in base.kinds:
            basis, model = load_basis(work / "svd", kind), load_predictor(work / "fit", kind)
            wanted = predict(base, basis, model, kind, slot.between)
            assert torch.equal(new.matrix(kind, slot.layer_idx), wanted), kind
        lower, upper = (base.layer(i) for i in slot.between)
        fused = {view.tensor for view in base.views.values()}
        for suffix, tensor in new.layer(slot.layer_idx).items():
            if router and suffix.endswith(router):
                assert torch.equal(tensor, lower[suffix])
            elif suffix not in fused:
                assert torch.allclose(tensor, (lower[suffix] + upper[suffix]) / 2, atol=1e-6)


def test_side_files_are_kept(family: Path, tmp_path: Path) -> None:
    base = shutil.copytree(family, tmp_path / "base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / "tokenizer.model.v3").write_bytes(b"tokens")
    kept = [path for path in base.rglob("*") if path.is_file()]
    (base / "checkpoint-3").mkdir()
    for name in ("pytorch_model.bin", "model.onnx", "checkpoint-3/optimizer.pt"):
        (base / name).write_bytes(b"of the base's depth")
    folder, _ = deepen(base, "llama_pro", tmp_path / "work")
    for path in kept:
        if "safetensors" not in path.name and path.name != "config.json":
            assert (folder / path.relative_to(base)).read_bytes() == path.read_bytes(), path
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    made = {Path("README.md"), Path("layer_plan.json")}
    assert {p for p in found if "safetensors" not in p.name} == made | {
        path.relative_to(base) for path in kept if "safetensors" not in path.name
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt_neox", "gpt2", "mixtral"])
def test_dtypes_are_kept(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    base = save_family(name, tmp_path / "base", dtype)
    for method in ("lesa", "average", "noise"):
        folder, _ = deepen(base, method, tmp_path / "work")
        assert {t.dtype for t in tensors_of(folder).values()} == {dtype}
        assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype)[6:]
        load(folder, dtype)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_variants_of_a_family(name: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    base = save_family(name, tmp_path / "base")
    check(base)
    before = per_layer(AutoConfig.from_pretrained(base))
    for method in ("lesa", "llama_pro"):
        folder, plan = deepen(base, method, tmp_path / "work")
        load(folder)
        after = AutoConfig.from_pretrained(folder)
        for key, row in before.items():
            assert list(getattr(after, key)) == [row[slot.source_idx] for slot in plan], key
    assert torch.equal(logits(tmp_path / "work" / "llama_pro"), logits(base))
    assert bool(logits(tmp_path / "work" / "lesa").isfinite().all())


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_stacked_experts(tmp_path: Path, name: str) -> None:
    """The same weights with their experts stacked, as transformers holds them in memory."""
    files = save_family(name, tmp_path / "files")
    stacked = shutil.copytree(files, tmp_path / "stacked")
    resave(stacked, dict(load(files).state_dict()))
    assert "model.layers.0.mlp.experts.gate_up_proj" in tensors_of(stacked)
    assert check(stacked)["parameters"] == check(files)["parameters"]
    one, other = Checkpoint(files), Checkpoint(stacked)
    assert one.kinds == other.kinds
    for kind in one.kinds:
        assert torch.equal(one.matrix(kind, 2), other.matrix(kind, 2)), kind
    for method in ("lesa", "llama_pro", "noise"):
        made, _ = deepen(files, method, tmp_path / "work")
        also, _ = deepen(stacked, method, tmp_path / "also")
        load(also)
        if method == "llama_pro":
            assert torch.equal(logits(made), logits(also))
        elif method == "lesa":  # a stacked expert lies otherwise in memory: products round so, too
            assert torch.allclose(logits(made), logits(also), atol=1e-4)


def test_layers_stored_in_two_ways_are_refused(tmp_path: Path) -> None:
    """transformers loads them: a tool that rewrote one shard may leave them so."""
    folder = save_family("mixtral", tmp_path / "mixed")
    tensors = dict(load(folder).state_dict())
    ahead = "model.layers.0."
    first = {name: tensors[name] for name in tensors if name.startswith(ahead)}
    rest = {n: tensor for n, tensor in tensors_of(folder).items() if not n.startswith(ahead)}
    resave(folder, first | rest)
    load(folder)
    with pytest.raises(UserError, match=r"holds model\.layers\.0\.\S+ and no model\.layers\.1\."):
        check(folder)


def test_names_that_training_could_not_save_are_refused(tmp_path: Path) -> None:
    """transformers loads them: experts in a stack, beside a router under its older name."""
    folder = save_family("mixtral", tmp_path / "mixed")
    tensors = dict(load(folder).state_dict())
    older = {name.replace("mlp.gate.", "block_sparse_moe.gate."): t for name, t in tensors.items()}
    resave(folder, older)
    load(folder)
    with pytest.raises(UserError, match=r"holds no model\.layers\.0\.block_sparse_moe\.experts"):
        check(folder)


def test_output_layers_name_in_the_model(tmp_path: Path) -> None:
    """transformers reads GPT-NeoX's from `lm_head`, too, which a stored state_dict has."""
    base = save_family("gpt_neox", tmp_path / "base", tie_word_embeddings=True)
    embedding = tensors_of(base)["gpt_neox.embed_in.weight"]
    resave(base, tensors_of(base) | {"lm_head.weight": embedding.clone()})
    assert check(base)["parameters"] == load(base).num_parameters()
    new = stored_tensors({"gpt_neox.embed_in.weight": embedding + 1}, Checkpoint(base))
    assert torch.equal(new["lm_head.weight"], embedding + 1)
    resave(base, tensors_of(base) | {"lm_head.weight": embedding + 1})
    with pytest.raises(UserError, match=r"lm_head\.weight differs from gpt_neox\.embed_in\.weight"):
        check(base)


FREQUENCIES = {
    "rotary_emb.inv_freq": torch.ones(4),
    "rotary_emb.cos_cached": torch.ones(1, 1, 256, 8),
}
MASKS = {
    "bias": torch.ones(1, 1, 256, 256, dtype=torch.uint8).tril(),
    "masked_bias": torch.tensor(-torch.inf),
}


@pytest.mark.parametrize(
    ("name", "prefix", "attention", "buffers"),
    [
        ("llama", "", "model.layers.{}.self_attn", FREQUENCIES),
        ("gpt2", "transformer.", "h.{}.attn", MASKS),  # hubs have GPT-2 without its prefix
        ("gpt_neox", "", "gpt_neox.layers.{}.attention", MASKS | FREQUENCIES),
    ],
)
def test_buffers_of_older_versions(
    tmp_path: Path, name: str, prefix: str, attention: str, buffers: dict[str, Tensor]
) -> None:
    """No model reads them: they are no parameters and not in what is made."""
    base = save_family(name, tmp_path / "base")
    parameters = load(base).num_parameters()
    tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors_of(base).items()}
    for i in range(LAYERS):
        tensors |= {f"{attention.format(i)}.{key}": t.clone() for key, t in buffers.items()}
    resave(base, tensors)
    assert check(base)["parameters"] == parameters
    for method in EVERYWHERE:
        folder, _ = deepen(base, method, tmp_path / "work")
        assert Checkpoint(folder).parameters() == load(folder).num_parameters()
    assert torch.equal(logits(tmp_path / "work" / "llama_pro"), logits(base))


def test_bias_beside_a_mask_is_looked_at(tmp_path: Path) -> None:
    """The name of GPT-2's mask, attn.bias, is the end of that of a bias."""
    base = save_family("gpt2", tmp_path / "base")
    tensors = tensors_of(base)
    tensors["transformer.h.1.attn.c_attn.bias"][0] = torch.nan
    resave(base, tensors)
    with pytest.raises(
        UserError, match=r"h\.1\.attn\.c_attn\.bias holds numbers that are not finite"
    ):
        check(base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [(32, 48), (32, 52), (32, 50), (36, 64), (34, 64)])
def test_a_mixture_is_taken_if_transformers_can_run_it(
    tmp_path: Path, widths: tuple[int, int], dtype: torch.dtype
) -> None:
    """Its grouped product takes rows of whole 16 bytes."""
    hidden, width = widths
    base = save_family(
        "mixtral", tmp_path / "base", dtype, hidden_size=hidden, intermediate_size=width, head_dim=8
    )
    try:
        logits_of(load(base, dtype))
    except RuntimeError:
        with pytest.raises(UserError, match=r"\(experts\.0\.gate_proj\) is of .* multiples of \d"):
            check(base)
    else:
        check(base)


def test_gemma_with_a_head_and_a_silent_config(tmp_path: Path) -> None:
    """Tying is the class's default; the stored head is the embedding and counts once."""
    base = save_family("gemma", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (base / "config.json").write_text(json.dumps(config))
    tensors = tensors_of(base)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    resave(base, tensors)
    checkpoint = Checkpoint(base)
    assert checkpoint.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert check(base)["parameters"] == load(base).num_parameters()
    folder, _ = deepen(base, "llama_pro", tmp_path / "work")
    assert Checkpoint(folder).parameters() == load(folder).num_parameters()
    assert torch.equal(logits(folder), logits(base))


def test_list_longer_than_the_layers(tmp_path: Path) -> None:
    """SmolLM3's code reads its list at each layer's index, and never what stands behind."""
    kinds = [1, 0, 1, 1, 0, 1]
    base = save_family("smollm3", tmp_path / "base", no_rope_layers=[*kinds, 0, 0, 1, 0])
    check(base)
    folder, plan = deepen(base, "llama_pro", tmp_path / "work")
    written = json.loads((folder / "config.json").read_text())["no_rope_layers"]
    assert written == [kinds[slot.source_idx] for slot in plan]
    assert torch.equal(logits(folder), logits(base))


def test_lists_under_any_name_are_mapped() -> None:
    """Of a config's lists, one with an entry a layer follows the layers."""
    tokens = {key: [1, 2, 3, 4, 5, 6] for key in ("eos_token_id", "stop_token_ids")}
    config = {"model_type": "llama", **SHAPE, **tokens, "custom_scales": [1, 2, 3, 4, 5, 6]}
    new = deepened_config(config, [0, 1, 1, 2, 3, 4, 5], "config.json")
    assert new["custom_scales"] == [1, 2, 2, 3, 4, 5, 6]
    assert new | tokens == new
    assert new["num_hidden_layers"] == 7


@pytest.mark.parametrize("name", ["phi3-long-rope", "llama-wide-heads"])
def test_a_raw_config_is_left_as_it_was_read(name: str) -> None:
    """transformers writes into nested entries, such as Phi-3's rope_scaling."""
    model_type, settings = VARIANTS[name]
    config = {"model_type": model_type, **settings}
    before = json.dumps(config)
    read_config(config, "config.json")
    assert json.dumps(config) == before
    new = deepened_config(config, [0, 1, 2, 2, 3, 4, 5], "config.json")
    assert new["rope_scaling"] == json.loads(before)["rope_scaling"]


@pytest.mark.parametrize(
    ("model_type", "entries", "depths"),
    [
        ("llama", {"num_hidden_layers": 6}, {"num_hidden_layers"}),
        ("gpt2", {"n_layer": 6}, {"n_layer"}),
        ("gpt2", {"n_layer": 6, "num_hidden_layers": 6}, {"n_layer", "num_hidden_layers"}),
        ("gpt2", {}, {"n_layer"}),  # its class's default of 12 layers
        ("llama", {"num_hidden_layers": 6, "torch_dtype": "bfloat16"}, {"num_hidden_layers"}),
    ],
)
def test_depth_under_its_names(model_type: str, entries: dict[str, Any], depths: set[str]) -> None:
    from transformers import AutoConfig

    new = deepened_config({"model_type": model_type, **entries}, list(range(5)) * 3, "x")
    assert {key: new[key] for key in depths} == dict.fromkeys(depths, 15)
    assert AutoConfig.for_model(**new).num_hidden_layers == 15
    assert new.keys() == {"model_type"} | entries.keys() | depths


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "mlp_only_layers"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"rms_norm_eps": 0.0}, r"rms_norm_eps: 0\.0: "),
    ],
)
def test_settings_that_deepening_cannot_keep_are_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], said: str
) -> None:
    base = save_family(name, tmp_path / "base", **changes)
    with pytest.raises(UserError, match=said):
        check(base)


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("mistral", {"per_layer_config": {"2": {"sliding_window": 4}}}, "per_layer_config: "),
        ("qwen3", {"layer_types": ["linear_attention"] * 6}, "layer_types: 'linear_attention': "),
        ("llama", {"layer_types": ["sliding_attention"] * 6}, "layer_types: 'sliding_attention': "),
    ],
)
def test_entries_for_single_layers_that_cannot_be_kept(
    model_type: str, changes: dict[str, Any], said: str
) -> None:
    """Of settings that a base could not run with either, and of those of layers by their index."""
    with pytest.raises(UserError, match=f"^config.json: {said}"):
        read_config({"model_type": model_type, **SHAPE, **changes}, "config.json")


NO_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 0.0}
FOO = {"rope_type": "foo", "rope_theta": 1e4}
NO_EXPERTS = {"num_local_experts": 0, "num_experts_per_tok": 0}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("qwen3_moe", {"num_experts": 0}, "num_experts: 0; must be a whole number, 1 or"),
        ("mixtral", NO_EXPERTS, "num_local_experts: 0; must be a whole number, 1 or above"),
        ("mixtral", {"num_experts_per_tok": 0}, "num_experts_per_tok: 0; must be"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok: 5, of 4 experts"),
        ("llama", {"rms_norm_eps": 1e-46}, "rms_norm_eps: 1e-46: a norm divides by"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps: -1e-06: "),
        ("qwen3", {"rms_norm_eps": float("nan")}, "rms_norm_eps: nan: "),
        ("gpt2", {"layer_norm_epsilon": 0.0}, "layer_norm_epsilon: 0.0: "),
        ("gpt_neox", {"layer_norm_eps": -1.0}, "layer_norm_eps: -1.0: "),
        ("llama", {"attention_dropout": None}, "attention_dropout: None; must be a share"),
        ("llama", {"attention_dropout": 2.0}, "attention_dropout: 2.0; must be a share"),
        ("mistral", {"attention_dropout": -1.0}, "attention_dropout: -1.0; must be a share"),
        ("gpt2", {"resid_pdrop": 2.0}, "resid_pdrop: 2.0; must be a share"),
        ("gpt_neox", {"hidden_dropout": -1.0}, "hidden_dropout: -1.0; must be a share"),
        ("llama", {"intermediate_size": 0}, "intermediate_size: 0; must be"),
        ("phi3", {"intermediate_size": 0}, "intermediate_size: 0; must be"),
        ("qwen3_moe", {"moe_intermediate_size": 0}, "moe_intermediate_size: 0; must be"),
        ("gpt2", {"n_inner": 0}, "n_inner: 0; must be"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads: 3; must divide the 4"),
        ("mistral", {"sliding_window": 0}, "sliding_window: 0; must be"),
        ("gemma2", {"sliding_window": None}, "layer_types: 'sliding_attention': needs"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 6}, "layer_types: 'sliding_attention'"),
        ("gpt2", {"n_positions": 1}, "n_positions: 1; must be a whole number, 2 or above"),
        ("llama", {"return_dict": False}, "return_dict: False: "),
        ("llama", {"use_return_dict": False}, "use_return_dict: follows from return_dict"),
        ("llama", {"rope_theta": 0}, "rope_theta 0 of its rotary positions; must be a number"),
        ("qwen3", {"rope_theta": -1.0}, "rope_theta -1.0 of its rotary"),
        ("llama", {"rope_theta": "1e4"}, "rope_theta '1e4' of its rotary"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor 0 of its rotary"),
        ("llama", {"rope_scaling": {"type": "foo"}}, "rope_type 'foo' of its rotary"),
        ("gemma3", {"rope_parameters": {"full_attention": NO_YARN}}, "factor 0.0 of its rotary"),
        ("gemma3", {"rope_parameters": {"full_attention": FOO}}, "rope_type 'foo' of its rotary"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar: 0; must be a number"),
        ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping: 0.0; must be a"),
        ("gemma3", {"final_logit_softcapping": -1.0}, "final_logit_softcapping: -1.0; must be"),
        ("llama", {"attn_implementation": "flex_attention"}, "attn_implementation: 'flex_"),
        ("llama", {"_attn_implementation": {"": "sdpa"}}, "_attn_implementation: {'': 'sdpa'}: is"),
        ("mixtral", {"experts_implementation": "sonicmoe"}, "experts_implementation: 'sonicmoe'"),
        ("llama", {"dtype": {"": "bfloat16"}}, "dtype {'': 'bfloat16'} is none of torch's"),
        ("mixtral", {"torch_dtype": {"": "bfloat16"}}, "dtype {'': 'bfloat16'} is none of"),
        ("llama", {"hidden_act": "foo"}, "hidden_act: 'foo'; known are "),
        ("gpt2", {"activation_function": "foo"}, "activation_function: 'foo'; known are "),
    ],
)
def test_numbers_that_no_model_runs_with_are_refused_by_name(
    name: str, changes: dict[str, Any], said: str
) -> None:
    model_type, settings = CONFIGS[name]
    with pytest.raises(UserError, match=f"^config.json: {re.escape(said)}"):
        read_config({"model_type": model_type, **settings, **changes}, "config.json")


@pytest.mark.parametrize(
    "positions",
    [
        {"rope_theta": 1e6},
        {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "rope_theta": 1e6},
    ],
)
def test_rotary_positions_are_read_as_transformers_does(
    positions: dict[str, Any], tmp_path: Path
) -> None:
    """Flat, without a type, and one for each kind of layer with a number beside them."""
    base = save_family("gemma3", tmp_path / "base", rope_parameters=positions)
    check(base)
    assert torch.isfinite(logits(base)).all()


@pytest.mark.parametrize(
    "entry",
    [
        {"gradient_checkpointing": True},
        {"use_cache": False},
        {"attn_implementation": "sdpa", "_attn_implementation": None},
    ],
)
def test_what_a_training_left_in_the_config_is_no_fault(
    entry: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = save_family("llama", tmp_path / "base")
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    capfd.readouterr()
    check(base)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("generation_config.json", "[]", "transformers cannot load it: "),
        (
            "generation_config.json",
            '{"max_new_tokens": -5}',
            "transformers cannot load it: .*max_new_tokens.*-5",
        ),
        ("model.safetensors.index.json", '{"weight_map": 0}', "has no weight_map"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"x": "a.safetensors"}, "metadata": null}',
            "metadata: must be a mapping",
        ),
    ],
)
def test_the_file_at_fault_is_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    base = save_family("llama", tmp_path / "base")
    (base / name).write_text(content)
    with pytest.raises(UserError, match=f"^{re.escape(str(base / name))}: {said}"):
        check(base)


def test_a_model_that_loads_and_cannot_run_is_refused(tmp_path: Path) -> None:
    """Of a number that no rule names: more of a head is turned than there is of it."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.5}
    base = save_family("gpt_neox", tmp_path / "base", rope_parameters=rope)
    with pytest.raises(
        UserError, match=r"config\.json: transformers makes a model of it that cannot"
    ):
        check(base)


LONG = {"rope_type": "longrope", "original_max_position_embeddings": 64, "short_factor": [1.0] * 4}


@pytest.mark.parametrize(
    ("name", "rope", "said"),
    [
        ("llama", LONG | {"long_factor": [2.0] * 3}, "cannot be computed: The size of tensor"),
        ("phi3", LONG | {"long_factor": [2.0, 0.0, 1.0, 1.0]}, "are no numbers at its last"),
        ("llama", LONG | {"long_factor": [2.0, 1.0, 1e-44, 1.0]}, "are no numbers at its last"),
        ("llama", {"rope_type": "linear", "factor": 1e-37}, "are no numbers at its last"),
        (
            "gemma3",
            {
                "full_attention": {"rope_type": "linear", "factor": 1e-37, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "are no numbers at its last",
        ),
    ],
)
def test_rotary_positions_of_long_texts_are_looked_at(
    name: str, rope: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """transformers asks for them when a text is as long, and not when it loads the model."""
    base = save_family(name, tmp_path / "base")
    path = base / "config.json"
    entries = {"rope_parameters": rope, "original_max_position_embeddings": 64}  # Phi-3 reads both
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    load(base)
    with pytest.raises(UserError, match=rf"config\.json: its rotary positions .*{said}"):
        check(base)


def test_view_of_a_fused_tensor_is_transformers_own() -> None:
    """NeoX's and Phi-3's queries are what their own attention computes from the fused tensor."""
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    neox = family_model("gpt_neox")
    attention = neox.gpt_neox.layers[0].attention
    fused = attention.query_key_value
    heads = fused(x).view(1, 5, 4, 3 * 8).transpose(1, 2)  # as its forward pass cuts it
    views = FAMILIES["gpt_neox"].views(lambda: neox.config, ())
    for at, kind in enumerate(("q_proj", "k_proj", "v_proj")):
        weight = views[kind].read(fused.weight)
        bias = View("", groups=4, rows=views[kind].rows).read(fused.bias[:, None])[:, 0]
        mine = (x @ weight.T + bias).view(1, 5, 4, 8).transpose(1, 2)
        assert torch.allclose(mine, heads.chunk(3, dim=-1)[at], atol=1e-6)
    phi3 = family_model("phi3")
    mlp = phi3.model.layers[0].mlp
    views = FAMILIES["phi3"].views(lambda: phi3.config, ())
    gate, up = (views[k].read(mlp.gate_up_proj.weight) for k in ("gate_proj", "up_proj"))
    mine = (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ mlp.down_proj.weight.T
    assert torch.allclose(mine, mlp(x), atol=1e-6)


def test_a_mixture_runs_in_the_dtype_of_its_config(tmp_path: Path) -> None:
    base = save_family("mixtral", tmp_path / "base", intermediate_size=52)
    check(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    with pytest.raises(UserError, match=r"in its dtype or config\.json's, .* multiples of 8"):
        check(base)


def test_a_mixture_that_cannot_be_scored_is_told_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 it trains; the stage that scores it is the last one."""
    tree = compose("smoke", ROOT / "conf")
    save_family("mixtral", tmp_path / "artifacts" / "base", intermediate_size=52)
    monkeypatch.chdir(tmp_path)
    check(Path("artifacts/base"))
    tree["evaluate"]["dtype"] = "float32"
    check_plans(parse(tree, "params.yaml"))
    tree["evaluate"]["dtype"] = "bfloat16"
    with pytest.raises(UserError, match=r"bfloat16 \(params\.yaml: evaluate\.dtype\), .* of 8"):
        check_plans(parse(tree, "params.yaml"))
