"""`make release MODEL=…`: a folder to hand on, release/<model>, and only when asked an upload.

Weights, tokenizer and a model card whose every number is read from metrics. What is released is
loaded by transformers first, and must have the held-out loss that the metrics say.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from lesa.checkpoints.base import copy_checkpoint
from lesa.checkpoints.writer import CARD, PLAN_FILE
from lesa.commands.evaluate import load as load_model
from lesa.errors import CheckError, UserError, explained, one_line
from lesa.files import whole_folder, write_text
from lesa.params import Params, load
from lesa.training.blocks import load_blocks, tokens_of
from lesa.training.heldout import block_losses
from pipelines.folders import CORPUS, TRAINED
from pipelines.model_card import card
from reports import measured

RELEASE = Path("release")
TOLERANCE = 0.02  # nats: a pass in bfloat16 and one in float32 differ by less


def release(model: str, params: Params) -> Path:
    """Make the folder of `model`, whole or not at all; returns its path.

    Raises UserError for a model that is not there or not trained, CheckError for one that is not
    what the metrics were measured on.
    """
    if model not in params.models:
        raise UserError(f"MODEL: {model!r} is not among the models: {', '.join(params.models)}")
    source = TRAINED / model
    if not source.is_dir():
        raise UserError(f"{source}: is not there; run `dvc repro pretrain@{model}` first")
    metrics = measured.load("metrics", params)
    with whole_folder(RELEASE / model) as folder:
        copy_checkpoint(source, folder)
        shutil.copyfile(source / PLAN_FILE, folder / PLAN_FILE)
        check(folder, metrics.pretrain[model])
        write_text(folder / CARD, card(model, metrics))
    return RELEASE / model


def check(folder: Path, run: dict[str, Any]) -> None:
    """transformers loads it, and the first held-out block has the loss of the run's last point."""
    network, _ = load_model(folder)
    block = tokens_of(load_blocks(CORPUS / "test").select([0]))
    (found,) = block_losses(network, block, bf16=False, batch_size=1)
    said = run["steps"][-1]["block_losses"][0]
    if not abs(found - said) < TOLERANCE:  # NaN too
        raise CheckError(
            f"{folder}: the first held-out block's loss is {found:.4f}, but {said:.4f} in the "
            "metrics; run `dvc repro`, so that both are of the same weights"
        )


def push(folder: Path, repo: str) -> str:
    """Upload the folder to the hub's repository `repo`, a new one being private; returns its URL.

    With the user's own log-in (`hf auth login` or HF_TOKEN) and hub (HF_ENDPOINT).
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with explained(f"PUSH: cannot upload to {repo}"):
        api.create_repo(repo, private=True, exist_ok=True)
        done = api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Add {folder}")
    return str(done.repo_url.url)


def main() -> None:
    parser = argparse.ArgumentParser(prog="pipelines.release")
    parser.add_argument("model")
    parser.add_argument("--push", metavar="REPO", help="upload to this repository of the hub")
    args = parser.parse_args()
    with one_line():
        folder = release(args.model, load())
        print(f"release: {folder}", flush=True)
        if args.push:
            print(f"pushed: {push(folder, args.push)}")


if __name__ == "__main__":
    main()
