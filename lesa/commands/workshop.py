"""What a method reads and what it makes of a base, in a folder for unfinished work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lesa.checkpoints.check import check, check_same_tokenizer
from lesa.checkpoints.reader import Checkpoint
from lesa.commands.evaluate import Score, evaluate
from lesa.commands.presets import RANK_TOLERANCE
from lesa.errors import CheckError, UserError
from lesa.files import whole_file
from lesa.machine import compute_device
from lesa.method.basis import check_not_zero, from_gram, gram, save_basis
from lesa.method.fitting import ALL_TRIPLES, Job, fit_kinds
from lesa.params import Places, Predictor, Strict
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Method, Source
from lesa.upscaling.plan import LayerPlan, plan_line, trainable_parameters


@dataclass(frozen=True)
class Model:
    """A model before any training. layer_plan: in words, as `lesa.upscaling.plan.plan_line` has it;
    score: on the text, if there was one."""

    method: str
    layers: int
    layer_plan: str
    parameters: int
    trainable_parameters: int
    score: Score | None


@dataclass(frozen=True)
class Workshop:
    """Makes models of one base. Bases and predictors stay in `folder`, for the next method or,
    after a kill, the next run. seconds: of each step of the last model."""

    base: Checkpoint
    folder: Path
    settings: Predictor
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start

    def bases(self, folder: Path) -> None:
        """Write the bases into `folder`, a file a kind; those that are there are kept."""
        device = compute_device()
        for kind in tqdm(self.base.kinds, desc="bases", unit="kind"):
            path = folder / f"{kind}.safetensors"
            if not path.is_file():
                total = gram(self.base.matrices(kind, device))
                check_not_zero(total, kind)
                with whole_file(path) as partial:
                    save_basis(from_gram(total, RANK_TOLERANCE), partial)

    def predictors(self, svd: Path) -> Path:
        """The folder of the predictors, of which those that are there are kept."""
        folder = self.folder / "fit"
        folder.mkdir(exist_ok=True)
        job = Job(self.base.folder, svd, folder, self.settings, self.seed, ALL_TRIPLES)
        fit_kinds(job, "predictors")
        return folder

    def make(
        self, name: str, method: Method, options: Strict, gaps: Places, out: Path, text: Path | None
    ) -> Model:
        """Write the checkpoint that method `name` makes into `out`, check it and score it.

        Raises CheckError if transformers would not load it whole or its loss is no number.
        """
        svd, fits = self.folder / "svd", tuple[Path, ...]()
        self.seconds.clear()
        if method.reads_bases:
            with self.timed("bases"):
                self.bases(svd)
        if method.fits:
            with self.timed("predictors"):
                fits = (self.predictors(svd),) * method.fits
        source = Source(self.base, svd, fits, options)
        with self.timed("checkpoint"):
            plan = expand(source, name, method, gaps, out)
        with self.timed("check"):
            return self.checked(name, plan, out, text)

    def checked(self, name: str, plan: LayerPlan, out: Path, text: Path | None) -> Model:
        parameters = check_made(out, self.base.folder)["parameters"]
        layer = self.base.layer_parameters()
        return Model(
            method=name,
            layers=len(plan),
            layer_plan=plan_line(plan),
            parameters=parameters,
            trainable_parameters=trainable_parameters(plan, layer, parameters),
            score=evaluate(out, text) if text is not None else None,
        )


def check_made(folder: Path, source: Path) -> dict[str, Any]:
    """`check` of a checkpoint that was made here of `source`, whose tokenizer it has: what is wrong
    with it is no bad input."""
    try:
        found = check(folder)
        check_same_tokenizer(folder, source)
        return found
    except UserError as error:
        raise CheckError(str(error)) from None
