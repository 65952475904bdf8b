"""What LESA is compared with, behind the same interface; importing this registers them all."""

from baselines import average, llama_pro, noise, solar

__all__ = ["average", "llama_pro", "noise", "solar"]
