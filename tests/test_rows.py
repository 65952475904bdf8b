"""The rows of studies: each is checked before the first one runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lesa.errors import UserError
from pipelines.rows import Row, rows_of
from pipelines.start import Start

PARAMS = Path("pipelines/studies/start/params.yaml")


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
    ],
)
def test_a_wrong_row_is_one_line(
    row: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    PARAMS.parent.mkdir(parents=True)
    PARAMS.write_text(yaml.safe_dump({"start": {"a": {"b": row}}}))
    with pytest.raises(UserError, match=says) as raised:
        rows_of("start", Row)
    assert "\n" not in str(raised.value)
