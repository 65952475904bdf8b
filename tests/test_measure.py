"""Benchmarks' measurements: another process's time and memory, and honest ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import Measurement

MIB = 2**20
HOLD = "import time; held = b'x' * (int({mib}) << 20); time.sleep(0.5)"


def test_a_reported_time_and_result_are_read() -> None:
    program = "from benchmarks.measure import report; print('noise'); report(lambda: {'n': 3})"
    found = measure.command([sys.executable, "-c", program])
    assert found.result == {"n": 3}
    assert 0 <= found.seconds < 0.1


def test_without_a_report_the_whole_process_is_timed() -> None:
    found = measure.command([sys.executable, "-c", "import time; time.sleep(0.3); print('{}')"])
    assert found.result == {}
    assert found.seconds >= 0.3


def test_memory_is_that_of_the_process_and_of_its_children() -> None:
    little = measure.command([sys.executable, "-c", HOLD.format(mib=0)]).peak_bytes
    own = measure.command([sys.executable, "-c", HOLD.format(mib=300)]).peak_bytes
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"
    below = measure.command([sys.executable, "-c", child.replace("{mib}", "300")]).peak_bytes
    assert own - little > 200 * MIB
    assert below > 300 * MIB


def test_a_failing_side_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="exit status 1"):
        measure.command([sys.executable, "-c", "1 / 0"])


def test_medians_ratios_and_turns() -> None:
    calls: list[str] = []
    seconds = {"ours": [1.0, 9.0, 2.0], "other": [8.0, 4.0, 6.0]}

    def side(name: str) -> Measurement:
        calls.append(name)
        return Measurement(seconds[name][calls.count(name) - 1], {"ours": 10, "other": 5}[name], {})

    found = measure.compare("t", {"ours": lambda: side("ours"), "other": lambda: side("other")}, 3)
    assert calls == ["ours", "other", "other", "ours", "ours", "other"]
    assert found["medians"]["ours"] == {"seconds": 2.0, "peak_bytes": 10}
    assert found["ratios"] == {"other": {"seconds": 3.0, "peak_bytes": 0.5}}
    assert [run["seconds"] for run in found["runs"]["other"]] == seconds["other"]


def test_saved_with_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    path = measure.save("x", {"repetitions": 1})
    found = json.loads(path.read_text())
    assert path == tmp_path / "results" / "x.json"
    assert found["repetitions"] == 1
    assert {"cores", "torch", "date"} <= set(found["machine"])


def test_fit_benchmark_ends_with_equal_weights() -> None:
    argv = [sys.executable, "-m", "benchmarks.fit", "--tiny", "--repetitions", "1"]
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    rows = [line for line in output.splitlines() if "weights differ by" in line]
    assert len(rows) == 7
    assert all(float(row.split(" differ by ")[1].split(",")[0]) < 1e-5 for row in rows)
