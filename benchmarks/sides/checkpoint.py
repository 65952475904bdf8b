"""Write a checkpoint of random weights: `python -m benchmarks.sides.checkpoint <shape> <folder>`.

`<shape>` is a `Shape` as JSON. One tensor at a time, shard by shard: a model of any size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.shapes import Shape, config, matrices
from lesa.checkpoints.families import LLAMA
from lesa.checkpoints.writer import write_checkpoint
from lesa.files import whole_folder, write_json

SEED = 0
STD = 0.02  # of Llama's own initialisation


def tensors(shape: Shape) -> Iterator[tuple[str, Tensor]]:
    """Names and values in the order of the layers; norms are ones, as transformers starts them."""
    generator = torch.Generator().manual_seed(SEED)
    dtype = getattr(torch, shape.dtype)

    def gaussian(*size: int) -> Tensor:
        return (torch.randn(size, generator=generator) * STD).to(dtype)

    views = LLAMA.views(dict, ())
    yield "model.embed_tokens.weight", gaussian(shape.vocabulary, shape.hidden)
    for i in range(shape.layers):
        for kind, (d1, d2) in matrices(shape).items():
            yield f"model.layers.{i}.{views[kind].tensor}", gaussian(d1, d2)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{i}.{norm}.weight", torch.ones(shape.hidden, dtype=dtype)
    yield "model.norm.weight", torch.ones(shape.hidden, dtype=dtype)


def write(shape: Shape, folder: Path) -> None:
    with whole_folder(folder) as partial:
        write_checkpoint(partial, tensors(shape))
        write_json(partial / "config.json", config(shape))


if __name__ == "__main__":
    write(Shape(**json.loads(sys.argv[1])), Path(sys.argv[2]))
