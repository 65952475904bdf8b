"""harness.evaluate against transformers' logits and against direct calls of lm-eval."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from eval import offline
from eval.documents import document_perplexity
from eval.harness import evaluate
from eval.model import load
from eval.statistics import bootstrap_stderr
from eval.suite import Suite
from eval.suite import offline as stored
from lesa.errors import UserError
from tests.families import save_family
from tests.test_eval_offline import NAMES, article, rows, write_heldout


def save_tiny(folder: Path) -> Path:
    """A random two-layer Llama with a byte-level tokenizer trained on the test articles."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([article(name) for name in NAMES], trainer)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,  # far enough from uniform for scores to differ
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def suite_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("offline")


@pytest.fixture(scope="module")
def suite(suite_folder: Path) -> Suite:
    heldout = write_heldout(suite_folder / "heldout.jsonl")
    offline.build(heldout, suite_folder, documents=3, examples=8)
    return stored(suite_folder)


@pytest.fixture(scope="module")
def scores(tiny: Path, suite: Suite) -> dict[str, Any]:
    return score(tiny, suite)


def score(model: Path, suite: Suite, **changes: Any) -> dict[str, Any]:
    """Scores in float32 in batches of 4, unless `changes` say otherwise, of the one process."""
    heldout = write_heldout(model.parent / "documents.jsonl")
    options: dict[str, Any] = {"dtype": "float32", "batch_size": 4, "limit": 1}
    options |= {"heldout": heldout, "document_tokens": 50}
    found = evaluate(model, [suite], **(options | {"bootstrap_iters": 50} | changes))
    assert found is not None
    return found


def direct(model: Path, names: list[str], folder: Path, limit: int | None) -> dict[str, Any]:
    """The same tasks by a plain call of lm-eval, in float32 with batches of 4."""
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=list(names),
        batch_size=4,
        device="cuda" if torch.cuda.is_available() else "cpu",
        limit=limit,
        bootstrap_iters=50,
        task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
    )
    assert found is not None
    return dict(found["results"])


def assert_same(scores: dict[str, Any], results: dict[str, Any], names: list[str]) -> None:
    """Every value, and every standard error that lm-eval gives, to the last digit."""
    for name in names:
        for metric, entry in scores["tasks"][name]["metrics"].items():
            assert entry["value"] == results[name][f"{metric},none"], (name, metric)
            stderr = results[name][f"{metric}_stderr,none"]
            if stderr != "N/A":
                assert entry["stderr"] == stderr, (name, metric)


def test_documents_are_cut_to_the_models_positions(tmp_path: Path) -> None:
    """GPT-2 has a row of weights for each of its positions, and none for a later one."""
    base = save_family("gpt2", tmp_path / "base", n_positions=64)
    heldout = write_heldout(tmp_path / "documents.jsonl")
    model = load(base, "float32", 1)
    found = document_perplexity(model, heldout, 2048)
    assert found == document_perplexity(model, heldout, 64)


def test_every_example_is_kept(scores: dict[str, Any]) -> None:
    accuracy = scores["tasks"]["wiki_last_word"]["metrics"]["acc"]
    assert len(accuracy["examples"]) == 8
    assert sum(accuracy["examples"]) / 8 == accuracy["value"]
    texts = scores["tasks"]["wiki_perplexity"]["metrics"]["bits_per_byte"]
    nats, units = (sum(column) for column in zip(*texts["examples"], strict=True))
    assert texts["value"] == pytest.approx(-nats / units / math.log(2))
    documents = scores["document_perplexity"]
    assert len(documents["losses"]) == len(documents["documents"])
    wanted = sum(map(math.exp, documents["losses"])) / len(documents["losses"])
    assert documents["value"] == pytest.approx(wanted)


def test_every_task_has_its_metrics_with_their_errors(scores: dict[str, Any]) -> None:
    assert scores["dtype"] == "float32"
    wanted = {
        "wiki_perplexity": {"word_perplexity", "byte_perplexity", "bits_per_byte"},
        "wiki_last_word": {"acc", "perplexity"},
        "wiki_continuation": {"acc", "acc_norm"},
    }
    assert set(scores["tasks"]) == set(wanted)
    for name, metrics in wanted.items():
        task = scores["tasks"][name]
        assert task["source"] == "offline"
        assert task["examples"] == (3 if name == "wiki_perplexity" else 8)  # limit is not for it
        assert set(task["metrics"]) == metrics
        for metric, entry in task["metrics"].items():
            assert entry["stderr"] is not None
            assert entry["stderr"] >= 0
            assert entry["higher_is_better"] == metric.startswith("acc")


def test_perplexity_equals_transformers(
    scores: dict[str, Any], tiny: Path, suite_folder: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    nats, words, octets = 0.0, 0, 0
    for row in rows(suite_folder, "wiki_perplexity"):
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[tokenizer.bos_token_id, *ids[:-1]]])).logits[0]
        log_probs = torch.log_softmax(logits, dim=-1)
        nats -= log_probs[torch.arange(len(ids)), torch.tensor(ids)].double().sum().item()
        words += len(re.split(r"\s+", row["text"]))
        octets += len(row["text"].encode())
    metrics = scores["tasks"]["wiki_perplexity"]["metrics"]
    wanted = {
        "word_perplexity": math.exp(nats / words),
        "byte_perplexity": math.exp(nats / octets),
        "bits_per_byte": nats / octets / math.log(2),
    }
    for metric, value in wanted.items():
        assert metrics[metric]["value"] == pytest.approx(value, rel=1e-4)


def test_equals_lm_eval(scores: dict[str, Any], tiny: Path, suite: Suite) -> None:
    assert suite.folders is not None
    results = direct(tiny, list(suite.names), suite.folders[0], None)
    assert_same(scores, results, list(suite.names))


def test_deterministic(scores: dict[str, Any], tiny: Path, suite: Suite) -> None:
    again = score(tiny, suite)
    assert again == scores


def test_bfloat16_scores_nearly_as_float32_does(
    scores: dict[str, Any], tiny: Path, suite: Suite
) -> None:
    half = score(tiny, suite, dtype="bfloat16", limit=None, bootstrap_iters=2)
    a = scores["tasks"]["wiki_perplexity"]["metrics"]["bits_per_byte"]["value"]
    b = half["tasks"]["wiki_perplexity"]["metrics"]["bits_per_byte"]["value"]
    assert half["dtype"] == "bfloat16"
    assert a != b
    assert a == pytest.approx(b, rel=0.02)


def test_bad_checkpoints(tmp_path: Path, tiny: Path, suite: Suite) -> None:
    def refused(folder: Path, reason: str) -> None:
        with pytest.raises(UserError, match=reason) as raised:
            score(folder, suite, bootstrap_iters=2)
        assert "\n" not in str(raised.value)

    refused(tmp_path / "missing", r"config.json: cannot be read \(No such file")
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    refused(folder, "pickles are not read")
    (folder / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:2000])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    refused(folder, "cannot be loaded")


def test_tokenizer_of_vocabulary_and_merges(
    scores: dict[str, Any], tiny: Path, suite: Suite, tmp_path: Path
) -> None:
    """What the base's check allows is scored, and as the same tokenizer in one file."""
    from lesa.checkpoints.check import check_tokenizer
    from lesa.checkpoints.reader import Checkpoint

    folder = tmp_path / "two-files"
    shutil.copytree(tiny, folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(
        pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]
    )
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>",
             "unk_token": "</s>", "add_prefix_space": False}
        )
    )  # fmt: skip
    check_tokenizer(Checkpoint(folder))
    assert score(folder, suite) == scores


def test_perplexity_beyond_floats(tmp_path: Path, tiny: Path, suite: Suite) -> None:
    folder = tmp_path / "wild"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="unusable") as raised:
        score(folder, suite, bootstrap_iters=2)
    assert "\n" not in str(raised.value)


def test_bootstrap_stderr() -> None:
    values = [float(number % 7) for number in range(200)]
    mean = sum(values) / len(values)
    exact = math.sqrt(sum((v - mean) ** 2 for v in values) / 199 / 200)

    def average(items: Any) -> float:
        return float(sum(items) / len(items))

    first = bootstrap_stderr(values, average, 2000, seed=1)
    assert first == bootstrap_stderr(values, average, 2000, seed=1)
    assert first == pytest.approx(exact, rel=0.1)
    assert bootstrap_stderr([1.0], average, 100, seed=1) is None
    assert bootstrap_stderr([1e3, 2e3], lambda items: math.exp(items[0]), 100, seed=1) is None
    assert bootstrap_stderr(values, average, 0, seed=1) is None
