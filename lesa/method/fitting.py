"""The predictors of all matrix kinds, fitted side by side by one worker a GPU, or one a CPU thread.

A kind is three tasks: its coefficients are written to a file, then two predictors are fitted on
them. "train" is the one that is used; "heldout" does not see every n-th triple and is scored on
those. A task that was finished before a kill is not done again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lesa.checkpoints.reader import Checkpoint
from lesa.errors import CheckError, UserError
from lesa.files import read_json, whole_file, write_json, write_tensors
from lesa.method import coefficients
from lesa.method.basis import load_basis
from lesa.method.predictor import Score, any_target, fit, score
from lesa.params import Predictor as Settings

ALL_TRIPLES = 10**6  # as `heldout_every`: none is held out
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


@dataclass(frozen=True)
class Job:
    """One set of predictors.

    base: checkpoint folder. svd: folder of its bases, one file a kind. folder: where the job keeps
    each kind's coefficients while they are needed, its weights, and the metrics of each of its
    predictors, which are written last: where they are, that predictor is finished.
    """

    base: Path
    svd: Path
    folder: Path
    settings: Settings
    seed: int
    heldout_every: int

    def coefficients(self, kind: str) -> Path:
        return self.folder / f"{kind}.coefficients"

    def weights(self, kind: str) -> Path:
        return self.folder / f"{kind}.safetensors"

    def metrics(self, kind: str, split: str) -> Path:
        return self.folder / f"{kind}.{split}.json"


@dataclass(frozen=True)
class Split:
    """The middle layers of the triples that a predictor is fitted on and those it is scored on."""

    fitted: list[int]
    scored: list[int]


def splits(num_layers: int, heldout_every: int) -> dict[str, Split]:
    """A kind's predictors; "heldout" only if there are triples enough to hold one out."""
    middles = list(range(1, num_layers - 1))
    heldout = middles[heldout_every - 1 :: heldout_every]
    found = {"train": Split(middles, middles)}
    if heldout:
        found["heldout"] = Split([i for i in middles if i not in heldout], heldout)
    return found


def kind_seed(seed: int, kind: str) -> int:
    """A seed of the kind's own.

    With one seed for all, kinds of equal width would start from equal weights, and their
    predictions would err in the same direction; the published loop draws every kind anew.
    """
    return zlib.crc32(f"{seed} {kind}".encode())


def worker_devices(threads: int, gpus: int, tasks: int) -> list[str]:
    """The device of each worker. A worker on the CPU has one thread: the steps are too small to
    share between threads, so several predictors are fitted at once."""
    devices = [f"cuda:{i}" for i in range(gpus)] or ["cpu"] * threads
    return devices[: max(tasks, 1)]


def epoch_work(shape: Sequence[int], hidden_size: int, triples: int) -> int:
    """Multiplications of an epoch's predictions, but for a factor that all kinds share.

    shape: the kind's (d1, d2).
    """
    d1, d2 = shape
    return triples * d1 * (3 * d2 + hidden_size)


def fit_kinds(job: Job, title: str) -> dict[str, dict[str, Any]]:
    """Fit what `job.folder` lacks, under a progress bar called `title`; returns `kind_metrics` of
    every kind of the base."""
    base = Checkpoint(job.base)
    shapes = {kind: base.shape(kind) for kind in base.kinds}
    kind_splits = splits(base.num_layers, job.heldout_every)
    tasks = {
        (kind, name): epoch_work(shapes[kind], job.settings.hidden_size, len(split.fitted))
        for kind in shapes
        for name, split in kind_splits.items()
        if not job.metrics(kind, name).is_file()
    }
    for kind in shapes:
        if not tasks_of(kind, tasks):  # a stopped run may not have come to removing them
            job.coefficients(kind).unlink(missing_ok=True)
    if tasks:
        threads, gpus = torch.get_num_threads(), torch.cuda.device_count()
        run_tasks(job, tasks, worker_devices(threads, gpus, len(tasks)), title)
    return {kind: kind_metrics(job, kind, kind_splits) for kind in shapes}


def kind_metrics(job: Job, kind: str, kind_splits: dict[str, Split]) -> dict[str, Any]:
    """Metrics of a kind's two predictors as one; `seconds` are those of the one that is used.

    curve: errors of the other one after each epoch, on its own triples and on those held out. Both
    are None where there is no other one, or nothing to score it on: all targets are zero.
    """
    found = {name: read_json(job.metrics(kind, name)) for name in kind_splits}
    blind = found.get("heldout", {"score": None, "curve": None})
    return {
        "triples": len(kind_splits["train"].fitted),
        "seconds": found["train"]["seconds"],
        "train": found["train"]["score"],
        "heldout": blind["score"],
        "curve": blind["curve"],
        "heldout_triples": len(kind_splits["heldout"].scored) if blind["score"] else 0,
    }


def run_tasks(job: Job, tasks: dict[tuple[str, str], int], devices: list[str], title: str) -> None:
    """Fit the predictors (kind, split) of `tasks`, whose values are an epoch's work.

    One worker a device. Kind by kind: the predictors of one kind read the same file, so that few
    files are on disk and in the file cache at a time.
    """
    kinds = widest_first(tasks)
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[str] = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    progress: Synchronized[float] = context.Value("d", 0.0)
    initial = (os.getpid(), queue, progress)
    pool = ProcessPoolExecutor(len(devices), context, start_worker, initial)

    def submit(task: Callable[..., None], *given: Any) -> Future[None]:
        # A worker that is interrupted while it is imported would print where it was.
        before, main = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}), "__main__"
        # It would run a user's script again, which may not expect it: no task needs one.
        script, sys.modules[main] = sys.modules[main], ModuleType(main)
        try:
            return pool.submit(task, *given)
        finally:
            sys.modules[main] = script
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    writing: dict[Future[None], str] = {}  # kinds by the task that writes their coefficients
    fitting: dict[Future[None], str] = {}

    def begin_next_kind() -> None:
        if kinds:
            kind = kinds.pop(0)
            writing[submit(write_coefficients, job, kind)] = kind

    total = sum(tasks.values()) * job.settings.epochs
    with tqdm(total=total, desc=title, bar_format=BAR) as bar:
        try:
            for _ in devices:
                begin_next_kind()
            while writing or fitting:
                done, _ = wait([*writing, *fitting], timeout=1, return_when=FIRST_COMPLETED)
                bar.update(progress.value - bar.n)
                for future in done:
                    future.result()
                    if kind := writing.pop(future, ""):
                        for split, work in tasks_of(kind, tasks):
                            fitting[submit(fit_predictor, job, kind, split, work)] = kind
                        begin_next_kind()
                    elif (kind := fitting.pop(future)) not in fitting.values():
                        job.coefficients(kind).unlink()
        except BrokenProcessPool:
            raise CheckError(
                f"{title}: a process that fits was ended from outside, as where memory runs out; "
                "run again: what is finished stays"
            ) from None
        finally:
            # After an error, tasks that run are finished and stay; those that wait are not begun.
            pool.shutdown(cancel_futures=True)


def widest_first(tasks: dict[tuple[str, str], int]) -> list[str]:
    """The kinds in the order they are begun: what takes longest must not come last."""
    kinds = sorted({kind for kind, _ in tasks})
    return sorted(kinds, key=lambda kind: tasks_of(kind, tasks)[0][1], reverse=True)


def tasks_of(kind: str, tasks: dict[tuple[str, str], int]) -> list[tuple[str, int]]:
    """A kind's splits that are to be fitted, and an epoch's work of each, the larger first."""
    found = [(split, work) for (other, split), work in tasks.items() if other == kind]
    return sorted(found, key=lambda task: -task[1])


@dataclass
class Worker:
    """State of a worker process: its device, and where it adds the work it has done."""

    device: torch.device
    progress: Synchronized[float] | None = None


WORKER = Worker(torch.device("cpu"))


def start_worker(parent: int, devices: SimpleQueue[str], progress: Synchronized[float]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(1)
    WORKER.device, WORKER.progress = torch.device(devices.get()), progress

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the stage was killed

    threading.Thread(target=end_with_parent, daemon=True).start()


def write_coefficients(job: Job, kind: str) -> None:
    """Write a kind's coefficients, unless a stopped run has."""
    if not job.coefficients(kind).is_file():
        coefficients.write(job.coefficients(kind), layer_coefficients(job, kind, WORKER.device))


def layer_coefficients(job: Job, kind: str, device: torch.device) -> Iterator[Tensor]:
    """What a kind's predictors are fitted on: (r, d2) float32 for each layer, on `device`.

    That is `V_1 … V_L`, unless the settings' `fitted_on` asks for a control.
    """
    basis = load_basis(job.svd, kind).to(device)
    base = Checkpoint(job.base)
    shuffled = job.settings.fitted_on == "shuffled"
    order = shuffled_order(base.num_layers, job.seed) if shuffled else range(base.num_layers)
    layers = (basis.coefficients(base.matrix(kind, i).to(device)) for i in order)
    if job.settings.fitted_on != "noise":
        return layers
    generator = torch.Generator().manual_seed(kind_seed(job.seed, f"noise {kind}"))
    return (noise_like(layer, generator) for layer in layers)


def shuffled_order(num_layers: int, seed: int) -> list[int]:
    """A random order of the layers.

    It is one order for all kinds: the control is fitted on the same model, its layers restacked.
    """
    generator = torch.Generator().manual_seed(kind_seed(seed, "order of layers"))
    order: list[int] = torch.randperm(num_layers, generator=generator).tolist()
    return order


def noise_like(layer: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise with the shape, device and root mean square of a layer's coefficients."""
    noise = torch.randn(layer.shape, generator=generator).to(layer.device)
    return noise.mul_(layer.norm() / noise.norm())


def fit_predictor(job: Job, kind: str, split: str, work: int) -> None:
    """Fit and score one predictor; `work` is that of an epoch. The one that is used is saved."""
    base = Checkpoint(job.base)
    num_layers, (_, d2) = base.num_layers, base.shape(kind)
    middles = splits(num_layers, job.heldout_every)[split]
    device, settings, seed = WORKER.device, job.settings, kind_seed(job.seed, kind)
    v = coefficients.read(job.coefficients(kind), num_layers, d2, device)
    blind = split == "heldout"
    if not all(any_target(v, layers) for layers in (middles.fitted, middles.scored)):
        if not blind:
            raise UserError(f"{job.base}: {kind} is zero in all layers between two")
        # Errors are told as shares of the targets, of which layers such as LLaMA Pro's have none.
        add_progress(work * settings.epochs)
        write_json(job.metrics(kind, split), {"seconds": 0.0, "score": None, "curve": None})
        return
    curve: list[dict[str, float]] = []

    def scored(model: nn.Module, layers: list[int]) -> Score:
        return score(model, v, layers, settings.norm_weight, device)

    def on_epoch(model: nn.Module) -> None:
        add_progress(work)
        if blind:
            own, other = scored(model, middles.fitted), scored(model, middles.scored)
            curve.append(
                {
                    "epoch": len(curve) + 1,
                    "fitted_mse": own.mse,
                    "heldout_mse": other.mse,
                    "zero_mse": other.zero_mse,
                }
            )

    start = time.perf_counter()
    model = fit(v, middles.fitted, settings, seed, device, on_epoch)
    seconds = time.perf_counter() - start
    if not blind:
        with whole_file(job.weights(kind)) as partial:
            write_tensors(partial, {k: t.cpu().contiguous() for k, t in model.state_dict().items()})
    found = asdict(scored(model, middles.scored))
    if blind:
        # Its own training error: that of another predictor, which saw all triples, is no match.
        found["fitted"] = asdict(scored(model, middles.fitted))
    write_json(job.metrics(kind, split), {"seconds": seconds, "score": found, "curve": curve})


def add_progress(work: int) -> None:
    if WORKER.progress is not None:
        with WORKER.progress.get_lock():
            WORKER.progress.value += work
