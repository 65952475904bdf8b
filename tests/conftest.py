"""Tiny random checkpoints: real folders in transformers' layout, sharded, made once a session."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.families import SHAPE, randomised

# A busy machine is slow, and no test is of time.
hypothesis.settings.register_profile(
    "untimed",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]
VOCABULARY = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def save_random(model: Any, folder: Path, dtype: torch.dtype) -> Path:
    """Give every parameter of `model` values of its own and save it as several shards."""
    randomised(model).to(dtype).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def tiny_config(kind: str = "llama", **changes: Any) -> Any:
    """Config of a tiny model with grouped-query attention and `families.LAYERS` layers."""
    from transformers import AutoConfig

    small = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
    return AutoConfig.for_model(kind, **(SHAPE | small | changes))


@pytest.fixture(scope="session", params=list(DTYPES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama checkpoint, once in float32 and once in bfloat16. Read only."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / request.param
    return save_random(LlamaForCausalLM(tiny_config()), folder, DTYPES[request.param])


@pytest.fixture(scope="session")
def tiny32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random Llama in float32. Read only."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny32") / "base"
    return save_random(LlamaForCausalLM(tiny_config()), folder, torch.float32)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen2 with q, k and v biases and tied embeddings. Read only."""
    from transformers import Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("qwen") / "base"
    model = Qwen2ForCausalLM(tiny_config("qwen2", tie_word_embeddings=True))
    return save_random(model, folder, torch.float32)


@pytest.fixture(scope="session")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What pyproject.toml declares, as an installation has it: these tests need none."""
    folder = str(tmp_path_factory.mktemp("metadata"))
    setup = ["-c", "from setuptools import setup; setup()"]
    command = [sys.executable, *setup, "--quiet", "egg_info", "--egg-base", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


# Commands of this environment, the python of stages among them.
OWN_PATH = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def write_wheel(path: Path, members: Mapping[str, bytes | str], requires: str = "") -> Path:
    """A wheel `<name>-<version>-….whl` of `members`, which pip takes."""
    name, version, _ = path.name.split("-", 2)
    told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = f"{name}-{version}.dist-info"
    own = {f"{info}/METADATA": told, f"{info}/WHEEL": tags, f"{info}/RECORD": ""}
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in {**members, **own}.items():
            archive.writestr(member, content)
    return path


def on_the_cpu(**variables: str) -> dict[str, str]:
    """The environment of a program that imports from this repository and sees no GPU."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_VISIBLE_DEVICES": "",
        **variables,
    }


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every stored tensor, read by safetensors alone."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found.update(load_file(path))
    return found


def resave(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Put these tensors into the folder in place of its own, as one file."""
    for path in folder.glob("*safetensors*"):
        path.unlink()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
