"""The learning rate that training reads: its file, and whether it was chosen for this run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lesa.errors import UserError
from lesa.files import write_json
from pipelines.pretrain import rate_warnings, read_grid

OWN = {"profile": "smoke", "checkpoint": "abc", "dtype": "float32", "max_steps": 2}


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^metrics/grid/lesa\.json: missing; `make grid`") as error:
        read_grid("lesa")
    assert "\n" not in str(error.value)
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
