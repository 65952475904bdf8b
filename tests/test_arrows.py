"""The rooms of the house: who may import whom, and that a stage depends on the code it runs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lesa.params import Params
from pipelines.closure import (
    PACKAGES,
    ROOT,
    WITHOUT_EFFECT,
    closure,
    code_digest,
    imported,
    source_of,
)

SHARED = {
    "lesa", "lesa.params", "lesa.files", "lesa.errors", "lesa.machine", "lesa.downloads",
    "lesa.redaction",
}  # fmt: skip
BELOW = {  # what a room may import besides itself and the shared modules
    "lesa.checkpoints": set(),
    "lesa.method": {"lesa.checkpoints"},
    "lesa.upscaling": {"lesa.checkpoints", "lesa.method"},
    "lesa.text": {"lesa.checkpoints"},
    "lesa.training": {"lesa.checkpoints", "lesa.upscaling"},
    "lesa.planning": {"lesa.checkpoints", "lesa.method", "lesa.upscaling", "lesa.training"},
    "lesa.commands": {"lesa"},
    "lesa.cli": {"lesa.commands", "lesa.planning", "lesa.upscaling"},
    "baselines": {"lesa"},
    "eval": {"lesa"},
    "reports": {"lesa"},
    "pipelines": {"lesa", "baselines", "eval", "reports"},
}
FACADE = Path("lesa/__init__.py")  # names for type checkers what it loads when it is asked for
SOURCES = sorted(
    path.relative_to(ROOT)
    for room in PACKAGES
    for path in (ROOT / room).rglob("*.py")
    if path.relative_to(ROOT) != FACADE
)


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(name: str) -> str:
    """`lesa.method.basis` to `lesa.method`, `lesa.files` to itself, `eval.suite` to `eval`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "lesa" else parts[0]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_arrows_point_down(path: Path) -> None:
    here = room_of(module_name(path))
    for name in imported(ROOT / path):
        file = source_of(name)
        if file is None:
            continue
        there = room_of(module_name(file.relative_to(ROOT)))
        if there in SHARED or there == here:
            continue
        assert here not in SHARED, f"{path} imports {name}: the shared modules know no room"
        allowed = BELOW[here]
        assert there in allowed or there.partition(".")[0] in allowed, f"{path} imports {name}"


def test_shared_modules_import_no_room() -> None:
    for name in SHARED - {"lesa"}:
        file = source_of(name)
        assert file is not None
        found = {source_of(other) for other in imported(file)} - {None}
        rooms = {room_of(module_name(f.relative_to(ROOT))) for f in found if f}
        assert rooms <= SHARED


def test_the_facade_loads_nothing_before_it_is_asked() -> None:
    script = (
        "import sys, lesa\nprint(*(m for m in sys.modules if m.startswith('lesa.')))\n"
        "print('torch' in sys.modules)\nprint(*lesa.__all__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    names = "compare evaluate expand fit_outputs inspect plan train"
    assert done.stdout.splitlines() == ["", "False", names]


def listed_code(deps: list[str]) -> tuple[set[str], set[str]]:
    """A stage's dependencies on code: files, and folders of code."""
    files = {dep for dep in deps if dep.endswith(".py")}
    folders = {dep for dep in deps if "$" not in dep and any((ROOT / dep).glob("*.py"))}
    return files, folders


def stages() -> list[tuple[str, str, dict[str, Any]]]:
    """(file:stage, module, what DVC is told) of every stage in the repository."""
    found = []
    for path in [ROOT / "dvc.yaml", *sorted((ROOT / "pipelines" / "studies").glob("*/dvc.yaml"))]:
        for name, stage in yaml.safe_load(path.read_text())["stages"].items():
            body = stage.get("do", stage)
            module = next(w for w in body["cmd"].split() if w.startswith("pipelines."))
            found.append((f"{path.relative_to(ROOT)}:{name}", module, body))
    return found


@pytest.mark.parametrize(("name", "module", "body"), stages(), ids=lambda v: str(v)[:40])
def test_a_stage_depends_on_the_code_it_runs(name: str, module: str, body: dict[str, Any]) -> None:
    files, folders = listed_code(body["deps"])
    wanted = set(closure(module))
    inside = {f for f in wanted if any(f.startswith(folder + "/") for folder in folders)}
    assert files == wanted - inside, name
    for folder in folders:
        assert any(f.startswith(folder + "/") for f in inside), f"{name}: nothing used in {folder}"


ITS_OWN = "the study has its own"
BY_CONTENT = "what is made with it is a dependency"
NOT_CALLED = "read by functions of a module below that the stage does not call"
NO_PARAMS = {  # keys that are read in a stage's modules and are no params of it, with the reason
    "pipelines.inputs": {"evaluate.tasks": "the stage runs every time"},
    "pipelines.expand": {"fit": BY_CONTENT, "fit.runs": BY_CONTENT},
    "pipelines.choose_rate": {"methods": BY_CONTENT},
    "pipelines.rates": {
        "grid": NOT_CALLED, "grid.max_steps": NOT_CALLED, "grid.learning_rates": ITS_OWN,
        "methods": NOT_CALLED, "train.prefix_cache": ITS_OWN,
    },
    "pipelines.studies.official.mirror": {
        "base": NOT_CALLED, "corpus": NOT_CALLED, "corpus.text": NOT_CALLED, "evaluate": NOT_CALLED,
        "evaluate.mirror": NOT_CALLED, "evaluate.tasks": NOT_CALLED,
    },
    "pipelines.scale": {"train.prefix_cache": ITS_OWN},
    "pipelines.studies.variants.train": {"train.seed": ITS_OWN},
}  # fmt: skip


def read_of_params(path: Path) -> set[str]:
    """`train.bf16` and its kind: what the functions of a file read of a variable `params`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        keys: list[str] = []
        while isinstance(node, ast.Attribute):
            keys, node = [node.attr, *keys], node.value
        if isinstance(node, ast.Name) and node.id == "params":
            found.add(field_of(keys))
    return found - {""}


def field_of(keys: list[str]) -> str:
    """The longest beginning of `keys` that names a field: `["gaps", "model_dump"]` to `gaps`."""
    named: list[str] = []
    model: Any = Params
    for key in keys:
        if key not in (fields := getattr(model, "model_fields", {})):
            break
        named, model = [*named, key], fields[key].annotation
    return ".".join(named)


@pytest.mark.parametrize(("name", "module", "body"), stages(), ids=lambda v: str(v)[:40])
def test_a_stage_depends_on_the_params_it_reads(
    name: str, module: str, body: dict[str, Any]
) -> None:
    declared = [key + "." for key in body.get("params", []) if isinstance(key, str)]
    files = [ROOT / f for f in closure(module) if f.startswith("pipelines/")]
    read = {key for path in files for key in read_of_params(path)} - set(NO_PARAMS.get(module, {}))
    for key in sorted(read):
        told = [d for d in declared if d.startswith(key + ".") or f"{key}.".startswith(d)]
        assert told, f"{name}: reads {key}"


def test_closure_follows_what_python_imports() -> None:
    """Every module of the project that a stage's import loads is in its closure."""
    script = (
        "import sys, pipelines.expand\n"
        "from pipelines.closure import ROOT\n"
        "for m in list(sys.modules.values()):\n"
        "    f = getattr(m, '__file__', None)\n"
        "    if f and f.startswith(str(ROOT)) and '.venv' not in f: print(f[len(str(ROOT)) + 1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    loaded = {name for name in done.stdout.split() if (ROOT / name).stat().st_size}
    beside_stage = loaded - set(WITHOUT_EFFECT)
    assert beside_stage <= set(closure("pipelines.expand"))


def test_code_digest_is_of_the_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pipelines.closure as module

    for room in ("lesa", "pipelines"):
        (tmp_path / room).mkdir()
    (tmp_path / "pipelines" / "stage_x.py").write_text("from lesa.part import thing\n")
    (tmp_path / "lesa" / "part.py").write_text("thing = 1\n")
    (tmp_path / "lesa" / "other.py").write_text("thing = 1\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    closure.cache_clear()
    try:
        before = code_digest("pipelines.stage_x")
        assert closure("pipelines.stage_x") == ("lesa/part.py", "pipelines/stage_x.py")
        (tmp_path / "lesa" / "other.py").write_text("thing = 2\n")
        assert code_digest("pipelines.stage_x") == before
        (tmp_path / "lesa" / "part.py").write_text("thing = 2\n")
        assert code_digest("pipelines.stage_x") != before
    finally:
        closure.cache_clear()


def test_threads_follow_the_user() -> None:
    """A stage leaves torch's threads at OMP_NUM_THREADS."""
    script = (
        "import torch\nfrom pipelines.stage import prepare_process\n"
        "prepare_process()\nprint(torch.get_num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "1"
