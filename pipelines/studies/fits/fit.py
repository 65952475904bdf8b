"""Study fits: predictors of more seeds than the run's own, for their errors on unseen layers."""

from __future__ import annotations

import argparse

from lesa.files import write_json
from lesa.method.fitting import Job, fit_kinds
from lesa.params import FitRun, Params
from pipelines.closure import resumable
from pipelines.folders import BASE, SVD
from pipelines.stage import run_stage
from pipelines.study import entry, listed, params_file
from pipelines.tracking import Tracker


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    own: FitRun = entry("fits", "fits", FitRun, args.fit)
    where = f"{params_file('fits')}: fits.{args.fit}.preset"
    settings, every = listed(params.fit.presets, own.preset, where), params.fit.heldout_every
    of = [settings.model_dump(), own.seed, every]
    with resumable(f"fits/{args.fit}", "pipelines.studies.fits.fit", [BASE, SVD], of) as unfinished:
        job = Job(BASE, SVD, unfinished, settings, own.seed, every)
        kinds = fit_kinds(job, f"fits {args.fit}")
        found = {"profile": params.profile, **own.model_dump(), "kinds": kinds}
        write_json(f"artifacts/fits/{args.fit}.json", found)
    log.params(settings.model_dump())


if __name__ == "__main__":
    run_stage("fits", work, "fit")
