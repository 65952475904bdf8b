"""Two processes over gloo: one process's curve, checkpoints that either goes on from, stages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from datasets import Dataset

from lesa.errors import UserError
from lesa.files import read_json, write_json
from lesa.params import load
from lesa.training import processes
from lesa.training.pretrain import Run, train
from pipelines.stage import on_this_machine
from reports.comparison import TIMINGS
from tests.conftest import on_the_cpu, tensors_of
from tests.pipeline import stage
from tests.test_eval_harness import save_tiny
from tests.test_eval_offline import write_heldout
from tests.test_pretrain import HELD_OUT, HELD_OUT_ROWS, RATE, deepened, settings, tokens

ROOT = Path(__file__).parents[1]
ACCELERATE = ROOT / "conf" / "accelerate"
TWO = {"per_device_batch_size": 1, "gradient_accumulation_steps": 2}  # a batch for each of two
SECONDS = 540


def launch(config: Path, *command: str, cwd: Path = ROOT) -> str:
    """Run a module in the processes that an accelerate configuration asks for; its output."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    done = subprocess.run(
        [*launcher, "-m", *command],
        cwd=cwd,
        env=on_the_cpu(OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One process's numbers are to be the CPU's too: two processes cannot share a GPU by NCCL."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    AcceleratorState._reset_state(reset_partial_state=True)  # it remembers a device
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def losses(curve: dict[str, Any]) -> list[float]:
    heldout = [row["heldout_loss"] for row in curve["steps"]]
    return heldout + [row["loss"] for row in curve["train"]]


@pytest.fixture(scope="module")
def job(tiny32: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model with two new layers, and nine blocks: the eight steps see some twice."""
    folder = tmp_path_factory.mktemp("job")
    Dataset.from_dict({"input_ids": tokens(9, 1).int().tolist()}).save_to_disk(folder / "blocks")
    return {
        "init": str(deepened(tiny32, "average", folder)),
        "blocks": str(folder / "blocks"),
        "heldout": [block.tolist() for block in HELD_OUT],
        "rate": RATE,
        "stop_at": 5,
        "prefix_cache": None,
    }


def alone(job: dict[str, Any], work: Path, bf16: bool = False, resumable: bool = False) -> Any:
    """The same training in this process."""
    blocks = Dataset.load_from_disk(job["blocks"]).with_format("torch")
    run = Run(Path(job["init"]), blocks, HELD_OUT_ROWS, settings(**TWO, bf16=bf16), RATE)
    return train(run, work, resumable=resumable)


def check(job: dict[str, Any], out: Path, work: Path) -> dict[str, Any]:
    """Two processes' curve and tensors are one's; one goes on where two were stopped."""
    trained, curve = alone(job, work)
    two = read_json(out / "whole.json")
    assert two["processes"] == 2
    assert losses(two) == pytest.approx(losses(curve), rel=1e-5)
    for key in ("steps", "train"):
        assert [row["step"] for row in two[key]] == [row["step"] for row in curve[key]]
    for key in ("tokens_per_step", "trainable_parameters", "heldout_tokens"):
        assert two[key] == curve[key]
    saved, before = tensors_of(out / "whole-trained"), tensors_of(Path(job["init"]))
    assert saved.keys() == before.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, trained.get(name, before[name]), rtol=1e-4, atol=1e-5)
    assert [p.name for p in (out / "killed").glob("checkpoint-*")] == ["checkpoint-4"]
    again, resumed = alone(job, out / "killed", resumable=True)
    assert losses(resumed) == pytest.approx(losses(curve), rel=1e-5)
    for name, tensor in again.items():
        torch.testing.assert_close(tensor, trained[name], rtol=1e-4, atol=1e-5)
    return dict(two)


def test_data_parallel(job: dict[str, Any], tmp_path: Path) -> None:
    run = settings(**TWO).model_dump()
    out = tmp_path / "out"
    cache = tmp_path / "cache"
    job = job | {"out": str(out), "runs": {"whole": run, "killed": run}, "prefix_cache": str(cache)}
    write_json(tmp_path / "job.json", job)
    launch(ACCELERATE / "ddp_cpu_2.yaml", "tests.pretrain_worker", str(tmp_path / "job.json"))
    assert not check(job, out, tmp_path / "work")["sharded"]
    assert len(list(cache.glob("*/*.safetensors"))) == 9 + len(HELD_OUT)  # each block once


def test_a_sharded_model_trains_as_a_whole_one_does(job: dict[str, Any], tmp_path: Path) -> None:
    """FSDP as conf/accelerate has it, with the CPU in the place of a GPU.

    And with its activation checkpointing, whose wrappers give parameters other names.
    """
    config = yaml.safe_load((ACCELERATE / "fsdp_1x8.yaml").read_text()) | {"num_processes": 2}
    config["fsdp_config"]["fsdp_activation_checkpointing"] = True
    (tmp_path / "fsdp.yaml").write_text(yaml.safe_dump(config))
    run, low = (settings(**TWO, bf16=bf16).model_dump() for bf16 in (False, True))
    out = tmp_path / "out"
    job = job | {"out": str(out), "runs": {"whole": run, "low": low, "killed": run}}
    write_json(tmp_path / "job.json", job)
    launch(tmp_path / "fsdp.yaml", "tests.pretrain_worker", str(tmp_path / "job.json"))
    assert check(job, out, tmp_path / "work")["sharded"]
    # In bfloat16, weights of trained norms and the embedding are rounded, too, when sharded.
    _, curve = alone(job, tmp_path / "low", bf16=True)
    assert losses(read_json(out / "low.json")) == pytest.approx(losses(curve), rel=5e-3)


def test_configurations_agree() -> None:
    """What the files differ in is the machines; the mixed precision is the stage's."""
    one, more = (
        yaml.safe_load((ACCELERATE / f"{name}.yaml").read_text())
        for name in ("fsdp_1x8", "fsdp_multinode")
    )
    assert one["fsdp_config"] == more["fsdp_config"]
    assert more["num_processes"] == 8 * more["num_machines"]
    for path in ACCELERATE.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["mixed_precision"] == "no"


def test_accumulation_is_shared() -> None:
    assert processes.share_accumulation(3, 1) == 3
    assert processes.share_accumulation(6, 2) == 3
    with pytest.raises(
        UserError, match=r"gradient_accumulation_steps: 3 .* multiple of 2"
    ) as error:
        processes.share_accumulation(3, 2)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stages pretrain and evaluate can run: a tiny deepened model."""
    folder = tmp_path_factory.mktemp("project")
    base = save_tiny(folder / "base")
    init = deepened(base, "average", folder / "artifacts" / "init", first=0, last=0)
    init.rename(init.with_name("lesa"))
    corpus = folder / "artifacts" / "corpus"
    for split, count, seed in (("train", 9, 1), ("test", 5, 2)):
        rows = {"input_ids": tokens(count, seed).int().tolist(), "document": ["a"] * count}
        Dataset.from_dict(rows).save_to_disk(corpus / split)
    write_heldout(corpus / "documents" / "heldout.jsonl")
    tree = yaml.safe_load((ROOT / "conf" / "default.yaml").read_text())
    tree["train"] |= settings(**TWO).model_dump()
    tree["train"]["prefix_cache"] = True
    tree["evaluate"] |= {"offline_documents": 3, "offline_examples": 7, "dtype": "float32"}
    tree["evaluate"] |= {"batch_size": 4, "bootstrap_iters": 50}
    write_json(folder / "metrics" / "grid" / "lesa.json", {"best": RATE})
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return folder


def comparable(tree: Any) -> Any:
    """Without times, and without the standard error that lm-eval bootstraps from unsorted draws."""
    if "wiki_last_word" in tree.get("tasks", {}):
        del tree["tasks"]["wiki_last_word"]["metrics"]["perplexity"]["stderr"]
    return {k: v for k, v in tree.items() if k not in TIMINGS}


def assert_close(found: Any, wanted: Any) -> None:
    """The same tree, its numbers within 1e-5."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_close(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-5)
    else:
        assert found == wanted


@pytest.mark.parametrize(
    ("name", "arguments", "metrics"),
    [
        ("pretrain", {"model": "lesa"}, "metrics/pretrain/lesa.json"),
        ("evaluate", {"phase": "init", "model": "lesa"}, "metrics/evaluate/init/lesa.json"),
    ],
)
def test_stages_in_two_processes_write_what_one_writes(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: dict[str, str],
    metrics: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.chdir(project)
    params = on_this_machine(load())
    stage("tasks", params)
    stage(name, params, **arguments)
    one = read_json(project / metrics)
    (project / metrics).unlink()
    words = (f"pipelines.{name}", *arguments.values())
    said = launch(ACCELERATE / "ddp_cpu_2.yaml", *words, cwd=project)
    assert said.count("MLflow tracking is off") == 1
    assert_close(comparable(read_json(project / metrics)), comparable(one))
    work = project / "artifacts" / "work"
    if name == "evaluate":  # of twice seven documents, with four and with one request each
        assert "20/20" in said  # the first process has four of either seven
        assert "35/35" not in said
    if name == "pretrain":
        assert list((work / "pretrain").iterdir()) == []
        trained = tensors_of(project / "artifacts" / "trained" / "lesa")
        assert trained.keys() == tensors_of(project / "artifacts" / "init" / "lesa").keys()
