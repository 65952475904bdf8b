"""The rows of studies: each is checked before the first one runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lesa.errors import UserError
from pipelines.rows import Row, rows_of
from pipelines.start import Start

PARAMS = Path("pipelines/studies/start/params.yaml")
LESA: dict[str, object] = {"method": "lesa", "options": {"unpredicted": "layer_0"}}


def test_every_row_of_the_study_can_be_made() -> None:
    listed = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))["start"]
    found = rows_of("start", Start)
    assert {group: list(rows) for group, rows in found.items()} == {
        group: list(rows) for group, rows in listed.items()
    }


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"method": "ridge", "options": {"unpredicted": "layer_0"}},
            r"start\.a\.b\.penalty: Field",
        ),
        ({"method": "nonesuch"}, r"start\.a\.b\.method: unknown method 'nonesuch'; known are aver"),
        (
            {"method": "base", "options": {"seed": 1}},
            r"a\.b\.seed: .*; options of base: none",
        ),
        ({"method": "base", "gap": 1}, r"start\.a\.b\.gap: Extra"),
        (LESA, r"start\.a\.b\.fit: lesa reads predictors"),
        (
            LESA | {"fit": {"preset": "papr", "seed": 0}},
            r"start\.a\.b\.fit\.preset: no preset 'papr' .*; there are paper, official_code",
        ),
        (
            LESA | {"fit": {"preset": "paper", "seed": 0, "settings": {"epoch": 3}}},
            r"start\.a\.b\.fit\.settings\.epoch: Extra",
        ),
        (
            LESA | {"fit": {"preset": "paper", "seed": 0, "settings": {"epochs": 0}}},
            r"start\.a\.b\.fit\.settings\.epochs: .*greater than 0",
        ),
    ],
)
def test_a_wrong_row_is_one_line(
    row: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Path("conf/default.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(default)
    PARAMS.parent.mkdir(parents=True)
    PARAMS.write_text(yaml.safe_dump({"start": {"a": {"b": row}}}))
    with pytest.raises(UserError, match=says) as raised:
        rows_of("start", Row)
    assert "\n" not in str(raised.value)
