"""The smoke pipeline on several families, and with a method that nobody registered."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import baselines
from lesa.files import tree_digest
from lesa.params import parse
from pipelines import closure
from tests.conftest import OWN_PATH
from tests.families import load, logits, save_family
from tests.pipeline import ROOT, run, smoke, stage, up_to_svd

SCRATCH = '''
"""Copies of the upper neighbour, halved: nobody's method."""

from lesa.params import Strict
from lesa.upscaling.methods import Method
from lesa.upscaling.plan import insert_between


class Options(Strict):
    factor: float


def layer(source, slot):
    upper = source.base.layer(slot.between[1])
    return {suffix: tensor * source.options.factor for suffix, tensor in upper.items()}


METHODS = {"halves": Method(insert_between, layer, options=Options)}
'''


@pytest.mark.parametrize(
    "name",
    [
        "phi3",
        "mixtral",
        pytest.param("gpt_neox", marks=pytest.mark.slow),
        pytest.param("gemma2", marks=pytest.mark.slow),
    ],
)
def test_whole_pipeline_on_a_family(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_family(name, tmp_path / "model")
    tree = smoke({"source": "path", "path": str(folder), "license": "none"})
    params = run(tmp_path, tree)
    for model in params.models:
        load(Path("artifacts/trained") / model)
    assert torch.equal(logits(Path("artifacts/init/llama_pro")), logits(folder))
    text = Path("reports/REPORT.md").read_text()
    assert all(model in text for model in params.models)
    assert ("router" in text) == (name == "mixtral")


def test_a_new_method_is_one_file_and_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through expand, grid, training, evaluation and the report, with no other line written."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "halves.py").write_text(SCRATCH)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(scratch)])
    monkeypatch.chdir(tmp_path)
    tree = smoke(mine={"method": "halves", "factor": 0.5})
    try:
        run(tmp_path, tree, grid=True)
    finally:
        sys.modules.pop("baselines.halves", None)
    expanded = json.loads(Path("metrics/expand/mine.json").read_text())
    assert expanded["method"] == "halves"
    rate = json.loads(Path("metrics/grid/mine.json").read_text())
    assert rate["best"] in tree["grid"]["learning_rates"]
    assert rate["checkpoint"] == tree_digest("artifacts/init/mine")
    trained = json.loads(Path("metrics/pretrain/mine.json").read_text())
    assert trained["learning_rate"] == rate["best"]
    rows = Path("reports/tables/main.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["model", *tree["methods"]]
    assert any("mine" in row for row in Path("reports/tables/grid.csv").read_text().splitlines())


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository as it is in the working tree, with DVC."""
    folder = tmp_path / "clone"
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in listed.split():
        if (ROOT / name).is_file() and not name.startswith(("metrics/", "reports/figures")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def dvc(folder: Path, *words: str) -> str:
    """What a command of DVC prints; stages call this environment's python."""
    line = [str(Path(sys.executable).parent / "dvc"), *words]
    done = subprocess.run(line, cwd=folder, env=OWN_PATH, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_files_outside_are_inputs_by_content(clone: Path, tmp_path: Path) -> None:
    """An edited text is noticed, the same text written again is not."""
    text = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": f"{i} " + "words of a document. " * 150}) for i in range(9)]
    text.write_text("\n".join(lines))
    tree = smoke()
    tree["corpus"] |= {
        "text": {"source": "files", "paths": [str(text)], "text_field": "text", "license": "none"},
        "max_documents": None,
    }
    (clone / "params.yaml").write_text(yaml.safe_dump(tree))
    assert "Running stage 'corpus'" in dvc(clone, "repro", "corpus")
    text.write_text("\n".join(lines))
    again = dvc(clone, "repro", "corpus")
    assert "Running stage 'inputs'" in again
    assert "Running stage 'corpus'" not in again
    text.write_text("\n".join([*lines, lines[0].replace("words", "others")]))
    assert "Running stage 'corpus'" in dvc(clone, "repro", "corpus")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile's artifacts before any fit. Read only."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(ROOT / "pipelines" / "studies", "pipelines/studies")
        stage("studies.budget.text", up_to_svd(smoke()))
    return folder


@pytest.mark.parametrize(
    ("name", "module", "heavy", "args", "folder"),
    [
        ("fit", "fit", "fit_kinds", {"preset": "paper", "seed": "0"}, "fit/paper-0"),
        ("pretrain", "pretrain", "train", {"model": "base"}, "pretrain/base"),
        ("choose_rate", "choose_rate", "measure", {"model": "base"}, "grid/base"),
        ("start", "start", "measure", {"group": "methods"}, "start/methods"),
        ("budget", "phases", "train", {"run": "llama_pro-0"}, "budget/llama_pro-0"),
        ("rates", "rates", "measure", {"study": "budget", "model": "base"}, "rates/budget-base"),
    ],
)
def test_unfinished_work_of_older_code_is_thrown_away(
    name: str,
    module: str,
    heavy: str,
    args: dict[str, str],
    folder: str,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stage that was killed goes on with what it left, but not under other code.

    module: of the pipelines, where the stage's heavy work is.
    """
    works = import_module(f"pipelines.{module}")

    left = Path("artifacts/work") / folder / "left"

    def killed(*_: Any, **__: Any) -> None:
        left.with_name("begun").touch()  # where nothing is done, nothing is left
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(works, heavy, killed)
    params = parse(smoke(), "params.yaml")
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shutil.copytree("artifacts/base", "artifacts/init/base")
    Path("artifacts/fit/paper/0").mkdir(parents=True)
    rates = tmp_path / "metrics" / "grid"
    rates.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "metrics" / "grid" / "base.json", rates / "base.json")
    for code, found in (("one", False), ("one", True), ("two", False)):
        monkeypatch.setattr(closure, "code_digest", lambda _, code=code: code)
        with pytest.raises(KeyboardInterrupt):
            stage(name, params, **args)
        assert left.exists() == found
        left.touch()


def test_stages_of_a_new_method_follow_from_the_params(clone: Path) -> None:
    """DVC makes its stages, of the pipeline and of the grid, from the entry alone."""
    (clone / "params.yaml").write_text(yaml.safe_dump(smoke(mine={"method": "solar"})))
    listed = "".join(
        dvc(clone, "stage", "list", "--name-only", file)
        for file in ("dvc.yaml", "pipelines/studies/grid/dvc.yaml")
    )
    for name in ("expand", "pretrain", "evaluate_init", "evaluate_trained", "grid"):
        assert f"{name}@mine" in listed
