"""docs/tutorial.md does what it says: its commands and its Python, on a tiny model of 30 layers."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lesa import cli
from tests.conftest import ROOT
from tests.families import load, logits, save_family

TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)


def command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, words


@pytest.mark.usefixtures("entry_points")
def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_family("llama", tmp_path / "my_model", num_hidden_layers=30)
    for name, repeats in (("train", 60), ("heldout", 4)):
        (tmp_path / f"{name}.txt").write_text(
            "A layer is added, and then it is trained. " * repeats
        )
    done: list[str] = []
    namespace: dict[str, Any] = {}
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, str(TUTORIAL), "exec"), namespace)
            continue
        assert language == "bash"
        for line in code.splitlines():
            words = shlex.split(line)
            assert words[0] == "lesa", line
            command(words, monkeypatch)
            done.append(words[1])
    assert set(done) == {"inspect", "plan", "compare", "expand", "train", "evaluate"}
    assert torch.equal(logits(Path("deeper")), logits(Path("my_model")))
    assert load(Path("trained")).config.num_hidden_layers == 45
    capsys.readouterr()
    losses = []
    for folder in ("deeper", "trained"):
        command(["lesa", "evaluate", folder, "--text", "heldout.txt", "--json"], monkeypatch)
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[1] < losses[0] - 0.1
