"""Memory and disk that can be had on this machine now, and short measured rates."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

import psutil
import torch
from torch import Tensor

from lesa.machine import set_threads, usable_cores

CGROUPS = Path("/sys/fs/cgroup")
LARGEST_SIZE = 8192  # of a timed square matrix
MOVED_BYTES = 64 * 2**20  # in one go, for the rates of memory and disk


@dataclass(frozen=True)
class Accelerator:
    """The GPUs that the stages would use: free bytes and rates of the first, and how many."""

    name: str
    memory: int
    rates: Mapping[str, float]
    count: int


@dataclass(frozen=True)
class Machine:
    """memory, disk: bytes that can be had now; disk where the project lies. hard_links: can its
    filesystem make them (else DVC's cache holds every output a second time). process: bytes of a
    Python process with torch and transformers. rates: work a second, by
    `lesa.planning.cost.UNITS`.
    """

    cores: int
    memory: int
    disk: int
    hard_links: bool
    process: int
    rates: Mapping[str, float]
    accelerator: Accelerator | None

    @property
    def gpus(self) -> int:
        return self.accelerator.count if self.accelerator else 0


def this_machine(project: Path = Path()) -> Machine:
    """Look and measure, within seconds, with as many threads as every stage has."""
    set_threads()
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=project) as folder:
        rates = compute_rates("cpu") | {
            "reduction": reduction_rate(),
            "disk": disk_rate(Path(folder)),
        }
        links = can_link(Path(folder))
    return Machine(
        cores=usable_cores(),
        memory=min(psutil.virtual_memory().available, cgroup_memory_left(CGROUPS, own_cgroup())),
        disk=disk_usage(project).free,
        hard_links=links,
        process=psutil.Process().memory_info().rss,
        rates=rates,
        accelerator=Accelerator(
            torch.cuda.get_device_name(),
            torch.cuda.mem_get_info()[0],
            compute_rates("cuda"),
            torch.cuda.device_count(),
        )
        if gpu
        else None,
    )


def own_cgroup() -> str:
    """This process's path below the mount of cgroup v2; the root where there is none."""
    path = Path("/proc/self/cgroup")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def cgroup_memory_left(mount: Path, path: str) -> int:
    """Bytes that the limits of a cgroup (v2) and of those above it leave; 2**63 without a limit.

    The page cache counts as left: the system gives it back.
    """
    left = 2**63
    folder = mount / path.lstrip("/")
    for level in (folder, *folder.parents):
        limit = level / "memory.max"
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            used = int((level / "memory.current").read_text())
            stat = dict(line.split() for line in (level / "memory.stat").read_text().splitlines())
            left = min(left, max(int(text) - used + int(stat.get("file", 0)), 0))
        if level == mount:
            break
    return left


def can_link(folder: Path) -> bool:
    (folder / "one").touch()
    try:
        os.link(folder / "one", folder / "other")
    except OSError:
        return False
    return True


def compute_rates(device: str) -> dict[str, float]:
    """Operations a second of square matrix products, by precision, and bytes copied a second."""
    rates = {
        str(dtype).removeprefix("torch."): product_rate(dtype, device)
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    }
    block, other = (torch.ones(MOVED_BYTES // 4, device=device) for _ in range(2))
    rates["memory"] = 2 * MOVED_BYTES / timed(lambda: other.copy_(block), device)
    return rates


def product_rate(dtype: torch.dtype, device: str) -> float:
    def seconds(n: int) -> float:
        matrix = torch.ones(n, n, dtype=dtype, device=device)
        return timed(lambda: matrix @ matrix, device)

    return rate_of(seconds, lambda n: 2.0 * n**3)


def reduction_rate() -> float:
    """Operations a second of the reduction to tridiagonal form, 4/3·n³ of finding eigenvalues."""

    def seconds(n: int) -> float:
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(n, n, dtype=torch.float64, generator=generator)
        symmetric = matrix + matrix.T
        return timed(lambda: torch.linalg.eigvalsh(symmetric), "cpu")

    return rate_of(seconds, lambda n: 4 / 3 * n**3)


def rate_of(seconds: Callable[[int], float], operations: Callable[[int], float]) -> float:
    """Operations a second at the first size, doubled from 256, that takes 30 ms or more."""
    n = 256
    while (taken := seconds(n)) < 0.03 and n < LARGEST_SIZE:
        n *= 2
    return operations(n) / taken


def timed(action: Callable[[], Tensor], device: str) -> float:
    """Seconds of the fastest of five runs, as others may use the machine; a GPU warms up first."""

    def once() -> float:
        start = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if device == "cuda":
        once()
    return min(once() for _ in range(5))


def disk_rate(folder: Path) -> float:
    """Bytes a second written into `folder` and flushed to the disk."""
    data = os.urandom(2**20)
    start = time.perf_counter()
    with open(folder / "written", "wb") as file:
        for _ in range(MOVED_BYTES // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return MOVED_BYTES / (time.perf_counter() - start)
