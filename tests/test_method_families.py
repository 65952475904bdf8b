"""The method on fused, transposed and expert matrices, against what transformers' modules compute
and against a float64 SVD of the concatenation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM

from benchmarks.published_fit import published_fit
from lesa.checkpoints.reader import Checkpoint, weight_files
from lesa.method import fitting
from lesa.method.basis import from_gram, gram, load_basis, save_basis
from lesa.method.fitting import Job
from lesa.method.prediction import load_predictor, predict
from lesa.method.predictor import network
from lesa.params import Predictor
from tests.families import LAYERS, family_model, save_family

INPUTS = 80  # more than any matrix has columns: so many random rows determine it
SETTINGS = Predictor(
    norm_weight=5e-4, epochs=2, hidden_size=8, batch_size=8, learning_rate=1e-3, weight_decay=0.01
)
QKV: list[dict[str, Tensor]] = []  # a layer's queries, keys and values, (INPUTS, d1) each


def recorded(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """An attention function that keeps its inputs (batch, heads, 1, head_dim)."""
    named = {"q_proj": query, "k_proj": key, "v_proj": value}
    QKV.append({kind: states.flatten(1) for kind, states in named.items()})
    return query.transpose(1, 2), None


AttentionInterface.register("recorded", recorded)


@pytest.fixture(scope="module", params=["phi3", "gpt_neox", "gpt2", "mixtral", "mixtral-stacked"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint; Mixtral's twice, its experts apart and stacked. Read only."""
    name, _, stacked = request.param.partition("-")
    folder = save_family(name, tmp_path_factory.mktemp(request.param))
    if stacked:
        for file in [*weight_files(folder), "model.safetensors.index.json"]:
            (folder / file).unlink()
        state = family_model(name).state_dict()
        assert state["model.layers.0.mlp.experts.down_proj"].dim() == 3
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Layer:
    """What the modules of one layer of transformers' model took and gave for random inputs."""

    def __init__(self, folder: Path, layer_idx: int) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="recorded")
        path = Checkpoint(folder).family.layers
        self.module = model.get_submodule(f"{path}.{layer_idx}")
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name, module in self.module.named_modules():
            module.register_forward_hook(self.hook(name), with_kwargs=True)
        QKV.clear()
        generator = torch.Generator().manual_seed(layer_idx)
        # Sequences of one token: at position 0 rotary embeddings are the identity.
        states = torch.randn(INPUTS, 1, model.config.hidden_size, generator=generator)
        with torch.no_grad():
            model(inputs_embeds=states, use_cache=False)
        self.qkv = QKV[layer_idx]

    def hook(self, name: str) -> Any:
        def keep(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            taken = args[0] if args else kwargs["hidden_states"]
            given = output[0] if isinstance(output, tuple) else output
            self.seen[name] = taken.flatten(0, -2), given.flatten(0, -2)

        return keep

    def of(self, *names: str) -> tuple[Tensor, Tensor]:
        """Inputs and outputs (INPUTS, d) of the module that has one of these names."""
        (found,) = (self.seen[name] for name in names if name in self.seen)
        return found


def is_linear(inputs: Tensor, outputs: Tensor, weight: Tensor) -> None:
    """Is `outputs` `inputs · weightᵀ`, but for a bias?"""
    # A layer norm takes one dimension from them.
    assert int(torch.linalg.matrix_rank(inputs - inputs[0])) >= weight.shape[1] - 1
    assert weight.shape == (outputs.shape[1], inputs.shape[1])
    wanted = (inputs - inputs[0]) @ weight.T
    assert torch.allclose(outputs - outputs[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer_idx", [0, LAYERS - 1])
def test_matrices_are_those_that_the_modules_multiply_with(folder: Path, layer_idx: int) -> None:
    base, layer = Checkpoint(folder), Layer(folder, layer_idx)

    def matrix(kind: str) -> Tensor:
        found = base.matrix(kind, layer_idx)
        assert found.shape == base.shape(kind)
        return found

    inputs, _ = layer.of("self_attn", "attention", "attn")
    for kind, states in layer.qkv.items():
        is_linear(inputs, states, matrix(kind))
    is_linear(*layer.of("self_attn.o_proj", "attention.dense", "attn.c_proj"), matrix("o_proj"))
    if "experts.0.up_proj" in base.kinds:
        experts, (inputs, _) = layer.module.mlp.experts, layer.of("mlp")
        for e in range(4):
            chosen = torch.full((len(inputs), 1), e)
            gate, up, down = (matrix(f"experts.{e}.{n}_proj") for n in ("gate", "up", "down"))
            hidden = nn.functional.silu(inputs @ gate.T) * (inputs @ up.T)
            with torch.no_grad():
                found = experts(inputs, chosen, torch.ones(len(inputs), 1))
            assert torch.allclose(found, hidden @ down.T, rtol=1e-4, atol=1e-5)
        return
    inputs, _ = layer.of("mlp")
    hidden, outputs = layer.of("mlp.down_proj", "mlp.dense_4h_to_h", "mlp.c_proj")
    is_linear(hidden, outputs, matrix("down_proj"))
    if "gate_proj" in base.kinds:
        wanted = nn.functional.silu(inputs @ matrix("gate_proj").T) * (inputs @ matrix("up_proj").T)
        assert torch.allclose(hidden, wanted, rtol=1e-4, atol=1e-5)
    else:
        is_linear(*layer.of("mlp.dense_h_to_4h", "mlp.c_fc"), matrix("up_proj"))


def decomposed(base: Checkpoint, kind: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """`U` (d1, r), `Σ` (r,) and `V_1 … V_L` (r, d2) float64, by an SVD of the concatenation.

    Each column of `U` has the sign that makes its largest entry positive.
    """
    weights = [base.matrix(kind, i).double() for i in range(base.num_layers)]
    u, s, vh = torch.linalg.svd(torch.cat(weights, dim=1), full_matrices=False)
    signs = u.gather(0, u.abs().argmax(dim=0, keepdim=True)).sign()
    return u * signs, s, list((vh * signs.T).split(weights[0].shape[1], dim=1))


@pytest.fixture(scope="module")
def svd(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bases that stages extract and svd would write."""
    base, svd = Checkpoint(folder), tmp_path_factory.mktemp("svd")
    for kind in base.kinds:
        total = gram(base.matrix(kind, i) for i in range(LAYERS))
        save_basis(from_gram(total, 1e-6), svd / f"{kind}.safetensors")
    return svd


def test_bases_are_those_of_the_concatenation(folder: Path, svd: Path) -> None:
    base = Checkpoint(folder)
    for kind in base.kinds:
        u, s, v = decomposed(base, kind)
        found = load_basis(svd, kind)
        assert torch.allclose(found.s.double(), s, rtol=1e-5)
        assert torch.allclose(found.u.double(), u, atol=1e-3)
        coefficients = found.coefficients(base.matrix(kind, 2)).double()
        assert torch.allclose(coefficients, v[2], atol=1e-3)


def test_predictions_are_those_of_the_concatenation(folder: Path, svd: Path) -> None:
    """`U Σ G([V_i, V_{i+1}])` in float64, for every kind."""
    base = Checkpoint(folder)
    torch.manual_seed(0)
    for kind in base.kinds:
        u, s, v = decomposed(base, kind)
        model = network(v[0].shape[1], 8)
        found = predict(base, load_basis(svd, kind), model, kind, (3, 4))
        with torch.no_grad():
            exact = model.cpu().double()  # `predict` may have taken it to a GPU
            wanted = u @ (s[:, None] * exact(torch.cat([v[3], v[4]], dim=1)))
        assert found.shape == base.shape(kind)
        assert found.dtype == torch.float32
        assert float((found.double() - wanted).norm() / wanted.norm()) < 1e-4


def test_every_kind_has_a_predictor_of_its_own(folder: Path, svd: Path, tmp_path: Path) -> None:
    """The published loop's weights on float64 coefficients, for the first kind and the last."""
    base, job = Checkpoint(folder), Job(folder, svd, tmp_path, SETTINGS, 3, 2)
    seeds = [fitting.kind_seed(3, kind) for kind in base.kinds]
    assert len(set(seeds)) == len(base.kinds)
    for kind in (base.kinds[0], base.kinds[-1]):
        fitting.write_coefficients(job, kind)
        fitting.fit_predictor(job, kind, "train", work=1)
        _, _, v = decomposed(base, kind)
        rows = [layer.float() for layer in v]
        middles, seed = list(range(1, LAYERS - 1)), fitting.kind_seed(3, kind)
        settings = SETTINGS.model_dump(exclude={"fitted_on"})
        wanted, _ = published_fit(rows, middles, seed=seed, **settings)
        found = load_predictor(tmp_path, kind)
        for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_workers_fit_every_expert(tmp_path: Path) -> None:
    """Files are named after kinds, experts' too."""
    folder = save_family("mixtral", tmp_path / "base", num_local_experts=2)
    base, bases, work = Checkpoint(folder), tmp_path / "svd", tmp_path / "work"
    for made in (bases, work):
        made.mkdir()
    for kind in base.kinds:
        total = gram(base.matrix(kind, i) for i in range(LAYERS))
        save_basis(from_gram(total, 1e-6), bases / f"{kind}.safetensors")
    found = fitting.fit_kinds(Job(folder, bases, work, SETTINGS, 3, 2), "test")
    experts = [f"experts.{e}.{name}_proj" for e in (0, 1) for name in ("gate", "up", "down")]
    assert list(found) == [*(f"{name}_proj" for name in "qkvo"), *experts]
    assert all(entry["heldout_triples"] == 2 for entry in found.values())
    assert sorted(work.glob("*.safetensors")) == [work / f"{k}.safetensors" for k in sorted(found)]
