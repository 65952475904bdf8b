"""New layers of a tiny Llama against independent recomputation; all families: test_families.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from lesa.checkpoints.base import copy_checkpoint
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.method.prediction import load_predictor
from lesa.params import Gaps
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Layer, Method, NoOptions, Source
from lesa.upscaling.plan import Slot, insert_between
from pipelines import expand as stage
from tests.conftest import tensors_of
from tests.families import LAYERS, deepen, fitted, load, save_family

GAPS = Gaps(first=3, last=4)  # two new layers: they divide the six
PLACES = ((4, 3), (6, 4))  # a new layer's index, and that of the base layer below it
CONTROLS = ("noise", "spectrum")
METHODS = (
    "average", "average_zeroed", "identity", "identity_upper", "lesa", "lesa_zeroed", "llama_pro",
    *CONTROLS,
)  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SUFFIXES = {
    kind: f"{'mlp' if kind in ('gate', 'up', 'down') else 'self_attn'}.{kind}_proj.weight"
    for kind in ("q", "k", "v", "o", "gate", "up", "down")
}


@pytest.fixture(scope="module", params=list(DTYPES))
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Methods' deepened checkpoints of the base under "tiny", LESA's norms of layer 0."""
    work = tmp_path_factory.mktemp("models")
    base = save_family("llama", work / "tiny", DTYPES[request.param])
    options = {"unpredicted": "layer_0"}
    made = {name: deepen(base, name, work, GAPS, **options)[0] for name in METHODS}
    return made | {"tiny": base}


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_family("llama", tmp_path / "tiny")


def test_a_note_that_is_no_text(llama: Path, tmp_path: Path) -> None:
    """JSON may hold half of a surrogate pair, which no file can."""
    (llama / "LICENSE_NOTE.json").write_text(r'{"source": "half \ud800"}')
    folder, _ = deepen(llama, "solar", tmp_path / "work", GAPS)
    assert "Base: half ?." in (folder / "README.md").read_text(encoding="utf-8")


def test_code_that_a_base_names_is_not_looked_for(llama: Path, tmp_path: Path) -> None:
    """It is not run here and not copied: a caller who trusts it gets transformers' own classes."""
    named: dict[str, dict[str, Any]] = {
        "config.json": {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"},
        "tokenizer_config.json": {"AutoTokenizer": ["code.Tokenizer", None]},
    }
    for file, auto_map in named.items():
        entries = json.loads((llama / file).read_text(encoding="utf-8"))
        (llama / file).write_text(json.dumps(entries | {"auto_map": auto_map}), encoding="utf-8")
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    pipelines = {"mine": {"impl": "code.Pipeline", "pt": ["AutoModelForCausalLM"]}}
    (llama / "config.json").write_text(json.dumps(config | {"custom_pipelines": pipelines}))
    folder, _ = deepen(llama, "solar", tmp_path / "work", GAPS)
    copy = tmp_path / "copy"
    copy.mkdir()
    copy_checkpoint(llama, copy)
    for made, depth in ((folder, 8), (copy, 6)):
        kept_entries = json.loads((made / "config.json").read_text(encoding="utf-8"))
        assert not {"auto_map", "custom_pipelines"} & kept_entries.keys()
        model = AutoModelForCausalLM.from_pretrained(made, trust_remote_code=True)
        assert len(model.model.layers) == depth
        kept = AutoTokenizer.from_pretrained(made, trust_remote_code=True)
        assert kept("a b").input_ids == AutoTokenizer.from_pretrained(llama)("a b").input_ids


def layer(folder: Path, index: int) -> dict[str, Tensor]:
    prefix = f"model.layers.{index}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors_of(folder).items()
        if name.startswith(prefix)
    }


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def check_zeroed(made: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    """`made` is `source` but for the output projections, which are zero."""
    assert made.keys() == source.keys()
    for suffix, tensor in source.items():
        assert tensor.any()
        zeroed = suffix in (SUFFIXES["o"], SUFFIXES["down"])
        assert same_bits(made[suffix], torch.zeros_like(tensor) if zeroed else tensor), suffix


def test_llama_pro_copies_all_but_the_output_projections(models: dict[str, Path]) -> None:
    for slot in json.loads((models["llama_pro"] / "layer_plan.json").read_text()):
        if slot["new"]:
            made = layer(models["llama_pro"], slot["layer_idx"])
            check_zeroed(made, layer(models["tiny"], slot["copy_of"]))


@pytest.mark.parametrize(("name", "above"), [("identity", 0), ("identity_upper", 1)])
def test_identity_copies_all_but_the_output_projections(
    models: dict[str, Path], name: str, above: int
) -> None:
    for index, left in PLACES:
        check_zeroed(layer(models[name], index), layer(models["tiny"], left + above))


@pytest.mark.parametrize("name", ["average", "lesa"])
def test_zeroed_is_the_method_itself_but_for_the_output_projections(
    models: dict[str, Path], name: str
) -> None:
    for index, _ in PLACES:
        check_zeroed(layer(models[f"{name}_zeroed"], index), layer(models[name], index))


def test_average_is_the_mean_of_its_neighbours(models: dict[str, Path]) -> None:
    for index, left in PLACES:
        made = layer(models["average"], index)
        one, other = layer(models["tiny"], left), layer(models["tiny"], left + 1)
        assert made.keys() == one.keys()
        for suffix, tensor in made.items():
            wanted = torch.stack([one[suffix].double(), other[suffix].double()]).mean(dim=0)
            rounding = torch.finfo(tensor.dtype).eps
            assert torch.allclose(tensor.double(), wanted, rtol=rounding, atol=1e-7)


def full_svd_prediction(base: Path, fit: Path, kind: str, left: int) -> Tensor:
    """`U diag(S) G([V_left, V_left+1])` in float64 from an SVD of the concatenation."""
    weights = [layer(base, i)[SUFFIXES[kind]].double() for i in range(LAYERS)]
    u, s, vh = torch.linalg.svd(torch.cat(weights, dim=1), full_matrices=False)
    rows = u.abs().argmax(dim=0)
    sign = u[rows, torch.arange(len(s))].sign()  # the largest entry of a column is positive
    u, vh = u * sign, vh * sign[:, None]
    blocks = vh.split(weights[0].shape[1], dim=1)
    x = torch.cat([blocks[left], blocks[left + 1]], dim=1)
    g = {name: t.double() for name, t in load_file(fit / f"{kind}_proj.safetensors").items()}
    x = torch.relu(x @ g["0.weight"].T + g["0.bias"])
    x = torch.relu(x @ g["2.weight"].T + g["2.bias"])
    found: Tensor = u @ torch.diag(s) @ (x @ g["4.weight"].T + g["4.bias"])
    return found


def test_lesa_equals_a_recomputation(models: dict[str, Path]) -> None:
    fit = models["lesa"].parent / "fit"
    for index, left in PLACES:
        made = layer(models["lesa"], index)
        for kind, suffix in SUFFIXES.items():
            wanted = full_svd_prediction(models["tiny"], fit, kind, left)
            assert made[suffix].shape == wanted.shape
            error = (made[suffix].double() - wanted).norm() / wanted.norm()
            assert float(error) < (4e-3 if made[suffix].dtype == torch.bfloat16 else 1e-4), kind


def test_lesa_from_the_concatenation_is_the_same(llama: Path, tmp_path: Path) -> None:
    fitted(Checkpoint(llama), tmp_path / "gram")
    fitted(Checkpoint(llama), tmp_path / "concat", concat=True)
    one = tensors_of(deepen(llama, "lesa", tmp_path / "gram")[0])
    other = tensors_of(deepen(llama, "lesa", tmp_path / "concat")[0])
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_lesa_takes_norms_from_layer_0(models: dict[str, Path]) -> None:
    first = layer(models["tiny"], 0)
    for index, left in PLACES:
        made = layer(models["lesa"], index)
        for suffix in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            assert same_bits(made[suffix], first[suffix])
            assert not torch.equal(made[suffix], layer(models["tiny"], left)[suffix])


def test_load_predictor_gives_the_stored_network(models: dict[str, Path]) -> None:
    model = load_predictor(models["lesa"].parent / "fit", "down_proj")
    assert tuple(model(torch.zeros(5, 96)).shape) == (5, 48)
    assert not model.training


def test_noise_has_lesas_norms_and_nothing_else_of_it(models: dict[str, Path]) -> None:
    for index, _ in PLACES:
        lesa, noise = layer(models["lesa"], index), layer(models["noise"], index)
        for suffix, tensor in lesa.items():
            if suffix not in SUFFIXES.values():
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
    for index, _ in PLACES:
        lesa, other = layer(models["lesa"], index), layer(models["spectrum"], index)
        for suffix, tensor in lesa.items():
            if suffix not in SUFFIXES.values():
                assert same_bits(other[suffix], tensor)
                continue
            drawn, wanted = (torch.linalg.svdvals(t.double()) for t in (other[suffix], tensor))
            exact = 1e-2 if tensor.dtype == torch.bfloat16 else 1e-5
            assert float((drawn - wanted).abs().max()) <= exact * float(wanted[0])
            one, two = tensor.double(), other[suffix].double()
            # A nearly rank-one matrix leaves few directions to differ in: a looser bound.
            assert abs(float((one * two).sum() / one.norm() / two.norm())) < 0.5


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_repeat_and_differ_between_matrices_and_seeds(
    llama: Path, tmp_path: Path, name: str
) -> None:
    one = tensors_of(deepen(llama, name, tmp_path, GAPS)[0])
    again = tensors_of(deepen(llama, name, tmp_path, GAPS, out="again")[0])
    seeded = deepen(llama, name, tmp_path, GAPS, out="seeded", seed=1)[0]
    assert all(same_bits(one[key], again[key]) for key in one)
    matrices = [layer(f, i)[SUFFIXES["q"]] for f in (tmp_path / name, seeded) for i in (4, 6)]
    for i, left in enumerate(matrices):
        for right in matrices[i + 1 :]:
            assert abs(float((left * right).sum() / left.norm() / right.norm())) < 0.5


@pytest.mark.parametrize("last", [5, 50])
@pytest.mark.parametrize("name", ["lesa", "average", "noise"])
def test_gaps_outside_the_model(llama: Path, tmp_path: Path, name: str, last: int) -> None:
    with pytest.raises(UserError, match=r"gaps\.last.*6 layers"):
        deepen(llama, name, tmp_path / "work", Gaps(first=3, last=last))
    assert not (tmp_path / "work" / name).exists()


def test_failure_leaves_no_folder(llama: Path, tmp_path: Path) -> None:
    def broken(source: Source, slot: Slot) -> Layer:
        raise RuntimeError("out of memory")

    source = Source(Checkpoint(llama), tmp_path, (), NoOptions())
    method = Method(insert_between, broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        expand(source, "broken", method, GAPS, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_same_input_same_bytes(llama: Path, tmp_path: Path) -> None:
    one, _ = deepen(llama, "lesa", tmp_path)
    other, _ = deepen(llama, "lesa", tmp_path, out="again")
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert all((one / n).read_bytes() == (other / n).read_bytes() for n in names)


def test_model_card_names_base_method_and_router(tmp_path: Path) -> None:
    llama, _ = deepen(save_family("llama", tmp_path / "llama"), "lesa", tmp_path / "one")
    said = (llama / "README.md").read_text()
    assert "from 6 to 9 layers by `lesa`" in said
    assert "3, 5, 7" in said
    assert "router" not in said
    mixtral, _ = deepen(save_family("mixtral", tmp_path / "mixtral"), "lesa", tmp_path / "two")
    assert "has its lower neighbour's" in (mixtral / "README.md").read_text()


def test_stage_measures_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, trainable ones and norms of the stage, against transformers' model."""
    base = save_family("qwen2", tmp_path / "base")
    folder, plan = deepen(base, "lesa", tmp_path / "work")
    monkeypatch.setattr(stage, "BASE", base)
    found = stage.describe(folder, plan)
    model = load(folder)
    assert found["parameters_before"] == load(base).num_parameters()
    assert found["parameters_after"] == model.num_parameters()
    new = [p for n, p in model.named_parameters() for i in (3, 5, 7) if f"layers.{i}." in n]
    assert found["trainable_parameters"] == sum(p.numel() for p in new)
    norm = model.model.layers[3].mlp.up_proj.weight.detach().norm()
    assert found["new_weight_norms"]["up_proj"][0] == pytest.approx(float(norm))
    assert found["router"] is False
