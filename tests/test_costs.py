"""Costs against counters of torch itself, bytes of real outputs, and how they grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from baselines import table
from lesa.method import basis, predictor
from lesa.method.basis import Basis, gram, save_basis
from lesa.method.coefficients import InMemory
from lesa.method.fitting import worker_devices
from lesa.method.prediction import predict
from lesa.params import Evaluate, Gaps, Predictor, Train, parse
from lesa.planning import method_costs, model_costs
from lesa.planning.architecture import Architecture, architecture, find_config
from lesa.planning.cost import Cost
from lesa.planning.launch import ALONE, Launch, launch
from lesa.training import prefix
from lesa.training.freezing import first_trainable
from lesa.training.head_loss import ROWS
from lesa.upscaling.plan import LayerPlan, insert_between
from pipelines.plan import CONFIGS as MODELS
from pipelines.profile import compose
from pipelines.stage import layer_plans
from tests.conftest import tiny_config
from tests.families import CONFIGS, LAYERS, family_model

SETTINGS = Predictor(
    norm_weight=5e-5, epochs=2, hidden_size=32, batch_size=64, learning_rate=1e-3, weight_decay=0.01
)
TRAIN = Train(
    launch="python",
    max_steps=2,
    eval_every=1,
    save_every=2,
    per_device_batch_size=2,
    gradient_accumulation_steps=1,
    warmup_steps=0,
    weight_decay=0.0,
    max_grad_norm=1.0,
    bf16=False,
    prefix_cache=False,
    seed=0,
)
EVALUATE = Evaluate(
    launch="python",
    offline_documents=6,
    offline_examples=32,
    tasks=[],
    limit=None,
    mirror=None,
    batch_size=8,
    document_tokens=2048,
    dtype="bfloat16",
    bootstrap_iters=10,
)
LENGTH = 48  # of the sequences, within the tiny model's context
GAPS = Gaps(first=3, last=4)
PLANS: dict[str, LayerPlan] = {
    "base": table()["base"].plan(LAYERS, GAPS),
    "inserted": insert_between(LAYERS, GAPS),
    "llama_pro": table()["llama_pro"].plan(LAYERS, GAPS),
    "solar": table()["solar"].plan(LAYERS, GAPS),
}


def tiny_shapes(**changes: Any) -> Architecture:
    return architecture(tiny_config(**changes).to_dict(), "tiny")


def counted(action: Callable[[], Any]) -> int:
    # torch counts addmm, and not the one in place.
    mapping = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        action()
    return int(counter.get_total_flops())


def tiny_model(slots: LayerPlan) -> Any:
    """A model whose parameters train as the plan says; attention in plain products, all counted."""
    from transformers import LlamaForCausalLM

    config = tiny_config(num_hidden_layers=len(slots), attn_implementation="eager")
    model = LlamaForCausalLM(config)
    if not all(slot.trainable for slot in slots):
        model.requires_grad_(False)
        for slot in slots:
            model.model.layers[slot.layer_idx].requires_grad_(slot.trainable)
    return model


@pytest.mark.parametrize("name", PLANS)
def test_a_training_step_does_the_operations_torch_counts(name: str) -> None:
    slots = PLANS[name]
    model = tiny_model(slots)
    ids = torch.randint(64, (TRAIN.per_device_batch_size, LENGTH))
    found = counted(lambda: model(input_ids=ids, labels=ids).loss.backward())
    cost = model_costs.pretrain(tiny_shapes(), slots, TRAIN, blocks=0, length=LENGTH)
    assert cost.flops == pytest.approx(TRAIN.max_steps * found, rel=0.02)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_every_family_does_the_operations_torch_counts(name: str) -> None:
    """Attention and a mixture's experts in plain products, all counted."""
    plain: dict[str, Any] = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model, (model_type, config) = family_model(name, **plain), CONFIGS[name]
    ids = torch.randint(256, (TRAIN.per_device_batch_size, LENGTH))
    found = counted(lambda: model(input_ids=ids, labels=ids).loss.backward())
    a = architecture({"model_type": model_type, **config}, name)
    cost = model_costs.pretrain(a, PLANS["base"], TRAIN, blocks=0, length=LENGTH)
    assert cost.flops == pytest.approx(TRAIN.max_steps * found, rel=0.02)


def test_scoring_does_the_operations_torch_counts() -> None:
    model = tiny_model(PLANS["base"])
    ids = torch.randint(64, (3, LENGTH))
    cost = model_costs.held_out(tiny_shapes(), 6, blocks=3, length=LENGTH, batch=2, bf16=False)
    with torch.no_grad():
        assert cost.flops == pytest.approx(counted(lambda: model(input_ids=ids)), rel=0.02)


@pytest.mark.parametrize("rows", [basis.ROWS, 20])  # in one block, in several
def test_extract_does_the_operations_torch_counts(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = tiny_shapes()
    for module in (basis, method_costs):
        monkeypatch.setattr(module, "ROWS", rows)

    def everything() -> None:
        for shape in a.kinds.values():
            gram(torch.randn(shape) for _ in range(a.num_layers))

    assert method_costs.extract(a).work["float64"] == counted(everything)


def test_fit_does_the_operations_torch_counts() -> None:
    a = tiny_shapes()

    def everything() -> None:
        for kind, (d1, d2) in a.kinds.items():
            made = Basis(torch.randn(d1, a.rank(kind)), torch.rand(a.rank(kind)))
            layers = [made.coefficients(torch.randn(d1, d2)) for _ in range(a.num_layers)]
            v = InMemory(torch.stack(layers))
            model = predictor.fit(v, [1, 2, 3, 4], SETTINGS, 0)
            predictor.score(model, v, [1, 2, 3, 4], 0.0)
            blind = predictor.fit(v, [1, 3], SETTINGS, 0)
            predictor.score(blind, v, [2, 4], 0.0)

    cost = method_costs.fit(a, SETTINGS, heldout_every=2, cores=2, gpus=0)
    assert cost.flops == pytest.approx(counted(everything), rel=0.05)  # biases are not products


def test_a_predicted_matrix_takes_the_operations_torch_counts() -> None:
    a = tiny_shapes()
    slots = PLANS["inserted"]
    still = method_costs.expand(a, slots, [])  # what is measured of any new layer
    found = 0
    for kind, (d1, d2) in a.kinds.items():
        basis = Basis(torch.randn(d1, a.rank(kind)), torch.rand(a.rank(kind)))
        model = predictor.network(d2, 32)

        class Pair:
            def matrix(self, kind: str, layer: int, shape: tuple[int, int] = (d1, d2)) -> Any:
                return torch.randn(shape)

        pair: Any = Pair()
        found += 2 * counted(lambda: predict(pair, basis, model, kind, (3, 4)))  # noqa: B023
    cost = method_costs.expand(a, slots, [32])
    assert cost.flops - still.flops == pytest.approx(found, rel=0.05)


def saved_bytes(action: Callable[[], Any], model: Any) -> int:
    """Bytes that autograd keeps for the backward pass, weights themselves untied."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = action()
    assert output is not None
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_activations_are_what_autograd_keeps(name: str, bf16: bool) -> None:
    from transformers import LlamaModel

    slots = PLANS[name]
    config = tiny_config(num_hidden_layers=len(slots))
    whole = tiny_model(slots)
    model = LlamaModel(config)
    for ours, theirs in zip(model.parameters(), whole.model.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    a = tiny_shapes()
    tokens = 4 * LENGTH

    def forward() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model(torch.randint(64, (4, LENGTH)), use_cache=False)

    # Layers that train, and frozen ones above the first of these.
    moved, frozen = {"base": (6, 0), "inserted": (2, 2), "llama_pro": (2, 3), "solar": (8, 0)}[name]
    cast = 2 * (moved + frozen) * a.layer_matrices if bf16 else 0
    kept = moved * model_costs.activation_bytes(a, bf16, trains=True)
    kept += frozen * model_costs.activation_bytes(a, bf16, trains=False)
    modelled = tokens * kept + cast
    assert saved_bytes(forward, model) == pytest.approx(modelled, rel=0.05)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_activations_of_other_families_are_near(name: str, bf16: bool) -> None:
    model, (model_type, config) = family_model(name), CONFIGS[name]
    a = architecture({"model_type": model_type, **config}, name)
    inner = model.get_submodule(model.base_model_prefix)

    def forward() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return inner(torch.randint(256, (4, LENGTH)), use_cache=False)

    modelled = 4 * LENGTH * model_costs.plan_activations(a, PLANS["base"], bf16)
    modelled += 2 * LAYERS * a.layer_matrices if bf16 else 0
    assert 0.7 < saved_bytes(forward, model) / modelled < 1.8


def test_outputs_are_the_bytes_of_the_files(tmp_path: Path) -> None:
    a = tiny_shapes()
    sizes = {"gram": 0, "basis": 0, "fit": 0}
    for kind, (d1, d2) in a.kinds.items():
        r = a.rank(kind)
        save_file({"gram": torch.zeros(d1, d1, dtype=torch.float64)}, tmp_path / "gram")
        save_basis(Basis(torch.zeros(d1, r), torch.zeros(r)), tmp_path / "basis")
        save_file(predictor.network(d2, 32).state_dict(), tmp_path / "fit")
        for name in sizes:
            sizes[name] += (tmp_path / name).stat().st_size
    header = 7 * 600  # of safetensors, in bytes and more than enough
    for name, cost in (
        ("gram", method_costs.extract(a)),
        ("basis", method_costs.svd(a, "gram")),
        ("fit", method_costs.fit(a, SETTINGS, 5, 2, 0)),
    ):
        assert 0 <= sizes[name] - cost.output < header, name


def test_coefficients_of_the_widest_kinds_lie_on_disk() -> None:
    a = tiny_shapes()
    one, two = (method_costs.fit(a, SETTINGS, 5, cores, 0) for cores in (1, 2))
    widest = 4 * 6 * 48 * 32  # gate and up: L layers of 48 rows of 32, float32
    down = 4 * 6 * 32 * 48
    assert one.scratch - one.output == max(widest, down)
    assert two.scratch - two.output == 2 * widest
    assert two.processes == one.processes + 1 == 3


def test_workers_of_the_fit_are_those_that_are_started() -> None:
    """One a GPU, with a predictor each, else one a core, of a kind's two predictors both."""
    a = tiny_shapes()
    many = method_costs.fit(a, SETTINGS, 2, 64, 0)
    assert many.processes == 1 + len(worker_devices(64, 0, 2 * len(a.kinds))) == 15
    one, two = (method_costs.fit(a, SETTINGS, 2, 64, gpus) for gpus in (1, 2))
    assert (one.processes, two.processes) == (2, 3)
    alone = method_costs.fit(a, SETTINGS, 2, 1, 0)
    assert one.memory == two.memory == alone.memory  # of each GPU
    assert (one.host, two.host) == (alone.memory, 2 * alone.memory)


def deepened(layers: int) -> list[tuple[str, Cost]]:
    a = tiny_shapes(num_hidden_layers=layers)
    inserted = insert_between(layers, Gaps(first=0, last=layers - 2))
    base = table()["base"].plan(layers, GAPS)
    return [
        ("base", method_costs.base(a, "hub")),
        ("extract", method_costs.extract(a)),
        ("svd", method_costs.svd(a, "gram")),
        ("svd of the concatenation", method_costs.svd(a, "concat")),
        ("fit", method_costs.fit(a, SETTINGS, 2, 2, 0)),
        ("expand", method_costs.expand(a, inserted, [32])),
        ("expand by copies", method_costs.expand(a, inserted, [])),
        ("expand the base", method_costs.expand(a, base, [])),
        ("pretrain", model_costs.pretrain(a, inserted, TRAIN, 4, 64)),
        ("pretrain the base", model_costs.pretrain(a, base, TRAIN, 4, 64)),
        ("evaluate", model_costs.evaluate(a, layers, EVALUATE)),
    ]


def test_deeper_costs_more_and_streaming_stages_hold_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Coefficients so small that they are read whole are a bounded share that does grow.
    monkeypatch.setattr(method_costs, "IN_MEMORY_BYTES", 0)
    flat = {"extract", "svd", "fit", "expand", "expand by copies", "expand the base"}
    for (name, small), (_, large) in zip(deepened(5), deepened(9), strict=True):
        assert large.work["disk"] > small.work["disk"], name
        assert large.flops > small.flops or name in ("base", "expand the base"), name
        assert large.output >= small.output, name
        if name in flat:
            assert large.memory == small.memory, name
        elif name != "base":
            assert large.memory > small.memory, name
    grams = [dict(deepened(layers))["extract"].output for layers in (5, 9)]
    assert grams[0] == grams[1]


def test_a_wider_model_costs_more() -> None:
    one, two = tiny_shapes(), tiny_shapes(hidden_size=64, intermediate_size=96)
    for cost in (
        method_costs.extract,
        lambda a: method_costs.svd(a, "gram"),
        lambda a: method_costs.fit(a, SETTINGS, 5, 2, 0),
    ):
        assert cost(two).flops > cost(one).flops
        assert cost(two).memory > cost(one).memory


def test_training_pays_for_what_trains() -> None:
    a = tiny_shapes(num_hidden_layers=12)
    gaps = Gaps(first=6, last=9)
    inserted, pro, solar = (table()[name].plan(12, gaps) for name in ("lesa", "llama_pro", "solar"))
    some, over, everything = (
        model_costs.pretrain(a, slots, TRAIN, 4, 64) for slots in (inserted, pro, solar)
    )
    # Equal parameters train, but the lowest of LLaMA Pro's lies further down.
    assert model_costs.trainable(a, inserted) == model_costs.trainable(a, pro)
    assert some.flops < over.flops < everything.flops
    assert some.memory < over.memory < everything.memory
    assert some.scratch == over.scratch < everything.scratch
    # A checkpoint: weights and two moments of what trains, float32.
    assert some.scratch == 12 * model_costs.trainable(a, inserted)
    twice = model_costs.pretrain(a, inserted, TRAIN.model_copy(update={"save_every": 1}), 4, 64)
    assert twice.scratch == 2 * some.scratch


def test_layers_below_the_first_that_trains_run_once_where_their_output_is_kept() -> None:
    a = tiny_shapes()
    train = TRAIN.model_copy(update={"max_steps": 3, "eval_every": 2})
    kept = train.model_copy(update={"prefix_cache": True})
    for name in PLANS:
        slots, blocks = PLANS[name], 5
        every, rest = (model_costs.pretrain(a, slots, t, blocks, LENGTH) for t in (train, kept))
        if name in ("base", "solar"):
            assert rest == every
            continue
        once = model_costs.prefix(a, slots, kept, blocks, LENGTH)
        tokens = (3 * 2 + blocks) * LENGTH
        assert once.outside == 4 * a.hidden_size * tokens
        assert rest.scratch == every.scratch
        # Evaluated at steps 0, 2 and 3: the same layers ran twice more for each held-out block.
        again = every.flops - rest.flops
        assert again / once.flops == pytest.approx((3 * 2 + 3 * blocks) / (3 * 2 + blocks))


def test_the_layers_below_do_the_operations_torch_counts() -> None:
    slots = PLANS["inserted"]
    model = tiny_model(slots)
    first = first_trainable(model)
    assert model_costs.first_trained(slots) == first
    blocks = torch.randint(64, (2 * 2 + 3, LENGTH))
    cost = model_costs.prefix(tiny_shapes(), slots, TRAIN, 3, LENGTH)
    found = counted(lambda: prefix.entering(model, first, input_ids=blocks))
    assert cost.flops == pytest.approx(found, rel=0.02)


def test_a_frozen_output_layer_holds_the_logits_of_a_chunk() -> None:
    a = tiny_shapes(vocab_size=4000)
    slots, long = PLANS["inserted"], 20 * ROWS

    def beyond_scoring(slots: LayerPlan) -> int:
        moments = 8 * model_costs.trainable(a, slots)
        scored = model_costs.held_out(a, len(slots), 0, long, 2, bf16=False).memory
        return model_costs.pretrain(a, slots, TRAIN, 0, long).memory - moments - scored

    # Logits and their log-softmax of two sequences where the output layer trains; scoring, which
    # takes a log-softmax of one sequence at a time, is the peak where it does not.
    assert beyond_scoring(PLANS["base"]) > 3 * 4000 * 2 * long
    assert beyond_scoring(slots) == 0


# docs/scaling.md: bytes a GPU, and with activations recomputed; operations a token.
PAPERS_MODEL = {
    "lesa": (46e9, 24e9, 45.9e9),
    "llama_pro": (54e9, None, 52.4e9),
    "solar": (82e9, 39e9, 68.4e9),
    "base": (59e9, None, None),
}


@pytest.mark.parametrize("name", PAPERS_MODEL)
def test_the_documented_run_of_the_papers_model(name: str) -> None:
    memory, recomputed, operations = PAPERS_MODEL[name]
    params = parse(compose("llama3-8b"), "llama3-8b")
    a = architecture(*find_config(params.base, MODELS, Path("nowhere")))
    slots, train = layer_plans(params, a.num_layers)[name], params.train
    how = launch(train.launch, "train.launch")
    cost = model_costs.pretrain(a, slots, train, 0, params.corpus.block_size, how)
    assert cost.memory == pytest.approx(memory, rel=0.03)
    if recomputed:
        again = replace(how, recomputes=True)
        found = model_costs.sharded_bytes(a, slots, train, params.corpus.block_size, again)
        assert found == pytest.approx(recomputed, rel=0.03)
    if operations:
        # Here attention counts in full, as torch counts it; there without what the mask leaves out.
        tokens = train.max_steps * model_costs.sequences(train) * params.corpus.block_size
        assert 1 < cost.flops / tokens / operations < 1.06


def test_processes_that_share_nothing_each_hold_all() -> None:
    a, slots = tiny_shapes(), PLANS["inserted"]
    one, four, sharded = (
        model_costs.pretrain(a, slots, TRAIN, 4, 64, how)
        for how in (ALONE, Launch(4), Launch(4, sharded=True))
    )
    assert four.work == sharded.work == one.work
    assert four.memory == one.memory
    assert four.host == 4 * one.host == 4 * sharded.host
    assert four.processes == sharded.processes == 4
    fewer, more = (
        model_costs.sharded_bytes(a, slots, TRAIN, 64, Launch(count, sharded=True))
        for count in (8, 2)
    )
    assert fewer < sharded.memory < more


def test_gradients_stay_over_micro_batches() -> None:
    a = tiny_shapes()
    one = model_costs.pretrain(a, PLANS["base"], TRAIN, 4, 64)
    more = TRAIN.model_copy(update={"gradient_accumulation_steps": 2})
    assert model_costs.pretrain(
        a, PLANS["base"], more, 4, 64
    ).memory == one.memory + 4 * a.parameters(6)


def test_bfloat16_counts_as_its_own_unit() -> None:
    a = tiny_shapes()
    bf16 = model_costs.pretrain(a, PLANS["base"], TRAIN.model_copy(update={"bf16": True}), 0, 64)
    assert bf16.work["bfloat16"] > 0
    assert bf16.work["float32"] == 0
    assert bf16.flops == model_costs.pretrain(a, PLANS["base"], TRAIN, 0, 64).flops


def test_a_head_that_is_not_tied_is_stored_and_a_tied_one_still_multiplied() -> None:
    tied, untied = (tiny_shapes(tie_word_embeddings=tie) for tie in (True, False))
    assert untied.other_parameters - tied.other_parameters == 64 * 32
    assert replace(tied, other_parameters=untied.other_parameters) == untied
    one, other = (model_costs.held_out(a, 6, 4, 64, 2, False) for a in (tied, untied))
    assert one.flops == other.flops


def test_lengths_are_bounds_of_what_the_evaluation_builds() -> None:
    from eval import offline

    assert model_costs.DOCUMENT_TOKENS >= offline.DOCUMENT_CHARACTERS / 4
    assert model_costs.PASSAGE_TOKENS >= offline.CONTEXT_CHARACTERS / 4
    longest = (offline.CONTEXT_CHARACTERS + offline.CHOICE_CHARACTERS[1]) / 4
    assert 4 * longest <= model_costs.CHOICE_TOKENS
