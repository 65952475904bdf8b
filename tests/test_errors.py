"""What ends a command: one line, and the status that says why."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lesa.errors import CheckError, UserError, one_line

FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("params.yaml: wrong\nin two lines"), 2, "params.yaml: wrong in two lines"),
        (
            CheckError("a/model: its loss is nan,\n  no number"),
            1,
            "a/model: its loss is nan, no number",
        ),
        (OSError(errno.ENOSPC, FULL, "a/file"), 2, f"a/file: {FULL}"),
        (OSError(errno.ENOSPC, FULL), 2, f"{{here}}: {FULL}"),
        (OSError("no words of the system's"), 2, "{here}: no words of the system's"),
    ],
    ids=str,
)
def test_a_command_ends_with_one_line(
    error: Exception,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended, one_line():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr() == ("", f"error: {said.format(here=tmp_path)}\n")


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    for error in (KeyError, SafetensorError):
        with pytest.raises(error), one_line():
            raise error
