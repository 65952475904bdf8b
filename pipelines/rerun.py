"""Stages run again in a scratch clone, and their numbers beside the recorded ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from tabulate import tabulate

from lesa.errors import UserError
from lesa.files import read_json
from lesa.params import Params
from lesa.params import load as load_params
from reports.comparison import TIMED, Difference, compare

SHOWN = 40  # differences that are printed; the rest are counted
ALL = "all"


def rerun(root: Path, stages: Sequence[str]) -> int:
    """Run `stages` (or `all`) of the commit that is checked out, and print where a number is not
    what `metrics` here has; returns how many are out of their kind's tolerance.

    What the stages read comes from DVC's cache if it is there as recorded, else it is run, too, and
    compared. `all` takes nothing from the cache. Raises UserError if the pipeline fails.
    """
    (root / "artifacts").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=root / "artifacts", prefix="verify-") as scratch:
        clone = Path(scratch) / "clone"
        run(["git", "clone", "--quiet", str(root.resolve()), str(clone)], root)
        forget(clone / "dvc.lock", stages)
        if ALL in stages:
            words = ["repro"]
        else:
            cache = str((root / ".dvc" / "cache").resolve())
            run(dvc("cache", "dir", "--local", cache), clone)
            words = ["repro", "--no-run-cache", *stages]
        ran = re.findall(r"Running stage '(?:dvc.yaml:)?(.+?)'", run(dvc(*words), clone))
        found = differences(root / "metrics", clone, ran)
    return show(found)


def forget(lock: Path, stages: Sequence[str]) -> None:
    """Take stages, `fit` or one of it, `fit@paper-0`, out of a lock: DVC then runs them."""
    content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    content["stages"] = {
        name: entry
        for name, entry in content["stages"].items()
        if ALL not in stages and not {name, name.partition("@")[0]} & set(stages)
    }
    lock.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def dvc(*words: str) -> list[str]:
    return [sys.executable, "-m", "dvc", *words]


def run(command: list[str], folder: Path) -> str:
    """What a command prints, which is also shown; stages call this environment's python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait():
        raise UserError(f"{' '.join(command[-3:])}: exit status {process.returncode}, see above")
    return "".join(lines)


def differences(recorded: Path, clone: Path, stages: Sequence[str]) -> list[Difference]:
    """Every number of the metrics files that `stages` wrote in the clone, beside the recorded."""
    lock = yaml.safe_load((clone / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    presets = presets_of(load_params(clone / "params.yaml"))
    found: list[Difference] = []
    for stage in stages:
        for out in lock[stage].get("outs", ()):
            name = out["path"].removeprefix("metrics/")
            if name == out["path"] or name.startswith("provenance/"):
                continue
            before = read_json(recorded / name) if (recorded / name).is_file() else {}
            found += compare(name, before, read_json(clone / out["path"]), presets)
    return found


def presets_of(params: Params) -> dict[str, str]:
    """Of each model that predictors made, the preset of the first."""
    runs = params.fit.runs
    return {m: runs[e.needs[0]].preset for m, e in params.methods.items() if e.needs}


def show(found: Sequence[Difference]) -> int:
    """Print what was compared, by kind, and what is out of its tolerance; returns how many are."""
    rows = []
    for kind in dict.fromkeys(one.kind for one in found):
        own = [one for one in found if one.kind == kind]
        equal = sum(one.recorded == one.again for one in own)
        allowed = "any" if kind is TIMED else f"{kind.absolute:g}" if kind.absolute else None
        rows.append(
            {
                "kind": kind.name,
                "numbers": len(own),
                "equal": equal,
                "largest difference": max(one.apart for one in own),
                "allowed": allowed or f"{kind.relative:g} of the number",
                "out": sum(not one.within for one in own),
                "because": kind.reason,
            }
        )
    print(tabulate(rows, headers="keys", maxcolwidths=[None] * 6 + [50], floatfmt=".2g"))
    out = [one for one in found if not one.within]
    if out:
        table = [(one.place, one.kind.name, one.recorded, one.again) for one in out[:SHOWN]]
        print(
            tabulate(table, headers=("place", "kind", "recorded", "again"), disable_numparse=True)
        )
        print(f"... and {len(out) - SHOWN} more\n" * (len(out) > SHOWN), end="")
    return len(out)
