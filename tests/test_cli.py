"""The command `lesa`, in this process as its console script would run it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

import lesa
from lesa import cli
from lesa.checkpoints.base import byte_tokenizer
from lesa.checkpoints.writer import copy_side_files
from lesa.commands import plan as planning
from lesa.commands.evaluate import windows
from lesa.commands.growth import gaps_of
from lesa.commands.presets import PRESETS, RANK_TOLERANCE
from lesa.commands.registry import installed
from lesa.errors import UserError
from lesa.files import tree_digest
from lesa.params import Gaps, ListedGaps
from lesa.training.trainer import Clock
from tests.conftest import tensors_of
from tests.families import CONFIGS, deepen, load, logits, save_family
from tests.test_machine import MACHINE

TEXT = "Depth up-scaling adds layers to a model that is trained already.\n" * 11
Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("entry_points")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit status, stdout and stderr of `lesa` with these arguments."""

    def command(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lesa", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("llama", tmp_path_factory.mktemp("cli") / "base")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "held out.txt"
    path.write_text(TEXT)
    return path


def last_line(err: str) -> str:
    """What is said last; progress bars end with carriage returns."""
    return err.strip().splitlines()[-1].split("\r")[-1]


def reference_loss(folder: Path, window: int) -> tuple[float, int]:
    """Loss a token over windows of the text, as transformers computes it from labels."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    total, count = 0.0, 0
    for start in range(0, len(ids), window):
        part = torch.tensor([ids[start : start + window]])
        if part.shape[1] > 1:
            with torch.no_grad():
                total += float(model(input_ids=part, labels=part).loss) * (part.shape[1] - 1)
            count += part.shape[1] - 1
    return total / count, count


def check_lower(found: dict[str, Any], before: Path, after: Path) -> None:
    """The scores before and after are those of the two folders, and the second is lower."""
    losses = [reference_loss(folder, window=256)[0] for folder in (before, after)]
    assert found["before"]["loss"] == pytest.approx(losses[0], rel=1e-5)
    assert found["after"]["loss"] == pytest.approx(losses[1], rel=1e-5)
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_inspects_every_family(name: str, tmp_path: Path, run: Run) -> None:
    folder = save_family(name, tmp_path / "model")
    status, out, _ = run("inspect", folder, "--json")
    assert status == 0
    found, model = json.loads(out), load(folder)
    assert found["model_type"] == CONFIGS[name][0]
    assert (found["layers"], found["dtype"]) == (6, "float32")
    assert found["parameters"] == model.num_parameters()
    assert found["tied"] == bool(model.config.tie_word_embeddings)
    assert found["kinds"].keys() >= {"q_proj", "o_proj"}
    for kind in found["kinds"].values():
        spectrum = kind["spectrum"]
        assert 1 <= spectrum["rank_90"] <= spectrum["rank"] <= kind["shape"][0]
        assert 1 / spectrum["rank"] <= spectrum["largest_share"] <= 1
        assert 0 < spectrum["p_value"] <= 1
    assert bool(found["routers"]) == (name in ("mixtral", "qwen3_moe"))
    assert found["new_layers"]["lesa"] == [1, 2, 3, 4, 5]
    assert found["new_layers"]["llama_pro"] == [1, 2, 3, 6]  # what divides the six
    assert found["new_layers"]["solar"] == [1, 2, 3, 4, 5, 6]
    assert found["new_layers"]["base"] == []


def test_a_spectrum_is_that_of_the_concatenation(base: Path) -> None:
    tensors = tensors_of(base)
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(6)]
    side_by_side = np.concatenate([tensors[name].double().numpy() for name in names], axis=1)
    squares = np.linalg.svd(side_by_side, compute_uv=False) ** 2
    shares = np.cumsum(squares) / squares.sum()
    kind = lesa.inspect(base).kinds["up_proj"]
    assert kind.shape == (48, 32)
    assert kind.spectrum is not None
    assert kind.spectrum.rank == 48
    assert kind.spectrum.largest_share == pytest.approx(shares[0], rel=1e-4)
    assert kind.spectrum.rank_90 == np.searchsorted(shares, 0.9) + 1


def test_what_a_layer_is_worth(base: Path, tmp_path: Path, run: Run) -> None:
    """A copy whose outputs are zeroed is worth nothing; the base's layers are what they are in it,
    but for rounding."""
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 30)
    assert run("expand", base, tmp_path / "deep", "-n", "9", "-m", "llama_pro")[0] == 0
    own, deep = (lesa.inspect(path, spectra=False, text=text).removal
                 for path in (base, tmp_path / "deep"))  # fmt: skip
    assert own is not None
    assert deep is not None
    new = [slot["new"] for slot in json.loads((tmp_path / "deep/layer_plan.json").read_text())]
    assert [rise for rise, made in zip(deep, new, strict=True) if made] == [0.0] * 3
    assert [rise for rise, made in zip(deep, new, strict=True) if not made] == pytest.approx(
        own, abs=1e-5
    )
    status, out, _ = run("inspect", base, "--no-spectra", "--text", text)
    assert status == 0
    assert f"{own[2]:+.4f}" in out
    assert run("inspect", base, "--text", tmp_path / "no.txt")[0] == 2


def test_inspect_prints_tables(base: Path, run: Run) -> None:
    status, out, _ = run("inspect", base, "--no-spectra")
    assert status == 0
    assert "continuity" not in out
    assert "1-3, 6" in out
    assert "continuity" in run("inspect", base)[1]


def test_a_plan_says_what_expand_makes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr(planning, "this_machine", lambda: MACHINE)
    status, out, _ = run("plan", base, "--layers", 9, "--json")
    assert status == 0
    found = json.loads(out)
    folder, plan = deepen(base, "lesa", tmp_path, Gaps(first=2, last=4))
    assert found["parameters_after"] == sum(t.numel() for t in tensors_of(folder).values())
    assert [slot["copy_of"] for slot in found["slots"]] == [slot.copy_of for slot in plan]
    assert found["layer_plan"] == "0-2 + 3 + 4 + 5"
    assert list(found["steps"]) == ["bases", "predictors", "checkpoint"]
    assert all(step["seconds"] > 0 for step in found["steps"].values())
    status, out, _ = run("plan", base, "--method", "llama_pro", "--layers", 9)
    assert status == 0
    assert "0-1 +1 2-3 +3 4-5 +5" in out
    assert "predictors" not in out


def test_a_plan_that_does_not_fit_fails(
    base: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr(planning, "this_machine", lambda: replace(MACHINE, memory=2**20))
    status, out, err = run("plan", base, "--layers", 9, "--json")
    assert status == 1
    assert json.loads(out)["lacking"].startswith("memory: ")
    assert last_line(err).startswith("error: memory: ")


def test_what_a_plan_asks_of_the_disk_is_what_it_prints(
    base: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """`expand` writes each file once: DVC's cache, and what it copies, are the pipeline's."""
    monkeypatch.setattr(planning, "this_machine", lambda: MACHINE)
    whole = lesa.plan(base, layers=9).disk
    for disk, wanted in ((whole, 0), (whole - 1, 1)):
        machine = replace(MACHINE, disk=disk, hard_links=False)
        monkeypatch.setattr(planning, "this_machine", lambda machine=machine: machine)
        status, _, err = run("plan", base, "--layers", 9)
        assert status == wanted, err


def test_llama_pro_has_the_bases_logits_and_perplexity(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    out_folder = tmp_path / "deeper"
    arguments = ("--method", "llama_pro", "--layers", 9, "--text", text, "--json")
    status, out, _ = run("expand", base, out_folder, *arguments)
    assert status == 0
    found = json.loads(out)
    assert load(out_folder).config.num_hidden_layers == found["layers"] == 9
    assert torch.equal(logits(out_folder), logits(base))
    loss, tokens = reference_loss(base, window=256)  # as many positions as the model has
    assert found["score"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["score"]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert found["score"]["tokens"] == tokens
    tensors = tensors_of(out_folder)
    assert found["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    new = [tensor.numel() for name, tensor in tensors.items() if "layers.2." in name]
    assert found["trainable_parameters"] == 3 * sum(new)
    assert [path.name for path in tmp_path.iterdir()] == ["deeper"]


def test_fitted_outputs_bring_an_identity_start_below_the_base(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    """On the text they are fitted on; nothing but output projections of new layers changes."""
    start, out_folder = tmp_path / "start", tmp_path / "fitted"
    lesa.expand(base, start, method="llama_pro", layers=9)
    size = ("--tokens", 512, "--rounds", 2, "--step-size", 0.05)
    files = ("--train", text, "--text", text)
    status, out, _ = run("fit-outputs", start, out_folder, *files, *size, "--json")
    assert status == 0
    found = json.loads(out)
    assert (found["tokens"], found["rounds"]) == (512, 2)
    check_lower(found, base, out_folder)
    old, new = tensors_of(start), tensors_of(out_folder)
    changed = {name for name, tensor in old.items() if not torch.equal(tensor, new[name])}
    ends = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
    assert changed == {f"model.layers.{i}.{end}" for i in (2, 5, 8) for end in ends}
    assert load(out_folder).config.num_hidden_layers == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fitted", "start"]


LAYER = "model.layers.{}."


@pytest.mark.parametrize(
    ("trains", "moved"),
    [
        ("new", lambda name: name.startswith(tuple(LAYER.format(i) for i in (2, 5, 8)))),
        ("lora", lambda name: name.endswith("_proj.weight")),
        ("all", lambda name: True),
    ],
)
def test_training_moves_what_it_says_and_lowers_the_loss(
    trains: str, moved: Callable[[str], bool], base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    """On the text that it trains on; the base itself may train whole, without a plan."""
    start, out_folder = tmp_path / "start", tmp_path / "trained"
    lesa.expand(base, start, method="llama_pro", layers=9)
    model = base if trains == "all" else start
    files = ("--trains", trains, "--train", text, "--text", text)
    size = ("--tokens", 8 * 256, "--batch-size", 1, "--learning-rate", 3e-3)
    status, out, _ = run("train", model, out_folder, *files, *size, "--json")
    assert status == 0
    found = json.loads(out)
    assert [tokens for tokens, _ in found["curve"]] == [0, 512, 1024, 1536, 2048]
    losses = [loss for _, loss in found["curve"]]
    assert losses[-1] < losses[0]
    check_lower(found, base, out_folder)
    old, new = tensors_of(model), tensors_of(out_folder)
    assert {name for name in old if not torch.equal(old[name], new[name])} == set(
        filter(moved, old)
    )
    layers = sum(
        tensor.numel() for name, tensor in tensors_of(start).items() if LAYER.format(2) in name
    )
    wanted = {"new": 3 * layers, "all": sum(tensor.numel() for tensor in old.values())}
    if trains == "lora":  # a rank more or less would be further away
        assert found["trainable_parameters"] == pytest.approx(3 * layers, rel=0.1)
    else:
        assert found["trainable_parameters"] == wanted[trains]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start", "trained"]


KILLED_TRAINING = """
import lesa
from lesa.training.trainer import Clock
def shot_at_the_sixth(clock, arguments, state, *_, **__):
    if state.global_step == 5:
        shot()
Clock.on_step_begin = shot_at_the_sixth
lesa.train(start, out, text, text, tokens=8 * 256, batch_size=1)
"""


def test_a_killed_training_goes_on_where_it_was(base: Path, text: Path, tmp_path: Path) -> None:
    start, whole, out = tmp_path / "start", tmp_path / "whole", tmp_path / "out"
    lesa.expand(base, start, method="identity", layers=8)

    def train(folder: Path) -> None:
        lesa.train(start, folder, text, text, tokens=8 * 256, batch_size=1)

    train(whole)
    killed(KILLED_TRAINING, start=start, out=out, text=text)
    assert not out.exists()
    assert (tmp_path / ".out.work" / "trainer" / "checkpoint-4").is_dir()
    train(out)
    assert tree_digest(out) == tree_digest(whole)


def killed(program: str, **names: Path) -> None:
    """Run `program`, which knows `names` and `shot`, in another process: SIGKILL must end it.

    No fork of this process, in which CUDA could not be used once more.
    """
    lines = [
        "import os, pathlib, signal, torch",
        f"torch.set_num_threads({torch.get_num_threads()})  # others may add in another order",
        "def shot(*_): os.kill(os.getpid(), signal.SIGKILL)",
        *(f"{name} = pathlib.Path({str(path)!r})" for name, path in names.items()),
        program,
    ]
    paths = os.pathsep.join(sys.path)  # the entry points' folder, too
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=os.environ | {"PYTHONPATH": paths}
    )
    assert done.returncode == -signal.SIGKILL


KILLED_EXPANSION = """
import lesa
from lesa.upscaling import expand
expand.write_json = shot  # the weights are written
lesa.expand(base, out, layers=8)
"""


def test_a_kill_leaves_no_output_and_work_to_go_on_with(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    made = lesa.expand(base, whole, layers=8)
    assert made.seconds.keys() == {"bases", "predictors", "checkpoint", "check"}

    killed(KILLED_EXPANSION, base=base, out=out)
    assert not out.exists()
    work = tmp_path / ".out.work"
    assert len(list((work / "fit").glob("*.safetensors"))) == 7

    def again(*args: object) -> None:
        raise AssertionError("predictors that are there are not fitted again")

    monkeypatch.setattr("lesa.method.fitting.run_tasks", again)
    lesa.expand(base, out, layers=8)
    assert not work.exists()
    assert tree_digest(out) == tree_digest(whole)
    load(out)


def test_what_is_no_model_fails_its_check(base: Path, text: Path, tmp_path: Path, run: Run) -> None:
    """Its weights are finite, its logits are not."""
    broken = save_family("llama", tmp_path / "broken", shards="1GB")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"].fill_(3e38)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    arguments = ("--method", "solar", "--layers", 8, "--text", text)
    status, out, err = run("expand", broken, tmp_path / "out", *arguments)
    assert (status, out) == (1, "")
    assert "its loss" in last_line(err)
    assert not (tmp_path / "out").exists()


def test_what_reads_otherwise_than_its_base_fails_its_check(
    base: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(source: Path, folder: Path, *more: str) -> None:
        copy_side_files(source, folder, *more)
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens(["word"])
        tokenizer.save_pretrained(folder)

    monkeypatch.setattr("lesa.upscaling.expand.copy_side_files", copied)
    status, out, err = run("expand", base, tmp_path / "out", "--method", "solar", "--layers", 8)
    assert (status, out) == (1, "")
    assert f"its tokenizer is not that of {base}" in last_line(err)
    assert not (tmp_path / "out").exists()


def damaged(base: Path, folder: Path, **tensors: float) -> Path:
    """The tiny Llama with all tensors whose name ends so filled with a number."""
    save_family("llama", folder, shards="1GB")
    path = folder / "model.safetensors"
    found = load_file(path)
    for name, tensor in found.items():
        for end, value in tensors.items():
            if name.endswith(f"{end}.weight"):
                tensor.fill_(value)
    save_file(found, path, metadata={"format": "pt"})
    return folder


def test_inspect_reads_the_text_first(
    base: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with it is said before the spectra, which take minutes."""
    monkeypatch.setattr("lesa.commands.inspect.spectrum", lambda *_: pytest.fail("computed"))
    odd = tmp_path / "odd.txt"
    odd.write_bytes(b"\xff\xfe\xfd")
    status, out, err = run("inspect", base, "--text", odd)
    assert (status, out) == (2, "")
    assert str(odd) in last_line(err)


def test_inspect_fails_where_the_loss_is_no_number(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    broken = damaged(base, tmp_path / "broken", norm=3e38)
    for words in ((), ("--json",)):
        status, out, err = run("inspect", broken, "--no-spectra", "--text", text, *words)
        assert (status, out) == (1, "")
        assert "no number" in last_line(err)


def test_matrices_of_zeros(base: Path, tmp_path: Path, run: Run) -> None:
    """They have no singular vectors: a method that needs some is refused, another one works."""
    flat = damaged(base, tmp_path / "flat", o_proj=0.0)
    status, out, _ = run("inspect", flat, "--json")
    kinds = json.loads(out)["kinds"]
    assert (status, kinds["o_proj"]["spectrum"]["rank"]) == (0, 0)
    assert kinds["q_proj"]["spectrum"]["rank"] > 1
    for method in ("lesa", "ridge"):
        words = ("-o", "penalty=0.01") if method == "ridge" else ()
        status, _, err = run("expand", flat, tmp_path / "out", "-n", 8, "-m", method, *words)
        assert status == 2
        assert "error: o_proj: is zero in all layers" in last_line(err)
    assert run("expand", flat, tmp_path / "out", "-n", 8, "-m", "solar")[0] == 0


def test_what_transformers_takes_for_another_family_is_refused(tmp_path: Path, run: Run) -> None:
    folder = save_family("mistral", tmp_path / "mistral")
    config = json.loads((folder / "config.json").read_text())
    kinds = ["full_attention", "sliding_attention"] * 3
    (folder / "config.json").write_text(json.dumps(config | {"layer_types": kinds}))
    status, out, err = run("inspect", folder, "--no-spectra")
    assert (status, out) == (2, "")
    assert "model type 'mistral', which transformers takes for 'ministral'" in last_line(err)


def test_two_layers_are_too_few_to_learn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """What reads no predictor deepens them, and `plan` and `inspect` say what `expand` does."""
    monkeypatch.setattr(planning, "this_machine", lambda: MACHINE)
    two = save_family("llama", tmp_path / "two", num_hidden_layers=2)
    can = lesa.inspect(two, spectra=False).new_layers
    assert (can["lesa"], can["noise"], can["ridge"], can["average"]) == ([], [], [], [1])
    for command in (("plan", two), ("expand", two, tmp_path / "out")):
        for method, status in (("lesa", 2), ("ridge", 2), ("average", 0)):
            words = ("-o", "penalty=0.01") if method == "ridge" else ()
            found, _, err = run(*command, "-m", method, "-n", 3, *words)
            assert found == status
            assert not status or "2 layers; a predictor needs at least 3" in last_line(err)


def test_an_unreadable_text_is_refused_before_any_work(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    for name, content in (("empty", b""), ("latin", "é".encode("latin-1"))):
        (tmp_path / name).write_bytes(content)
    lesa.expand(base, tmp_path / "start", method="identity", layers=8)
    out = tmp_path / "out"
    for name in ("empty", "latin"):
        for command in (
            ("expand", base, out, "-n", 8),
            ("fit-outputs", tmp_path / "start", out, "--train", text),
            ("train", tmp_path / "start", out, "--train", text),
        ):
            status, _, err = run(*command, "--text", tmp_path / name)
            assert status == 2
            assert f"{name}: " in last_line(err)
            assert "predictors" not in err
            assert not (tmp_path / ".out.work" / "fit").exists()


def test_a_link_to_nowhere_is_no_new_folder(base: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    status, _, err = run("expand", base, tmp_path / "link", "-m", "solar", "-n", 8)
    assert (status, "is there already" in err) == (2, True)


MAKING = """
import sys, time
from pathlib import Path
from lesa.commands.output import alone
with alone(Path(sys.argv[1])):
    print("begun", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_made_by_one_run_at_a_time(
    base: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run is refused until the first ends, or is killed."""
    start, out = start_of(base, tmp_path / "start"), tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", MAKING, out], stdout=subprocess.PIPE)
    try:
        assert first.stdout
        assert first.stdout.readline() == b"begun\n"
        for again in (
            lambda: lesa.expand(base, out, method="solar", layers=8),
            lambda: lesa.train(start, out, text, text, tokens=256, batch_size=1),
            lambda: lesa.fit_outputs(start, out, text, tokens=256, rounds=1),
        ):
            with pytest.raises(UserError, match=f"^{out}: another run is making it"):
                again()
        assert not out.exists()
    finally:
        first.kill()
        first.wait()
    lesa.expand(base, out, method="solar", layers=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "start"]


@pytest.mark.parametrize("out", ["/proc/deeper", "x" * 250])
def test_a_folder_that_cannot_be_made_is_refused_before_the_base_is_read(
    base: Path, out: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lesa.commands.expand.check", lambda _: pytest.fail("was read"))
    with pytest.raises(UserError, match=rf"^{out}: cannot be made there \("):
        lesa.expand(base, out, method="solar", layers=8)


def test_numbers_of_the_python_functions_are_whole(base: Path, text: Path, tmp_path: Path) -> None:
    start, out, odd = start_of(base, tmp_path / "start"), tmp_path / "out", 1e4
    for name, call in (
        ("tokens", lambda value: lesa.train(start, out, text, text, tokens=value)),
        ("batch_size", lambda value: lesa.train(start, out, text, text, batch_size=value)),
        ("tokens", lambda value: lesa.fit_outputs(start, out, text, tokens=value)),
        ("rounds", lambda value: lesa.fit_outputs(start, out, text, rounds=value)),
        ("layers", lambda value: lesa.plan(base, method="solar", layers=value)),
        ("seed", lambda value: lesa.expand(base, out, method="noise", layers=8, seed=value)),
    ):
        for value in (odd, "12", True):
            with pytest.raises(UserError, match=rf"^{name}: {value}: must be a whole number from"):
                call(value)
    lesa.plan(base, method="solar", layers=np.int64(8))  # type: ignore[arg-type]


def start_of(base: Path, folder: Path, method: str = "identity") -> Path:
    lesa.expand(base, folder, method=method, layers=8)
    return folder


def test_one_step_trains(
    base: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = start_of(base, tmp_path / "start")
    found = lesa.train(start, tmp_path / "out", text, text, tokens=256, batch_size=1)
    assert f"text: {text} is what was trained on" in capsys.readouterr().err
    assert [tokens for tokens, _ in found.curve] == [0, 256]
    assert found.curve[1][1] < found.curve[0][1]


def test_json_is_alone_on_stdout_whatever_transformers_may_say(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    from transformers.utils import logging as transformers_logging

    start = start_of(base, tmp_path / "start")
    verbosity = transformers_logging.get_verbosity()
    try:  # as TRANSFORMERS_VERBOSITY=error has it
        transformers_logging.set_verbosity_error()
        words = ("--train", text, "--text", text, "--tokens", 1024, "--batch-size", 1)
        status, out, _ = run("train", start, tmp_path / "out", *words, "--json")
    finally:
        transformers_logging.set_verbosity(verbosity)
    assert status == 0
    assert json.loads(out)["tokens"] == 1024


def test_a_stopped_training_is_not_gone_on_with_on_another_held_out_text(
    base: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 20)
    start = start_of(base, tmp_path / "start")

    def train(out: str, heldout: Path) -> list[tuple[int, float]]:
        return lesa.train(start, tmp_path / out, text, heldout, tokens=8 * 256, batch_size=1).curve

    def stop(clock: Clock, arguments: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Clock, "on_step_begin", stop)
        with pytest.raises(KeyboardInterrupt):
            train("out", text)
    assert (tmp_path / ".out.work" / "trainer" / "checkpoint-4").is_dir()
    assert train("out", other) == train("whole", other)


def test_a_training_that_diverges_is_one_line(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    words = ("--trains", "all", "--train", text, "--text", text, "--learning-rate", 10)
    for _ in range(2):  # and so is what is done again
        status, out, err = run("train", base, tmp_path / "out", *words, "--tokens", 4096)
        assert (status, out) == (1, "")
        assert re.search(r"error: learning rate 10: the held-out loss is \S+ nats a token", err)
        assert not (tmp_path / "out").exists()


def test_training_says_which_argument_is_wrong(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    start, solar = start_of(base, tmp_path / "start"), start_of(base, tmp_path / "solar", "solar")
    short = tmp_path / "short.txt"
    short.write_text(TEXT[:300])
    for model, train, words, said in (
        (start, short, (), f"batch_size: 2: {short} has 1 windows; a batch holds none twice"),
        (solar, text, ("--trains", "lora"), f"trains: lora: {solar} has no new layer"),
        (start, text, ("--tokens", 10**19), "tokens: 10000000000000000000: must be a whole number"),
        (start, text, ("--seed", 2**31), "seed: 2147483648: must be a whole number from 0 to"),
    ):
        files = ("--train", train, "--text", text)
        status, out, err = run("train", model, tmp_path / "out", *files, *words)
        assert (status, out) == (2, "")
        assert f"error: {said}" in last_line(err)


def test_adapters_that_cannot_be_are_refused_before_the_text_is_read(
    tmp_path: Path, run: Run
) -> None:
    """transformers stacks a mixture's experts, so its new layers outweigh all of its adapters."""
    base = save_family("mixtral", tmp_path / "mixtral", num_local_experts=32)
    start = start_of(base, tmp_path / "start")
    broken = tmp_path / "broken.txt"
    broken.write_bytes(b"\xff")
    files = ("--train", broken, "--text", broken)
    status, out, err = run("train", start, tmp_path / "out", *files, "--trains", "lora")
    assert (status, out) == (2, "")
    said = r"error: LoRA: \d+ matrices cannot have [\d,]+ parameters, but [\d,]+ \(rank 1\) to "
    assert re.search(said + r"[\d,]+; train `new` or `all`", last_line(err))


@pytest.mark.parametrize(
    "content",
    ["[", "[1]", "null", '"a"', "[]", "{}", '[{"layer_idx": 0}]', b"\xff\xfe", "short", "frozen"],
)
def test_a_damaged_plan_is_one_line(
    content: str | bytes, base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    start = start_of(base, tmp_path / "start")
    path = start / "layer_plan.json"
    rows = json.loads(path.read_text())
    if content == "short":
        content = json.dumps(rows[:4])
    if content == "frozen":
        content = json.dumps([row | {"trainable": False} for row in rows])
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in ("train", "fit-outputs"):
        words = ("--train", text, "--text", text)
        status, out, err = run(command, start, tmp_path / "out", *words)
        assert (status, out) == (2, "")
        assert "Traceback" not in err
        assert last_line(err).startswith(f"error: {path}: ")


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no command": ((), "Missing command"),
    "no such command": (("deepen",), "No such command"),
    "no such option": (("inspect", "BASE", "--fast"), "No such option"),
    "no folder": (("inspect", "nowhere"), "nowhere: no such folder"),
    "no layers": (("plan", "BASE"), "layers: "),
    "fewer layers": (("plan", "BASE", "--layers", "6"), "layers: 6 must be more"),
    "far too many layers": (("plan", "BASE", "-n", "99999"), "by 10000 at most"),
    "not a number": (("plan", "BASE", "--layers", "many"), "should be a valid integer"),
    "unknown method": (("plan", "BASE", "-n", "8", "-m", "magic"), "unknown method 'magic'"),
    "unknown place": (("plan", "BASE", "-n", "8", "--positions", "left"), "positions: 'left'"),
    "outside": (("plan", "BASE", "--positions", "3-5"), "layers, positions: gaps.last: 5"),
    "outside, listed": (("plan", "BASE", "--positions", "3,5"), "positions: gaps.after: 5"),
    "twice": (("plan", "BASE", "--positions", "3,3"), "positions: 3,3"),
    "backwards": (("plan", "BASE", "--positions", "4-2"), "positions: 4-2"),
    "contradiction": (("plan", "BASE", "-n", "8", "--positions", "2-4"), "layers: 8: 2-4 adds 3"),
    "not divided": (("plan", "BASE", "-n", "10", "-m", "llama_pro"), "a number of new layers"),
    "no deeper": (("plan", "BASE", "-n", "8", "-m", "base"), "method: it makes 6 layers of 6"),
    "unknown preset": (("plan", "BASE", "-n", "8", "--preset", "best"), "unknown preset 'best'"),
    "no value": (("plan", "BASE", "-n", "8", "-o", "seed"), "--option seed: must be KEY=VALUE"),
    "unknown option": (("plan", "BASE", "-n", "8", "-o", "x=1"), "option.x: "),
    "missing option": (("plan", "BASE", "-n", "8", "-m", "ridge"), "option.penalty: "),
    "output is there": (("expand", "BASE", "BASE", "-n", "8"), "is there already"),
    "output inside": (("expand", "BASE", "BASE/new", "-n", "8"), "lies in the base's folder"),
    "base where work is": (
        ("expand", ".deep.work/checkpoint", "deep", "-n", "8"),
        ".deep.work/checkpoint: lies where unfinished work for deep is kept",
    ),
    "text where work is": (
        ("train", "BASE", "deep", "--train", "TEXT", "--text", ".deep.work/a.txt"),
        ".deep.work/a.txt: lies where unfinished work for deep is kept",
    ),
    "no such place": (("expand", "BASE", "a/b/c", "-n", "8"), "the folder a/b is not there"),
    "no text": (("evaluate", "BASE", "--text", "nothing.txt"), "text: nothing.txt: no such file"),
    "text is a pipe": (
        ("evaluate", "BASE", "--text", "/dev/null"),
        "text: /dev/null: is a pipe or device; a text is read twice, give a file",
    ),
    "text is a folder": (("evaluate", "BASE", "--text", "."), "text: .: is a folder; give a file"),
    "no methods": (("compare", "BASE", "--methods", ",", "--text", "TEXT", "-n", "8"), "methods: "),
    "no plan": (("fit-outputs", "BASE", "out", "--train", "TEXT"), "has no layer_plan.json"),
    "no training text": (("fit-outputs", "BASE", "out", "--train", "no.txt"), "text: no.txt: no"),
    "nothing to train": (
        ("train", "BASE", "out", "--train", "TEXT", "--text", "TEXT"),
        "has no layer_plan.json",
    ),
    "trains what": (
        ("train", "BASE", "out", "--train", "TEXT", "--text", "TEXT", "--trains", "old"),
        "trains: 'old': must be one of new, all, lora",
    ),
    "no rate": (
        ("train", "BASE", "out", "--train", "TEXT", "--text", "TEXT", "--learning-rate", "nan"),
        "learning_rate: nan: must be a finite number above 0",
    ),
    "too few tokens": (
        ("train", "BASE", "out", "--train", "TEXT", "--text", "TEXT", "--trains=all", "--tokens=9"),
        "tokens: 9: fewer than one batch of 2 windows",
    ),
    "one gap to exchange": (("plan", "BASE", "-n", "7", "-m", "lesa_permuted"), "has 1 gap; it"),
    "seed too large": (("plan", "BASE", "-n", "8", "--seed", "5000000000"), "seed: 5000000000: mu"),
    "no such seed": (("plan", "BASE", "-n", "8", "-m", "noise", "-o", "seed=-5"), "option.seed: "),
    "yes": (("plan", "BASE", "-n", "8", "-m", "noise", "-o", "seed=yes"), "must be a number"),
    "no date": (("plan", "BASE", "-n", "8", "-o", "seed=2021-13-45"), "is no number, word or text"),
    "digits": (("plan", "BASE", "-n", "8", "-o", "seed=" + "9" * 5000), "is no number, word or"),
    "brackets": (("plan", "BASE", "-n", "8", "-o", "seed=" + "[" * 3000), "is no number, word or"),
    "nobody's option": (
        ("compare", "BASE", "--methods", "solar", "--text", "TEXT", "-n", "8", "-o", "seed=1"),
        "option seed: none of solar has it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(
    case: str, base: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """And leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "this_machine", lambda: MACHINE)
    arguments, said = BAD[case]
    places = {"BASE": str(base), "TEXT": str(text)}
    given = [places.get(word, word.replace("BASE/", f"{base}/")) for word in arguments]
    status, out, err = run(*given)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert said in err
    assert not list(tmp_path.iterdir())


def test_fit_outputs_refuses_what_it_cannot_fit(
    base: Path, text: Path, tmp_path: Path, run: Run
) -> None:
    lesa.expand(base, tmp_path / "identity", method="identity", layers=8)
    lesa.expand(base, tmp_path / "average", method="average", layers=8)
    for name, words, said in (
        ("average", ("--tokens", 512, "--rounds", 2), "there is nothing to fit"),
        ("identity", ("--tokens", 10**6), "tokens; 999936 are to be read"),
        ("identity", ("--tokens", 4, "--rounds", 5), "rounds: 5: must be"),
        ("identity", ("--step-size", "-1"), "step_size: -1.0: must be a finite number above 0"),
        ("identity", ("--step-size", "nan"), "step_size: nan: must be"),
        ("identity", ("--damping", "inf"), "damping: inf: must be a finite number above 0"),
        ("identity", ("--damping", "0"), "damping: 0.0: must be a finite number above 0"),
    ):
        start, out_folder = tmp_path / name, tmp_path / "out"
        status, out, err = run("fit-outputs", start, out_folder, "--train", text, *words)
        assert (status, out) == (2, "")
        assert said in last_line(err)
        assert not out_folder.exists()


def test_a_path_that_is_no_text_is_one_line(tmp_path: Path, run: Run) -> None:
    base = save_family("llama", tmp_path / "base")
    base = base.rename(tmp_path / os.fsdecode(b"base-\xff"))
    status, _, err = run("inspect", base)
    assert status == 2
    assert last_line(err).endswith(r"base-\udcff': is not UTF-8; another name would do")


def test_an_unknown_family_is_refused_by_name(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    status, out, err = run("inspect", tmp_path, "--json")
    assert (status, out) == (2, "")
    assert "model type 't5' is not supported; known are llama, " in err


def test_compare_measures_every_method(base: Path, text: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("--methods", "solar, identity", "--layers", 8, "--text", text)
    status, out, _ = run("compare", base, *arguments, "--json")
    assert status == 0
    untouched, solar, identity = json.loads(out)
    assert [untouched["method"], solar["method"]] == ["(base)", "solar"]
    assert identity["score"]["loss"] == untouched["score"]["loss"]
    folder, _ = deepen(base, "solar", tmp_path, Gaps(first=3, last=4))
    assert solar["score"]["loss"] == pytest.approx(reference_loss(folder, 256)[0], rel=1e-5)
    assert solar["trainable_parameters"] == solar["parameters"] > identity["trainable_parameters"]
    status, out, _ = run("compare", base, *arguments)
    assert status == 0
    assert f"{solar['score']['loss']:.4f}" in out


def test_a_token_beyond_the_vocabulary_is_named(tmp_path: Path, text: Path) -> None:
    """A special one, as multimodal kin of a text model have, may stand in a text."""
    tokenizer = byte_tokenizer()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    path = tmp_path / "image.txt"
    path.write_text("a picture <image> and words")
    config: Any = SimpleNamespace(vocab_size=size, max_position_embeddings=64)
    with pytest.raises(UserError, match=rf"'<image>' with id {size}, .* ends at {size - 1}$"):
        windows(tokenizer, config, path)
    assert windows(tokenizer, config, text)


@pytest.mark.parametrize("positions", [1, -5])
def test_too_few_positions_are_the_configs_fault(positions: int, text: Path) -> None:
    config: Any = SimpleNamespace(vocab_size=512, max_position_embeddings=positions)
    with pytest.raises(UserError, match=rf"^config\.json: max_position_embeddings: {positions}: "):
        windows(byte_tokenizer(), config, text)


def test_a_model_that_cannot_run_is_one_line(text: Path, tmp_path: Path, run: Run) -> None:
    """`evaluate` takes any model that transformers loads, checked or not."""
    model = save_family("llama", tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"return_dict": False}
    (model / "config.json").write_text(json.dumps(config))
    status, _, err = run("evaluate", model, "--text", text)
    assert status == 2
    assert "transformers loads it and cannot run it: " in last_line(err)


@pytest.mark.parametrize(
    ("family", "setting"),
    [("llama", {"is_causal": False}), ("gemma3", {"use_bidirectional_attention": True})],
)
def test_a_model_that_sees_what_it_predicts_has_no_perplexity(
    family: str, setting: dict[str, Any], text: Path, tmp_path: Path, run: Run
) -> None:
    """Its loss would be that of a task that nobody asks of it."""
    model = save_family(family, tmp_path / "model")
    assert run("evaluate", model, "--text", text)[0] == 0
    config = json.loads((model / "config.json").read_text()) | setting
    (model / "config.json").write_text(json.dumps(config))
    status, out, err = run("evaluate", model, "--text", text)
    assert (status, out) == (2, "")
    assert "sees the next token: it has no perplexity" in last_line(err)


def test_text_of_a_multimodal_model(text: Path, tmp_path: Path, run: Run) -> None:
    """Its vocabulary and positions stand in the text's own config."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    model = save_family("gemma3", tmp_path / "model")
    own = json.loads((model / "config.json").read_text())
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 16, "patch_size": 8}  # fmt: skip
    config = Gemma3Config(text_config=own, vision_config=vision, mm_tokens_per_image=1)
    Gemma3ForConditionalGeneration(config).save_pretrained(model)
    status, out, _ = run("evaluate", model, "--text", text, "--json")
    assert status == 0
    assert 0 < json.loads(out)["loss"] < 10


def test_evaluate_reads_no_pickle(base: Path, text: Path, tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(base, folder)
    tensors = {name: tensor for path in folder.glob("*.safetensors")
               for name, tensor in load_file(path).items()}  # fmt: skip
    for path in folder.glob("model*"):
        path.unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    status, _, err = run("evaluate", folder, "--text", text)
    assert status == 2
    assert last_line(err).endswith("pickles are not read")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode(encoding: str, base: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    for words in (
        ["expand", "--help"],
        ["expand", base, tmp_path / "deep \N{GRINNING FACE}", "-m", "solar", "-n", "8"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "lesa.cli", *map(str, words)],
            env=environment, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr


def test_a_script_without_a_guard_runs_once(base: Path, tmp_path: Path) -> None:
    """Workers that fit predictors are started anew; they must not run what the user runs."""
    script = tmp_path / "script.py"
    script.write_text(
        "import lesa\n"
        "print('begins', flush=True)\n"
        f"print(lesa.expand({str(base)!r}, {str(tmp_path / 'deep')!r}, layers=8).layers)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["begins", "8"], done.stderr


def test_a_folder_that_is_not_there_is_named(text: Path, tmp_path: Path, run: Run) -> None:
    code, _, error = run("evaluate", tmp_path / "none", "--text", text)
    assert code == 2
    assert "none: no such folder" in error
    assert "http" not in error


def test_windows_begin_as_the_tokenizer_begins_texts(text: Path) -> None:
    tokenizer = byte_tokenizer()
    plain = tokenizer(TEXT)["input_ids"]
    end = tokenizer.eos_token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    found = windows(tokenizer, SimpleNamespace(vocab_size=len(tokenizer)), text)
    assert [len(window) for window in found] == [512, len(plain) - 511 + 1]
    assert [int(window[0]) for window in found] == [tokenizer.eos_token_id] * 2
    assert torch.cat([window[1:] for window in found]).tolist() == plain


@pytest.mark.parametrize(
    ("layers", "positions", "first", "last"),
    [
        (48, None, 15, 30),  # the paper's own: 16 new layers of 32
        (48, "top", 15, 30),
        (48, "middle", 7, 22),
        (48, "bottom", 0, 15),
        (None, "3-9", 3, 9),
        (39, "3-9", 3, 9),
        (64, None, 0, 31),  # as many as there are layers, which LLaMA Pro can add
    ],
)
def test_where_new_layers_go(
    layers: int | None, positions: str | None, first: int, last: int
) -> None:
    assert gaps_of(32, layers, positions) == Gaps(first=first, last=last)


def test_new_layers_go_where_they_are_listed() -> None:
    assert gaps_of(32, None, "3,7,30") == gaps_of(32, 35, "3,7,30") == ListedGaps(after=[3, 7, 30])
    assert gaps_of(32, None, "5") == ListedGaps(after=[5])


def test_presets_are_those_of_the_pipeline() -> None:
    params = yaml.safe_load(Path("conf/default.yaml").read_text())
    for name, settings in PRESETS.items():
        assert settings.model_dump(exclude={"fitted_on"}) == params["fit"]["presets"][name]
    assert params["svd"]["rank_tolerance"] == RANK_TOLERANCE


def test_a_package_adds_its_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "growing.py").write_text(
        "from lesa.upscaling.methods import Method\n"
        "from lesa.upscaling.plan import insert_between\n"
        "def methods():\n    return {'mine': Method(insert_between)}\n"
    )
    metadata = tmp_path / "growing-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: growing\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lesa.methods]\ngrowing = growing:methods\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert {"mine", "lesa", "llama_pro"} <= installed().keys()
    (tmp_path / "growing.py").write_text(
        "from lesa.upscaling.methods import Method\n"
        "def methods():\n    return {'solar': Method(list)}\n"
    )
    monkeypatch.delitem(sys.modules, "growing")
    sys.path_importer_cache.clear()
    with pytest.raises(ValueError, match="the method solar is there twice"):
        installed()


def test_errors_are_the_librarys_own(base: Path) -> None:
    with pytest.raises(UserError, match="positions: 'left'"):
        lesa.plan(base, layers=8, positions="left")


@pytest.mark.parametrize(
    "command", ["inspect", "plan", "expand", "fit-outputs", "train", "evaluate", "compare"]
)
def test_help_has_examples(command: str, run: Run) -> None:
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert f"\n  Examples:\n    lesa {command} " in out


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("_LESA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "lesa ins")
    monkeypatch.setenv("COMP_CWORD", "1")
    status, out, _ = run()
    assert status == 0
    assert out.split() == ["inspect"]
