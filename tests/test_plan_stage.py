"""`make plan`: its tables, its refusals, and that they cover the pipeline."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

import pipelines.plan as stage
from baselines import table
from lesa.files import GIB
from lesa.params import Gaps, Params, parse
from lesa.planning.architecture import Architecture, architecture, find_config
from lesa.planning.budget import duration
from lesa.planning.cost import Cost
from lesa.planning.rates import Machine
from lesa.upscaling.plan import LayerPlan, Slot, plan_line
from pipelines.profile import compose
from pipelines.stage import layer_plans
from tests.conftest import tiny_config
from tests.test_machine import GPU, MACHINE

# A node of the paper's run.
LARGE = replace(
    MACHINE, memory=1024 * GIB, disk=4096 * GIB, accelerator=replace(GPU, memory=80 * GIB, count=8)
)
DEPENDS_ON_TEXT = {"inputs", "corpus", "tasks", "first_report", "report"}


def profile(name: str) -> tuple[Params, Architecture]:
    params = parse(compose(name), name)
    return params, architecture(*find_config(params.base, stage.CONFIGS, Path("nowhere")))


def words(text: str) -> LayerPlan:
    """Read `plan_line`'s line back, all of a plan but what trains and numbers."""
    slots: list[Slot] = []
    pieces = text.split()
    for at, word in enumerate(pieces):
        if word == "+":
            left = int(re.split("-", pieces[at - 1])[-1])
            right = int(re.split("-", pieces[at + 1])[0])
            slots.append(Slot(len(slots), None, (left, right), True, True))
        elif word.startswith("+"):
            slots.append(Slot(len(slots), int(word[1:]), None, True, True))
        else:
            ends = [int(end) for end in word.split("-")]
            for layer in range(ends[0], ends[-1] + 1):
                slots.append(Slot(len(slots), layer, None, False, False))
    return slots


@pytest.mark.parametrize("name", sorted(table()))
@pytest.mark.parametrize(
    ("layers", "first", "last"), [(32, 15, 30), (6, 0, 2), (6, 3, 4), (4, 1, 2)]
)
def test_a_plans_line_says_all_of_it(name: str, layers: int, first: int, last: int) -> None:
    plan = table()[name].plan(layers, Gaps(first=first, last=last))
    trains = [replace(slot, trainable=slot.new) for slot in plan]
    assert words(plan_line(plan)) == trains


def test_the_layer_table_of_the_papers_model() -> None:
    params, a = profile("llama3-8b")
    head, *rows = stage.layer_table(a, layer_plans(params, a.num_layers))
    assert head == ["model", "layers", "parameters before", "after", "of these train", "layer plan"]
    before, after, new = "8,030,261,248", "11,520,053,248", "3,489,792,000"
    groups = " ".join(f"{i}-{i + 1} +{i + 1}" for i in range(0, 32, 2))
    inserted = "0-15 " + " ".join(f"+ {i}" for i in range(16, 32))
    assert rows == [
        ["base", "32 to 32", before, before, before, "0-31"],
        ["lesa", "32 to 48", before, after, new, inserted],
        ["llama_pro", "32 to 48", before, after, new, groups],
        ["solar", "32 to 48", before, after, after, "0-23 8-31"],
    ]


@pytest.mark.parametrize("name", ["default", "smoke", "llama3-8b", "qwen2.5-1.5b"])
def test_every_stage_of_the_pipeline_is_there(name: str, tmp_path: Path) -> None:
    """DVC itself says which stages dvc.yaml has with this profile's parameters."""
    params, a = profile(name)
    found = stage.stage_costs(params, a, layer_plans(params, a.num_layers), cores=2, gpus=0)
    Repo.init(str(tmp_path), no_scm=True)
    (tmp_path / "dvc.yaml").write_text(Path("dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(compose(name)))
    wanted = {each.name for each in Repo(str(tmp_path)).index.stages} - DEPENDS_ON_TEXT
    lowest = {"default": {2, 15}, "smoke": {2, 3}}.get(name, set())  # of those with a cache
    assert set(found) == wanted | {f"{stage.FROZEN}@{first}" for first in lowest}


def test_a_method_is_planned_from_the_table_alone() -> None:
    """Whatever its name: its predictors from `needs`, its layers from its plan."""
    tree = compose("smoke")
    tree["methods"]["own"] = {"method": "average"}
    tree["methods"]["other"] = {**tree["methods"]["lesa"], "needs": ["official_code-0"]}
    params, a = parse(tree, "smoke"), profile("smoke")[1]
    plans = layer_plans(params, a.num_layers)
    found = stage.stage_costs(params, a, plans, cores=2, gpus=0)
    assert plans["own"] == plans["lesa"]
    assert found["expand@other"] == found["expand@lesa"]
    assert found["expand@own"].work["float32"] == 0 < found["expand@lesa"].work["float32"]
    assert {"pretrain@own", "evaluate_init@own", "evaluate_trained@own"} <= set(found)


def test_the_base_is_costed_as_every_model() -> None:
    params, a = profile("llama3-8b")
    found = stage.stage_costs(params, a, layer_plans(params, a.num_layers), cores=2, gpus=0)
    size = 2 * 8_030_261_248
    assert found["base"].output == found["expand@base"].output == found["pretrain@base"].output
    assert found["expand@base"].output == size
    assert found["expand@base"].flops == 0
    disk = sum(found[name].output for name in ("base", "expand@base", "pretrain@base"))
    assert disk == 3 * size


def test_deeper_plans_cost_more() -> None:
    params, _ = profile("smoke")
    few, many = (architecture(tiny_config(num_hidden_layers=n).to_dict(), "x") for n in (6, 12))
    one, other = (
        stage.stage_costs(params, a, layer_plans(params, a.num_layers), 2, 0) for a in (few, many)
    )
    for name in [name for name in one if not name.startswith(stage.FROZEN)]:
        # As many layers are new in both: making them costs the same, writing all does not.
        same = name == "base" or name.startswith("expand")
        assert other[name].flops > one[name].flops or same, name
        assert other[name].work["disk"] > one[name].work["disk"], name
        assert other[name].output >= one[name].output, name
    assert other["extract"].memory == one["extract"].memory
    assert other["extract"].output == one["extract"].output


def test_stages_of_equal_cost_share_a_row_and_the_last_is_the_sum() -> None:
    one, two = Cost({"float32": 2e12}, GIB), Cost({"float32": 3e12}, 2 * GIB, output=GIB)
    found = {"extract": two, "fit@a": one, "fit@b": two, "fit@c": one}
    machine = replace(MACHINE, rates=dict.fromkeys(MACHINE.rates, 1e12))
    assert [row[:4] + row[-1:] for row in stage.stage_table(found, machine)[1:]] == [
        ["extract", "1", "3.00", "3.0 GiB", "3.0 s"],
        ["fit@a, c", "2", "2.00", "2.0 GiB", "2.0 s"],
        ["fit@b", "1", "3.00", "3.0 GiB", "3.0 s"],
        ["whole run", "4", "10.00", "3.0 GiB", "10.0 s"],
    ]


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.04, "0.0 s"), (119, "119.0 s"), (120, "2.0 min"), (9000, "2.5 h"), (216000, "2.5 d")],
)
def test_durations(amount: float, text: str) -> None:
    assert duration(amount) == text


def run(machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of the command on `machine`, which multiplies bfloat16."""
    monkeypatch.setattr("pipelines.stage.has_bfloat16", lambda: True)
    monkeypatch.setattr(stage, "this_machine", lambda: machine)
    monkeypatch.setattr("sys.argv", ["plan", name])
    try:
        stage.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_plan_that_fits_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = Path("params.yaml").read_bytes()
    assert run(LARGE, "llama3-8b", monkeypatch) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "11,520,053,248" in out
    assert re.search(r"pretrain@lesa\b.* 8 x 43\.1 GiB GPU", out)
    assert "Time is an estimate" in out
    assert "Memory is a model" in out
    assert "official tasks" in out
    assert Path("params.yaml").read_bytes() == params


def test_a_plan_that_does_not_fit_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(replace(LARGE, memory=GIB, disk=GIB), "llama3-8b", monkeypatch) == 2
    out, error = capsys.readouterr()
    assert "whole run" in out
    assert error.count("\n") == 1
    assert re.search(
        r"error: memory: evaluate_init@lesa needs [\d.]+ GiB, 1\.0 GiB are free", error
    )
    assert re.search(r"disk: the run needs [\d.]+ GiB, 1\.0 GiB are free: [\d.]+ GiB too", error)


def test_fewer_gpus_than_are_launched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(replace(LARGE, accelerator=GPU), "llama3-8b", monkeypatch) == 2
    assert "error: GPUs: pretrain@base is launched on 8, there are 1" in capsys.readouterr().err


def test_an_unknown_profile_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(LARGE, "nonesuch", monkeypatch) == 2
    assert re.fullmatch(r"error: PROFILE: no profile 'nonesuch'.*\n", capsys.readouterr().err)


def test_what_lies_there_counts_for_its_own_base_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke, _ = profile("smoke")
    default, _ = profile("default")
    (tmp_path / "params.yaml").write_text(Path("conf/default.yaml").read_text())
    (tmp_path / "artifacts/base").mkdir(parents=True)
    (tmp_path / "artifacts/base/file").write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    assert stage.present(default) == 5
    assert stage.present(smoke) == 0
    (tmp_path / "params.yaml").unlink()
    assert stage.present(default) == 0
