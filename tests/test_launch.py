"""Launcher's words against accelerate's own reading of the kept configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from lesa.errors import UserError
from lesa.planning.launch import ALONE, Launch, launch

KEPT = sorted(Path("conf/accelerate").glob("*.yaml"))
KEY = "params.yaml: train.launch"


@pytest.mark.parametrize("words", ["python", "python -X dev", "torchrun", "accelerate launch"])
def test_one_process(words: str) -> None:
    assert launch(words, KEY) == ALONE
    assert ALONE.local == 1


@pytest.mark.parametrize("between", [" ", "="])
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_accelerate_reads(path: Path, between: str) -> None:
    found = launch(f"accelerate launch --config_file{between}{path} --debug", KEY)
    wanted = load_config_from_file(str(path))
    assert found == Launch(
        processes=wanted.num_processes,
        nodes=wanted.num_machines,
        sharded=wanted.distributed_type == "FSDP",
    )


def test_several_nodes_and_recomputing(tmp_path: Path) -> None:
    text = Path("conf/accelerate/fsdp_multinode.yaml").read_text()
    path = tmp_path / "own file.yaml"
    path.write_text(
        text.replace("activation_checkpointing: false", "activation_checkpointing: true")
    )
    found = launch(f"accelerate launch --config_file '{path}'", KEY)
    assert found == Launch(processes=16, nodes=2, sharded=True, recomputes=True)
    assert found.local == 8


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("torchrun --nproc_per_node=4", Launch(4)),
        ("python -m torch.distributed.run --nnodes 2 --nproc-per-node 4", Launch(8, 2)),
        ("accelerate launch --num_processes 3 --cpu", Launch(3)),
        ("accelerate launch --num-processes=4 --num_machines=2 --use_fsdp", Launch(4, 2, True)),
        (
            "accelerate launch --config_file conf/accelerate/ddp_1x8.yaml --num_processes 2",
            Launch(2),
        ),
    ],
)
def test_options_of_launchers(words: str, found: Launch) -> None:
    assert launch(words, KEY) == found


def test_options_are_accelerates_own() -> None:
    words = "--num_processes 4 --num-machines 2 --use_fsdp x.py"
    wanted = launch_command_parser().parse_args(words.split())
    found = launch(f"accelerate launch {words}", KEY)
    assert (found.processes, found.nodes) == (wanted.num_processes, wanted.num_machines)
    assert found.sharded == wanted.use_fsdp


@pytest.mark.parametrize(
    "words",
    [
        "accelerate launch --config_file",
        "torchrun --nproc_per_node auto",
        "torchrun --nnodes 1:4",
        "accelerate launch --num_processes 0",
        "accelerate launch --num_processes 3 --num_machines 2",
    ],
)
def test_words_that_tell_no_number_are_one_line(words: str) -> None:
    with pytest.raises(UserError, match=rf"^{KEY}: ") as error:
        launch(words, KEY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [None, "[]", "num_processes: [", "num_processes: many"])
def test_other_files_are_one_line(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(
        UserError, match=r"^params\.yaml: train\.launch: .*x\.yaml: not a conf"
    ) as e:
        launch(f"accelerate launch --config_file {path}", KEY)
    assert "\n" not in str(e.value)
