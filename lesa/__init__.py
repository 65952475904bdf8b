"""LESA: depth up-scaling of language models by layers that are predicted from their neighbours."""

__version__ = "0.1.0"
