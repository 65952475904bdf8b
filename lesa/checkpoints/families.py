"""The model families that can be deepened: where each keeps the matrices of a layer.

One entry a `model_type`. All other code asks the family: it names no tensor itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lesa.errors import UserError


@dataclass(frozen=True)
class View:
    """One matrix (d1, d2), PyTorch's (out, in), inside a stored tensor of a layer.

    tensor: the stored tensor's name without the layer's prefix. expert: the matrix's index in a
    stack (experts, …). transposed: stored as (in, out). groups, rows: of a fused tensor, the
    rows `rows[0]:rows[1]` of each of `groups` equal parts.
    """

    tensor: str
    expert: int | None = None
    transposed: bool = False
    groups: int = 1
    rows: tuple[int, int] | None = None

    def _inside(self, stored: torch.Tensor) -> torch.Tensor:
        """The matrix as (groups, rows, d2), sharing the memory of `stored`."""
        matrix = stored if self.expert is None else stored[self.expert]
        matrix = matrix.T if self.transposed else matrix
        parts = matrix.view(self.groups, -1, matrix.shape[1])  # no copy, or an error
        return parts if self.rows is None else parts[:, slice(*self.rows)]

    def read(self, stored: torch.Tensor) -> torch.Tensor:
        """The matrix (d1, d2), in the dtype of `stored`; it may share its memory."""
        return self._inside(stored).flatten(0, 1)

    def write(self, stored: torch.Tensor, matrix: torch.Tensor) -> None:
        """Put `matrix` (d1, d2) into its place in `stored`."""
        inside = self._inside(stored)
        inside.copy_(matrix.reshape(inside.shape))


Views = dict[str, View]
# Kinds of layers that a config may name, each with the entry that it reads.
ATTENTION_TYPES = {"full_attention": "num_hidden_layers", "sliding_attention": "sliding_window"}
# Numbers that a config may say, by the least value with which a model runs.
LEAST = {
    1: (
        "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "n_inner",
        "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window",
        "num_experts", "num_local_experts", "num_experts_per_tok",
    ),
    2: ("max_position_embeddings",),  # a model predicts from the second token on
}  # fmt: skip
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
DROPOUTS = ("attention_dropout", "hidden_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")
ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
FLOAT32 = torch.finfo(torch.float32)  # in which all norms are computed
# transformers' config, made when asked for: its import takes seconds, and Llama's kin need none.
Config = Callable[[], Any]


@dataclass(frozen=True)
class Family:
    """How the models of one `model_type` are laid out.

    views: from transformers' config and the names of a layer's stored tensors to the view of each
    matrix kind. layers: the module that holds the layers. embedding, head: the stored input
    embedding and output layer, which are one tensor where the config ties them. router: how the
    name of the tensor ends that chooses a mixture's experts. depth_settings: config entries whose
    every other value would make the model's code derive something from a layer's index.
    """

    views: Callable[[Config, Collection[str]], Views]
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens.weight"
    head: str = "lm_head.weight"
    router: str | None = None
    depth_settings: tuple[tuple[str, Any], ...] = ()

    @property
    def inner(self) -> str:
        """The prefix of all names but the head's, which a checkpoint of the inner model lacks."""
        return self.layers.partition(".")[0] + "."

    def layer_pattern(self) -> re.Pattern[str]:
        """Of a tensor's name: its prefix, the layer's index and the rest.

        A checkpoint of the model without its output layer lacks the first part of the prefix.
        """
        rest = re.escape(self.layers.removeprefix(self.inner))
        return re.compile(rf"((?:{re.escape(self.inner)})?{rest}\.)([0-9]{{1,5}})\.(.+)")

    def split(self, name: str) -> tuple[int, str] | None:
        """`model.layers.7.mlp.up_proj.weight` to `(7, "mlp.up_proj.weight")`; None for the rest."""
        match = self.layer_pattern().fullmatch(name)
        return (int(match[2]), match[3]) if match else None

    def is_router(self, suffix: str) -> bool:
        return self.router is not None and suffix.endswith(self.router)

    def check_settings(self, explicit: Any, where: str) -> None:
        """Refuse a config from which the model's code derives something by a layer's index, or by
        which a token sees those after it."""
        for key, required in self.depth_settings:
            if (value := getattr(explicit, key, required)) != required:
                raise UserError(
                    f"{where}: {key}: {value!r} makes layers differ by their index, which a deeper "
                    f"model would change; {required!r} would do"
                )
        check_numbers(explicit, where)
        for kind in getattr(explicit, "layer_types", None) or ():
            if kind not in ATTENTION_TYPES or not hasattr(explicit, ATTENTION_TYPES[kind]):
                raise UserError(
                    f"{where}: layer_types: {kind!r}: a model of this type has no such layer"
                )
            if getattr(explicit, entry := ATTENTION_TYPES[kind]) is None:
                raise UserError(
                    f"{where}: layer_types: {kind!r}: needs {entry}, which is not set; a number "
                    "of tokens would do"
                )
        if not explicit.return_dict:
            raise UserError(
                f"{where}: return_dict: False: a model then gives what it finds without names; "
                "True would do"
            )
        for key, causal in (("is_causal", True), ("use_bidirectional_attention", False)):
            if bool(value := getattr(explicit, key, causal)) != causal:
                raise UserError(
                    f"{where}: {key}: {value!r} is of a model that sees the tokens it is to "
                    f"predict; {causal!r} would do"
                )


def check_numbers(explicit: Any, where: str) -> None:
    """Refuse numbers with which transformers makes a model that cannot run or train."""
    from transformers.activations import ACT2FN

    fields, other_names = explicit.__dataclass_fields__, explicit.attribute_map

    def given(*keys: str) -> Iterator[tuple[str, Any]]:
        """Those that the family's class has, as an error begins with them, and their values."""
        for key in keys:
            if (own := key if key in fields else other_names.get(key)) in fields:
                yield f"{where}: {own}: {getattr(explicit, key)!r}", getattr(explicit, key)

    for least, keys in LEAST.items():
        for said, value in given(*keys):
            if value is not None and not (isinstance(value, int) and value >= least):
                raise UserError(f"{said}; must be a whole number, {least} or above")
    for said, value in given(*EPSILONS):
        if not (isinstance(value, float) and FLOAT32.tiny <= value <= FLOAT32.max):
            raise UserError(
                f"{said}: a norm divides by its root where what it is taken of is zero, as a new "
                "layer's output may be; a number above 0 that float32 can hold would do"
            )
    for said, value in given("query_pre_attn_scalar"):
        if not is_positive(value):
            raise UserError(f"{said}; must be a number above 0")
    for said, value in given("attn_logit_softcapping", "final_logit_softcapping"):
        if value is not None and not is_positive(value):
            raise UserError(f"{said}; must be a number above 0, or null where nothing is capped")
    for said, value in given(*DROPOUTS):
        if not (isinstance(value, int | float) and 0 <= value < 1):
            raise UserError(f"{said}; must be a share, from 0 to below 1")
    heads = explicit.num_attention_heads
    for said, value in given("num_key_value_heads"):
        if value and heads % value:
            raise UserError(f"{said}; must divide the {heads} attention heads")
    for said, value in given("num_experts_per_tok"):
        if value > explicit.num_local_experts:
            raise UserError(f"{said}, of {explicit.num_local_experts} experts; no more can be met")
    for said, value in given(*ACTIVATIONS):
        if not (isinstance(value, str) and value in ACT2FN):
            raise UserError(f"{said}; known are {', '.join(sorted(ACT2FN))}")
    check_positions(explicit, where)


def is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value <= FLOAT32.max


def check_positions(explicit: Any, where: str) -> None:
    """Refuse numbers of rotary positions by which a model's losses are none.

    transformers keeps what a config says of them, in whatever spelling, in `rope_parameters`: one
    mapping, or one for each kind of layer, beside which what else stands there is not read.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    found = getattr(explicit, "rope_parameters", None) or {}
    nested = explicit.nested_rope_parameter_keys(found)
    for own in [found[key] for key in nested] or [found]:
        kind = own.get("rope_type", "default") if isinstance(own, dict) else own
        if kind not in (known := sorted({"default", *ROPE_INIT_FUNCTIONS})):
            raise UserError(
                f"{where}: rope_type {kind!r} of its rotary positions (rope_parameters or "
                f"rope_scaling); known are {', '.join(known)}"
            )
        for key in ("rope_theta", "factor"):
            if key in own and not is_positive(own[key]):
                raise UserError(
                    f"{where}: {key} {own[key]!r} of its rotary positions; must be a number above 0"
                )


def ends_block(kind: str) -> bool:
    """Does the kind write to the residual stream? With all such zero, a layer is the identity."""
    return kind.endswith(("o_proj", "down_proj"))


ATTENTION = {f"{name}_proj": View(f"self_attn.{name}_proj.weight") for name in "qkvo"}
GATED = {f"{name}_proj": View(f"mlp.{name}_proj.weight") for name in ("gate", "up", "down")}


def plain(config: Config, stored: Collection[str]) -> Views:
    """A tensor for each of the seven projections, as in Llama."""
    return ATTENTION | GATED


def fused(config: Config, stored: Collection[str]) -> Views:
    """Phi-3: queries, keys and values one under the other; gate and up likewise."""
    c = config()
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    q, k, i = c.num_attention_heads * size, c.num_key_value_heads * size, c.intermediate_size
    qkv, gate_up = "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"
    return {
        "q_proj": View(qkv, rows=(0, q)),
        "k_proj": View(qkv, rows=(q, q + k)),
        "v_proj": View(qkv, rows=(q + k, q + 2 * k)),
        "o_proj": ATTENTION["o_proj"],
        "gate_proj": View(gate_up, rows=(0, i)),
        "up_proj": View(gate_up, rows=(i, 2 * i)),
        "down_proj": GATED["down_proj"],
    }


def fused_by_head(config: Config, stored: Collection[str]) -> Views:
    """GPT-NeoX: each head's queries, keys and values one under the other; no gate."""
    heads = config().num_attention_heads
    size = config().hidden_size // heads
    name = "attention.query_key_value.weight"
    views = {
        f"{part}_proj": View(name, groups=heads, rows=(at * size, (at + 1) * size))
        for at, part in enumerate("qkv")
    }
    return views | {
        "o_proj": View("attention.dense.weight"),
        "up_proj": View("mlp.dense_h_to_4h.weight"),
        "down_proj": View("mlp.dense_4h_to_h.weight"),
    }


def transposed(config: Config, stored: Collection[str]) -> Views:
    """GPT-2: stored as (in, out); queries, keys and values side by side; no gate."""
    d = config().hidden_size
    views = {
        f"{part}_proj": View("attn.c_attn.weight", transposed=True, rows=(at * d, (at + 1) * d))
        for at, part in enumerate("qkv")
    }
    return views | {
        "o_proj": View("attn.c_proj.weight", transposed=True),
        "up_proj": View("mlp.c_fc.weight", transposed=True),
        "down_proj": View("mlp.c_proj.weight", transposed=True),
    }


def experts(layout: str, names: tuple[str, str, str]) -> Callable[[Config, Collection[str]], Views]:
    """A mixture of gated feed-forwards, an expert a file entry (`layout`) or stacked."""
    gate, up, down = names
    gate_up, stacked = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"

    def views(config: Config, stored: Collection[str]) -> Views:
        found = dict(ATTENTION)
        c = config()
        i = getattr(c, "moe_intermediate_size", None) or c.intermediate_size
        for e in range(c.num_local_experts):
            own = {
                "gate_proj": View(layout.format(expert=e, name=gate)),
                "up_proj": View(layout.format(expert=e, name=up)),
                "down_proj": View(layout.format(expert=e, name=down)),
            }
            if gate_up in stored:
                own = {
                    "gate_proj": View(gate_up, expert=e, rows=(0, i)),
                    "up_proj": View(gate_up, expert=e, rows=(i, 2 * i)),
                    "down_proj": View(stacked, expert=e),
                }
            found |= {f"experts.{e}.{kind}": view for kind, view in own.items()}
        return found

    return views


LLAMA = Family(plain)
FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "smollm3": LLAMA,
    "olmo2": LLAMA,
    "phi3": Family(fused),
    "gpt_neox": Family(
        fused_by_head,
        layers="gpt_neox.layers",
        embedding="gpt_neox.embed_in.weight",
        head="embed_out.weight",
    ),
    "gpt2": Family(
        transposed,
        layers="transformer.h",
        embedding="transformer.wte.weight",
        depth_settings=(("scale_attn_by_inverse_layer_idx", False), ("add_cross_attention", False)),
    ),
    "mixtral": Family(
        experts("block_sparse_moe.experts.{expert}.{name}.weight", ("w1", "w3", "w2")),
        router=".gate.weight",
    ),
    "qwen3_moe": Family(
        experts("mlp.experts.{expert}.{name}.weight", ("gate_proj", "up_proj", "down_proj")),
        router=".gate.weight",
        depth_settings=(("decoder_sparse_step", 1), ("mlp_only_layers", [])),
    ),
}


def family_of(config: dict[str, Any], where: str) -> Family:
    """The family of a raw config; `where` names it in the error."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"{where}: model type {model_type!r:.100} is not supported; known are "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
