"""Programs that nobody has read, such as a model's: run apart from this machine, or not at all.

A program gets a process in new network, process and IPC namespaces, with no capability and an
unused user id, in an empty folder, with limits of time, memory and processes, and without files but
those of Python's library (`eval.confined`). So it reaches no network, no other process and none of
the user's files; when it ends or its time is up, every process that it started ends with it. This
takes Linux with user namespaces, or root, and Landlock (5.13 or later): what lacks them refuses.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache

from eval import confined
from lesa.errors import UserError

UID = "987654"  # of no user: the limit of processes counts those of an id, and spares root's


@dataclass(frozen=True)
class Limits:
    """cpu_seconds: of one process. wall_seconds: of all together. memory_bytes: of one process's
    address space. processes: and threads, at one time."""

    cpu_seconds: int = 5
    wall_seconds: float = 10.0
    memory_bytes: int = 2**30
    processes: int = 8


def command() -> list[str]:
    """What starts `eval.confined`, as root or as a user whom the system lets have namespaces.

    Root's own id is not held by the limit of processes, so it is given up; of its rights that to
    find Python's library stays, which may lie in its home.
    """
    unshare = ["unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
    if os.geteuid():
        return [*unshare, "--user", "--", *python()]
    kept = "-all,+dac_read_search"
    drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    drop += [f"--bounding-set={kept}", f"--inh-caps={kept}", f"--ambient-caps={kept}"]
    return [*unshare, "--", *drop, "--", *python()]


def python() -> list[str]:
    """The interpreter without the environment's packages, which a program is not to see."""
    return [os.path.realpath(sys.executable), "-I", "-S", confined.__file__]


def start(program: str, limits: Limits) -> tuple[bool, str]:
    """Did the program end without an error, and what its start, if it failed, said."""
    token = secrets.token_hex(16)
    given = json.dumps({"program": program, "limits": asdict(limits), "token": token})
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                command(),
                input=given,
                capture_output=True,
                text=True,
                timeout=limits.wall_seconds,
                cwd=empty,
                env={"PATH": os.defpath},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, "out of time"
        except FileNotFoundError as error:
            return False, f"{error.filename} is not installed"
    lines = done.stderr.strip().splitlines()
    return done.stdout == token, lines[-1] if lines else ""


@cache
def check_isolation() -> None:
    """Raises UserError, one line, where this machine cannot isolate a program."""
    passed, said = start("", Limits())
    if not passed:
        raise UserError(
            "humaneval: generated code is not run, for this machine cannot isolate it "
            f"({said or 'no reason given'}); it takes util-linux, namespaces and Landlock"
        )


def passes(program: str, limits: Limits | None = None) -> bool:
    """Does the Python `program` end without an error, isolated and within `limits`?

    Raises UserError, and runs nothing, where this machine cannot isolate it.
    """
    check_isolation()
    return start(program, limits or Limits())[0]
