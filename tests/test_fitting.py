"""All kinds fitted side by side: the published loop's weights, also after a kill."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import load_file

from benchmarks.published_fit import published_fit
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import CheckError, UserError
from lesa.method import coefficients, fitting
from lesa.method.basis import from_gram, gram, load_basis, save_basis
from lesa.method.coefficients import InMemory
from lesa.method.fitting import Job
from lesa.method.prediction import load_predictor
from lesa.method.predictor import score
from lesa.params import Predictor
from tests.conftest import on_the_cpu

SETTINGS = Predictor(
    norm_weight=5e-4, epochs=2, hidden_size=8, batch_size=8, learning_rate=1e-3, weight_decay=0.01
)
LAYERS = 6
KINDS = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]


def new_job(base: Path, folder: Path, settings: Predictor = SETTINGS, every: int = 2) -> Job:
    (folder / "svd").mkdir()
    (folder / "work").mkdir()
    checkpoint = Checkpoint(base)
    for kind in KINDS:
        layers = (checkpoint.matrix(kind, i) for i in range(LAYERS))
        save_basis(from_gram(gram(layers), 1e-6), folder / "svd" / f"{kind}.safetensors")
    return Job(base, folder / "svd", folder / "work", settings, 3, every)


def stacked(job: Job, kind: str) -> torch.Tensor:
    """All layers' coefficients (L, r, d2) at once."""
    basis = load_basis(job.svd, kind)
    base = Checkpoint(job.base)
    return torch.stack([basis.coefficients(base.matrix(kind, i)) for i in range(LAYERS)])


def test_a_kind_is_fitted_as_published(tiny: Path, tmp_path: Path) -> None:
    job = new_job(tiny, tmp_path)
    for kind in ("k_proj", "down_proj"):
        v = stacked(job, kind)
        fitting.write_coefficients(job, kind)
        for split in ("train", "heldout"):
            fitting.fit_predictor(job, kind, split, work=1)
        seed, settings = fitting.kind_seed(3, kind), SETTINGS.model_dump(exclude={"fitted_on"})
        wanted, _ = published_fit(list(v), [1, 2, 3, 4], seed=seed, **settings)
        found = load_predictor(job.folder, kind)
        for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-5)
        entry = fitting.kind_metrics(job, kind, fitting.splits(LAYERS, 2))
        assert (entry["triples"], entry["heldout_triples"]) == (4, 2)
        assert entry["seconds"] > 0
        seen = score(wanted, InMemory(v), [1, 2, 3, 4], SETTINGS.norm_weight)
        assert entry["train"] == pytest.approx(asdict(seen), rel=1e-3, abs=1e-4)
        blind, _ = published_fit(list(v), [1, 3], seed=seed, **settings)
        unseen = score(blind, InMemory(v), [2, 4], SETTINGS.norm_weight)
        fitted = entry["heldout"].pop("fitted")
        assert entry["heldout"] == pytest.approx(asdict(unseen), rel=1e-3, abs=1e-4)
        own = score(blind, InMemory(v), [1, 3], SETTINGS.norm_weight)
        assert fitted == pytest.approx(asdict(own), rel=1e-3, abs=1e-4)
        assert fitted["zero_mse"] == pytest.approx(float(v[[1, 3]].square().mean()), rel=1e-5)


def test_rows_from_disk_give_the_same_weights(
    tiny32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job(tiny32, tmp_path)
    fitting.write_coefficients(job, "up_proj")
    fitting.fit_predictor(job, "up_proj", "train", work=1)
    in_memory = load_file(job.weights("up_proj"))
    monkeypatch.setattr(coefficients, "IN_MEMORY_BYTES", 0)
    fitting.fit_predictor(job, "up_proj", "train", work=1)
    assert all(torch.equal(t, in_memory[k]) for k, t in load_file(job.weights("up_proj")).items())


def test_stored_coefficients_are_not_written_again(tiny32: Path, tmp_path: Path) -> None:
    job = new_job(tiny32, tmp_path)
    job.coefficients("q_proj").write_bytes(b"whole")
    fitting.write_coefficients(job, "q_proj")
    assert job.coefficients("q_proj").read_bytes() == b"whole"


def written(tiny32: Path, tmp_path: Path, fitted_on: str, seed: int) -> dict[str, np.ndarray]:
    """Each kind's file of coefficients (L, r, d2) as a control has it."""
    (tmp_path / f"{fitted_on}-{seed}").mkdir(parents=True)
    settings = SETTINGS.model_copy(update={"fitted_on": fitted_on})
    job = replace(new_job(tiny32, tmp_path / f"{fitted_on}-{seed}", settings), seed=seed)
    found = {}
    for kind in KINDS:
        fitting.write_coefficients(job, kind)
        d2 = Checkpoint(tiny32).shape(kind)[1]
        rows = np.fromfile(job.coefficients(kind), dtype=np.float32)
        found[kind] = rows.reshape(LAYERS, -1, d2)
    return found


def test_shuffled_layers_are_one_permutation_of_all_kinds(tiny32: Path, tmp_path: Path) -> None:
    true = written(tiny32, tmp_path, "layers", 3)
    orders: list[tuple[int, ...]] = []
    for seed in (3, 4):
        shuffled = written(tiny32, tmp_path, "shuffled", seed)
        of_kinds = set()
        for kind in KINDS:
            apart = np.abs(shuffled[kind][:, None] - true[kind][None]).max(axis=(2, 3))
            order = apart.argmin(axis=1)
            assert np.array_equal(shuffled[kind], true[kind][order])
            of_kinds.add(tuple(order.tolist()))
        assert len(of_kinds) == 1
        orders += of_kinds
    assert all(sorted(order) == list(range(LAYERS)) for order in orders)
    assert orders[0] != orders[1]
    assert tuple(range(LAYERS)) not in orders


def test_noise_has_each_layers_size_and_nothing_else_of_it(tiny32: Path, tmp_path: Path) -> None:
    true = {kind: v.astype(float) for kind, v in written(tiny32, tmp_path, "layers", 3).items()}
    drawn = written(tiny32, tmp_path, "noise", 3)
    other = written(tiny32, tmp_path, "noise", 4)
    for kind in KINDS:
        size = np.sqrt((true[kind] ** 2).mean(axis=(1, 2)))
        assert np.sqrt((drawn[kind].astype(float) ** 2).mean(axis=(1, 2))) == pytest.approx(
            size, rel=1e-5
        )
        assert scipy.stats.kstest((drawn[kind] / size[:, None, None]).ravel(), "norm").pvalue > 1e-4
        layers = np.stack([true[kind], drawn[kind], other[kind]]).reshape(3 * LAYERS, -1)
        cosines = np.corrcoef(layers) - np.eye(3 * LAYERS)
        assert np.abs(cosines[:, LAYERS:]).max() < 0.25  # nor of the true layers, nor of each other


PROGRAM = """
import sys
from pathlib import Path
import torch
from lesa.method.fitting import Job, fit_kinds
from lesa.params import Predictor
if __name__ == "__main__":
    torch.set_num_threads(2)
    base, folder, settings = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    settings = Predictor.model_validate_json(settings)
    fit_kinds(Job(base, folder / "svd", folder / "work", settings, 3, 2), "test")
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the workers: other threads may add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_killed_and_run_again(tiny32: Path, tmp_path: Path) -> None:
    """What was finished stays, the rest is done, and all is as it is without a kill."""
    settings = SETTINGS.model_copy(update={"epochs": 60})
    job = new_job(tiny32, tmp_path, settings)
    program = tmp_path / "program.py"  # a file: workers import the main module
    program.write_text(PROGRAM)
    argv = [sys.executable, str(program), str(tiny32), str(tmp_path), settings.model_dump_json()]
    environment = on_the_cpu()  # where `fit_predictor` below fits: the same bits
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(job.folder.glob("*.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.5)  # the workers look for their parent once a second
    finished = {path: path.stat().st_mtime_ns for path in job.folder.glob("*.json")}
    assert 0 < len(finished) < 2 * len(KINDS)
    time.sleep(1)
    assert set(job.folder.glob("*.json")) == set(finished)  # no worker goes on by itself

    subprocess.run(argv, env=environment, check=True, stderr=subprocess.DEVNULL)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(list(job.folder.glob("*.json"))) == 2 * len(KINDS)
    assert not list(job.folder.glob("*.coefficients"))
    again = {kind: load_file(job.weights(kind)) for kind in KINDS}
    (tmp_path / "whole").mkdir()
    whole = new_job(tiny32, tmp_path / "whole", settings)
    for kind in KINDS:
        fitting.write_coefficients(whole, kind)
        fitting.fit_predictor(whole, kind, "train", work=1)
        wanted = load_file(whole.weights(kind))
        assert all(torch.equal(again[kind][name], wanted[name]) for name in wanted)


def test_a_killed_worker_is_one_line(tiny32: Path, tmp_path: Path) -> None:
    """As the system kills one where memory runs out."""
    job = new_job(tiny32, tmp_path, SETTINGS.model_copy(update={"epochs": 1000}))

    def kill() -> None:
        while not (workers := multiprocessing.active_children()):
            time.sleep(0.01)
        workers[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(CheckError, match=r"^a title: a process that fits was ended from outside"):
        fitting.fit_kinds(job, "a title")


def test_finished_work_starts_no_worker(
    tiny32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job(tiny32, tmp_path, every=5)  # four triples: none is held out
    for kind in KINDS:
        fitting.write_coefficients(job, kind)
        fitting.fit_predictor(job, kind, "train", work=1)
    monkeypatch.setattr(fitting, "run_tasks", None)
    found = fitting.fit_kinds(job, "test")
    assert list(found) == list(KINDS)
    assert all(
        entry["heldout"] is None and not entry["heldout_triples"] for entry in found.values()
    )


@pytest.mark.parametrize("zero", [[2, 4], [1, 3]])
def test_layers_of_zeros_leave_nothing_to_score(
    tiny32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero: list[int]
) -> None:
    """Held out, or all that the other predictor sees: an expansion of LLaMA Pro's has such."""
    job = new_job(tiny32, tmp_path)
    v = stacked(job, "o_proj")
    v[zero] = 0
    monkeypatch.setattr(coefficients, "read", lambda *_: InMemory(v))
    for split in ("train", "heldout"):
        fitting.fit_predictor(job, "o_proj", split, work=1)
    entry = fitting.kind_metrics(job, "o_proj", fitting.splits(LAYERS, 2))
    assert (entry["heldout"], entry["curve"], entry["heldout_triples"]) == (None, None, 0)
    assert entry["train"]["zero_mse"] == pytest.approx(float(v[1:5].square().mean()), rel=1e-5)
    v[1:5] = 0
    with pytest.raises(UserError, match="o_proj is zero in all layers between two"):
        fitting.fit_predictor(job, "o_proj", "train", work=1)


def test_every_nth_triple_is_held_out_where_there_are_so_many() -> None:
    found = fitting.splits(8, 3)
    assert found["train"].fitted == found["train"].scored == [1, 2, 3, 4, 5, 6]
    assert found["heldout"].fitted == [1, 2, 4, 5]
    assert found["heldout"].scored == [3, 6]
    assert list(fitting.splits(8, 7)) == ["train"]
    assert list(fitting.splits(3, 2)) == ["train"]


def test_every_kind_and_seed_draws_its_own_weights() -> None:
    seeds = [fitting.kind_seed(seed, kind) for seed in range(3) for kind in KINDS]
    assert len(set(seeds)) == 3 * len(KINDS)
    assert fitting.kind_seed(1, "q_proj") == 0xEA8DD0E4  # CRC-32 of "1 q_proj"


def test_worker_devices() -> None:
    assert fitting.worker_devices(2, 0, 14) == ["cpu", "cpu"]
    assert fitting.worker_devices(64, 0, 14) == ["cpu"] * 14
    assert fitting.worker_devices(2, 1, 14) == ["cuda:0"]
    assert fitting.worker_devices(2, 4, 14) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert fitting.worker_devices(2, 4, 2) == ["cuda:0", "cuda:1"]


def test_epoch_work_counts_multiplications() -> None:
    """Twice the rows or triples is twice the work; per hidden unit a row of width d2 costs 3·d2
    and the hidden layer."""
    assert fitting.epoch_work((10, 7), 4, 3) == 3 * 10 * (2 * 7 + 4 + 7)


def test_the_widest_kinds_and_their_larger_splits_come_first() -> None:
    tasks = {("k", "train"): 4, ("k", "heldout"): 3, ("up", "train"): 40, ("up", "heldout"): 50}
    assert fitting.tasks_of("up", tasks) == [("heldout", 50), ("train", 40)]
    assert fitting.widest_first(tasks) == ["up", "k"]
