"""Where this machine computes: its device, its usable cores, whether it multiplies bfloat16."""

from __future__ import annotations

import os

import torch


def compute_device() -> torch.device:
    """Where a single process does its linear algebra: on the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16() -> bool:
    """Does the GPU, or without one the processor, multiply bfloat16 matrices?

    Where it does not, torch's products of them take some ten to fifty times as long as float32's.
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # What torch itself asks before it hands such a product to oneDNN.
    asked = torch.backends.mkldnn.is_available()
    return bool(asked and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def set_threads(processes: int = 1) -> None:
    """Let torch use this process's share of the cores, of `processes` on this machine.

    Where OMP_NUM_THREADS is set, by the user or a launcher, torch has followed it already.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // processes))
