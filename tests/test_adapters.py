"""LoRA beside a model's layers: how many parameters, what moves, and what they come to merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lesa.errors import UserError
from lesa.training.adapters import adapt, merged
from lesa.training.pretrain import load_model
from lesa.training.state import trained_tensors
from tests.families import save_family
from tests.test_pretrain import tokens


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox", "gemma2"])
def test_merged_adapters_are_the_adapted_model(tmp_path: Path, family: str) -> None:
    base = save_family(family, tmp_path / "base")
    model, ids = load_model(base), tokens(2, 0)
    start = model(input_ids=ids).logits.detach()
    wanted = sum(p.numel() for p in model.parameters()) // 3
    rank = adapt(model, wanted, seed=0)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert abs(found - wanted) <= found / rank  # a rank more or less would be further away
    assert torch.equal(model(input_ids=ids).logits, start)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    after = model(input_ids=ids).logits.detach()
    assert not torch.allclose(after, start, atol=1e-3)
    own = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tensors = merged(trained_tensors(model), base)
    missing, unexpected = own.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(".layers." not in name or name.endswith(("norm.weight", "bias")) or
               "layernorm" in name for name in missing)  # fmt: skip
    assert torch.allclose(own(input_ids=ids).logits, after, atol=1e-4)


def test_the_draw_is_the_seeds(tmp_path: Path) -> None:
    base = save_family("llama", tmp_path / "base")
    drawn = []
    for seed in (0, 0, 1):
        torch.rand(1)  # whatever was drawn before
        model = load_model(base)
        adapt(model, 4000, seed)
        drawn.append({n: p for n, p in trained_tensors(model).items() if "lora_A" in n})
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


@pytest.mark.parametrize(
    ("family", "parameters", "said"),
    [
        ("gpt2", 10**6, r"the layers of GPT2LMHeadModel have no nn\.Linear; train `new` or `all`"),
        ("llama", 10, r"42 matrices cannot have 10 parameters, but LOW \(rank 1\) to HIGH"),
        ("llama", 10**6, r"42 matrices cannot have 1,000,000 parameters, but LOW \(rank 1\) to"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, family: str, parameters: int, said: str) -> None:
    model = load_model(save_family(family, tmp_path / "base"))
    stored = model.state_dict().items()
    shapes = [matrix.shape for name, matrix in stored if name.endswith("_proj.weight")]
    lowest = sum(map(sum, shapes))
    said = said.replace("HIGH", f"{lowest * max(map(min, shapes)):,}") if shapes else said
    said = said.replace("LOW", f"{lowest:,}")
    with pytest.raises(UserError, match=rf"^LoRA: {said}"):
        adapt(model, parameters, seed=0)
