"""What `pipelines/studies/<name>/params.yaml` says beside its rows (`pipelines.rows`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lesa.errors import UserError
from lesa.params import Count, Name, Params, Positive, Strict, dotted, parse, read_tree, reason


class TrainOverrides(Strict):
    """What of `train` a study has numbers of its own for."""

    max_steps: Positive
    eval_every: Positive
    save_every: Positive
    warmup_steps: Count


def params_file(name: str) -> Path:
    return Path("pipelines/studies") / name / "params.yaml"


def study_params(name: str, part: str, form: Any) -> Any:
    """The value of the key `part` in the file of the study `name`, validated as a `form`.

    A stage reads the parts it depends on and no others. Raises UserError, one line naming the file
    and the key.
    """
    path = params_file(name)
    tree = read_tree(path)
    try:
        return TypeAdapter(form).validate_python(tree[part])
    except (TypeError, KeyError):
        raise UserError(f"{path}: {part}: missing") from None
    except ValidationError as error:
        key = dotted((part, *error.errors()[0]["loc"]), tree)
        raise UserError(f"{path}: {key}: {reason(error)}") from None


def entry(name: str, part: str, form: Any, chosen: str) -> Any:
    """What `chosen` is in the mapping `part` of the study `name`, validated as a `form`.

    Raises UserError as `study_params`, and where there is none of that name.
    """
    entries = study_params(name, part, dict[Name, form])
    return listed(entries, chosen, f"{params_file(name)}: {part}")


def listed(entries: Mapping[str, Any], chosen: str, where: str) -> Any:
    """`entries[chosen]`. Raises UserError, naming those that there are, if there is none."""
    if chosen not in entries:
        raise UserError(f"{where}.{chosen}: missing; there are {', '.join(entries)}")
    return entries[chosen]


def with_train(params: Params, name: str, part: str, form: type[Strict]) -> Params:
    """The experiment with what the study's key `part`, a `form`, says in place of `train`'s own.

    Raises UserError as for params.yaml, naming the study's file.
    """
    tree = params.model_dump(mode="json")
    tree["train"] |= study_params(name, part, form).model_dump()
    return parse(tree, str(params_file(name)))
