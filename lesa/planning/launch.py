"""How many processes a launcher's words start, from its configuration file alone."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from lesa.errors import UserError


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


def launch(words: str, key: str) -> Launch:
    """What `words`, the parameter `key`, start: one process but for accelerate's --config_file."""
    parts = shlex.split(words)
    if "--config_file" not in parts[:-1]:
        return ALONE
    path = Path(parts[parts.index("--config_file") + 1])
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Launch(
            processes=int(config["num_processes"]),
            nodes=int(config["num_machines"]),
            sharded=config["distributed_type"] == "FSDP",
            recomputes=bool(config.get("fsdp_config", {}).get("fsdp_activation_checkpointing")),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{key}: {path}: not a configuration of accelerate launch ({error!r}); "
            "conf/accelerate/ has some"
        ) from None
