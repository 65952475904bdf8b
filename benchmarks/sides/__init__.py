"""What the sides of a comparison do, each in a process of its own: these modules import torch."""

from __future__ import annotations

from pathlib import Path

from lesa.checkpoints.reader import Checkpoint


def opened(folder: Path) -> Checkpoint:
    """The checkpoint, its kinds known: imports that this takes are not timed as a side's work."""
    base = Checkpoint(folder)
    assert base.kinds
    return base
