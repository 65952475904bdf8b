"""Deepened checkpoints against transformers and independent recomputation."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import baselines  # noqa: F401  (registers the baselines)
from lesa.checkpoints.check import check
from lesa.checkpoints.reader import KINDS, Checkpoint
from lesa.errors import UserError
from lesa.method.basis import from_concat, from_gram, gram
from lesa.method.prediction import load_predictor, save_basis
from lesa.method.predictor import network
from lesa.upscaling import methods
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Method, Source, Unpredicted
from lesa.upscaling.plan import LayerPlan, from_json, insert_between
from tests.conftest import LAYERS, logits_of, save_random, tensors_of, tiny_config

GAPS = (3, 4)  # two new layers: they divide the six
WIDTH = 8  # of the random predictors
NAMES = ("lesa", "average", "noise", "spectrum", "llama_pro", "solar")
CONTROLS = ("noise", "spectrum")


def prepare(base: Path, folder: Path, concat: bool = False) -> None:
    """Bases of `base` in `folder`/svd and random predictors in `folder`/fit."""
    for name in ("svd", "fit"):
        (folder / name).mkdir(parents=True)
    generator = torch.Generator().manual_seed(3)
    checkpoint = Checkpoint(base)
    for kind in KINDS:
        weights = [checkpoint.matrix(kind, i) for i in range(checkpoint.num_layers)]
        basis = from_concat(weights, 1e-6) if concat else from_gram(gram(weights), 1e-6)
        save_basis(basis, folder / "svd" / f"{kind}.safetensors")
        state = network(weights[0].shape[1], WIDTH).state_dict()
        drawn = {k: torch.randn(t.shape, generator=generator) * 0.5 for k, t in state.items()}
        save_file(drawn, folder / "fit" / f"{kind}.safetensors")


def deepen(
    base: Path,
    name: str,
    work: Path,
    unpredicted: Unpredicted = "layer_0",
    out: str | None = None,
    gaps: tuple[int, int] = GAPS,
) -> Path:
    """Expand `base` by the method `name` below `work`; controls need lesa there."""
    method = methods.get(name)
    folder = work / (out or name)
    checkpoint = Checkpoint(base)
    source = Source(
        base=checkpoint,
        svd=work / "svd",
        needs=work / ("lesa" if name in CONTROLS else "fit"),
        unpredicted=unpredicted,
        seed=0,
    )
    parameters = expand(source, method, method.plan(checkpoint.num_layers, *gaps), folder)
    assert parameters == sum(tensor.numel() for tensor in tensors_of(folder).values())
    return folder


def plan_of(folder: Path) -> LayerPlan:
    return from_json(json.loads((folder / "layer_plan.json").read_text()))


@pytest.fixture(scope="module")
def models(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every method's deepened checkpoint of the base under "base"."""
    work = tmp_path_factory.mktemp("models")
    prepare(tiny, work)
    return {"base": tiny} | {name: deepen(tiny, name, work) for name in NAMES}


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], (problem, info[problem])
    return model.eval()


def layer(folder: Path, index: int) -> dict[str, Tensor]:
    prefix = f"model.layers.{index}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors_of(folder).items()
        if name.startswith(prefix)
    }


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_keeps_what_is_not_new(models: dict[str, Path], name: str) -> None:
    base, folder = tensors_of(models["base"]), models[name]
    found, slots = tensors_of(folder), plan_of(folder)
    per_layer = 9
    assert len(slots) == LAYERS + 2
    assert len(found) == len(base) + 2 * per_layer
    assert {t.dtype for t in found.values()} == {t.dtype for t in base.values()}
    for key, tensor in base.items():
        if not key.startswith("model.layers."):
            assert same_bits(found[key], tensor)
    for slot in slots:
        if not slot.new:
            assert slot.copy_of is not None
            for suffix, tensor in layer(models["base"], slot.copy_of).items():
                assert same_bits(found[f"model.layers.{slot.layer_idx}.{suffix}"], tensor)
    model = load(folder)
    assert model.config.num_hidden_layers == len(model.model.layers) == LAYERS + 2
    dtype = json.loads((models["base"] / "config.json").read_text())["dtype"]
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    state = model.state_dict()
    assert all(torch.equal(state[key], tensor.float()) for key, tensor in found.items())
    assert bool(logits_of(folder, torch.float32).isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_llama_pro_is_the_identity_at_initialisation(
    models: dict[str, Path], dtype: torch.dtype
) -> None:
    wanted = logits_of(models["base"], dtype)
    assert torch.equal(logits_of(models["llama_pro"], dtype), wanted)
    assert not torch.equal(logits_of(models["solar"], dtype), wanted)


def test_llama_pro_copies_all_but_the_output_projections(models: dict[str, Path]) -> None:
    for slot in plan_of(models["llama_pro"]):
        if slot.new:
            assert slot.copy_of is not None
            made = layer(models["llama_pro"], slot.layer_idx)
            for suffix, tensor in layer(models["base"], slot.copy_of).items():
                if suffix in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                    assert not made[suffix].any()
                else:
                    assert same_bits(made[suffix], tensor)


def test_llama_pro_is_the_identity_with_biases(tmp_path: Path) -> None:
    """Llama's optional biases: those of the output projections add to the residual stream."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(tiny_config(attention_bias=True, mlp_bias=True))
    base = save_random(model, tmp_path / "base", torch.float32)
    folder = deepen(base, "llama_pro", tmp_path)
    assert torch.equal(logits_of(folder, torch.float32), logits_of(base, torch.float32))


def test_solar_equals_modules_stacked_by_hand(models: dict[str, Path]) -> None:
    model = load(models["base"])
    stacked = copy.deepcopy(model)
    lower = [copy.deepcopy(model.model.layers[i]) for i in (0, 1, 2, 3)]
    upper = [copy.deepcopy(model.model.layers[i]) for i in (2, 3, 4, 5)]
    stacked.model.layers = torch.nn.ModuleList(lower + upper)
    for index, module in enumerate(stacked.model.layers):
        module.self_attn.layer_idx = index
    stacked.config.num_hidden_layers = 8
    ids = torch.randint(64, (3, 20), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        wanted = stacked(input_ids=ids).logits
    assert torch.equal(logits_of(models["solar"], torch.float32), wanted)
    assert all(slot.trainable for slot in plan_of(models["solar"]))


def test_average_is_the_mean_of_its_neighbours(models: dict[str, Path]) -> None:
    for index, left in ((4, 3), (6, 4)):
        made = layer(models["average"], index)
        one, other = layer(models["base"], left), layer(models["base"], left + 1)
        assert made.keys() == one.keys()
        for suffix, tensor in made.items():
            wanted = torch.stack([one[suffix].double(), other[suffix].double()]).mean(dim=0)
            rounding = torch.finfo(tensor.dtype).eps
            assert torch.allclose(tensor.double(), wanted, rtol=rounding, atol=1e-7)


def full_svd_prediction(base: Path, fit: Path, kind: str, left: int) -> Tensor:
    """`U diag(S) G([V_left, V_left+1])` in float64 from an SVD of the concatenation."""
    suffix = KINDS[kind]
    weights = [layer(base, i)[suffix].double() for i in range(LAYERS)]
    u, s, vh = torch.linalg.svd(torch.cat(weights, dim=1), full_matrices=False)
    rows = u.abs().argmax(dim=0)
    sign = u[rows, torch.arange(len(s))].sign()  # the largest entry of a column is positive
    u, vh = u * sign, vh * sign[:, None]
    blocks = vh.split(weights[0].shape[1], dim=1)
    x = torch.cat([blocks[left], blocks[left + 1]], dim=1)
    g = {name: t.double() for name, t in load_file(fit / f"{kind}.safetensors").items()}
    x = torch.relu(x @ g["0.weight"].T + g["0.bias"])
    x = torch.relu(x @ g["2.weight"].T + g["2.bias"])
    return u @ torch.diag(s) @ (x @ g["4.weight"].T + g["4.bias"])


def test_lesa_equals_a_recomputation(models: dict[str, Path]) -> None:
    fit = models["lesa"].parent / "fit"
    for index, left in ((4, 3), (6, 4)):
        made = layer(models["lesa"], index)
        for kind, suffix in KINDS.items():
            wanted = full_svd_prediction(models["base"], fit, kind, left)
            assert made[suffix].shape == wanted.shape
            error = (made[suffix].double() - wanted).norm() / wanted.norm()
            assert float(error) < (3e-3 if made[suffix].dtype == torch.bfloat16 else 1e-4), kind


def test_lesa_from_the_concatenation_is_the_same(tiny32: Path, tmp_path: Path) -> None:
    prepare(tiny32, tmp_path / "gram")
    prepare(tiny32, tmp_path / "concat", concat=True)
    one = tensors_of(deepen(tiny32, "lesa", tmp_path / "gram"))
    other = tensors_of(deepen(tiny32, "lesa", tmp_path / "concat"))
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_lesa_takes_norms_from_layer_0(models: dict[str, Path]) -> None:
    first = layer(models["base"], 0)
    for index in (4, 6):
        made = layer(models["lesa"], index)
        for suffix in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            assert same_bits(made[suffix], first[suffix])
            assert not torch.equal(made[suffix], layer(models["base"], 3)[suffix])


def test_lesa_can_take_norms_from_its_neighbours(tiny32: Path, tmp_path: Path) -> None:
    prepare(tiny32, tmp_path)
    folder = deepen(tiny32, "lesa", tmp_path, unpredicted="neighbours")
    suffix = "input_layernorm.weight"
    wanted = (layer(tiny32, 3)[suffix] + layer(tiny32, 4)[suffix]) / 2
    assert torch.allclose(layer(folder, 4)[suffix], wanted)


def test_load_predictor_gives_the_stored_network(models: dict[str, Path]) -> None:
    model = load_predictor(models["lesa"].parent / "fit", "down_proj")
    assert tuple(model(torch.zeros(5, 96)).shape) == (5, 48)
    assert not model.training


def test_noise_has_lesas_norms_and_nothing_else_of_it(models: dict[str, Path]) -> None:
    for index in (4, 6):
        lesa, noise = layer(models["lesa"], index), layer(models["noise"], index)
        for suffix, tensor in lesa.items():
            if suffix not in KINDS.values():
                assert same_bits(noise[suffix], tensor)
                continue
            assert noise[suffix].dtype == tensor.dtype
            one, other = noise[suffix].double(), tensor.double()
            # bfloat16 keeps 8 bits of each entry: the sum of squares moves by some 1e-4.
            exact = 1e-3 if tensor.dtype == torch.bfloat16 else 1e-5
            assert float(one.norm()) == pytest.approx(float(other.norm()), rel=exact)
            cosine = float((one * other).sum() / one.norm() / other.norm())
            assert abs(cosine) < 0.25


def test_spectrum_keeps_every_singular_value_and_no_direction(models: dict[str, Path]) -> None:
    for index in (4, 6):
        lesa, other = layer(models["lesa"], index), layer(models["spectrum"], index)
        for suffix, tensor in lesa.items():
            if suffix not in KINDS.values():
                assert same_bits(other[suffix], tensor)
                continue
            drawn, wanted = (torch.linalg.svdvals(t.double()) for t in (other[suffix], tensor))
            exact = 1e-2 if tensor.dtype == torch.bfloat16 else 1e-5
            assert float((drawn - wanted).abs().max()) <= exact * float(wanted[0])
            one, two = tensor.double(), other[suffix].double()
            # A nearly rank-one matrix leaves few directions to differ in: a looser bound.
            assert abs(float((one * two).sum() / one.norm() / two.norm())) < 0.5


def test_noise_is_deterministic_and_differs_between_matrices(models: dict[str, Path]) -> None:
    work = models["lesa"].parent
    again = deepen(models["base"], "noise", work, out="noise_again")
    one, other = tensors_of(models["noise"]), tensors_of(again)
    assert all(same_bits(one[name], other[name]) for name in one)
    suffixes = ("self_attn.q_proj.weight", "self_attn.o_proj.weight")  # of one shape
    matrices = [layer(again, i)[suffix].float() for i in (4, 6) for suffix in suffixes]
    for i, left in enumerate(matrices):
        for right in matrices[i + 1 :]:
            cosine = float((left * right).sum() / left.norm() / right.norm())
            assert abs(cosine) < 0.25


def test_noise_depends_on_its_seed(models: dict[str, Path]) -> None:
    method = methods.get("noise")
    base = Checkpoint(models["base"])
    source = Source(base, Path(), models["lesa"], "copied", seed=0)
    slot = method.plan(LAYERS, *GAPS)[4]
    suffix = KINDS["q_proj"]
    one = method.tensor(source, slot, suffix)
    assert not torch.equal(one, method.tensor(replace(source, seed=1), slot, suffix))
    assert torch.equal(one, method.tensor(source, slot, suffix))


@pytest.mark.parametrize("name", NAMES)
def test_qwen2_expands_with_its_biases(qwen: Path, tmp_path: Path, name: str) -> None:
    prepare(qwen, tmp_path)
    if name in CONTROLS:
        deepen(qwen, "lesa", tmp_path)
    folder = deepen(qwen, name, tmp_path)
    model = load(folder)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert len(model.config.layer_types) == len(model.model.layers) == LAYERS + 2
    for slot in plan_of(folder):
        made = layer(folder, slot.layer_idx)
        assert "self_attn.q_proj.bias" in made
        if slot.new and name in ("lesa", *CONTROLS):
            for part in ("q", "k", "v"):
                suffix = f"self_attn.{part}_proj.bias"
                assert torch.equal(made[suffix], layer(qwen, 0)[suffix])
    if name == "llama_pro":
        assert torch.equal(logits_of(folder, torch.float32), logits_of(qwen, torch.float32))
    else:
        assert bool(logits_of(folder, torch.float32).isfinite().all())


def test_side_files_are_copied_and_the_old_index_is_not(tiny32: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny32, base)
    (base / "tokenizer.json").write_text("{}")
    folder = deepen(base, "average", tmp_path)
    assert (folder / "tokenizer.json").read_text() == "{}"
    found = check(folder)
    assert found["num_hidden_layers"] == LAYERS + 2
    assert sorted(found["files"]) == sorted(p.name for p in folder.glob("*.safetensors"))


@pytest.mark.parametrize("gaps", [(3, 5), (0, 50)])
@pytest.mark.parametrize("name", ["lesa", "average", "noise"])
def test_gaps_outside_the_model(
    tiny32: Path, tmp_path: Path, name: str, gaps: tuple[int, int]
) -> None:
    with pytest.raises(UserError, match=r"gaps\.last.*6 layers"):
        deepen(tiny32, name, tmp_path, gaps=gaps)
    assert list(tmp_path.iterdir()) == []


def test_llama_pro_that_does_not_divide(tiny32: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="divides 6"):
        deepen(tiny32, "llama_pro", tmp_path, gaps=(0, 3))
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_no_folder(tiny32: Path, tmp_path: Path) -> None:
    def broken(source: Source, slot: Any, suffix: str) -> Tensor:
        raise RuntimeError("out of memory")

    base = Checkpoint(tiny32)
    source = Source(base, tmp_path, tmp_path, "layer_0", 0)
    plan = insert_between(LAYERS, *GAPS)
    with pytest.raises(RuntimeError, match="out of memory"):
        expand(source, Method(insert_between, broken), plan, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_same_input_same_bytes(tiny32: Path, tmp_path: Path) -> None:
    prepare(tiny32, tmp_path)
    one = deepen(tiny32, "lesa", tmp_path)
    other = deepen(tiny32, "lesa", tmp_path, out="again")
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / n).read_bytes() == (other / n).read_bytes() for n in names)
