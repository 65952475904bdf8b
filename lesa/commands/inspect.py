"""`lesa inspect`: what a checkpoint is made of, and by what it can be deepened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from lesa.checkpoints.check import check
from lesa.checkpoints.reader import Checkpoint
from lesa.commands.evaluate import load, windows_of
from lesa.commands.growth import sizes
from lesa.commands.presets import RANK_TOLERANCE
from lesa.commands.registry import installed
from lesa.errors import CheckError
from lesa.machine import compute_device
from lesa.method.basis import from_gram, gram
from lesa.method.continuity import continuity
from lesa.method.structure import top_rows
from lesa.training.heldout import block_losses
from lesa.training.prefix import layers_of
from lesa.training.removal import losses_without

HELD = 0.9  # share of the squared singular values that `rank_90` of them hold


@dataclass(frozen=True)
class Spectrum:
    """Of the concatenation of a kind's matrices over all layers, `W = U Σ Vᵀ`.

    rank: singular values above 1e-6 of the largest. largest_share: σ₁² / Σ σ². rank_90: how many
    of the largest hold 90% of Σ σ². continuity: mean distance of neighbouring layers' top
    coefficient rows over that of all pairs, 1 for no order; p_value: share of random orders of the
    layers in which neighbours are as near. Both None for fewer than three layers. Of matrices of
    zeros all is 0, and these two None.
    """

    rank: int
    largest_share: float
    rank_90: int
    continuity: float | None
    p_value: float | None


@dataclass(frozen=True)
class Kind:
    """A matrix kind: its shape (d1, d2), PyTorch's (out, in); its spectrum, if asked for."""

    shape: tuple[int, int]
    spectrum: Spectrum | None


@dataclass(frozen=True)
class Inspection:
    """dtype: of the matrices. tied: is the output layer the input embedding? unpredicted: tensors
    of a layer that hold no matrix that LESA predicts; routers: those among them that choose a
    mixture's experts. new_layers: by method, how many layers it can add at the top. removal: by
    layer, how much the loss on a text rises without it, in nats a token; None if not asked for."""

    path: str
    model_type: str
    layers: int
    hidden_size: int
    vocab_size: int
    dtype: str
    parameters: int
    layer_parameters: int
    tied: bool
    kinds: dict[str, Kind]
    unpredicted: list[str]
    routers: list[str]
    new_layers: dict[str, list[int]]
    removal: list[float | None] | None


def inspect(
    path: str | Path, *, spectra: bool = True, text: str | Path | None = None
) -> Inspection:
    """Read a checkpoint of a family of the table (lesa/checkpoints/families.py).

    Without `spectra` every weight is read once, to see that it is finite, and no more. `text`, a
    UTF-8 file, is scored as `evaluate` does, once with every layer and once without each of them.
    Raises UserError, one line, for a checkpoint that cannot be deepened: it says what is wrong.
    """
    found = check(path)
    # Read, and refused, before the spectra.
    blocks = windows_of(Path(path), Path(text)) if text is not None else []
    base = Checkpoint(path)
    explicit: Any = base.explicit
    holding = {view.tensor for view in base.views.values()}
    rest = [suffix for suffix in base.suffixes() if suffix not in holding]
    first = base.views[base.kinds[0]].tensor
    kinds = tqdm(base.kinds, desc="spectra", unit="kind", leave=False, disable=not spectra)
    return Inspection(
        path=str(path),
        model_type=found["model_type"],
        layers=base.num_layers,
        hidden_size=explicit.hidden_size,
        vocab_size=explicit.vocab_size,
        dtype=str(base.tensor(base.layer_tensor(0, first)).dtype).removeprefix("torch."),
        parameters=found["parameters"],
        layer_parameters=base.layer_parameters(),
        tied=bool(explicit.tie_word_embeddings),
        kinds={
            kind: Kind(base.shape(kind), spectrum(base, kind) if spectra else None)
            for kind in kinds
        },
        unpredicted=rest,
        routers=[suffix for suffix in rest if base.family.is_router(suffix)],
        new_layers={name: sizes(m, base.num_layers) for name, m in sorted(installed().items())},
        removal=removal(Path(path), Path(text), blocks) if text is not None else None,
    )


def removal(folder: Path, text: Path, blocks: list[Tensor]) -> list[float | None]:
    """By layer, the mean loss of the text's tokens without it minus that of the whole model; None
    where the loss without it is no number. blocks: the text's windows."""
    model, _ = load(folder)
    tokens = [len(block) - 1 for block in blocks]
    layers = tqdm(range(len(layers_of(model))), desc="without a layer", unit="layer", leave=False)
    losses = [losses_without(model, i, blocks, False, 1) for i in layers]
    losses.insert(0, block_losses(model, blocks, False, 1))
    whole, *without = np.average(losses, axis=1, weights=tokens)
    if not np.isfinite(whole):
        raise CheckError(f"{folder}: its loss on {text} is {whole}, no number")
    return [float(loss - whole) if np.isfinite(loss) else None for loss in without]


def spectrum(base: Checkpoint, kind: str) -> Spectrum:
    """The spectrum of a kind, a layer in memory at a time, and the order of the layers in it."""
    device = compute_device()
    total = gram(base.matrices(kind, device))
    if not total.any():
        return Spectrum(0, 0.0, 0, None, None)
    basis = from_gram(total, RANK_TOLERANCE)
    squares = basis.s.double().square()
    shares = squares.cumsum(0) / squares.sum()
    rows = top_rows(basis, base.matrices(kind, device)).cpu().numpy()
    order = continuity(rows, "raw") if base.num_layers > 2 else None
    return Spectrum(
        rank=len(basis.s),
        largest_share=float(shares[0]),
        rank_90=int((shares < HELD).sum()) + 1,
        continuity=order.ratio if order else None,
        p_value=order.p_value if order else None,
    )
