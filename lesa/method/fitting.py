"""The predictors of all matrix kinds, fitted side by side by one worker a GPU, or one a CPU thread.

A kind is three tasks: its coefficients are written to a file, then two predictors are fitted from
it, the one that is used ("train") and one that does not see every n-th triple, to be scored on
those ("heldout"). What a task has finished is found again after a kill.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lesa.checkpoints.reader import Checkpoint
from lesa.files import read_json, whole_file, write_json
from lesa.method import coefficients
from lesa.method.basis import Basis
from lesa.method.prediction import load_basis
from lesa.method.predictor import fit, score
from lesa.params import Predictor as Settings

BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


@dataclass(frozen=True)
class Job:
    """One set of predictors.

    `folder` holds a kind's coefficients while it is worked on, its weights, and a report for each
    of its two predictors, written last: whoever finds a report need not fit again.
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

    def report(self, kind: str, part: str) -> Path:
        return self.folder / f"{kind}.{part}.json"


@dataclass(frozen=True)
class Part:
    """The middle layers of the triples that a predictor is fitted on and those it is scored on."""

    fitted: list[int]
    scored: list[int]


def parts(layers: int, heldout_every: int) -> dict[str, Part]:
    """A kind's predictors; "heldout" only if there are triples enough to hold one out."""
    triples = list(range(1, layers - 1))
    held = triples[heldout_every - 1 :: heldout_every]
    found = {"train": Part(triples, triples)}
    if held:
        found["heldout"] = Part([i for i in triples if i not in held], held)
    return found


def kind_seed(seed: int, kind: str) -> int:
    """Kinds of equal width would start from equal weights, and their predictions would lean the
    same way; the published loop draws every kind anew."""
    return zlib.crc32(f"{seed} {kind}".encode())


def worker_devices(threads: int, gpus: int, tasks: int) -> list[str]:
    """The device of each worker. A worker on the CPU has one thread: the steps are too small to
    share between threads, so several predictors are fitted at once."""
    devices = [f"cuda:{i}" for i in range(gpus)] or ["cpu"] * threads
    return devices[: max(tasks, 1)]


def epoch_work(shape: Sequence[int], hidden_size: int, triples: int) -> int:
    """Multiplications of an epoch's predictions, but for a factor that all kinds share."""
    d1, d2 = shape
    return triples * d1 * (3 * d2 + hidden_size)


def fit_kinds(job: Job, title: str) -> dict[str, dict[str, Any]]:
    """Fit whatever `job.folder` lacks; returns every kind's entry for the metrics file."""
    base = Checkpoint(job.base)
    shapes = {kind: base.shape(kind) for kind in base.kinds}
    split = parts(base.num_layers, job.heldout_every)
    tasks = {
        (kind, part): epoch_work(shapes[kind], job.settings.hidden_size, len(triples.fitted))
        for kind in shapes
        for part, triples in split.items()
        if not job.report(kind, part).is_file()
    }
    for kind in shapes:
        if not tasks_of(kind, tasks):  # a stopped run may not have come to removing them
            job.coefficients(kind).unlink(missing_ok=True)
    if tasks:
        threads, gpus = torch.get_num_threads(), torch.cuda.device_count()
        run(job, tasks, worker_devices(threads, gpus, len(tasks)), title)
    return {kind: entry(job, kind, split) for kind in shapes}


def entry(job: Job, kind: str, split: dict[str, Part]) -> dict[str, Any]:
    """A kind's two reports as one; `seconds` are those of the predictor that is used."""
    found = {part: read_json(job.report(kind, part)) for part in split}
    return {
        "triples": len(split["train"].fitted),
        "seconds": found["train"]["seconds"],
        "train": found["train"]["score"],
        "heldout": found["heldout"]["score"] if "heldout" in split else None,
        "heldout_triples": len(split["heldout"].scored) if "heldout" in split else 0,
    }


def run(job: Job, tasks: dict[tuple[str, str], int], devices: list[str], title: str) -> None:
    """Run the fits (kind, part) of the given epoch's work, one worker a device.

    Kind by kind: the predictors of one kind read the same file, so that few files are on disk and
    in the file cache at a time.
    """
    waiting = widest_first(tasks)
    context = multiprocessing.get_context("spawn")
    queue: SimpleQueue[str] = context.SimpleQueue()
    for device in devices:
        queue.put(device)
    progress: Synchronized[float] = context.Value("d", 0.0)
    initial = (os.getpid(), queue, progress)
    pool = ProcessPoolExecutor(len(devices), context, start_worker, initial)
    storing: dict[Future[None], str] = {}
    fitting: dict[Future[None], str] = {}

    def store_next() -> None:
        if waiting:
            kind = waiting.pop(0)
            storing[pool.submit(store, job, kind)] = kind

    total = sum(tasks.values()) * job.settings.epochs
    with tqdm(total=total, desc=title, bar_format=BAR) as bar:
        try:
            for _ in devices:
                store_next()
            while storing or fitting:
                done, _ = wait([*storing, *fitting], timeout=1, return_when=FIRST_COMPLETED)
                bar.update(progress.value - bar.n)
                for future in done:
                    future.result()
                    if kind := storing.pop(future, ""):
                        for part, work in tasks_of(kind, tasks):
                            fitting[pool.submit(fit_part, job, kind, part, work)] = kind
                        store_next()
                    elif (kind := fitting.pop(future)) not in fitting.values():
                        job.coefficients(kind).unlink()
        finally:
            # After an error, what runs is finished and kept; what waits is not begun.
            pool.shutdown(cancel_futures=True)


def widest_first(tasks: dict[tuple[str, str], int]) -> list[str]:
    """The kinds in the order they are begun: what takes longest must not come last."""
    kinds = sorted({kind for kind, _ in tasks})
    return sorted(kinds, key=lambda kind: tasks_of(kind, tasks)[0][1], reverse=True)


def tasks_of(kind: str, tasks: dict[tuple[str, str], int]) -> list[tuple[str, int]]:
    """A kind's parts and the work of each, the larger first."""
    found = [(part, work) for (other, part), work in tasks.items() if other == kind]
    return sorted(found, key=lambda task: -task[1])


@dataclass
class Worker:
    """What a worker process knows: its device, and where to add the work it has done."""

    device: torch.device
    progress: Synchronized[float] | None = None


WORKER = Worker(torch.device("cpu"))


def start_worker(parent: int, devices: SimpleQueue[str], progress: Synchronized[float]) -> None:
    torch.set_num_threads(1)
    WORKER.device, WORKER.progress = torch.device(devices.get()), progress

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # the stage was killed: do not go on without it

    threading.Thread(target=follow, daemon=True).start()


def store(job: Job, kind: str) -> None:
    """Write a kind's coefficients, unless a stopped run has."""
    if not job.coefficients(kind).is_file():
        coefficients.write(job.coefficients(kind), layer_coefficients(job, kind, WORKER.device))


def layer_coefficients(job: Job, kind: str, device: torch.device) -> Iterator[Tensor]:
    """`V_1 … V_L` of a kind, (r, d2) float32 each."""
    stored = load_basis(job.svd, kind)
    basis = Basis(stored.u.to(device), stored.s.to(device))
    base = Checkpoint(job.base)
    for i in range(base.num_layers):
        yield basis.coefficients(base.matrix(kind, i).to(device))


def fit_part(job: Job, kind: str, part: str, work: int) -> None:
    """Fit and score one predictor; `work` is that of an epoch. The one that is used is saved."""
    base = Checkpoint(job.base)
    layers, (_, d2) = base.num_layers, base.shape(kind)
    triples = parts(layers, job.heldout_every)[part]
    device, settings = WORKER.device, job.settings
    v = coefficients.read(job.coefficients(kind), layers, d2, device)
    start = time.perf_counter()
    model = fit(
        v, triples.fitted, settings, kind_seed(job.seed, kind), device, lambda: advance(work)
    )
    seconds = time.perf_counter() - start
    if part == "train":
        with whole_file(job.weights(kind)) as partial:
            save_file({k: t.cpu().contiguous() for k, t in model.state_dict().items()}, partial)
    found = score(model, v, triples.scored, settings.norm_weight, device)
    write_json(job.report(kind, part), {"seconds": seconds, "score": asdict(found)})


def advance(work: int) -> None:
    if WORKER.progress is not None:
        with WORKER.progress.get_lock():
            WORKER.progress.value += work
