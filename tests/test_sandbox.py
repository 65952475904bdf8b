"""Programs that nobody has read end within their limits and reach nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from eval import sandbox
from eval.humaneval import cut, program
from eval.sandbox import Limits, passes
from lesa.errors import UserError

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0)


@pytest.fixture(scope="module", autouse=True)
def isolation() -> None:
    try:
        sandbox.check_isolation()
    except UserError as error:
        pytest.skip(f"the sandbox NOT tested: {error}")


BOMB = """
import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        pass
"""
# Root's right to search all folders, which the sandbox keeps, opens any file so outside of it.
HANDLE = """
import ctypes, os
libc = ctypes.CDLL(None)
handle, mount = (ctypes.c_uint32 * 34)(128), ctypes.c_int()
assert libc.name_to_handle_at(-100, b'{file}', handle, ctypes.byref(mount), 0) == 0
assert os.read(libc.open_by_handle_at(-100, handle, os.O_RDONLY), 4) == b'kept'
"""
HOSTILE = {
    "an infinite loop": "while True: pass",
    "a sleep": "import time; time.sleep(60)",
    "8 GiB": "bytearray(8 << 30)",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
    "a fork bomb": BOMB,
    "an early end": "import sys; sys.exit(0)",
    "an earlier end": "import os; os._exit(0)",
    "a flood": "while True: print('x' * 10000)",
    "a file written": "open('mine', 'w').write('x')",
    "a file read": "open('{file}').read()",
    "a file read by its handle": HANDLE,
    "a file removed": "import os; os.unlink('{file}')",
    "another program": "import subprocess; subprocess.run(['/bin/true'], check=True)",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_programs_fail_in_time(what: str, tmp_path: Path) -> None:
    import socket

    (tmp_path / "file").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        fill = {"port": str(server.getsockname()[1]), "file": str(tmp_path / "file")}
        text = HOSTILE[what]
        for name, value in fill.items():
            text = text.replace("{" + name + "}", value)
        begun = time.monotonic()
        assert not passes(text, LIMITS)
        assert time.monotonic() - begun < LIMITS.wall_seconds + 3
    assert (tmp_path / "file").read_text() == "kept"


def test_the_same_connection_and_reading_work_outside(tmp_path: Path) -> None:
    """What fails inside fails for the sandbox's sake: here it works."""
    import socket

    (tmp_path / "file").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("127.0.0.1", server.getsockname()[1]), 1).close()
    assert (tmp_path / "file").read_text() == "kept"


def test_a_fork_is_refused_by_the_limit_and_not_altogether() -> None:
    child = "import os\nif os.fork() == 0: os._exit(0)\nos.wait()"
    assert passes(child, LIMITS)
    assert not passes(child, Limits(cpu_seconds=1, wall_seconds=4.0, processes=1))


PROBLEM = {
    "task_id": "Test/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "entry_point": "double",
}


def test_a_right_solution_passes_and_a_wrong_one_does_not() -> None:
    assert passes(program(PROBLEM, "    return 2 * x\n"))
    assert not passes(program(PROBLEM, "    return x * x\n"))
    assert not passes(program(PROBLEM, "    return 2 * \n"))


def test_a_completion_ends_where_the_function_does() -> None:
    assert cut("    return 2 * x\n\ndef other():\n    pass\n") == "    return 2 * x\n"
    assert cut("    if x:\n        return 1\n    return 2\n") == (
        "    if x:\n        return 1\n    return 2\n"
    )


def test_nothing_runs_where_isolation_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "command", lambda: ["unshare-that-is-not-there"])
    sandbox.check_isolation.cache_clear()
    try:
        with pytest.raises(UserError, match="not run, for this machine cannot isolate it") as error:
            passes("pass")
        assert "\n" not in str(error.value)
    finally:
        monkeypatch.undo()
        sandbox.check_isolation.cache_clear()
