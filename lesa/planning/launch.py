"""How many processes a launcher's words start, from them and its configuration file alone."""

from __future__ import annotations

import shlex
from argparse import ArgumentError, ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from lesa.errors import UserError
from lesa.params import Positive


@dataclass(frozen=True)
class Launch:
    """processes: of all nodes, each with a GPU of its own where there are any. sharded: FSDP keeps
    a part of the model in each. recomputes: FSDP's activation checkpointing."""

    processes: int = 1
    nodes: int = 1
    sharded: bool = False
    recomputes: bool = False

    @property
    def local(self) -> int:
        """Processes of one node."""
        return self.processes // self.nodes


ALONE = Launch()


class Accelerate(BaseModel):
    """What is read of a configuration of accelerate launch."""

    num_processes: Positive
    num_machines: Positive
    distributed_type: str
    fsdp_config: dict[str, Any] | None = None


def launch(words: str, key: str) -> Launch:
    """What `words`, the parameter `key`, start: one process, or as many as accelerate launch or
    torchrun are told. What accelerate's configuration file says, its options say anew."""
    said = options(words, key)
    nodes, each = said.nnodes or 1, said.nproc_per_node or 1
    found = Launch(each * nodes, nodes)
    if said.config_file:
        found = configured(Path(said.config_file), key)
    found = replace(
        found,
        processes=said.num_processes or found.processes,
        nodes=said.num_machines or found.nodes,
    )
    if found.processes % found.nodes:
        raise UserError(f"{key}: num_processes must be a multiple of num_machines")
    return replace(found, sharded=True) if said.use_fsdp else found


def options(words: str, key: str) -> Namespace:
    """The options of accelerate launch and torchrun that say how many processes there are."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config_file", "--config-file")
    parser.add_argument("--use_fsdp", "--use-fsdp", action="store_true")
    for name in ("num_processes", "num_machines", "nproc_per_node", "nnodes"):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=count)
    try:
        return parser.parse_known_args(shlex.split(words))[0]
    except (ValueError, ArgumentError) as error:
        raise UserError(f"{key}: not words of a launcher's command line ({error})") from None


def count(word: str) -> int:
    """A number of processes or nodes; torchrun's `auto` and `1:4` tell none beforehand."""
    if not word.isdecimal() or int(word) < 1:
        raise ArgumentTypeError(f"must be a whole number from 1 on (got {word!r})")
    return int(word)


def configured(path: Path, key: str) -> Launch:
    """What a configuration file of accelerate launch starts."""
    try:
        config = Accelerate.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: {path}: not a configuration of accelerate launch ({reason}); "
            "conf/accelerate/ has some"
        ) from None
    return Launch(
        processes=config.num_processes,
        nodes=config.num_machines,
        sharded=config.distributed_type == "FSDP",
        recomputes=bool((config.fsdp_config or {}).get("fsdp_activation_checkpointing")),
    )
