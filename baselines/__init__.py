"""The table of all methods: LESA's and, a file each, what it is compared with.

A file of this folder has `METHODS`, names to `lesa.upscaling.methods.Method`; it needs no entry
anywhere else.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from lesa.errors import UserError
from lesa.params import Params, Strict
from lesa.upscaling import lesa
from lesa.upscaling.methods import Method, named, options


def table() -> dict[str, Method]:
    """Every method by name; two of one name are a mistake in the code."""
    found = dict(lesa.METHODS)
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        own: dict[str, Method] = import_module(f"{__name__}.{module.name}").METHODS
        if twice := found.keys() & own.keys():
            raise ValueError(f"baselines/{module.name}.py: the method {min(twice)} is there twice")
        found |= own
    return found


def method_of(params: Params, model: str, where: str = "params.yaml") -> tuple[Method, Strict]:
    """The method that makes `model`, and its options; `where` names the file in an error.

    Raises UserError, one line naming the key, for a model, method, option or fit that is not
    there, and for one that the method does not use.
    """
    key = f"{where}: methods.{model}"
    if model not in params.methods:
        raise UserError(f"{key}: not among the methods; they are {', '.join(params.methods)}")
    entry = params.methods[model]
    method = named(entry.method, table(), f"{key}.method")
    if len(entry.needs) != method.fits:
        raise UserError(
            f"{key}.needs: {entry.method} reads {method.fits} of fit.runs, not {len(entry.needs)}"
        )
    return method, options(method, entry.model_extra or {}, key, entry.method)


def check_methods(params: Params, where: str = "params.yaml") -> None:
    """Validate what `methods` says against the table, before anything runs."""
    for model in params.methods:
        method_of(params, model, where)
