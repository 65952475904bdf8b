"""One of several processes that train a tiny model: started by tests/test_processes.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset, load_from_disk
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lesa.files import read_json, write_json
from lesa.params import Train
from lesa.training import pretrain, processes, state
from lesa.training.saving import save


class KilledError(Exception):
    pass


def offer_fsdp() -> None:
    """accelerate shards over GPUs alone: let it take this machine's CPU for one."""
    join = PartialState.__init__

    def joined(self: PartialState, *args: Any, **kwargs: Any) -> None:
        join(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = joined


def main(job: Any) -> None:
    torch.set_num_threads(1)
    if processes.sharded():
        offer_fsdp()
    blocks = load_from_disk(job["blocks"]).with_format("torch")
    out = Path(job["out"])
    seen: list[bool] = []
    gather = state.trained_tensors

    def watched(model: nn.Module) -> dict[str, Tensor]:
        seen.append(all(isinstance(p, DTensor) for p in model.parameters()))
        return gather(model)

    pretrain.trained_tensors = watched  # type: ignore[attr-defined]

    def kill(numbers: dict[str, float], step: int) -> None:
        if step == job["stop_at"] and "loss" in numbers:
            raise KilledError

    rows = {"input_ids": job["heldout"], "document": ["a"] * len(job["heldout"])}
    heldout = Dataset.from_dict(rows).with_format("torch")
    for name, settings in job["runs"].items():
        try:
            trained, curve = pretrain.train(
                pretrain.Run(Path(job["init"]), blocks, heldout, Train(**settings), job["rate"]),
                out / name,
                on_log=kill if name == "killed" else lambda numbers, step: None,
                prefix_cache=Path(job["prefix_cache"]) if job["prefix_cache"] else None,
            )
        except KilledError:
            continue
        if os.environ["RANK"] == "0":
            found = {"processes": int(os.environ["WORLD_SIZE"]), "sharded": seen[-1]}
            write_json(out / f"{name}.json", curve | found)
            save(trained, Path(job["init"]), out / f"{name}-trained")


if __name__ == "__main__":
    main(read_json(sys.argv[1]))
