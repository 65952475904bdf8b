"""What a layer is worth, against the same model cut, and layers that add nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lesa.training.heldout import block_losses
from lesa.training.prefix import layers_of
from lesa.training.pretrain import load_model
from lesa.training.removal import losses_without
from tests.families import CONFIGS, deepen, save_family
from tests.test_pretrain import tokens


@pytest.mark.parametrize("family", CONFIGS)
def test_a_layer_that_adds_nothing_is_not_missed(tmp_path: Path, family: str) -> None:
    base, blocks = save_family(family, tmp_path / "base"), list(tokens(2, 0))
    folder, plan = deepen(base, "llama_pro", tmp_path)
    model = load_model(folder)
    whole = block_losses(model, blocks, False, 2)
    found = [losses_without(model, i, blocks, False, 2) for i in range(len(layers_of(model)))]
    assert len(found) == len(plan)
    for slot, losses in zip(plan, found, strict=True):
        assert (losses == pytest.approx(whole, abs=1e-6)) == slot.new, slot
    assert block_losses(model, blocks, False, 2) == whole  # no hook is left


def test_a_layer_left_out_is_a_shallower_model(tmp_path: Path) -> None:
    base, blocks = save_family("llama", tmp_path / "base"), list(tokens(3, 1))
    model = load_model(base)
    found = [losses_without(model, i, blocks, False, 3) for i in range(len(layers_of(model)))]
    for i in range(model.config.num_hidden_layers):
        cut = load_model(base)
        cut.model.layers = nn.ModuleList(
            layer for j, layer in enumerate(cut.model.layers) if j != i
        )
        cut.config.num_hidden_layers -= 1
        with torch.no_grad():
            losses = [
                float(cut(input_ids=block[None], labels=block[None], use_cache=False).loss)
                for block in blocks
            ]
        assert found[i] == pytest.approx(losses, abs=1e-5)
