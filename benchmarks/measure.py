"""Compare programs: each side runs in a process of its own, in turn, and its time and memory count.

A benchmark is a module run as `python -m benchmarks.<name>`, which calls `compare` and `save`. Its
sides are those of `benchmarks/sides/<name>.py`, each of which ends with `report`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.summary import compared
from lesa.files import write_json
from lesa.machine import processor, processor_line, usable_cores

RESULTS = Path(__file__).parents[1] / "metrics" / "benchmarks"  # where the report finds them
ENDED = 0.02  # seconds between two looks whether a side has ended, and at its own memory
LOOK = 0.2  # seconds between two looks at the memory of its workers: these cost some time


@dataclass(frozen=True)
class Measurement:
    """One run of one side.

    seconds: wall time of the part the side passed to `report`, or of the whole process if it
    reported none. peak_bytes: largest resident size of the process and all below it, added up:
    pages that processes share, libraries above all, count once for each. The sum is sampled; of
    the process itself the kernel keeps the peak, read until its last moments (on Linux).
    """

    seconds: float
    peak_bytes: int
    result: dict[str, Any]


def report(work: Callable[[], dict[str, Any]]) -> None:
    """In a side's process: do the work, then print its time and result as the last line."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "result": result}), flush=True)


def side(module: str, *args: str) -> Measurement:
    """Run `python -m module args…`, a side that ends with `report`."""
    return command([sys.executable, "-m", module, *args])


def command(argv: Sequence[str]) -> Measurement:
    """Run any program; RuntimeError with the end of its output if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(argv, stdout=out, stderr=err)
        peak = pid = 0
        looked = start
        while not pid:
            time.sleep(ENDED)
            peak = max(peak, high_water(process.pid))
            if time.perf_counter() - looked > LOOK:
                peak = max(peak, tree_bytes(process.pid))
                looked = time.perf_counter()
            pid, status = os.waitpid(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        lines = out.read().decode().splitlines()
        if process.returncode:
            tail = "\n".join(lines[-20:]) + err.read().decode()[-4000:]
            raise RuntimeError(f"{' '.join(argv)}: exit status {process.returncode}\n{tail}")
    reported = reported_by(lines)
    return Measurement(reported.get("seconds", seconds), peak, reported.get("result", {}))


def high_water(pid: int) -> int:
    """The largest resident size a process has had, in bytes; 0 once it is gone.

    Not `ru_maxrss`, which counts in what the process that started it held at that moment.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM")), 0)


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and all below it, now; 0 once it is gone."""
    total = 0
    try:
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.Error:  # one ended between the two looks
        pass
    return total


def reported_by(lines: Sequence[str]) -> dict[str, Any]:
    """What `report` printed as the last line, or an empty dict."""
    try:
        found = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "seconds" in found else {}


def compare(
    name: str,
    sides: Mapping[str, Callable[[], Measurement] | Sequence[str]],
    repetitions: int,
) -> dict[str, Any]:
    """Run all sides in turn, `repetitions` times, and print and return medians and ratios.

    A side is an argv or a function that measures. The first is this project's: `ratios` say how
    many times its median seconds and peak bytes each other side took. Every other round runs
    backwards, so that no side is always the one after another.
    """
    runs: dict[str, list[Measurement]] = {key: [] for key in sides}
    for number in range(repetitions):
        for key in order(sides, number):
            chosen = sides[key]
            taken = chosen() if callable(chosen) else command(chosen)
            runs[key].append(taken)
            mib = taken.peak_bytes / 2**20
            print(f"{name}: {key}: {taken.seconds:.2f} s, {mib:.0f} MiB", flush=True)
    medians = {key: median(taken) for key, taken in runs.items()}
    own = next(iter(sides))
    found = compared(medians, own, repetitions)
    for key, ratio in found["ratios"].items():
        print(
            f"{name}: {key} over {own}: "
            f"{ratio['seconds']:.2f} of its time, {ratio['peak_bytes']:.2f} of its peak memory"
        )
    return {**found, "runs": {key: [asdict(m) for m in taken] for key, taken in runs.items()}}


def order(sides: Iterable[str], number: int) -> list[str]:
    """The sides' order in one round."""
    names = list(sides)
    return names[::-1] if number % 2 else names


def median(found: Sequence[Measurement]) -> dict[str, float]:
    return {
        "seconds": statistics.median(m.seconds for m in found),
        "peak_bytes": statistics.median(m.peak_bytes for m in found),
    }


def machine() -> dict[str, Any]:
    """Where a measurement was made: nothing that names the machine itself."""
    return {
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "processor": processor(),
        "instructions": instructions(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.date.today().isoformat(),
    }


def instructions() -> str:
    """Of those that products of matrices live on, the ones it has; as Linux tells it on x86."""
    flags = processor_line("flags").split()
    return " ".join(
        name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags
    )


def save(name: str, found: dict[str, Any]) -> Path:
    """Write `metrics/benchmarks/<name>.json`: what was found, and on what machine."""
    path = RESULTS / f"{name}.json"
    write_json(path, {"machine": machine(), **found})
    return path
