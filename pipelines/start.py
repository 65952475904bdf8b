"""Study start: perplexity of deepened models before any training, and what it depends on.

A group of rows of pipelines/studies/start/params.yaml is a stage. A row is a model: its method and
options, and for what reads predictors how these were fitted. Rows that share a fit, share it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm
from transformers import AutoTokenizer

from eval.data import rows
from lesa.checkpoints.reader import Checkpoint
from lesa.files import read_json, whole_folder, write_json
from lesa.machine import compute_device
from lesa.method.structure import structures
from lesa.params import Params
from lesa.training.blocks import load_blocks, tokens_of
from lesa.training.freezing import freeze
from lesa.training.heldout import block_losses, first_tokens, mean_perplexity, perplexity, readable
from lesa.training.prefix import skip_prefix
from lesa.training.pretrain import dtype_name, load_model
from pipelines.closure import resumable
from pipelines.folders import BASE, CORPUS, PREFIX, SVD
from pipelines.rows import Row, chosen, described, write_row
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

HELDOUT = CORPUS / "documents" / "heldout.jsonl"


class Start(Row):
    """documents: is the mean of the documents' perplexities measured, too? again: is it a draw that
    the study has, fitted where the SVD has other last digits?"""

    documents: bool = False
    again: bool = False


def scores(folder: Path, row: Start, params: Params) -> dict[str, Any]:
    """The held-out losses of a checkpoint: of every block and, if asked for, every document."""
    train, heldout = params.train, load_blocks(CORPUS / "test")
    blocks = tokens_of(heldout)
    device = compute_device()
    model = load_model(folder).to(device)
    found: dict[str, Any] = {"document_losses": None, "document_perplexity": None}
    if row.documents:  # before the model is cut
        texts = rows(HELDOUT, ("id", "text"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        size = readable(model.config, params.evaluate.document_tokens)
        ids = first_tokens(texts, tokenizer, size)
        losses = block_losses(model, list(ids.values()), train.bf16, 1)
        found["document_losses"] = losses
        found["document_perplexity"] = mean_perplexity(losses)
    freeze(model, folder)
    cache = skip_prefix(model, folder, blocks, train.bf16, device, PREFIX)
    states = cache.read if cache else None
    losses = block_losses(model, blocks, train.bf16, train.per_device_batch_size, states)
    loss = fmean(losses)
    return found | {
        "heldout_documents": list(heldout["document"]),
        "block_losses": losses,
        "loss": loss,
        "perplexity": perplexity(loss),
    }


def measure(name: str, row: Start, params: Params, unfinished: Path) -> dict[str, Any]:
    """The numbers of one row, for metrics/start."""
    folder = unfinished / "checkpoint"
    plan, fitted = write_row(row, params, unfinished, folder)
    new, added = Checkpoint(folder), [slot.layer_idx for slot in plan if slot.new]
    found = {
        "row": name,
        "profile": params.profile,
        "layers": new.num_layers,
        "dtype": dtype_name(params.train.bf16),
        "norm_ratio": {k: m["train"]["norm_ratio"] for k, m in fitted.items()} if fitted else None,
        "new_weight_structure": structures(new, added),
        **described(row),
        "again": row.again,
        **scores(folder, row, params),
    }
    shutil.rmtree(folder)
    return found


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    group: dict[str, Start] = chosen("start", Start, args.group)
    of = [
        {name: row.model_dump() for name, row in group.items()},
        [params.gaps.model_dump(), params.fit.model_dump(), params.train.bf16],
        params.evaluate.document_tokens,
    ]
    folder, read = Path("artifacts/start") / args.group, [BASE, SVD, CORPUS]
    with resumable(f"start/{args.group}", "pipelines.start", read, of) as unfinished:
        for name, row in tqdm(group.items(), desc=f"start {args.group}", unit="row"):
            done = unfinished / f"{name}.json"
            if not done.is_file():
                write_json(done, measure(name, row, params, unfinished))
            perplexity = read_json(done)["perplexity"]
            tqdm.write(f"{name}: perplexity {perplexity:.2f}")
            log.metrics({f"perplexity/{name}": perplexity})
        with whole_folder(folder) as partial:
            for name in group:
                shutil.copy(unfinished / f"{name}.json", partial)


if __name__ == "__main__":
    run_stage("start", work, "group")
