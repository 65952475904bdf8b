"""What the benchmarks compare is the same work, and their arithmetic is right; never a timing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.profiler import ProfilerActivity
from transformers import AutoModelForCausalLM

from baselines import table
from benchmarks import __main__ as everything
from benchmarks import base, basis, depth, expansion, measure, memory, pretrain, profiling, summary
from benchmarks.shapes import DEFAULT, Shape, layer_bytes, llama_8b, matrices, sizes, upper_gaps
from benchmarks.sides import basis as basis_side
from benchmarks.sides import checkpoint, opened
from benchmarks.sides import depth as depth_side
from benchmarks.sides import expansion as expansion_side
from benchmarks.sides import pretrain as pretrain_side
from benchmarks.sides.same import same
from lesa import params
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import read_json, write_json
from lesa.machine import compute_device
from lesa.params import Gaps
from lesa.upscaling.plan import insert_between
from tests.conftest import tensors_of

TINY = Shape(32, 48, 4, 2, 6, vocabulary=64, dtype="bfloat16")
SUFFIXES = (
    *(f"self_attn.{name}_proj.weight" for name in "qkvo"),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    *(f"{name}_layernorm.weight" for name in ("input", "post_attention")),
)


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint as the benchmarks make them. Read only."""
    folder = tmp_path_factory.mktemp("benchmarks") / "base"
    checkpoint.write(TINY, folder)
    return folder


def comparison(own: tuple[float, float], peer: tuple[float, float], runs: Any = None) -> Any:
    medians = {
        "own": {"seconds": own[0], "peak_bytes": own[1]},
        "peer": {"seconds": peer[0], "peak_bytes": peer[1]},
    }
    return {**summary.compared(medians, "own", 3), "runs": runs}


def test_ratios_are_the_peers_over_ours() -> None:
    found = comparison((2.0, 10), (5.0, 40))
    assert found["ratios"] == {"peer": {"seconds": 2.5, "peak_bytes": 4}}
    assert summary.own_side(found) == "own"


def test_parts_add_up_in_seconds_and_not_in_memory() -> None:
    found = summary.total([comparison((2.0, 10), (5.0, 40)), comparison((1.0, 30), (7.0, 20))])
    assert found["medians"]["own"] == {"seconds": 3.0, "peak_bytes": 30}
    assert found["medians"]["peer"] == {"seconds": 12.0, "peak_bytes": 40}
    assert found["ratios"]["peer"] == {"seconds": 4.0, "peak_bytes": pytest.approx(4 / 3)}
    assert found["repetitions"] == 3


def test_another_number_of_the_same_runs() -> None:
    runs = {
        side: [{"seconds": 99.0, "result": {"step": value}} for value in values]
        for side, values in {"own": (3.0, 1.0, 2.0), "peer": (8.0, 9.0, 4.0)}.items()
    }
    found = summary.by_result(comparison((99.0, 10), (99.0, 20), runs), "step")
    assert found["medians"]["own"] == {"seconds": 2.0, "peak_bytes": 10}
    assert found["ratios"]["peer"] == {"seconds": 4.0, "peak_bytes": 2}


def test_shapes_are_those_of_the_default_profile_and_of_llama_3() -> None:
    assert upper_gaps(30) == Gaps(first=14, last=28)
    assert upper_gaps(32) == Gaps(first=15, last=30)
    default = params.load(base.ROOT / "conf" / "default.yaml").gaps
    assert default == upper_gaps(DEFAULT.layers)
    # Llama-3-8B's layer has 218,112,000 parameters, in two bytes each.
    assert layer_bytes(llama_8b(4)) == 436_224_000
    assert matrices(llama_8b(4))["k_proj"] == (1024, 4096)


def test_a_random_checkpoint_has_its_shape(tiny_base: Path) -> None:
    found = Checkpoint(tiny_base)
    assert found.num_layers == TINY.layers
    for kind, shape in matrices(TINY).items():
        weight = found.matrix(kind, 3)
        assert weight.shape == shape
        assert weight.dtype == torch.bfloat16
        assert not torch.equal(weight, found.matrix(kind, 2))
    stored = sum(t.numel() * t.element_size() for t in tensors_of(tiny_base).values())
    rest = 2 * (TINY.vocabulary + 1) * TINY.hidden
    assert stored == TINY.layers * layer_bytes(TINY) + rest
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert {k: getattr(model.config, k) for k in sizes(TINY)} == sizes(TINY)
    assert base.has_shape(tiny_base, TINY)
    assert not base.has_shape(tiny_base, DEFAULT)
    assert not base.has_shape(tiny_base.parent, TINY)


@pytest.mark.parametrize("kind", ["k_proj", "down_proj"])
def test_both_ways_to_the_basis_agree(tiny_base: Path, kind: str) -> None:
    found = {way: basis_side.basis(way, opened(tiny_base), kind) for way in ("gram", "concat")}
    stored = Checkpoint(tiny_base)
    weights = [stored.matrix(kind, i).double() for i in range(TINY.layers)]
    wanted = torch.linalg.svdvals(torch.cat(weights, dim=1)).tolist()
    for side in found.values():
        assert basis.difference(side["singular_values"], wanted) < 1e-5


def test_singular_values_are_compared_and_not_stored() -> None:
    assert basis.difference([4.0, 2.2], [5.0, 2.0]) == pytest.approx(0.2)
    with pytest.raises(RuntimeError, match="1 singular values against 2"):
        basis.difference([1.0], [1.0, 2.0])
    runs = {
        "gram": [{"result": {"singular_values": values}} for values in ([4.0, 2.0], [5.0, 2.1])],
        "concat": [{"result": {"singular_values": [5.0, 2.0]}} for _ in range(2)],
    }
    found = basis.agree({"runs": runs})
    assert found["largest_relative_difference"] == pytest.approx(0.2)
    assert found["runs"]["gram"] == [{"result": {}}, {"result": {}}]


def passthrough(config: dict[str, Any]) -> list[tuple[int, dict[str, float]]]:
    """mergekit's reading of a configuration: (source layer, scales by tensor suffix) per layer."""
    layers: list[tuple[int, dict[str, float]]] = []
    for part in config["slices"]:
        (source,) = part["sources"]
        scales: dict[str, float] = {}
        for suffix in SUFFIXES:
            filters = source.get("parameters", {}).get("scale", [])
            hit = next((f["value"] for f in filters if f["filter"] in suffix), None)
            if hit is not None:
                scales[suffix] = hit
        layers += [(i, scales) for i in range(*source["layer_range"])]
    return layers


@pytest.mark.parametrize(("method", "depth", "new"), [("solar", 30, 15), ("llama_pro", 32, 8)])
def test_the_merge_covers_the_plan(method: str, depth: int, new: int) -> None:
    plan = table()[method].plan(depth, Gaps(first=0, last=new - 1))
    config = expansion.merge_config(plan, Path("a"))
    layers = passthrough(config)
    assert [i for i, _ in layers] == [slot.copy_of for slot in plan]
    zeroed = {"self_attn.o_proj.weight": 0.0, "mlp.down_proj.weight": 0.0}
    assert [scales for _, scales in layers] == [zeroed if s.new else {} for s in plan]
    assert "dtype" not in config
    assert len(config["slices"]) == (2 if method == "solar" else 2 * new)


def test_a_plan_with_made_layers_is_no_passthrough() -> None:
    with pytest.raises(ValueError, match="only copy"):
        expansion.merge_config(insert_between(6, Gaps(first=2, last=4)), Path("a"))


@pytest.mark.parametrize("method", expansion.METHODS)
def test_the_expansion_is_what_the_merge_asks_for(
    method: str, tiny_base: Path, tmp_path: Path
) -> None:
    gaps = upper_gaps(TINY.layers)
    made = expansion_side.expansion(method, gaps, opened(tiny_base), tmp_path / "own")
    stored = tensors_of(tiny_base)
    merged = {k: t for k, t in stored.items() if ".layers." not in k}
    config = expansion.merge_config(table()[method].plan(TINY.layers, gaps), tiny_base)
    for new, (old, scales) in enumerate(passthrough(config)):
        for name, tensor in stored.items():
            if name.startswith(prefix := f"model.layers.{old}."):
                suffix = name.removeprefix(prefix)
                scaled = tensor * scales[suffix] if suffix in scales else tensor.clone()
                merged[f"model.layers.{new}.{suffix}"] = scaled
    assert made["parameters"] == sum(tensor.numel() for tensor in merged.values())
    peer = folder_of(tmp_path / "peer", merged)
    found = same(tmp_path / "own", peer)
    assert found["different"] == []
    assert found["tensors"] == len(merged)
    signs = 2 * TINY.layers // 2 if method == "llama_pro" else 0  # o_proj, down_proj of each new
    assert found["zeros_differ_in_sign"] == signs
    assert found["bit_for_bit"] == len(merged) - signs


def folder_of(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", {"model_type": "llama"})
    return folder


def test_different_tensors_are_named(tiny_base: Path, tmp_path: Path) -> None:
    tensors = tensors_of(tiny_base)
    assert same(tiny_base, tiny_base)["bit_for_bit"] == len(tensors)
    names = [f"model.layers.{i}.input_layernorm.weight" for i in range(3)]
    tensors[names[0]][3] = 1.0 + 2**-7  # the next bfloat16
    tensors[names[1]] = tensors[names[1]].float()
    del tensors[names[2]]
    tensors["model.extra"] = torch.zeros(2)
    found = same(tiny_base, folder_of(tmp_path / "other", tensors))
    assert sorted(found["different"]) == sorted([*names, "model.extra"])


def test_without_mergekit_the_way_to_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(expansion, "MERGEKIT", base.ROOT / "benchmarks" / "nowhere")
    monkeypatch.setattr(sys, "argv", ["benchmarks.expansion"])
    with pytest.raises(UserError, match="benchmarks/nowhere: not there; `make bench` makes it"):
        expansion.main()


def test_the_median_leaves_out_the_warm_up() -> None:
    times = [0.0, 50.0, 90.0, 100.0, 101.0, 105.0, 107.0]  # the fourth log ends the warm-up
    assert pretrain_side.WARM_UP == 3
    assert pretrain_side.median_step(times) == 2.0


def test_an_operations_time_is_the_gpus_where_there_is_one() -> None:
    """A kernel is listed by itself, too, and is counted once."""
    cpu, gpu = SimpleNamespace(name="CPU"), SimpleNamespace(name="CUDA")
    events = [("aten::mm", cpu, 1e6, 5e6), ("a kernel", gpu, 0.0, 5e6), ("launch", cpu, 2e6, 0.0)]
    listed = [
        SimpleNamespace(
            key=key, device_type=kind, self_cpu_time_total=own, self_device_time_total=there
        )
        for key, kind, own, there in events
    ]
    activities = {ProfilerActivity.CPU, ProfilerActivity.CUDA}
    found = SimpleNamespace(activities=activities, key_averages=lambda: listed)
    taken = profiling.spent(found, pretrain_side.OPERATIONS)
    assert taken == {profiling.PRODUCTS: 5.0, profiling.REST: 0.0}


def test_both_sides_of_pretrain_do_the_same_work(tiny_base: Path, tmp_path: Path) -> None:
    gaps, deepened = upper_gaps(TINY.layers), tmp_path / "deepened"
    expansion_side.expansion("average", gaps, opened(tiny_base), deepened)
    generator = torch.Generator().manual_seed(1)
    steps = pretrain_side.WARM_UP + 3
    blocks = list(torch.randint(TINY.vocabulary, (2 * steps, 16), generator=generator))
    chosen = pretrain_side.settings(steps).model_copy(update={"bf16": False})
    found = {
        name: side(deepened, blocks, chosen, tmp_path / name)
        for name, side in pretrain_side.SIDES.items()
    }
    ours, theirs = found["lesa"], found["trainer"]
    assert len(ours["losses"]) == steps
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
    assert len(set(ours["losses"])) == steps
    trained = 3 * (layer_bytes(TINY) // 2)  # three new layers, two bytes a parameter
    assert ours["trainable_parameters"] == theirs["trainable_parameters"] == trained
    runs = {name: [{"result": side}] for name, side in found.items()}
    assert max(pretrain.loss_differences({"runs": runs})) < 1e-4
    profile = found["profile"]
    assert sum(profile["shares"].values()) == pytest.approx(1)
    wanted = {profiling.PRODUCTS, "AdamW"}
    # In float32 a GPU has no attention kernel for keys that several heads share: there it is bmm.
    if compute_device().type == "cpu":
        wanted.add(pretrain_side.ATTENTION)
    assert wanted <= profile["shares"].keys()
    assert profile["products_seconds"] > 0


def test_the_line_through_the_depths() -> None:
    found = depth.line({4: 11.0, 8: 19.0, 16: 35.0})
    assert found is not None
    assert found["seconds_per_layer"] == pytest.approx(2.0)
    assert found["seconds_at_no_depth"] == pytest.approx(3.0)
    assert found["largest_residual"] == pytest.approx(0.0, abs=1e-12)
    bent = depth.line({0: 1.0, 2: 4.0, 4: 1.0})  # the line is flat at two
    assert bent is not None
    assert bent["largest_residual"] == pytest.approx(1.0)
    assert depth.line({4: 11.0}) is None


def test_end_to_end_at_a_tiny_shape(tiny_base: Path, tmp_path: Path) -> None:
    chosen = depth_side.settings().model_copy(update={"hidden_size": 8, "batch_size": 7})
    assert chosen.epochs == 1
    found = depth_side.end_to_end(opened(tiny_base), tmp_path, chosen)
    assert found["layers"] == TINY.layers
    assert found["layers_after"] == TINY.layers + 3
    assert list(found["seconds_by_stage"]) == ["extract", "svd", "fit", "expand"]
    assert set(found["seconds_by_kind"]["svd"]) == set(matrices(TINY))
    assert set(found["fit_seconds"]) == set(matrices(TINY))
    assert found["fit_batches"]["k_proj"] == 10  # four triples of 16 rows, in sevens
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "deepened")
    assert model.config.num_hidden_layers == TINY.layers + 3
    assert found["parameters_after"] == sum(p.numel() for p in model.parameters())
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert depth.needed_bytes(TINY) > written
    found["seconds_by_stage"] = {**found["seconds_by_stage"], "svd": 4.0}
    deeper = {**found, "layers": 12, "seconds": 7.0}
    lines = depth.lines([{**found, "seconds": 5.0}, deeper])
    assert list(lines) == ["all stages", "all stages but svd", "extract", "svd", "fit", "expand"]
    per_layer = 2.0 / (12 - found["layers"])
    for name, at_no_depth in (("all stages", 5.0), ("all stages but svd", 1.0)):
        assert lines[name] == pytest.approx(
            {
                "seconds_per_layer": per_layer,
                "seconds_at_no_depth": at_no_depth - per_layer * found["layers"],
                "largest_residual": 0.0,
            }
        )


@pytest.mark.skipif(not memory.PROC.is_dir(), reason="needs Linux's /proc")
def test_memory_of_files_does_not_count(tmp_path: Path) -> None:
    size = 64 * 2**20
    path = tmp_path / "mapped"
    path.write_bytes(bytes(size))
    with memory.watched() as mapped:
        float(torch.from_file(str(path), size=size // 4, dtype=torch.float32).sum())
    with memory.watched() as allocated:
        block = torch.ones(size // 4)
        allocated.look()
    assert mapped.value is not None
    assert allocated.value is not None
    assert allocated.value - mapped.value > 0.9 * size
    del block


def fill_and_fail() -> None:
    with base.work_folder() as folder:
        (folder / "a").write_text("b")
        raise RuntimeError


def test_the_work_folder_is_checked_and_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(base, "ROOT", tmp_path)
    with (
        pytest.raises(UserError, match=r"the benchmark needs 1000000000\.0 GB"),
        base.work_folder(10**18),
    ):
        pass
    with pytest.raises(RuntimeError):
        fill_and_fail()
    assert list((tmp_path / "artifacts" / "work" / "benchmarks").iterdir()) == []


def test_what_a_killed_run_left_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base, "ROOT", tmp_path)
    parent = tmp_path / "artifacts" / "work" / "benchmarks"
    dead, alive = parent / str(2**22 + 1), parent / str(os.getppid())  # no Linux pid is above 2²²
    for folder in (dead, alive):
        (folder / "base").mkdir(parents=True)
    with base.work_folder():
        assert not dead.exists()
    assert list(parent.iterdir()) == [alive]


def test_benchmarks_run_in_order_and_stop_at_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def fake(argv: list[str]) -> SimpleNamespace:
        ran.append(argv[-1])
        return SimpleNamespace(returncode=2 if argv[-1].endswith("pretrain") else 0)

    monkeypatch.setattr(subprocess, "run", fake)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "basis", "pretrain", "depth"])
    assert everything.main() == 2
    assert ran == ["benchmarks.basis", "benchmarks.pretrain"]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit):
        everything.main()


def test_one_basis_comparison_for_real(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    found = basis.compare_kinds("tiny", tiny_base, ["k_proj"], 1)
    measure.save("basis-tiny", found)
    stored = read_json(tmp_path / "basis-tiny.json")
    assert stored["k_proj"]["largest_relative_difference"] < 1e-5
    assert stored["all of these"]["medians"] == stored["k_proj"]["medians"]
    assert list(stored["k_proj"]["ratios"]) == ["concat"]
    assert all(run["peak_bytes"] > 2**20 for run in stored["k_proj"]["runs"]["gram"])
