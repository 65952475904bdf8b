"""The pipeline's stages in one process and one folder, in the order of dvc.yaml."""

from __future__ import annotations

import argparse
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lesa.params import Params, parse
from pipelines.profile import compose
from pipelines.tracking import Tracker

ROOT = Path(__file__).parents[1]


def smoke(base: dict[str, Any] | None = None, **methods: dict[str, Any]) -> dict[str, Any]:
    """The smoke profile with one set of predictors; `methods` are added to its models."""
    tree = compose("smoke", ROOT / "conf")
    tree["base"] = base or tree["base"]
    tree["fit"]["runs"] = {"paper-0": tree["fit"]["runs"]["paper-0"]}
    tree["train"] |= {"max_steps": 4, "eval_every": 2, "save_every": 2}
    tree["methods"] |= methods
    return tree


def stage(name: str, params: Params, **args: str) -> None:
    """What `python -m pipelines.<name>` does, without a process of its own and tracking."""
    import_module(f"pipelines.{name}").work(params, Tracker(), argparse.Namespace(**args))


def up_to_svd(tree: dict[str, Any]) -> Params:
    """Write `tree` as the working directory's params.yaml, and run the stages before any fit."""
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    params = parse(tree, "params.yaml")
    for name in ("inputs", "base", "corpus", "extract", "svd"):
        stage(name, params)
    return params


def run(folder: Path, tree: dict[str, Any], grid: bool = False) -> Params:
    """Run the whole pipeline below `folder`, which must be the working directory."""
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "README.md").write_text("<!-- results -->\n<!-- /results -->\n")
    params = parse(tree, "params.yaml")
    for name in ("inputs", "base", "corpus", "tasks", "extract", "svd"):
        stage(name, params)
    for fit in params.fit.runs.values():
        stage("fit", params, preset=fit.preset, seed=str(fit.seed))
    for model in params.models:
        stage("expand", params, model=model)
    if grid:
        for model in params.models:
            stage("choose_rate", params, model=model)
        shutil.copytree("artifacts/grid", "metrics/grid")
    else:
        rates = folder / "metrics" / "grid"
        rates.mkdir(parents=True, exist_ok=True)
        for model in params.models:
            shutil.copyfile(ROOT / "metrics" / "grid" / "lesa.json", rates / f"{model}.json")
    for model in params.models:
        stage("pretrain", params, model=model)
        for phase in ("init", "trained"):
            stage("evaluate", params, phase=phase, model=model)
    stage("report", params)
    return params
