"""Stage mirror of the study official: digests of what lies in its mirror, taken every time."""

from __future__ import annotations

import argparse

from lesa.files import named_folder
from lesa.params import Params
from pipelines.inputs import below, record
from pipelines.stage import run_stage
from pipelines.study import params_file, study_params
from pipelines.tracking import Tracker


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    named: str = study_params("official", "mirror", str)
    record({"official": below(named_folder(named, f"{params_file('official')}: mirror"))})


if __name__ == "__main__":
    run_stage("official-mirror", work, measures=False)
