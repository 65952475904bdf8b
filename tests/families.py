"""Tiny random checkpoints of every family, laid out as hubs have them, and what deepens them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from baselines import table
from lesa.checkpoints.base import BYTE_VOCABULARY, byte_tokenizer
from lesa.checkpoints.reader import Checkpoint
from lesa.method.basis import from_concat, from_gram, gram, save_basis
from lesa.method.predictor import network
from lesa.params import Gaps
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Source
from lesa.upscaling.plan import LayerPlan

LAYERS = 6
WINDOW = 8  # of the families that have sliding windows
LENGTH = 24  # of test sequences: longer than the window
SHAPE: dict[str, Any] = {
    "vocab_size": BYTE_VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
NEOX = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
GPT2 = {
    "vocab_size": BYTE_VOCABULARY, "n_positions": 256, "n_embd": 32, "n_layer": LAYERS, "n_head": 4,
    "n_inner": 48, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 3}
# model_type and what its config says; the first of a family is plain, others are its variants.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SHAPE),
    "llama-biases": ("llama", SHAPE | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", SHAPE | {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", SHAPE | {"tie_word_embeddings": True}),
    "qwen2-windows": ("qwen2", SHAPE | QWEN_WINDOW),
    "qwen3": ("qwen3", SHAPE | {"head_dim": 8} | QWEN_WINDOW),
    "gemma": ("gemma", SHAPE | {"head_dim": 8}),
    "gemma2": ("gemma2", SHAPE | {"head_dim": 8, "sliding_window": WINDOW}),
    "gemma3": (
        "gemma3_text",
        SHAPE | {"head_dim": 8, "sliding_window": WINDOW, "sliding_window_pattern": 3},
    ),
    "smollm3": ("smollm3", SHAPE | {"no_rope_layer_interval": 3}),
    "smollm3-windows": (
        "smollm3",
        SHAPE | {"no_rope_layer_interval": 3, "use_sliding_window": True, "sliding_window": WINDOW},
    ),
    "olmo2": ("olmo2", SHAPE),
    "phi3": ("phi3", SHAPE | {"sliding_window": WINDOW}),
    "gpt_neox": ("gpt_neox", NEOX),
    "gpt_neox-serial": ("gpt_neox", NEOX | {"use_parallel_residual": False}),
    "gpt2": ("gpt2", GPT2),
    "mixtral": ("mixtral", SHAPE | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "qwen3_moe",
        SHAPE
        | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
    ),
}  # fmt: skip
ROPE3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LONG_ROPE = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
# Configs of the same families that differ in what changes shapes, names or a layer's settings.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-wide-heads": ("llama", SHAPE | {"head_dim": 16, "rope_scaling": ROPE3}),
    "llama-one-key-head": (
        "llama",
        SHAPE | {"num_key_value_heads": 1, "eos_token_id": [0, 1, 2, 3, 4, 5]},  # six, as layers
    ),
    "llama-dynamic-rope": ("llama", SHAPE | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "qwen2-own-types": (
        "qwen2",
        SHAPE
        | {"use_sliding_window": True, "sliding_window": WINDOW}
        | {"layer_types": ["full_attention", "sliding_attention"] * 3},
    ),
    "gpt_neox-no-biases": (
        "gpt_neox",
        NEOX | {"attention_bias": False, "tie_word_embeddings": True},
    ),
    "phi3-long-rope": (
        "phi3",
        SHAPE | {"original_max_position_embeddings": 64, "rope_scaling": LONG_ROPE},
    ),
    "phi3-all-key-heads": ("phi3", SHAPE | {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "mixtral-window": (
        "mixtral",
        SHAPE
        | {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": WINDOW}
        | {"tie_word_embeddings": True, "output_router_logits": True},
    ),
    "gemma3-older": (
        "gemma3_text",
        SHAPE
        | {"head_dim": 8, "sliding_window": WINDOW, "sliding_window_pattern": 2}
        | {"rope_local_base_freq": 10000.0, "rope_theta": 1e6},
    ),
    "smollm3-own-lists": (
        "smollm3",
        SHAPE
        | {"no_rope_layers": [1, 0, 1, 1, 0, 1], "use_sliding_window": True}
        | {"sliding_window": WINDOW}
        | {"layer_types": ["full_attention"] * 5 + ["sliding_attention"]},
    ),
    "gpt2-untied": ("gpt2", GPT2 | {"tie_word_embeddings": False, "n_inner": None}),
    "qwen3_moe-wide-heads": (
        "qwen3_moe",
        SHAPE
        | {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"head_dim": 16, "norm_topk_prob": True, "tie_word_embeddings": True},
    ),
}
# Entries that configs of hubs do not have, as older versions of transformers derived them anew.
DERIVED = ("layer_types", "no_rope_layers", "_sliding_window_pattern")


def family_model(name: str, seed: int = 1, **changes: Any) -> Any:
    """A model of the tiny config `name`, whose every parameter has values of its own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = (CONFIGS | VARIANTS)[name]
    config = AutoConfig.for_model(model_type, **(settings | changes))
    return randomised(AutoModelForCausalLM.from_config(config), seed).eval()


def randomised(model: Any, seed: int = 1) -> Any:
    """The model with new values in every parameter.

    transformers starts norms at one and biases at zero: with those, a norm of the wrong layer or
    a forgotten bias would go unseen.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            norm = "norm" in name or ".ln_" in name
            parameter.copy_(drawn * 0.1 + (1.0 if norm and "bias" not in name else 0.0))
    return model


def save_family(
    name: str,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    derived: bool = False,
    shards: str = "60KB",
    **changes: Any,
) -> Path:
    """Save the tiny checkpoint `name` with a byte tokenizer, in several shards.

    Unless `derived`, its config lacks what the config class derives, as on hubs.
    """
    import json

    family_model(name, **changes).to(dtype).save_pretrained(folder, max_shard_size=shards)
    byte_tokenizer().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if not derived:
        config = {key: value for key, value in config.items() if key not in DERIVED}
        given = (CONFIGS | VARIANTS)[name][1] | changes
        config |= {key: value for key, value in given.items() if key not in config}
    path.write_text(json.dumps(config, indent=2))
    return folder


def logits_of(model: Any) -> Tensor:
    """Logits (2, LENGTH, vocabulary) of transformers' model for fixed tokens."""
    ids = torch.randint(1, 256, (2, LENGTH), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=ids).logits
    return found


def logits(folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    """The same of a checkpoint, loaded in `dtype`."""
    from transformers import AutoModelForCausalLM

    return logits_of(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype))


GAPS = Gaps(first=2, last=4)  # three new layers: they divide the six
OPTIONS: dict[str, Any] = {"unpredicted": "neighbours", "seed": 0, "penalty": 1e-3}


def fitted(base: Checkpoint, folder: Path, concat: bool = False) -> Path:
    """Bases of `base` in `folder`/svd, by Gram matrices or the literal SVD, and random predictors
    in `folder`/fit."""
    generator = torch.Generator().manual_seed(3)
    for name in ("svd", "fit"):
        (folder / name).mkdir(parents=True)
    for kind in base.kinds:
        weights = [base.matrix(kind, i) for i in range(base.num_layers)]
        basis = from_concat(weights, 1e-6) if concat else from_gram(gram(weights), 1e-6)
        save_basis(basis, folder / "svd" / f"{kind}.safetensors")
        state = network(weights[0].shape[1], 8).state_dict()
        drawn = {k: torch.randn(t.shape, generator=generator) * 0.5 for k, t in state.items()}
        save_file(drawn, folder / "fit" / f"{kind}.safetensors")
    return folder


def deepen(
    base: Path, name: str, work: Path, gaps: Gaps = GAPS, out: str | None = None, **options: Any
) -> tuple[Path, LayerPlan]:
    """Expand `base` by the method `name` below `work`, which holds bases and predictors."""
    method, checkpoint = table()[name], Checkpoint(base)
    if not (work / "svd").is_dir():
        fitted(checkpoint, work)
    given = OPTIONS | options
    known = {key: given[key] for key in given.keys() & method.options.model_fields.keys()}
    source = Source(
        checkpoint, work / "svd", (work / "fit",) * method.fits, method.options(**known)
    )
    folder = work / (out or name)
    return folder, expand(source, name, method, gaps, folder)


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model, of which nothing is missing, unexpected or of another shape."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], (problem, info[problem])
    return model.eval()
