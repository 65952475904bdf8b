"""The learning rate that training reads: its file, and whether it was chosen for this run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lesa.errors import CheckError, UserError
from lesa.files import read_json, write_json
from lesa.training.pretrain import Run
from lesa.training.trainer import LayerTrainer
from pipelines import choose_rate
from pipelines.choose_rate import Try, best_of, measure
from pipelines.chosen_rate import rate_warnings, read_grid
from pipelines.rates import LADDER, lowest
from pipelines.tracking import Tracker
from tests.test_pretrain import HELD_OUT_ROWS, deepened, settings

OWN = {"profile": "smoke", "checkpoint": "abc", "dtype": "float32", "max_steps": 2}


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^metrics/grid/lesa\.json: missing; `make grid`") as error:
        read_grid("lesa")
    assert "\n" not in str(error.value)
    for content in ({}, {"best": "0.1"}, {"best": 0.0}, {"best": None}):
        write_json("metrics/grid/lesa.json", content)
        with pytest.raises(UserError, match=r"^metrics/grid/lesa\.json: best: .*number above 0"):
            read_grid("lesa")
    write_json("metrics/grid/lesa.json", {"best": 0.003})
    assert read_grid("lesa")[1]["best"] == 0.003


@pytest.mark.parametrize("key", OWN)
def test_a_rate_chosen_for_another_run_is_told(key: str) -> None:
    path = Path("metrics/grid/lesa.json")
    assert rate_warnings(path, OWN | {"best": 0.003}, OWN) == []
    silent = {name: value for name, value in OWN.items() if name != key}
    for grid in (silent, OWN | {key: "another"}):
        (line,) = rate_warnings(path, grid, OWN)
        assert line.startswith(f"{path}: ")
        assert key in line
        assert "\n" not in line


@dataclass(frozen=True)
class Fake:
    """What `measure` reads of a run."""

    learning_rate: float = 0.0
    measure_start: bool = True
    init: str = "init"
    settings: Any = field(
        default_factory=lambda: SimpleNamespace(prefix_cache=False, save_every=8, max_steps=8)
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """Trainings that diverge above 1e-3: their rates, and was step 0 scored?"""
    asked: list[tuple[float, bool]] = []

    def train(run: Fake, *args: Any, **kwargs: Any) -> Any:
        asked.append((run.learning_rate, run.measure_start))
        if run.learning_rate > 1e-3:
            raise CheckError("learning rate: the held-out loss is nan")
        losses = [4.0] * run.measure_start + [3 + abs(math.log10(run.learning_rate / 3e-4))]
        return {}, {"steps": [{"heldout_loss": loss} for loss in losses]}

    monkeypatch.setattr(choose_rate, "train", train)
    return asked


def test_a_rate_that_diverges_ends_no_search(
    trained: list[tuple[float, bool]], tmp_path: Path
) -> None:
    """It is written down as diverged, not trained again, and never the best; step 0 is scored until
    it is known, and then no more."""
    run: Any = Fake()
    tried: list[Try] = []
    losses = lowest(lambda rate: measure(run, rate, tried, tmp_path, Tracker()), 3e-3)
    assert best_of(losses) == 3e-4
    assert {rate for rate, loss in losses.items() if loss == math.inf} == {3e-3, 1e-2}
    assert trained == [(1e-3, True), (3e-3, False), (1e-2, False), (3e-4, False), (1e-4, False)]
    again: list[Try] = []
    measure(run, 1e-2, again, tmp_path, Tracker())
    row = {"learning_rate": 1e-2, "validation_loss_at_0": 4.0, "validation_loss": None}
    assert again == [row] == [read_json(tmp_path / "0.01.json")]
    assert len(trained) == 5


def test_a_start_that_no_rate_has_shown_yet_is_scored(
    trained: list[tuple[float, bool]], tmp_path: Path
) -> None:
    run: Any = Fake()
    tried: list[Try] = []
    losses = {rate: measure(run, rate, tried, tmp_path, Tracker()) for rate in (1e-2, 1e-3)}
    assert trained == [(1e-2, True), (1e-3, True)]
    assert [row["validation_loss_at_0"] for row in tried] == [None, 4.0]
    assert best_of(losses) == 1e-3
    with pytest.raises(CheckError, match=r"diverges at every learning rate .*: 0\.01, 0\.03$"):
        best_of({3e-2: math.inf, 1e-2: math.inf})
    assert set(losses) <= set(LADDER)


def test_a_try_that_was_stopped_goes_on(
    tiny32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is that of a try that was not, the steps before its checkpoint are not taken again,
    and the checkpoint goes when the try is measured."""
    init = deepened(tiny32, "average", tmp_path)
    run = Run(init, HELD_OUT_ROWS, HELD_OUT_ROWS, settings(eval_every=8), 0.0)
    whole: list[Try] = []
    measure(run, 1e-3, whole, tmp_path / "whole", Tracker())
    taken, step = list[bool](), LayerTrainer.training_step

    def stopped_in_its_sixth_step(*args: Any, **kwargs: Any) -> Any:
        taken.append(True)
        if len(taken) == 6:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(LayerTrainer, "training_step", stopped_in_its_sixth_step)
    again: list[Try] = []
    with pytest.raises(KeyboardInterrupt):
        measure(run, 1e-3, again, tmp_path / "stopped", Tracker())
    taken.clear()
    measure(run, 1e-3, again, tmp_path / "stopped", Tracker())
    assert len(taken) == run.settings.max_steps - 4  # a checkpoint every second step
    assert again == whole
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["0.001.json"]
