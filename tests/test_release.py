"""`make release`: a folder that transformers loads, a card from metrics, an upload when asked."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub import constants
from scipy import stats
from torch import Tensor

from baselines import table
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.params import Params
from lesa.upscaling.card import card as short_card
from pipelines import model_card
from pipelines import release as command
from pipelines.model_card import metadata
from pipelines.release import push, release
from reports import measured
from tests import test_report_synthetic as synthetic
from tests.conftest import tensors_of
from tests.families import CONFIGS, deepen, load, save_family

MODEL, REPO, TOKEN = "llama_pro", "me/deeper", "hf_stand_in"


@dataclass
class Hub:
    """What a hub was sent: the files of its one repository, and each request's line."""

    files: dict[str, bytes] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    visibility: str | None = None
    endpoint: str = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def body(self) -> bytes:
            if length := self.headers.get("Content-Length"):
                return self.rfile.read(int(length))
            parts = []
            while size := int(self.rfile.readline(), 16):  # chunked
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def answer(self, value: Any, status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            hub.requests.append(f"PUT {self.path}")
            data = self.body()
            hub.large[hashlib.sha256(data).hexdigest()] = data
            self.answer({})

        def do_POST(self) -> None:
            path, data = self.path.partition("?")[0], self.body()
            hub.requests.append(f"POST {path}")
            hub.tokens.add(self.headers.get("Authorization"))
            if path == "/api/repos/create":
                hub.visibility = json.loads(data)["visibility"]
                self.answer({"url": f"{hub.endpoint}/{REPO}"})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif path == f"/api/models/{REPO}/preupload/main":
                asked = json.loads(data)["files"]
                self.answer(
                    {
                        "files": [
                            {
                                "path": file["path"],
                                "uploadMode": "lfs" if "safetensors" in file["path"] else "regular",
                                "shouldIgnore": False,
                            }
                            for file in asked
                        ]
                    }
                )
            elif path == f"/{REPO}.git/info/lfs/objects/batch":
                objects = [
                    o | {"actions": {"upload": {"href": f"{hub.endpoint}/lfs/{o['oid']}"}}}
                    for o in json.loads(data)["objects"]
                ]
                self.answer({"transfer": "basic", "objects": objects})
            elif path == f"/api/models/{REPO}/commit/main":
                for line in map(json.loads, data.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        hub.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        hub.files[value["path"]] = hub.large[value["oid"]]
                commit = {"commitOid": "a" * 40, "commitUrl": f"{hub.endpoint}/{REPO}/commit/a"}
                self.answer({"success": True} | commit)
            else:
                self.answer({"error": f"no {path}"}, 404)

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of one repository on this machine; large files go to it by git LFS' basic transfer."""
    stand_in = Hub()
    with serving(stand_in):
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield stand_in


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A run's artifacts and made-up metrics below the working directory, of a tiny model."""
    monkeypatch.chdir(tmp_path)
    base = save_family("llama", tmp_path / "base")
    Path("artifacts/trained").mkdir(parents=True)
    deepen(base, MODEL, tmp_path / "work")[0].rename(Path("artifacts/trained") / MODEL)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(1, 256, (3, 32), generator=generator)
    rows = {"input_ids": blocks.tolist(), "document": ["a", "b", "c"]}
    Dataset.from_dict(rows).save_to_disk("artifacts/corpus/test")
    metrics = synthetic.write(tmp_path / "metrics")
    plan = json.loads((Path("artifacts/trained") / MODEL / "layer_plan.json").read_text())
    synthetic.change(metrics, f"expand/{MODEL}", "plan", value=plan)
    # The one number that is of the weights: by transformers' own loss.
    path = metrics / "pretrain" / f"{MODEL}.json"
    run = json.loads(path.read_text())
    run["rate_warnings"] = ["metrics/grid/llama_pro.json: chosen on something else"]
    run["steps"][-1]["block_losses"][0] = own_loss(Path("artifacts/trained") / MODEL, blocks[:1])
    path.write_text(json.dumps(run))
    return synthetic.params()


def own_loss(folder: Path, ids: Tensor) -> float:
    with torch.no_grad():
        return float(load(folder)(input_ids=ids, labels=ids).loss)


def test_a_release_is_a_checkpoint_with_a_card(params: Params) -> None:
    source = Path("artifacts/trained") / MODEL
    folder = release(MODEL, params)
    assert folder == Path("release") / MODEL
    assert load(folder).config.num_hidden_layers == 9
    tensors = tensors_of(source)
    assert tensors_of(folder).keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in tensors_of(folder).items())
    assert {"README.md", "layer_plan.json", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    card = (folder / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "none",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["depth-up-scaling", "llama-pro"],
    }
    for heading in ("Data and training", "Results", "Licence", "How to reproduce it"):
        assert f"\n## {heading}\n" in text
    assert "## What it is not for" in text
    assert "0-1 +1 2-3 +3 4-5 +5" in text
    assert "make release MODEL=llama_pro" in text
    assert "\n- metrics/grid/llama_pro.json: chosen on something else\n" in text
    assert not re.search(r"\{[{%]|\n\n\n", card)


def test_a_card_names_the_commit(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    m = measured.load("metrics", params)
    assert "\nCommit not stated of the reproduction, Python" in model_card.card(MODEL, m)
    state = {"commit": "abc123", "uncommitted_changes": True}
    monkeypatch.setattr(model_card, "git_state", lambda: state)
    text = model_card.card(MODEL, m)
    assert "\nCommit abc123 of the reproduction (with uncommitted changes), Python" in text


def test_the_cards_intervals_are_those_of_the_block_losses(params: Params) -> None:
    """Recomputed with scipy from the metrics files: two blocks a document, t over documents."""
    text = (release(MODEL, params) / "README.md").read_text()
    runs = [
        json.loads(Path(f"metrics/pretrain/{name}.json").read_text()) for name in (MODEL, "base")
    ]
    last, start = (
        np.array(run["steps"][at]["block_losses"]).reshape(-1, 2).mean(1)
        for run, at in zip(runs, (-1, 0), strict=True)
    )
    less = last - start
    low, high = stats.ttest_1samp(less, 0).confidence_interval(0.95)
    row = next(line for line in text.splitlines() if line.startswith("| step 40 |"))
    loss, perplexity, minus = re.findall(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", row)
    assert np.array(minus, float) == pytest.approx([less.mean(), low, high], abs=6e-3)
    low, high = stats.ttest_1samp(last, 0).confidence_interval(0.95)
    assert np.array(loss, float) == pytest.approx([last.mean(), low, high], abs=6e-3)
    ends = [math.exp(value) for value in (last.mean(), low, high)]
    assert np.array(perplexity, float) == pytest.approx(ends, rel=0.02)


def test_weights_that_were_not_measured_are_not_released(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.change(
        Path("metrics"), f"pretrain/{MODEL}", "steps", value=[synthetic.step_row(0, 2.0)]
    )
    monkeypatch.setattr(command, "load", lambda: params)
    monkeypatch.setattr(sys, "argv", ["release", MODEL])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"first held-out block's loss is \d", error)
    assert not Path("release", MODEL).exists()


@pytest.mark.parametrize("model", ["solar", "nobody"])
def test_what_is_not_there_is_not_released(model: str, params: Params) -> None:
    with pytest.raises(UserError, match=r"dvc repro pretrain@solar|not among the models"):
        release(model, params)


def test_a_push_puts_the_folder_on_the_hub(params: Params, hub: Hub) -> None:
    folder = release(MODEL, params)
    assert hub.requests == []  # nothing without being asked
    url = push(folder, REPO)
    assert url == f"{hub.endpoint}/{REPO}"
    assert hub.visibility == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert any(name.endswith(".safetensors") for name in hub.files)


def test_a_refused_push_is_one_line(
    params: Params, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = release(MODEL, params)
    with pytest.raises(UserError, match=r"^PUSH: cannot upload to other/name: ") as refused:
        push(folder, "other/name")
    assert TOKEN not in str(refused.value)


def test_licences_are_named_as_hubs_name_them() -> None:
    hub_base = {"source": "hub", "id": "org/name", "revision": "1", "license": "Apache-2.0"}
    found = yaml.safe_load(metadata(synthetic.params(base=hub_base), "lesa"))
    assert (found["license"], found["base_model"]) == ("apache-2.0", "org/name")
    hub_base["license"] = "Meta Llama 3 Community License"
    found = yaml.safe_load(metadata(synthetic.params(base=hub_base), "lesa"))
    assert (found["license"], found["license_name"]) == ("other", hub_base["license"])


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_an_expansions_own_card(family: str, tmp_path: Path) -> None:
    base = save_family(family, tmp_path / "mine")
    folder, plan = deepen(base, "llama_pro", tmp_path / "work")
    text = short_card(Checkpoint(base), "llama_pro", table()["llama_pro"], plan)
    assert (folder / "README.md").read_text() == text
    assert "Deepened from 6 to 9 layers by `llama_pro`" in text
    assert "Base: mine. Licence of the base: not stated." in text
    assert "New layers, 0-based: 2, 5, 8" in text
    assert "router" not in text  # nothing is predicted
    text = short_card(Checkpoint(base), "lesa", table()["lesa"], plan)
    assert ("router" in text) == ("num_local_experts" in CONFIGS[family][1])
    (base / "LICENSE_NOTE.json").write_text('{"license": "MIT", "source": "org/name"}')
    text = short_card(Checkpoint(base), "llama_pro", table()["llama_pro"], plan)
    assert "Base: org/name. Licence of the base: MIT." in text
