"""`dvc repro` of the smoke profile in a clean clone: it works, repeats nothing, survives a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script's own folder is there alone
from reports.comparison import untimed

KILLED = "pretrain@lesa"
OUTPUT = Path("metrics/pretrain/lesa.json")
CHECKPOINTS = Path("artifacts/work/pretrain/lesa")


def run(*command: str, cwd: Path) -> str:
    """Run and echo a command; its output, or the end of the gate."""
    print("+", " ".join(command), flush=True)
    done = subprocess.run(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"{done.stdout[-8000:]}\nfailed: {' '.join(command)}")
    return done.stdout


def kill_midway(folder: Path) -> None:
    """Start the stage afresh and kill DVC and stage once a checkpoint is whole."""
    print("+ kill", KILLED, "midway", flush=True)
    process = subprocess.Popen(
        ["dvc", "repro", "--force", "--single-item", KILLED],
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list((folder / CHECKPOINTS).glob("checkpoint-*/trainer_state.json")):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{KILLED} wrote no checkpoint to be killed at")
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if (folder / "artifacts/trained/lesa").exists():
        sys.exit(f"{KILLED} ended before it could be killed")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "clone"
        run("git", "clone", "--quiet", str(Path.cwd()), str(folder), cwd=Path.cwd())
        run("python", "-m", "pipelines.profile", "smoke", cwd=folder)
        print(run("dvc", "repro", cwd=folder)[-400:])
        again = run("dvc", "repro", cwd=folder)
        ran = re.findall(r"Running stage '(.+)'", again)
        if ran != ["inputs"]:  # which looks every time whether a file outside has changed
            sys.exit(f"a second dvc repro ran {ran}:\n{again}")
        before = untimed(json.loads((folder / OUTPUT).read_text()))
        kill_midway(folder)
        run("dvc", "repro", "--force", "--single-item", KILLED, cwd=folder)
        after = untimed(json.loads((folder / OUTPUT).read_text()))
        if before != after:
            sys.exit(f"another curve after a kill:\n{before}\n{after}")
        print("smoke: ran, repeated nothing, gave the same metrics after a kill", flush=True)


if __name__ == "__main__":
    main()
