"""The rows of studies: each is checked before the first one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from lesa.errors import UserError
from pipelines.phases import Training
from pipelines.rows import Row, chosen, rows_of
from pipelines.start import Start
from pipelines.study import study_params

PARAMS = Path("pipelines/studies/start/params.yaml")
LESA: dict[str, object] = {"method": "lesa", "options": {"unpredicted": "layer_0"}}
NO_ROWS: tuple[Any, ...] = (None, [1], 7, "base", {})


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
        ({"method": "base", "options": {"seed": 1}}, r"a\.b\.seed: .*; options of base: none"),
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
        ({"methd": "base"}, r"start\.a\.b\.method: Field required"),
        ({"method": "base", "gaps": {"first": 2, "last": 1}}, r"a\.b\.gaps: last \(1\) must not"),
        ({"method": "base", "gaps": {"after": [-1]}}, r"a\.b\.gaps\.after\.0: .*\(got -1\)"),
        ({"method": "base", "gaps": [1]}, r"a\.b\.gaps: .*\(got \[1\]\)"),
        (
            LESA | {"fit": {"preset": "paper", "seed": 0, "signs": "lapak"}},
            r"start\.a\.b\.fit\.signs: Input should be .*\(got 'lapak'\)",
        ),
        *(
            (row, r"start\.a\.b: must be a mapping of a method and its settings \(got")
            for row in NO_ROWS
        ),
    ],
)
def test_a_wrong_row_is_one_line(
    row: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Path("conf/default.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(default)
    PARAMS.parent.mkdir(parents=True)
    PARAMS.write_text(yaml.safe_dump({"start": {"a": {"b": row}}}))
    with pytest.raises(UserError, match=says) as raised:
        rows_of("start", Row)
    assert "\n" not in str(raised.value)


NEW = {"trains": "new", "steps": 4, "learning_rate": 0.01}
OUTPUTS = {"trains": "outputs", "steps": 4, "rounds": 2, "learning_rate": 0.2, "damping": 0.1}


def write_budget(content: bytes) -> Path:
    path = Path("pipelines/studies/budget/params.yaml")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "budget: missing"),
        (b"- budget\n", "budget: missing"),
        (b"bugdet: {}\n", "budget: missing"),
        (b"budget:\n", r"budget: must be a mapping of rows by their names \(got None\)"),
        (b"budget: [a]\n", r"budget: must be a mapping of rows by their names \(got \['a'\]\)"),
        (b"budget: {a-0: {}, a-0: {}}\n", "not YAML: the key 'a-0' stands there twice"),
        (b"budget: {a-0: {\n", "not YAML: "),
        (b"budget: \xff\n", "not YAML: 'utf-8' codec"),
        (b"budget: &a {a-0: *a}\n", r"budget\.a-0\.method: Field required"),
        (None, "not found; run from the repository's root"),
    ],
)
def test_a_file_of_a_study_that_lists_no_rows_is_one_line(
    content: bytes | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write_budget(content)
    with pytest.raises(UserError, match=rf"^pipelines/studies/budget/params\.yaml: {says}"):
        rows_of("budget", Row)
    line = says if "not " in says else "part: missing"
    with pytest.raises(UserError, match=rf"^pipelines/studies/budget/params\.yaml: {line}"):
        study_params("budget", "part", int)


@pytest.mark.parametrize(
    ("phase", "says"),
    [
        *((NEW | {"learning_rate": rate}, r"0\.learning_rate: ") for rate in (0, 1, float("nan"))),
        (NEW | {"steps": 0}, r"0\.steps: Input should be greater than 0 \(got 0\)"),
        (NEW | {"stesp": 4}, r"0\.stesp: Extra inputs"),
        ({"trains": "new", "steps": 4}, r"0\.learning_rate: Field required"),
        (NEW | {"trains": "lora"}, r"0: parameters is for trains: lora, which must say it"),
        (NEW | {"trains": "old"}, r"0: Input tag 'old' found using 'trains' does not match"),
        ({"steps": 4}, r"0: Unable to extract tag using discriminator 'trains'"),
        (OUTPUTS | {"rounds": 3}, r"0: rounds \(3\) must divide steps \(4\)"),
        (OUTPUTS | {"damping": 1}, r"0\.damping: Input should be less than 1 \(got 1\)"),
        (7, r"0: .*\(got 7\)"),
    ],
)
def test_a_wrong_phase_is_named_by_its_wrong_key(
    phase: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"method": "base", "seed": 0, "phases": [phase]}
    path = write_budget(yaml.safe_dump({"budget": {"base-0": row}}).encode())
    with pytest.raises(UserError, match=rf"^{path}: budget\.base-0\.phases\.{says}") as raised:
        rows_of("budget", Training)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["base", "base-5", "base-00"])
def test_a_training_run_is_called_after_its_seed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the report tells runs of one model from each other."""
    monkeypatch.chdir(tmp_path)
    row = {"method": "base", "seed": 0, "phases": [NEW]}
    path = write_budget(yaml.safe_dump({"budget": {"base-0": row, name: row}}).encode())
    with pytest.raises(UserError, match=rf"^{path}: budget\.{name}: must end in -0, as its seed"):
        chosen("budget", Training, "base-0")
