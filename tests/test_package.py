"""`pip install .` gives the library, its methods, the command, and nothing of the pipeline."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml

import lesa
from pipelines.closure import PACKAGES, imported

ROOT = Path(__file__).parents[1]
OWN = {*PACKAGES, "benchmarks", "tests"}
ELSEWHERE = {"torch", "mergekit"}  # of Makefile, and of the benchmarks' own environment


def test_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (cited["version"], cited["license"]) == (lesa.__version__, project["license"])


def canonical(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def not_listed(lines: list[str], folders: set[str], elsewhere: set[str]) -> list[str]:
    """Packages that the folders' code imports and no requirement of `lines` gives."""
    listed = {canonical(re.split("[=>]", line)[0]) for line in lines}
    files = (path for name in folders for path in (ROOT / name).rglob("*.py"))
    ours = (path for path in files if ".venv-mergekit" not in path.parts)
    names = {name.partition(".")[0] for path in ours for name in imported(path)}
    known, others = packages_distributions(), names - sys.stdlib_module_names - OWN - elsewhere
    return [name for name in others if not listed & {canonical(found) for found in known[name]}]


def test_what_is_imported_is_a_requirement() -> None:
    """Of all that is here; and of the library alone, which others install."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert not_listed(lines, OWN, ELSEWHERE) == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not_listed(project["dependencies"], {"lesa", "baselines"}, set()) == []


def test_installs_the_library_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    for name in ("lesa", "baselines", "eval", "pipelines"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"lesa_reproduction-{lesa.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "site")
    rooms = (ROOT / "lesa", ROOT / "baselines")
    wanted = {str(path.relative_to(ROOT)) for room in rooms for path in room.rglob("*.py")}
    assert packed == wanted | {"lesa/py.typed"}
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import lesa, lesa.cli, lesa.training.pretrain, lesa.text.corpus\n"
        "from lesa.commands.registry import installed\n"
        "assert {'lesa', 'llama_pro', 'solar'} <= installed().keys()\n"
        f"assert lesa.__file__.startswith({str(tmp_path)!r})\n"
        "print(lesa.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == lesa.__version__
    (metadata,) = (tmp_path / "site").glob("*.dist-info")
    scripts = configparser.ConfigParser()
    scripts.read(metadata / "entry_points.txt")
    assert dict(scripts["console_scripts"]) == {"lesa": "lesa.cli:main"}
