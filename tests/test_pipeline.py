"""The smoke pipeline on several families, and with a method that nobody registered."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import baselines
from lesa.files import tree_digest
from tests.families import load, logits, save_family
from tests.pipeline import ROOT, run, smoke

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


@pytest.mark.parametrize("name", ["gpt_neox", "phi3", "gemma2", "mixtral"])
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


def test_stages_of_a_new_method_follow_from_the_params(tmp_path: Path) -> None:
    """DVC makes its stages, of the pipeline and of the grid, from the entry alone."""
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent))
    assert dvc is not None
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    for file in ("dvc.yaml", "pipelines/studies/grid/dvc.yaml"):
        (clone / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, clone / file)
    tree = smoke(mine={"method": "solar"})
    (clone / "params.yaml").write_text(yaml.safe_dump(tree))
    listed = ""
    for file in ("dvc.yaml", "pipelines/studies/grid/dvc.yaml"):
        done = subprocess.run(
            [dvc, "stage", "list", "--name-only", file],
            cwd=clone, check=True, capture_output=True, text=True,
        )  # fmt: skip
        listed += done.stdout
    for stage in ("expand", "pretrain", "evaluate_init", "evaluate_trained", "grid"):
        assert f"{stage}@mine" in listed
