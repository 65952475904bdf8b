"""Sizes of the models the benchmarks run on, and what follows from the sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lesa.params import Gaps

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """A decoder in Llama's layout; sizes are numbers of units, layers and tokens."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    layers: int
    vocabulary: int
    dtype: str


# The default profile's model. Its random stand-in has every size of it, the vocabulary too.
DEFAULT = Shape(576, 1536, 9, 3, 30, vocabulary=49152, dtype="float32")
# Qwen2.5-1.5B's matrices, without its biases. No matrix of the method is an embedding: a small
# vocabulary changes what the file weighs and nothing that is measured.
QWEN = Shape(1536, 8960, 12, 2, 28, vocabulary=1024, dtype="bfloat16")


def llama_8b(layers: int) -> Shape:
    """Llama-3-8B's matrices at any depth, with a small vocabulary for the same reason."""
    return Shape(4096, 14336, 32, 8, layers, vocabulary=1024, dtype="bfloat16")


def matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """`(d1, d2)` of the seven kinds of one layer, as stored: out × in."""
    head = shape.hidden // shape.heads
    keys = shape.kv_heads * head
    return {
        "q_proj": (shape.hidden, shape.hidden),
        "k_proj": (keys, shape.hidden),
        "v_proj": (keys, shape.hidden),
        "o_proj": (shape.hidden, shape.hidden),
        "gate_proj": (shape.intermediate, shape.hidden),
        "up_proj": (shape.intermediate, shape.hidden),
        "down_proj": (shape.hidden, shape.intermediate),
    }


def layer_bytes(shape: Shape) -> int:
    """Bytes of one layer: its matrices and two norms."""
    numbers = sum(d1 * d2 for d1, d2 in matrices(shape).values()) + 2 * shape.hidden
    return numbers * BYTES[shape.dtype]


def sizes(shape: Shape) -> dict[str, int]:
    """The sizes as `config.json` names them."""
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "num_hidden_layers": shape.layers,
        "vocab_size": shape.vocabulary,
    }


def config(shape: Shape) -> dict[str, Any]:
    """`config.json` that transformers reads as a Llama with tied embeddings."""
    return {
        **sizes(shape),
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": shape.dtype,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }


def upper_gaps(layers: int) -> Gaps:
    """The gaps when half as many layers are added in the upper half of the depth.

    30 layers: 14 to 28, the default profile's; 32: 15 to 30, Llama-3-8B's (docs/method.md step 6).
    """
    return Gaps(first=layers // 2 - 1, last=layers - 2)
