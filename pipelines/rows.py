"""Models that a study makes: a method with its options, and how what it reads was fitted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from baselines import table
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import key_of, whole_folder
from lesa.method.basis import lapack_signs, load_basis, raw_basis, save_basis, with_signs
from lesa.method.fitting import ALL_TRIPLES, Job, fit_kinds, kind_seed
from lesa.params import (
    SHORT,
    Count,
    Params,
    Places,
    Predictor,
    Strict,
    dotted,
    load,
    read_tree,
    reason,
)
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Source, named, options
from lesa.upscaling.plan import LayerPlan
from pipelines.folders import BASE, SVD
from pipelines.study import listed, params_file

GROUPED = ("start",)  # studies whose rows stand in groups, each of which is a stage


class Fitted(Strict):
    """How a row's predictors are fitted: a preset with some settings of its own.

    signs: of U's columns, which an SVD leaves free: "largest" makes each one's largest entry
    positive, as the pipeline does; "lapack" takes what `torch.linalg.svd` returns; a number is the
    seed of a draw. raw: without the SVD, on the weights themselves (claim C8).
    """

    preset: str
    seed: Count
    settings: dict[str, Any] = Field(default_factory=dict)
    signs: Literal["largest", "lapack"] | int = "largest"
    raw: bool = False


class Row(Strict):
    """One model."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    fit: Fitted | None = None
    gaps: Places | None = None

    @property
    def ending(self) -> str:
        """What the row's name must end in."""
        return ""


R = TypeVar("R", bound=Row)


def predictor_settings(fit: Fitted, presets: Mapping[str, Predictor], key: str) -> Predictor:
    """The settings that `fit`, asked for under `key`, comes to. Raises UserError naming the key."""
    if fit.preset not in presets:
        known = ", ".join(presets)
        raise UserError(f"{key}.preset: no preset {fit.preset!r} in fit.presets; there are {known}")
    try:
        return Predictor.model_validate(presets[fit.preset].model_dump() | fit.settings)
    except ValidationError as error:
        where = ".".join([f"{key}.settings", *map(str, error.errors()[0]["loc"])])
        raise UserError(f"{where}: {reason(error)}") from None


def mapping_at(path: Path, key: str, said: Any, of: str) -> dict[str, Any]:
    """`said`, which stands under `key`; raises UserError if it is no mapping or an empty one."""
    if isinstance(said, dict) and said:
        return said
    raise UserError(f"{path}: {key}: must be a mapping of {of} (got {SHORT.repr(said)})")


def rows_of(study: str, kind: type[R]) -> dict[str, Any]:
    """What pipelines/studies/<study>/params.yaml lists, each row checked as a `kind`.

    A value is a row, or in the studies GROUPED a group of rows by their names. Raises UserError
    naming the row.
    """
    path = params_file(study)
    tree = read_tree(path)
    presets = cache(lambda: load().fit.presets)  # read if a row has a fit

    def checked(key: str, said: Any) -> R:
        said = mapping_at(path, key, said, "a method and its settings")
        try:
            row = kind.model_validate(said)
        except ValidationError as error:
            where = f"{key}.{dotted(error.errors()[0]['loc'], said)}".rstrip(".")
            raise UserError(f"{path}: {where}: {reason(error)}") from None
        method = named(row.method, table(), f"{path}: {key}.method")
        options(method, row.options, f"{path}: {key}", row.method)
        if row.fit is not None:
            predictor_settings(row.fit, presets(), f"{path}: {key}.fit")
        elif method.fits:
            raise UserError(f"{path}: {key}.fit: {row.method} reads predictors, and this says none")
        if not key.endswith(row.ending):
            raise UserError(f"{path}: {key}: must end in {row.ending}, as its seed is")
        return row

    def rows(key: str, said: Any) -> dict[str, R]:
        said = mapping_at(path, key, said, "rows by their names")
        return {str(name): checked(f"{key}.{name}", row) for name, row in said.items()}

    if not isinstance(tree, dict) or study not in tree:
        raise UserError(f"{path}: {study}: missing; must be a mapping of what the study makes")
    if study not in GROUPED:
        return rows(study, tree[study])
    groups = mapping_at(path, study, tree[study], "groups by their names")
    return {str(name): rows(f"{study}.{name}", group) for name, group in groups.items()}


def chosen(study: str, kind: type[R], name: str) -> Any:
    """The row or group `name` of a study. Raises UserError if there is none."""
    return listed(rows_of(study, kind), name, f"{params_file(study)}: {study}")


def bases(fit: Fitted, folder: Path) -> Path:
    """The folder of the bases that `fit` asks for, written into `folder` if they are not there."""
    if fit.signs == "largest" and not fit.raw:
        return SVD
    path = folder / f"svd-{key_of(fit.signs, fit.raw)[:16]}"
    if path.is_dir():
        return path
    base = Checkpoint(BASE)
    with whole_folder(path) as partial:
        for kind in base.kinds:
            basis = raw_basis(base.shape(kind)[0]) if fit.raw else load_basis(SVD, kind)
            if fit.signs == "lapack":
                basis = lapack_signs(basis, base.matrices(kind))
            elif isinstance(fit.signs, int):
                basis = with_signs(basis, kind_seed(fit.signs, kind))
            save_basis(basis, partial / f"{kind}.safetensors")
    return path


def predictors(fit: Fitted, svd: Path, params: Params, folder: Path) -> tuple[Path, Any]:
    """The folder of the predictors, fitted if they are not there, and their metrics by kind."""
    settings = predictor_settings(fit, params.fit.presets, "fit")
    path = folder / f"fit-{key_of(fit.model_dump())[:16]}"
    path.mkdir(parents=True, exist_ok=True)
    job = Job(BASE, svd, path, settings, fit.seed, ALL_TRIPLES)
    return path, fit_kinds(job, f"fit {fit.preset} {fit.seed}")


def write_row(row: Row, params: Params, work: Path, folder: Path) -> tuple[LayerPlan, Any]:
    """Write the row's checkpoint into `folder`, its bases and predictors into `work`.

    Returns its layer plan, and the metrics of its predictors by kind; None where it has none.
    """
    svd, fitted = SVD, None
    fits: tuple[Path, ...] = ()
    if row.fit is not None:
        svd = bases(row.fit, work)
        path, fitted = predictors(row.fit, svd, params, work)
        fits = (path,)
    method = table()[row.method]
    own = method.options.model_validate(row.options)
    source = Source(Checkpoint(BASE), svd, fits, own)
    return expand(source, row.method, method, row.gaps or params.gaps, folder), fitted


def described(row: Row) -> dict[str, Any]:
    """A row as metrics name it."""
    fit = row.fit.model_dump() if row.fit else dict.fromkeys(Fitted.model_fields)
    gaps = row.gaps.model_dump() if row.gaps else None
    return {"method": row.method, "options": row.options, "gaps": gaps, **fit}
