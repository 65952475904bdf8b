"""The model card of a deepened checkpoint: what it is made of, in words."""

from __future__ import annotations

from lesa.checkpoints.check import NOTE
from lesa.checkpoints.reader import Checkpoint
from lesa.files import read_object
from lesa.upscaling.methods import Method
from lesa.upscaling.plan import LayerPlan

ROUTER = (
    "How to predict a router, which chooses experts, is left open by the paper: a predicted layer "
    "has its lower neighbour's."
)


def card(base: Checkpoint, name: str, method: Method, plan: LayerPlan) -> str:
    """Markdown: the base, the method and its name, the layers, and what was copied for want of a
    prediction."""
    note = base.folder / NOTE
    origin = read_object(note) if note.is_file() else {}
    new = [slot.layer_idx for slot in plan if slot.new]
    lines = [
        f"# Deepened from {base.num_layers} to {len(plan)} layers by `{name}`",
        "",
        f"Base: {origin.get('source', base.folder.resolve().name)}. Licence of the base: "
        f"{origin.get('license', 'not stated')}.",
        f"New layers, 0-based: {', '.join(map(str, new)) or 'none'} (layer_plan.json).",
    ]
    if base.family.router is not None and method.reads_bases:
        lines.append(ROUTER)
    text = "\n".join(lines) + "\n"
    return text.encode(errors="replace").decode()  # a note may hold what no file can
