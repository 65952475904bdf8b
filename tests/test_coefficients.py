"""Coefficients on disk: the rows of memory, a file whole or absent, and not in memory if large."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lesa.method import coefficients
from lesa.method.coefficients import InMemory, OnDisk

CPU = torch.device("cpu")


def gaussian() -> Tensor:
    """Of five layers seven rows of width three."""
    return torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("memory", [coefficients.IN_MEMORY_BYTES, 0])
def test_file_gives_the_rows_of_its_layers(
    memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coefficients, "IN_MEMORY_BYTES", memory)
    wanted = gaussian()
    path = tmp_path / "v"
    coefficients.write(path, iter(wanted))
    v = coefficients.read(path, 5, 3, CPU)
    assert isinstance(v, InMemory if memory else OnDisk)
    assert (v.num_layers, v.rank, v.d2, v.dtype, v.device) == (5, 7, 3, torch.float32, CPU)
    for index in (torch.tensor([0, 34, 7, 7]), torch.arange(35)):
        assert torch.equal(v.take(index), wanted.flatten(0, 1)[index])


def test_layers_need_not_be_contiguous(tmp_path: Path) -> None:
    wanted = gaussian()
    coefficients.write(tmp_path / "v", (layer.T.contiguous().T for layer in wanted))
    assert torch.equal(OnDisk(tmp_path / "v", 5, 3).take(torch.arange(35)), wanted.flatten(0, 1))


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> Iterator[Tensor]:
        yield gaussian()[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        coefficients.write(tmp_path / "v", failing())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_no_file_of_that_name(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys, torch\n"
        "from lesa.method import coefficients\n"
        "def layers():\n"
        "    yield torch.zeros(1000, 1000)\n"
        "    os.kill(os.getpid(), 9)\n"
        "coefficients.write(pathlib.Path(sys.argv[1]), layers())\n"
    )
    path = tmp_path / "v"
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert [p.name for p in tmp_path.iterdir()] == [".v.partial"]
    coefficients.write(path, iter(gaussian()))
    assert torch.equal(OnDisk(path, 5, 3).take(torch.tensor([8])), gaussian()[1, 1][None])


def test_a_file_of_other_widths_is_refused(tmp_path: Path) -> None:
    coefficients.write(tmp_path / "v", iter(gaussian()))
    with pytest.raises(ValueError, match="not 4 layers of width 3"):
        OnDisk(tmp_path / "v", 4, 3)


def test_a_file_cut_short_is_noticed(tmp_path: Path) -> None:
    coefficients.write(tmp_path / "v", iter(gaussian()))
    v = OnDisk(tmp_path / "v", 5, 3)
    os.truncate(tmp_path / "v", 100)
    assert torch.equal(v.take(torch.tensor([7])), gaussian()[1, 0][None])
    with pytest.raises(OSError, match="ends before row 8"):
        v.take(torch.tensor([8]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_file_is_not_in_memory(tmp_path: Path) -> None:
    """Read every row of 64 MiB in batches: the process's peak shows if it had all in memory."""
    program = (
        "import pathlib, sys, torch\n"
        "from lesa.method import coefficients\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(s.split()[1]) for s in lines if s.startswith('VmHWM')) * 1024\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "order = torch.randperm(16 * 1024, generator=torch.Generator().manual_seed(0))\n"
        "coefficients.OnDisk(path, 16, 1024).take(order[:64])\n"
        "for coefficients.IN_MEMORY_BYTES in (2**20, 2**30):\n"
        "    before = peak()\n"
        "    v = coefficients.read(path, 16, 1024, torch.device('cpu'))\n"
        "    for batch in order.split(64):\n"
        "        v.take(batch)\n"
        "    print(peak() - before)\n"
    )
    path = tmp_path / "v"
    coefficients.write(path, (torch.zeros(1024, 1024) for _ in range(16)))
    argv = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    on_disk, in_memory = map(int, done.stdout.split())
    assert on_disk < 8 * 2**20
    assert in_memory > 48 * 2**20
