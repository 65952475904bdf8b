"""What a machine has and whether it will do, from data."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lesa.errors import UserError
from lesa.files import GIB, gib
from lesa.machine import has_bfloat16
from lesa.params import load
from lesa.planning.budget import disk_peak, lacking, need, seconds
from lesa.planning.cost import UNITS, Cost
from lesa.planning.launch import Launch
from lesa.planning.rates import Accelerator, Machine, can_link, cgroup_memory_left, this_machine
from pipelines.stage import on_this_machine

MACHINE = Machine(
    cores=4,
    memory=16 * GIB,
    disk=100 * GIB,
    hard_links=True,
    process=GIB,
    rates=dict.fromkeys(UNITS, 10.0),
    accelerator=None,
)
GPU = Accelerator("A GPU", 40 * GIB, {"bfloat16": 100.0, "float32": 50.0, "memory": 20.0}, 1)
COSTS = {
    "extract": Cost({"float64": 20.0, "disk": 5.0}, 4 * GIB, output=3 * GIB),
    "fit@one": Cost({"float32": 50.0}, 6 * GIB, scratch=20 * GIB, processes=3, host=2 * GIB),
    "pretrain@one": Cost(
        {"bfloat16": 100.0, "memory": 20.0},
        12 * GIB,
        output=10 * GIB,
        scratch=30 * GIB,
        outside=GIB,
        accelerated=True,
        host=5 * GIB,
    ),
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def checked(costs: dict[str, Cost], machine: Machine, present: int = 0) -> None:
    """As the pipeline checks a run, of which `present` bytes are there already."""
    if short := lacking(costs, machine, disk_peak(list(costs.values()), machine) - present):
        raise UserError(short)


def test_need_takes_the_libraries_of_every_process() -> None:
    assert need(COSTS["fit@one"], MACHINE).memory == 9 * GIB
    on_cpu = need(COSTS["pretrain@one"], MACHINE)
    assert (on_cpu.memory, on_cpu.accelerator) == (13 * GIB, 0)
    on_gpu = need(COSTS["pretrain@one"], replace(MACHINE, accelerator=GPU))
    assert (on_gpu.memory, on_gpu.accelerator) == (6 * GIB, 12 * GIB)
    assert need(COSTS["extract"], replace(MACHINE, accelerator=GPU)).accelerator == 0


def test_seconds_are_the_sum_over_units() -> None:
    assert seconds(COSTS["extract"], MACHINE) == pytest.approx(2.5)
    assert seconds(COSTS["pretrain@one"], MACHINE) == pytest.approx(12.0)
    with_gpu = replace(MACHINE, accelerator=GPU)
    assert seconds(COSTS["pretrain@one"], with_gpu) == pytest.approx(2.0)
    assert seconds(COSTS["extract"], with_gpu) == pytest.approx(2.5)


TOGETHER = replace(COSTS["pretrain@one"], processes=4, launch=Launch(processes=8, nodes=2))
SHARDED = replace(TOGETHER, launch=replace(TOGETHER.launch, sharded=True))


def test_processes_share_the_work_and_not_the_memory() -> None:
    on_cpu = need(TOGETHER, MACHINE)
    assert (on_cpu.memory, on_cpu.accelerator) == (4 * 12 * GIB + 4 * GIB, 0)
    assert seconds(TOGETHER, MACHINE) == pytest.approx(12.0)  # they share its cores
    with_gpus = replace(MACHINE, accelerator=replace(GPU, count=4))
    for cost in (TOGETHER, SHARDED):
        on_gpus = need(cost, with_gpus)
        assert (on_gpus.memory, on_gpus.accelerator) == (9 * GIB, 12 * GIB)
        assert seconds(cost, with_gpus) == pytest.approx(2.0 / 8)
        checked({"pretrain@one": cost}, with_gpus)
    assert need(SHARDED, MACHINE).accelerator == 12 * GIB


@pytest.mark.parametrize(
    ("cost", "count", "message"),
    [(TOGETHER, 3, "launched on 4, there are 3"), (SHARDED, 0, "launched on 4, there are 0")],
)
def test_too_few_gpus(cost: Cost, count: int, message: str) -> None:
    gpus = replace(GPU, count=count) if count else None
    machine = replace(MACHINE, memory=99 * GIB, accelerator=gpus)
    with pytest.raises(UserError, match=rf"^GPUs: pretrain@one is {message}; a larger machine"):
        checked({"pretrain@one": cost}, machine)
    checked({"pretrain@one": replace(cost, launch=Launch())}, machine)


def test_disk_is_what_stays_and_the_largest_scratch() -> None:
    assert disk_peak(list(COSTS.values()), MACHINE) == (3 + 10 + 1 + 30) * GIB
    without_links = replace(MACHINE, hard_links=False)
    assert disk_peak(list(COSTS.values()), without_links) == (2 * 13 + 1 + 30) * GIB
    # While DVC copies an output into its cache, it lies there twice.
    assert disk_peak([COSTS["extract"]], MACHINE) == 6 * GIB


def test_a_machine_that_will_do_is_not_refused() -> None:
    checked(COSTS, MACHINE)
    checked(COSTS, replace(MACHINE, memory=13 * GIB, disk=44 * GIB))
    # A GPU takes the training; the fit of this table is not accelerated.
    checked(COSTS, replace(MACHINE, memory=9 * GIB, accelerator=GPU))


@pytest.mark.parametrize(
    ("machine", "present", "message"),
    [
        (
            replace(MACHINE, memory=8 * GIB),
            0,
            r"^memory: pretrain@one needs 13\.0 GiB, 8\.0 GiB are free: 5\.0 GiB too little "
            r"\(1 more stages",
        ),
        (
            replace(MACHINE, disk=40 * GIB),
            0,
            r"^disk: the run needs 44\.0 GiB, 40\.0 GiB are free: 4\.0 GiB too little",
        ),
        (replace(MACHINE, disk=40 * GIB), 3 * GIB, r"41\.0 GiB.*: 1\.0 GiB too little"),
        (
            replace(MACHINE, accelerator=replace(GPU, memory=10 * GIB)),
            0,
            r"^memory of A GPU: pretrain@one needs 12\.0 GiB, 10\.0 GiB are free: 2\.0 GiB too",
        ),
        (replace(MACHINE, memory=GIB, disk=0), 0, r"^memory: .*; disk: the run"),
    ],
)
def test_a_machine_that_will_not_do_is_refused_in_one_line(
    machine: Machine, present: int, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        checked(COSTS, machine, present)
    assert "\n" not in str(caught.value)


def test_what_is_there_already_need_not_fit_again() -> None:
    checked(COSTS, replace(MACHINE, disk=40 * GIB), present=4 * GIB)


def cgroup(folder: Path, limit: str, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cached}\nfile {cached}\nslab 1\n")


def test_the_tightest_cgroup_above_counts(tmp_path: Path) -> None:
    cgroup(tmp_path / "outer", "1000", 300, 100)
    cgroup(tmp_path / "outer/inner", "max", 200, 50)
    assert cgroup_memory_left(tmp_path, "/outer/inner") == 800
    cgroup(tmp_path / "outer/inner", "500", 200, 50)
    assert cgroup_memory_left(tmp_path, "/outer/inner") == 350
    cgroup(tmp_path / "outer/inner", "100", 200, 50)
    assert cgroup_memory_left(tmp_path, "/outer/inner") == 0


def test_no_cgroup_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_memory_left(tmp_path, "/") == cgroup_memory_left(tmp_path, "/a/b") == 2**63


def test_this_machine_is_measured_and_left_clean(tmp_path: Path) -> None:
    machine = this_machine(tmp_path)
    assert set(machine.rates) == set(UNITS)
    assert min(machine.rates.values()) > 0
    assert machine.cores >= 1
    assert min(machine.memory, machine.disk, machine.process) > 2**20
    assert list(tmp_path.iterdir()) == []


CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.is_file() or torch.cuda.is_available(),
    reason="reads the flags of an x86 processor under Linux",
)
def test_bfloat16_is_for_processors_that_have_it() -> None:
    flags = set(re.findall(r"^flags\s*:(.*)", CPUINFO.read_text(), re.MULTILINE)[0].split())
    if "avx512_bf16" in flags:
        assert has_bfloat16()
    elif not any(flag.startswith(("avx512", "avx_ne_convert", "amx")) for flag in flags):
        assert not has_bfloat16()
    else:
        pytest.skip("AVX-512 without bfloat16: torch's word is all there is")


@pytest.mark.parametrize("has", [True, False])
def test_gpus_are_asked_without_emulation(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert has_bfloat16() == has


def test_a_stage_takes_float32_where_there_is_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    params = load(Path("conf/default.yaml"))
    assert params.train.bf16
    assert params.evaluate.dtype == "bfloat16"
    monkeypatch.setattr("pipelines.stage.has_bfloat16", lambda: True)
    assert on_this_machine(params) == params
    monkeypatch.setattr("pipelines.stage.has_bfloat16", lambda: False)
    found = on_this_machine(params)
    assert not found.train.bf16
    assert found.evaluate.dtype == "float32"
    asked = found.model_dump()
    asked["train"]["bf16"], asked["evaluate"]["dtype"] = True, "bfloat16"
    assert asked == params.model_dump()


def test_links_are_tried(tmp_path: Path) -> None:
    assert can_link(tmp_path)


def test_sizes_read_well() -> None:
    assert [gib(size) for size in (0, 3 * 2**20, 3 * GIB // 2)] == ["0 MiB", "3 MiB", "1.5 GiB"]
