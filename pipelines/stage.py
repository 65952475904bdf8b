"""What every stage's command line has in common: params, tracking, seeds, threads, errors."""

from __future__ import annotations

import argparse
import errno
import os
import random
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from baselines import check_methods, method_of
from lesa import params as parameters
from lesa.checkpoints.check import check_experts
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import CheckError, UserError, fail, replace_unprintable
from lesa.machine import has_bfloat16, set_threads
from lesa.params import Params
from lesa.upscaling.plan import LayerPlan
from pipelines import found, provenance
from pipelines.folders import BASE
from pipelines.tracking import Tracker, track

Work = Callable[[Params, Tracker, argparse.Namespace], None]
# The system's words, SQLite's and torch.save's, which says no more of a write that failed.
FULL = (os.strerror(errno.ENOSPC), "database or disk is full", "basic_ios::clear: iostream error")
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)  # a file system may be read-only, too
BEFORE_BASE = ("inputs", "base")  # stages that find the base of an earlier run there
SEED = 0  # of whatever draws without a seed of its own; real seeds are params


def run_stage(name: str, work: Work, *argument_names: str, measures: bool = True) -> None:
    """Run one stage as a command: exit status 0, or after one line on stderr 2 for bad input and 1
    for a result that is no model.

    `argument_names` are positional arguments of the command, found in `args`; they tell the
    instances of a stage apart. Errors that are not the user's keep their traceback. Of several
    processes that a launcher started for one stage, the first alone tracks, and records in
    metrics/provenance where the numbers come from, if the stage `measures` any.
    """
    parser = argparse.ArgumentParser(prog=f"pipelines.{name}")
    for argument in argument_names:
        parser.add_argument(argument)
    args = parser.parse_args()
    arguments = [getattr(args, argument) for argument in argument_names]
    first = os.environ.get("RANK", "0") == "0"  # set by torchrun and `accelerate launch`
    start = time.perf_counter()
    replace_unprintable()
    try:
        params = on_this_machine(parameters.load())
        check_methods(params)
        if name not in BEFORE_BASE:
            check_plans(params)
        prepare_process()
        tracker = (
            track("-".join([name, *arguments]), params.profile, params.model_dump(mode="json"))
            if first
            else nullcontext(Tracker())
        )
        with tracker as log:
            log.tags({"stage": name, **vars(args)})
            work(params, log, args)
            if first and measures:
                log.artifact(
                    provenance.record(name, arguments, params, time.perf_counter() - start)
                )
                if said := found.line(name, arguments):
                    print(f"{' '.join([name, *arguments])}: {said}", flush=True)
                    log.tags({"mlflow.note.content": said})
    except (UserError, CheckError) as error:
        fail(str(error), error.status)
    except Exception as error:
        if disk_is_full(error):
            fail(f"the disk of {os.getcwd()} is full; free some space and run again")
        if isinstance(error, OSError) and error.errno in FORBIDDEN:
            where = error.filename or os.getcwd()
            fail(f"{where}: {error.strerror}; must be yours to read and to write")
        raise


def check_plans(params: Params) -> None:
    """Every model has its layers in gaps that the base has, and can be scored in `evaluate.dtype`:
    to be said before hours of fitting and training."""
    if (BASE / "config.json").is_file():
        base = Checkpoint(BASE)
        layer_plans(params, base.num_layers)
        if base.family.router is not None:
            check_experts(base, getattr(torch, params.evaluate.dtype))


def layer_plans(params: Params, num_layers: int) -> dict[str, LayerPlan]:
    """Plan of every model. Raises UserError for gaps that a base of so many layers has not."""
    return {
        model: method_of(params, model)[0].plan(num_layers, params.gaps_of(model))
        for model in params.models
    }


def on_this_machine(params: Params) -> Params:
    """`params`, with float32 for bfloat16 where the machine has none to compute with.

    The metrics name the dtype that was used.
    """
    if has_bfloat16():
        return params
    train = params.train.model_copy(update={"bf16": False})
    evaluate = params.evaluate.model_copy(update={"dtype": "float32"})
    return params.model_copy(update={"train": train, "evaluate": evaluate})


def disk_is_full(error: BaseException | None) -> bool:
    """Is that what an error comes from? Libraries and worker processes have errors of their own
    for it, with the system's as a text, and some answer it with a second one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        if any(said in str(error) for said in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def prepare_process() -> None:
    """Use this process's share of the cores, and start every generator from one seed."""
    import numpy

    set_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # of one launcher, on this machine
    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)
