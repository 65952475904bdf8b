"""The studies of other text on the smoke profile's model, and what their files must say."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import load_from_disk
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lesa.errors import UserError
from lesa.files import read_json, tree_digest, write_json
from lesa.machine import compute_device
from lesa.params import Params
from lesa.text.conversations import Chats
from lesa.text.python_source import PythonSource, standard_library
from lesa.training.adapters import AdapterRun
from lesa.training.blocks import load_blocks, tokens_of
from lesa.training.removal import losses_without
from lesa.training.sequences import read_examples
from pipelines.folders import CORPUS
from pipelines.study import TrainOverrides, params_file, study_params, with_train
from tests.pipeline import ROOT, smoke, stage, up_to_svd

SCHEDULE = {"max_steps": 4, "eval_every": 2, "save_every": 2, "warmup_steps": 1}
MODELS = ("base", "lesa", "identity")
STUDIES = ROOT / "pipelines/studies"
ADAPTERS = 20_000  # parameters of the adapters of `llama_pro_lora`
RATES = ("base", "lesa", "llama_pro")  # the files of metrics/grid that these read


def committed(name: str) -> dict[str, Any]:
    """The study's own parameters."""
    path = ROOT / "pipelines/studies" / name / "params.yaml"
    tree: dict[str, Any] = yaml.safe_load(path.read_text())
    return tree


def own_params(name: str, **changes: Any) -> None:
    """The study's committed parameters with `changes`, written below the working directory."""
    path = Path("pipelines/studies") / name / "params.yaml"
    tree = committed(name) | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """The smoke pipeline up to what the studies read."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = up_to_svd(smoke())
        for model in RATES:
            write_json(f"metrics/grid/{model}.json", {"model": model, "best": 0.003})
    return folder, params


@pytest.fixture
def here(experiment: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Params]:
    monkeypatch.chdir(experiment[0])
    return experiment


def code_params() -> None:
    """The study with fewer models, a short text and short runs."""
    own = committed("code")
    text = own["text"] | {"files_per_package": 1, "file_characters": 200, "block_size": 64}
    models = {m: own["code"][m] for m in MODELS}
    models["llama_pro_lora"] = own["code"]["llama_pro_lora"] | {"adapters": ADAPTERS}
    own_params("code", text=text, code=models, train=SCHEDULE)


HELDOUT = committed("code")["text"]["heldout"]


def source_file(package: str, i: int) -> dict[str, str]:
    return {"id": f"{package}/{i}.py", "title": package, "text": f"é = {i}\n" * (30 + i)}


@pytest.fixture
def code(here: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    """The study's text made of a few files, with nothing downloaded."""
    import pipelines.studies.code.text as module

    code_params()
    names = [package["requirement"].partition("==")[0] for package in HELDOUT]
    files = {
        "train": [source_file("train", i) for i in range(40)],
        "heldout": [source_file(name, i) for i, name in enumerate(names)],
    }
    monkeypatch.setattr(module, "python_files", lambda source, key: files)
    stage("studies.code.text", here[1])
    return here[1]


def test_code_counts_every_byte_once(code: Params) -> None:
    examples = read_examples(Path("artifacts/text/code/heldout.jsonl"))
    tokenizer = AutoTokenizer.from_pretrained("artifacts/base")
    assert len({example.group for example in examples}) == len(examples) == len(HELDOUT)
    for example in examples:
        number = int(Path(example.id).stem)
        text = (f"é = {number}\n" * (30 + number))[:200]
        assert tokenizer.decode(example.input_ids[1:]) == text
        assert example.input_ids[0] == tokenizer.eos_token_id
        assert example.size == len(text.encode())
        assert example.targets == example.size  # a byte a token here


def test_code_trains_and_scores(code: Params) -> None:
    for model in MODELS:
        stage("studies.code.train", code, model=model)
    found = {model: read_json(f"artifacts/code/{model}.json") for model in MODELS}
    for report in found.values():
        assert [row["step"] for row in report["steps"]] == [0, 2, 4]
        held = report["heldout"]
        for phase in ("start", "end"):
            bits = sum(held["nats"][phase]) / sum(held["bytes"]) / math.log(2)
            assert math.isclose(held[phase]["bits_per_byte"], bits)
    # What is trained at another model's rate says so.
    line = (
        "metrics/grid/llama_pro.json: model was llama_pro, but this run's is identity; `make grid`"
    )
    assert line in found["identity"]["rate_warnings"]
    assert not any("model was" in line for line in found["lesa"]["rate_warnings"])
    assert {report["profile"] for report in found.values()} == {"smoke"}
    # An identity start has the base's loss on every file.
    starts = [found[model]["heldout"]["nats"]["start"] for model in ("identity", "base")]
    assert starts[0] == pytest.approx(starts[1], rel=1e-5)
    # The end's loss is that of the checkpoint that was saved.
    device = compute_device()
    trained: Any = AutoModelForCausalLM.from_pretrained("artifacts/continued/code/base")
    trained.to(device)
    example = read_examples(Path("artifacts/text/code/heldout.jsonl"))[0]
    ids = torch.tensor([example.input_ids], device=device)
    total = 0.0
    assert code.train.bf16  # scored as trained, under autocast
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        for start in range(0, ids.shape[1] - 1, 63):  # in windows of the corpus's 64 tokens
            window = ids[:, start : start + 64]
            mean = trained(input_ids=window, labels=window).loss
            total += float(mean) * (window.shape[1] - 1)
    assert math.isclose(total, found["base"]["heldout"]["nats"]["end"][0], rel_tol=1e-5)
    assert not Path("artifacts/work/code/base").exists()


def test_code_trains_adapters_beside_all_layers(code: Params) -> None:
    stage("studies.code.train", code, model="llama_pro_lora")
    found = read_json("artifacts/code/llama_pro_lora.json")
    assert found["trainable_parameters"] == pytest.approx(ADAPTERS, rel=0.5)
    assert found["heldout"]["end"]["loss"] < found["heldout"]["start"]["loss"]
    base, trained = (
        {k: v for path in Path(folder).glob("*.safetensors") for k, v in load_file(path).items()}
        for folder in ("artifacts/base", "artifacts/continued/code/llama_pro_lora")
    )
    moved = {name for name in base if not torch.equal(base[name], trained[name])}
    first = "model.layers.0."
    assert {name for name in moved if name.startswith(first)} == {
        name for name in base if name.startswith(first) and name.endswith("_proj.weight")
    }
    assert "model.embed_tokens.weight" not in moved


def test_more_seeds_are_fitted_as_the_runs_own_are(here: tuple[Path, Params]) -> None:
    presets = here[1].fit.presets
    own_params("fits", fits={"paper-1": {"preset": "paper", "seed": 1}})
    stage("studies.fits.fit", here[1], fit="paper-1")
    stage("fit", here[1], preset="paper", seed="1")
    found, own = (read_json(f"{p}/paper-1.json") for p in ("artifacts/fits", "metrics/fit"))
    assert (found.pop("profile"), found["seed"]) == ("smoke", 1)
    for fit in (found, own):
        assert all(kind.pop("seconds") > 0 for kind in fit["kinds"].values())
    assert found == own
    own_params("fits", fits={"mine-1": {"preset": "mine", "seed": 1}})
    line = rf"fits\.mine-1\.preset\.mine: missing; there are {', '.join(presets)}$"
    with pytest.raises(UserError, match=line):
        stage("studies.fits.fit", here[1], fit="mine-1")


def test_removal_names_what_each_layer_is_worth(here: tuple[Path, Params]) -> None:
    """Against models whose layer's two blocks add nothing."""
    stage("studies.removal.removal", here[1])
    found = read_json("artifacts/removal/base.json")
    device = compute_device()
    blocks = [block.to(device) for block in tokens_of(load_blocks(CORPUS / "validation"))]
    assert len(found["heldout_documents"]) == len(blocks) == len(found["block_losses"])
    model: Any = AutoModelForCausalLM.from_pretrained("artifacts/base")
    model.to(device).eval()
    layers = model.model.layers
    assert len(found["block_losses_without"]) == len(layers)
    for layer, losses in zip(layers, found["block_losses_without"], strict=True):
        hooks = [b.register_forward_hook(nothing) for b in (layer.self_attn, layer.mlp)]
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            own = [float(model(input_ids=b[None], labels=b[None]).loss) for b in blocks]
        assert losses == pytest.approx(own, rel=1e-3)
        for hook in hooks:
            hook.remove()


def test_a_stopped_removal_goes_on(
    here: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage("studies.removal.removal", here[1])
    whole = read_json("artifacts/removal/base.json")
    measured: list[int] = []

    def killed_at_third(model: Any, layer_idx: int, *args: Any) -> list[float]:
        measured.append(layer_idx)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return losses_without(model, layer_idx, *args)

    monkeypatch.setattr("pipelines.studies.removal.removal.losses_without", killed_at_third)
    with pytest.raises(KeyboardInterrupt):
        stage("studies.removal.removal", here[1])
    stage("studies.removal.removal", here[1])
    assert read_json("artifacts/removal/base.json") == whole
    assert len(measured) == 1 + len(whole["block_losses_without"])  # the third one twice


def nothing(module: torch.nn.Module, args: Any, output: Any) -> Any:
    """A block that adds nothing to the residual stream."""
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def test_a_stopped_run_goes_on(code: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after its training, before its checkpoint is whole: the same numbers again."""
    import pipelines.continued as module

    stage("studies.code.train", code, model="identity")
    whole = (
        read_json("artifacts/code/identity.json"),
        tree_digest("artifacts/continued/code/identity"),
    )
    shutil.rmtree("artifacts/continued/code/identity")
    Path("artifacts/code/identity.json").unlink()

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AdapterRun, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            stage("studies.code.train", code, model="identity")
    assert Path("artifacts/work/code/identity/before.json").is_file()
    monkeypatch.setattr(module, "write_row", killed)  # not made a second time
    stage("studies.code.train", code, model="identity")
    again = read_json("artifacts/code/identity.json")
    assert again["heldout"] == whole[0]["heldout"]
    assert again["steps"] == whole[0]["steps"]
    assert tree_digest("artifacts/continued/code/identity") == whole[1]


PROBLEMS = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": "def f():\n" + "    # a number\n" * (3 - i),
        "test": "def check(g):\n    assert g() == 1",
        "entry_point": "f",
    }
    for i in range(4)
]


def completions(model: Any, tokenizer: Any, prompts: list[str], tokens: int) -> list[str]:
    """The longest prompt, HumanEval/0's, gets what is right."""
    return [f"    return {1 if prompt.count('#') == 3 else 2}\n" for prompt in prompts]


def test_humaneval_scores_each_problem_by_its_own_completion(
    here: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order they are written; and a stop between two batches costs one batch."""
    import pipelines.studies.humaneval.score as module

    monkeypatch.setattr(module, "problems", lambda: PROBLEMS)
    own_params("humaneval", settings={"limit": 3, "max_new_tokens": 8, "batch_size": 2})
    asked: list[int] = []

    def killed(model: Any, tokenizer: Any, prompts: list[str], tokens: int) -> list[str]:
        asked.append(len(prompts))
        if len(prompts) == 1:
            raise KeyboardInterrupt
        return completions(model, tokenizer, prompts, tokens)

    def counted(model: Any, tokenizer: Any, prompts: list[str], tokens: int) -> list[str]:
        asked.append(len(prompts))
        return completions(model, tokenizer, prompts, tokens)

    try:
        monkeypatch.setattr(module, "complete", killed)
        with pytest.raises(KeyboardInterrupt):
            stage("studies.humaneval.score", here[1], model="untouched")
        monkeypatch.setattr(module, "complete", counted)
        stage("studies.humaneval.score", here[1], model="untouched")
    except UserError as error:
        pytest.skip(f"HumanEval NOT tested: {error}")
    assert asked == [2, 1, 1]
    found = read_json("artifacts/humaneval/untouched.json")
    assert found["problems"] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert found["passed"] == [True, False, False]
    assert found["pass_at_1"] == pytest.approx(1 / 3)
    assert found["completions"] == ["    return 1\n", "    return 2\n", "    return 2\n"]


def test_an_unknown_model_of_humaneval_is_refused(here: tuple[Path, Params]) -> None:
    own_params("humaneval")
    line = "^pipelines/studies/humaneval/params.yaml: humaneval.mine: missing; there are untouc"
    with pytest.raises(UserError, match=line):
        stage("studies.humaneval.score", here[1], model="mine")


def test_all_studies_leave_out_the_one_that_runs_generated_code() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "studies"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert " code " in done.stdout
    assert "humaneval" not in done.stdout


@pytest.mark.parametrize(
    ("part", "form", "change", "line"),
    [
        ("train", TrainOverrides, {"max_steps": 0}, r"train\.max_steps: .*greater than 0"),
        ("text", PythonSource, {"typo": 1}, r"text\.typo: Extra inputs"),
    ],
)
def test_a_wrong_parameter_is_named(
    part: str,
    form: Any,
    change: dict[str, Any],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    own_params("code", **{part: committed("code")[part] | change})
    with pytest.raises(UserError, match=f"^pipelines/studies/code/params.yaml: {line}") as error:
        study_params("code", part, form)
    assert "\n" not in str(error.value)


def test_a_wrong_parameter_is_named_as_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chosen source is no key of it."""
    monkeypatch.chdir(tmp_path)
    text = committed("sft")["text"]
    assert text["conversations"]["source"] == "docstrings"
    own_params("sft", text=text | {"conversations": text["conversations"] | {"min_characters": 0}})
    line = r"^pipelines/studies/sft/params\.yaml: text\.conversations\.min_characters: "
    with pytest.raises(UserError, match=line):
        study_params("sft", "text", Chats)


def test_a_schedule_without_a_point_at_half_is_refused(here: tuple[Path, Params]) -> None:
    own_params("code", train=SCHEDULE | {"eval_every": 3})
    with pytest.raises(UserError, match=r"^pipelines/studies/code/params\.yaml: train: eval_every"):
        with_train(here[1], "code", "train", TrainOverrides)


def test_an_unknown_model_is_refused(here: tuple[Path, Params]) -> None:
    code_params()
    line = r"code/params\.yaml: code\.none: missing; there are base, "
    with pytest.raises(UserError, match=line):
        stage("studies.code.train", here[1], model="none")


@pytest.mark.parametrize("name", ["", "none", "budget code", "%"])
def test_make_names_the_studies_there_are(name: str) -> None:
    words = ["make", "--dry-run", "study", f"NAME={name}"]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    studies = " ".join(sorted(path.parent.name for path in STUDIES.glob("*/dvc.yaml")))
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "sed" in done.stdout) == (2, False)
    assert f'NAME: no study "{name}"; there are {studies}.' in line


@pytest.mark.parametrize(("target", "key"), [("release", "MODEL"), ("profile", "PROFILE")])
def test_make_hands_on_a_name_that_is_missing(target: str, key: str) -> None:
    """As an empty one, which the command answers with a line that lists what there is."""
    words = ["make", "--dry-run", target, f"{key}="]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    assert f'python -m pipelines.{target} ""' in done.stdout


MODULES = {"asyncio", "email", "html", "http", "importlib", "json", "logging", "unittest"}


@pytest.fixture
def sft(here: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    """The study on a few modules' short docstrings."""
    import lesa.text.conversations as module

    files = [file for file in standard_library() if file["id"].split("/")[1] in MODULES]
    monkeypatch.setattr(module, "standard_library", lambda: files)
    own = committed("sft")
    text = own["text"] | {"heldout_conversations": 5, "block_size": 256, "max_conversations": 40}
    text["conversations"] |= {"max_characters": 120}
    own_params("sft", text=text, sft={"base": own["sft"]["base"]}, train=SCHEDULE)
    stage("studies.sft.text", here[1])
    return here[1]


def test_sft_trains_on_completions_alone_and_scores_them(sft: Params) -> None:
    text = Path("artifacts/text/sft")
    held = read_examples(text / "heldout.jsonl")
    blocks = load_from_disk(str(text / "train"))
    asked = {entry.group for entry in held}
    tokenizer = AutoTokenizer.from_pretrained("artifacts/base")
    for ids, labels in zip(blocks["input_ids"], blocks["labels"], strict=True):
        assert len(ids) == len(labels) == 256
        said = tokenizer.decode(ids)
        predicted = tokenizer.decode([label for label in labels if label != -100])
        assert "What does `" in said
        assert "What does `" not in predicted
        assert not any(f"What does `{group}." in said for group in asked)
    stage("studies.sft.train", sft, model="base")
    report = read_json("artifacts/sft/base.json")
    nats, targets = report["heldout"]["nats"], report["heldout"]["targets"]
    assert targets == [entry.targets for entry in held]
    assert math.isclose(report["heldout"]["end"]["loss"], sum(nats["end"]) / sum(targets))
    assert report["heldout"]["end"]["loss"] < report["heldout"]["start"]["loss"]


def test_a_row_of_sft_has_the_seed_it_says(sft: Params) -> None:
    base, own = committed("sft")["sft"]["base"], yaml.safe_load(params_file("sft").read_text())
    own_params("sft", **own | {"sft": {"base": base, "base-1": base | {"seed": 1}}})
    stage("studies.sft.train", sft, model="base-1")
    seeded = sft.model_copy(update={"train": sft.train.model_copy(update={"seed": 1})})
    stage("studies.sft.train", seeded, model="base")
    one, other = (read_json(f"artifacts/sft/{name}.json") for name in ("base-1", "base"))
    assert (one["seed"], one["train"], one["steps"]) == (1, other["train"], other["steps"])
    shutil.rmtree("artifacts/sft")
    stage("studies.sft.train", sft, model="base")  # of seed 0: another order
    assert read_json("artifacts/sft/base.json")["train"] != one["train"]
    own_params("sft", **own | {"sft": {"base-2": base | {"seed": 1}}})
    with pytest.raises(UserError, match=r"sft\.base-2: must end in -1, as its seed is$"):
        stage("studies.sft.train", sft, model="base-2")


def test_variants_are_split_at_random_and_by_layer(
    code: Params, sft: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = committed("variants")
    parity = own["parity"] | {"seeds": [0], "test_every": 2}
    own_params("variants", train=SCHEDULE, parity=parity)
    for variant in own["variants"]:
        stage("studies.variants.train", code, variant=variant)
    digests = {
        name: tree_digest(f"artifacts/continued/variants/{name}") for name in own["variants"]
    }
    assert len(set(digests.values())) == 4
    found = {}
    for way, basis in product(("random", "layer"), ("own", "base")):
        stage("studies.variants.parity", code, split=way, basis=basis)
        found[way, basis] = read_json(f"artifacts/variants/parity-{way}-{basis}.json")
    # Six layers have four middle ones, of which 2 and 4 are held out in all five variants.
    assert found["layer", "own"]["held_out_layers"] == [2, 4]
    for report in found.values():
        assert report["triples"] == {"train": 10, "test": 10}
    for kind, numbers in found["layer", "base"]["kinds"].items():
        assert numbers["nearest_copy_mse"] is None
        copies = found["random", "base"]["kinds"][kind]["nearest_copy_mse"]
        assert copies < numbers["seeds"]["0"]["test"]["zero_mse"]
        assert set(numbers["distance"]) == set(own["variants"])
    folders = [Path("artifacts/base"), *map(Path("artifacts/continued/variants").joinpath, digests)]
    check_shared_basis(folders, parity, found["random", "base"]["kinds"]["k_proj"])


def check_shared_basis(folders: list[Path], parity: dict[str, Any], numbers: Any) -> None:
    """The numbers of k_proj anew, from the stored tensors by numpy alone."""
    weights = []
    for folder in folders:
        tensors: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(path)
        names = [f"model.layers.{i}.self_attn.k_proj.weight" for i in range(6)]
        weights.append([tensors[name].float().numpy() for name in names])
    u, s, _ = np.linalg.svd(np.concatenate(weights[0], axis=1), full_matrices=False)
    v = [[(u.T @ weight) / s[:, None] for weight in layers] for layers in weights]
    pool = [(variant, i) for variant in range(5) for i in range(1, 5)]
    drawn = random.Random(parity["split_seed"]).sample([6 * a + i for a, i in pool], 10)
    test = [divmod(index, 6) for index in drawn]
    train = [triple for triple in pool if triple not in test]
    errors = []
    for a, i in test:
        copies = [((v[b][j] - v[a][i]) ** 2).mean() for b, j in train if j == i]
        errors += [min(copies)] if copies else []
    zero = np.mean([(v[a][i] ** 2).mean() for a, i in test])
    assert math.isclose(numbers["nearest_copy_mse"], np.mean(errors), rel_tol=1e-4)
    assert math.isclose(numbers["seeds"]["0"]["test"]["zero_mse"], zero, rel_tol=1e-4)
    moved = np.linalg.norm(np.stack(weights[1]) - np.stack(weights[0]))
    distance = moved / np.linalg.norm(np.stack(weights[0]))
    assert math.isclose(numbers["distance"]["wiki_0"], distance, rel_tol=1e-4)
