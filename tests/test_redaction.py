"""No secret reaches a message, MLflow's store or DVC's lock."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lesa import params
from lesa.errors import UserError
from lesa.params import Params
from lesa.redaction import redacted
from pipelines import tracking
from pipelines.stage import run_stage
from pipelines.tracking import Tracker
from tests.test_params import changed

FAKE = "hf_" + "FakeToken0" * 3  # of no account
SECRETS = [
    ("HF_TOKEN={} accelerate launch", "HF_TOKEN=*** accelerate launch"),
    ("env WANDB_API_KEY='{} x' python", "env WANDB_API_KEY=*** python"),
    ("accelerate launch --hub-token {} -v", "accelerate launch --hub-token *** -v"),
    ("accelerate launch --password={} -v", "accelerate launch --password=*** -v"),
    ("https://me:{}@host.example/simple", "https://***@host.example/simple"),
    ("https://{}@host.example", "https://***@host.example"),
    ("postgresql://me:p@{}@db/mlflow", "postgresql://***@db/mlflow"),
    ("s3://bucket/x?access_key={}&v=1", "s3://bucket/x?access_key=***&v=1"),
    ("Authorization: Bearer {}", "Authorization: Bearer ***"),
]
PLAIN = [
    "python",
    "accelerate launch --config_file conf/accelerate/fsdp_1x8.yaml",
    "HF_TOKEN=$HF_TOKEN accelerate launch --token ${TOKEN} --api-key '$KEY'",
    "params.yaml: evaluate.document_tokens: Input should be greater than 1 (got 1)",
    "base: its tokenizer has no end-of-text token (eos_token)",
    "corpus.text: document '3' holds the token 'x' with id 9, but the base's vocabulary ends at 8",
    "https://host.example/a@b/c",
    "sqlite:///mlflow.db",
    "tiktoken==0.7.0",
    "HuggingFaceTB/SmolLM2-135M",
    "0123456789abcdef" * 4,
]


@pytest.mark.parametrize(("text", "wanted"), SECRETS)
def test_hides_what_is_secret(text: str, wanted: str) -> None:
    assert redacted(text.format("anything1")) == wanted
    assert redacted(text.format(FAKE)) == wanted
    assert redacted(wanted) == wanted


@pytest.mark.parametrize(
    "secret",
    [
        FAKE,
        "ghp_" + "a1" * 18,
        "sk-" + "b2" * 20,
        "AKIA" + "ABCD" * 4,
        "eyJhbGciOiJI.eyJzdWIiOiIx.abc",
    ],
)
def test_tokens_are_known_by_their_shape(secret: str) -> None:
    assert redacted(f"said {secret}, twice: {secret}") == "said ***, twice: ***"


@pytest.mark.parametrize("text", PLAIN)
def test_leaves_the_rest_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_errors_are_one_line_without_secrets() -> None:
    error = UserError(f"base.id: no answer from https://me:{FAKE}@host\r\nand more\x85of it")
    assert str(error) == "base.id: no answer from https://***@host and more of it"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.launch", f"HF_TOKEN={FAKE} python"),
        ("evaluate.launch", f"accelerate launch --token {FAKE}"),
        ("evaluate.mirror", f"https://me:{FAKE}@host.example/data"),
        ("evaluate.tasks", ["piqa", FAKE]),
        ("base.license", f"see https://{FAKE}@host.example"),
        ("train.launch", [f"HF_TOKEN={FAKE}"]),  # of a wrong kind, too
        ("train.max_steps", FAKE),
    ],
)
def test_parameters_that_hold_one_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^params\.yaml: {key}") as raised:
        params.parse(changed(key, value), "params.yaml")
    assert FAKE not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_stage_writes_it_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither where the parameters hold it, nor where a stage's error does."""

    def work(given: Params, log: Tracker, args: argparse.Namespace) -> None:
        raise UserError(f"base.id: https://me:{FAKE}@host: no answer")

    text = yaml.safe_dump(changed("train.launch", f"HF_TOKEN={FAKE} python"))
    whole = Path("conf/default.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("LESA_PIPELINE_RUN", "redaction")
    monkeypatch.setattr(sys, "argv", ["toy"])
    monkeypatch.setattr(tracking, "OPEN_SECONDS", 600)
    for content in (text, whole):
        Path("params.yaml").write_text(content)
        with pytest.raises(SystemExit) as ended:
            run_stage("toy", work)
        assert ended.value.code == 2
        Path("params.yaml").unlink()
    assert Path("mlflow.db").is_file()  # of the second run
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or FAKE.encode() not in path.read_bytes(), path
    said = "".join(capfd.readouterr())
    assert said.count("error: ") == 2
    assert FAKE not in said
