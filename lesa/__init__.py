"""LESA: depth up-scaling of language models by layers that are predicted from their neighbours.

`inspect`, `plan`, `expand`, `fit_outputs`, `train`, `evaluate` and `compare` do what the commands
of `lesa` of these names do. They are imported when they are first asked for: `import lesa` alone
loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesa.commands.compare import compare
    from lesa.commands.evaluate import evaluate
    from lesa.commands.expand import expand
    from lesa.commands.fit_outputs import fit_outputs
    from lesa.commands.inspect import inspect
    from lesa.commands.plan import plan
    from lesa.commands.train import train

__all__ = ["compare", "evaluate", "expand", "fit_outputs", "inspect", "plan", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"{__name__}.commands.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
