"""OpT-DeUS (arXiv:2508.08011): the upper neighbour averaged with the lower one, whose rows optimal
transport has matched to it; outputs zeroed, in LESA's gaps.

Source: the authors' code (github.com/voalmciaf/OpT-DeUS, commit cba5054), which is for Llama; the
paper's formulas were not seen. Between A below and B above, matrices (d1, d2):

- q, k, v: `(Tᵀ A + B) / 2`, T a plan (d1, d1) between the rows of A and those of B.
- o, down: zeroed. T_o, the plan between the rows of A's and B's o, is kept.
- gate, up: `A T_o` in place of A, then as q.
- the norm before the feed-forward: `(a (T_o + I) / 2 + b) / 2`; all else is the mean.

T is an entropic transport plan: both marginals 1/n, cost the Euclidean distance, regulariser 0.06.

`opt_deus_code` is as published. The plan sums to one over *all* its entries, so `Tᵀ A` is a mean of
A's rows divided by n, and to within 1/n the new q, k, v, gate and up are half of B's. POT's solver
works here in float32 and not in the log domain: where a row is farther than about 5 from every row
of the other matrix it overflows in its first step, warns, and returns a plan that is all but zero.
`opt_deus` multiplies the plan by n, so that `Tᵀ A` is a mean of A's rows, in the log domain, to a
root mean square error of 1e-3 in the plan's column sums, which is less than bfloat16's rounding.
`half_upper` is the control for both: the same layer with the plan left out (T = 0): half of B's q,
k, v, gate and up, the norm before the feed-forward `a / 4 + b / 2`, all else as above. It differs
from the other two by what transport does, and by nothing else.

What the code leaves open is decided here. All is computed in float32. Rows move freely, as in the
code: across heads, and each of q, k, v, gate and up by a plan of its own. Biases and norms of heads
are means, as other norms. A mixture's expert is matched with the expert of the same number; its
router is the lower neighbour's, as with LESA. Fused matrices are treated one by one. A feed-forward
beside the attention (GPT-NeoX) is treated as one after it; one without a norm before it (OLMo 2)
gives the norm after the attention, Llama's in name, that part.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from baselines import average
from lesa.checkpoints.families import ends_block
from lesa.upscaling.methods import Layer, MakeLayer, Method, Source, zeroed
from lesa.upscaling.plan import Slot, insert_between

REGULARISER = 0.06
# The norm before the feed-forward; the first that a layer has: of Gemma 2 and 3, GPT-2, the others.
FEED_FORWARD_NORMS = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm")
Transport = Callable[[Tensor, Tensor], Tensor]


def sinkhorn(lower: Tensor, upper: Tensor, **solver: Any) -> Tensor:
    """Entropic plan (n, n) from the rows of `lower` (n, d) to those of `upper`; it sums to one."""
    # POT starts JAX where that is installed, though it computes with torch; JAX would then keep
    # three quarters of a GPU for itself. It reads this when it starts.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import ot  # here, as it takes seconds to import and most methods need none of it

    share = torch.full((len(lower),), 1 / len(lower))
    cost = torch.cdist(lower, upper)
    plan: Tensor = ot.sinkhorn(share, share, cost, REGULARISER, numItermax=10_000, **solver)
    return plan


def times_n(lower: Tensor, upper: Tensor) -> Tensor:
    """The plan times n: each row and each column sums to one."""
    n = len(lower)
    # POT compares the norm of the column sums' error; that of the column sums themselves is n^-½.
    return n * sinkhorn(lower, upper, method="sinkhorn_log", stopThr=1e-3 * n**-0.5)


def no_transport(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.zeros(len(lower), len(upper))


def aligned(transport: Transport) -> MakeLayer:
    """The layer described above, its outputs not yet zeroed, with `transport` for the plans."""

    def layer(source: Source, slot: Slot) -> Layer:
        base = source.base
        lower, upper = (base.layer(i) for i in slot.neighbours)
        made = average.layer(source, slot)

        def matrices(kind: str) -> tuple[Tensor, Tensor]:
            view = base.views[kind]
            return view.read(lower[view.tensor]).float(), view.read(upper[view.tensor]).float()

        attention = transport(*matrices("o_proj"))
        for kind, view in base.views.items():
            if ends_block(kind):
                continue
            a, b = matrices(kind)
            if kind.endswith(("gate_proj", "up_proj")):
                a = a @ attention
            view.write(made[view.tensor], (transport(a, b).T @ a + b) / 2)

        norm = next(f"{n}.weight" for n in FEED_FORWARD_NORMS if f"{n}.weight" in made)
        a, b = lower[norm].float(), upper[norm].float()
        made[norm] = (((a @ attention + a) / 2 + b) / 2).to(made[norm].dtype)
        return made | {s: lower[s] for s in lower if base.family.is_router(s)}

    return layer


METHODS = {
    name: Method(insert_between, zeroed(aligned(transport)))
    for name, transport in (
        ("opt_deus_code", sinkhorn),
        ("opt_deus", times_n),
        ("half_upper", no_transport),
    )
}
