"""How many processes a launcher's words start, from its configuration file alone."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, model_validator

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

    @model_validator(mode="after")
    def shared_evenly(self) -> Accelerate:
        if self.num_processes % self.num_machines:
            raise ValueError("num_processes must be a multiple of num_machines")
        return self


def launch(words: str, key: str) -> Launch:
    """What `words`, the parameter `key`, start: one process but for accelerate's --config_file."""
    try:
        parts = [part for word in shlex.split(words) for part in word.split("=", 1)]
    except ValueError as error:
        raise UserError(f"{key}: not words of a command line ({error})") from None
    if "--config_file" not in parts[:-1]:
        return ALONE
    path = Path(parts[parts.index("--config_file") + 1])
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
