"""The benchmark of training steps: its sides take turns, and claim C6 reads what it wrote."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

from benchmarks import measure, training_steps
from lesa.files import read_json
from reports import measured, speed
from reports.claims import CannotTestError, c06_training_time
from tests.test_report_synthetic import params, save, write

# Writes its name at every step that it is asked for; takes as many seconds as it is told.
SIDE = """
import json, sys
name, path, steps, seconds = sys.argv[1:]
for step in range(int(steps)):
    with open(path, "a") as file:
        file.write(name)
    print("a line of another kind")
    print(json.dumps({"seconds": float(seconds) + step / 100}), flush=True)
    sys.stdin.readline()
result = {"prefix_seconds": 2.0 * int(steps), "trainable_parameters": 7}
print(json.dumps({"seconds": 0.0, "result": result}), flush=True)
"""


def sides(path: Path, steps: int) -> dict[str, list[str]]:
    times = {"lesa": 4.0, "llama_pro": 5.0, "solar": 8.0}
    return {
        name: [sys.executable, "-c", SIDE, name[0] + name[1], str(path), str(steps), str(seconds)]
        for name, seconds in times.items()
    }


def test_steps_alternate_and_are_what_claim_c6_reads(tmp_path: Path) -> None:
    order, steps = tmp_path / "order", 6
    found = training_steps.in_turn(sides(order, steps), steps)
    there, back = "lellso", "sollle"
    assert order.read_text() == there + back + there + back + there + back
    taken = training_steps.methods(found, steps)
    assert taken["solar"]["seconds"] == pytest.approx([8.02, 8.03, 8.04, 8.05])
    assert all(side["prefix_seconds_per_step"] == 2.0 for side in taken.values())
    metrics = write(tmp_path / "metrics")
    base = read_json(metrics / "base.json")
    shape = {"layers": base["num_hidden_layers"], "hidden": base["hidden_size"]}
    file = {"machine": measure.machine(), "methods": taken, "shape": shape}
    save(metrics, "benchmarks/training_steps", file)
    m = measured.load(metrics, params())
    ratio = speed.time_ratio(m, "solar")
    assert ratio is not None
    assert ratio.estimate == pytest.approx(10.035 / 6.035, rel=1e-3)
    assert statistics.median(speed.step_seconds(m, prefix=False)["lesa"]) == pytest.approx(4.035)
    assert [finding.verdict.value for finding in c06_training_time.findings(m)] == ["holds"] * 2
    # Of another model it says nothing of this run.
    save(metrics, "benchmarks/training_steps", file | {"shape": shape | {"hidden": 65}})
    m = measured.load(metrics, params())
    assert speed.time_ratio(m, "solar") is None
    with pytest.raises(CannotTestError, match="was not measured on this model; `make bench`"):
        c06_training_time.findings(m)


def test_a_side_that_fails_is_named(tmp_path: Path) -> None:
    broken = {"lesa": [sys.executable, "-c", "print('no seconds')"]}
    with pytest.raises(RuntimeError, match=r"no seconds.*ended without its seconds"):
        training_steps.in_turn(broken, 3)
