"""Study start: perplexity of deepened models before any training, and what it depends on.

A group of rows of pipelines/studies/start/params.yaml is a stage. A row is a model: its method and
options, and for what reads predictors how these were fitted. Rows that share a fit, share it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field, ValidationError
from tqdm import tqdm
from transformers import AutoTokenizer

from baselines import table
from lesa.checkpoints.reader import Checkpoint
from lesa.errors import UserError
from lesa.files import key_of, read_json, tree_digest, whole_folder, work_folder, write_json
from lesa.method.basis import lapack_signs, load_basis, raw_basis, save_basis, with_signs
from lesa.method.fitting import Job, fit_kinds, kind_seed
from lesa.method.structure import structure
from lesa.params import Gaps, Params, Predictor, Strict
from lesa.training.blocks import load_blocks, tokens_of
from lesa.training.freezing import freeze
from lesa.training.heldout import block_losses, first_tokens, mean, mean_perplexity
from lesa.training.prefix import skip_prefix
from lesa.training.pretrain import dtype_name, load_model
from lesa.upscaling.expand import expand
from lesa.upscaling.methods import Source
from pipelines.closure import code_digest
from pipelines.pretrain import CORPUS, PREFIX
from pipelines.stage import run_stage
from pipelines.tracking import Tracker

BASE, SVD = Path("artifacts/base"), Path("artifacts/svd")
HELDOUT = CORPUS / "documents" / "heldout.jsonl"
ROWS = Path("pipelines/studies/start/params.yaml")
ALL_TRIPLES = 10**6  # of so many triples none is held out


class Fitted(Strict):
    """How a row's predictors are fitted: a preset with some settings of its own.

    signs: of U's columns, which an SVD leaves free: "largest" makes each one's largest entry
    positive, as the pipeline does; "lapack" takes what `torch.linalg.svd` returns; a number is the
    seed of a draw. raw: without the SVD, on the weights themselves (claim C8).
    """

    preset: str
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)
    signs: Literal["largest", "lapack"] | int = "largest"
    raw: bool = False


class Row(Strict):
    """One model. documents: is the mean of the documents' perplexities measured, too?"""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    fit: Fitted | None = None
    gaps: Gaps | None = None
    documents: bool = False


def group_of(name: str) -> dict[str, Row]:
    """The rows of a group, by their names. Raises UserError naming the row that is wrong."""
    groups = yaml.safe_load(ROWS.read_text(encoding="utf-8"))["start"]
    if name not in groups:
        raise UserError(f"{ROWS}: start.{name}: no such group; there are {', '.join(groups)}")
    try:
        return {row: Row.model_validate(said) for row, said in groups[name].items()}
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{ROWS}: start.{name}: {key}: {first['msg']}") from None


def bases(fit: Fitted, folder: Path) -> Path:
    """The folder of the bases that `fit` asks for, written into `folder` if they are not there."""
    if fit.signs == "largest" and not fit.raw:
        return SVD
    path = folder / f"svd-{key_of(fit.signs, fit.raw)[:16]}"
    if path.is_dir():
        return path
    base = Checkpoint(BASE)
    with whole_folder(path) as partial:
        for kind in base.kinds:
            basis = raw_basis(base.shape(kind)[0]) if fit.raw else load_basis(SVD, kind)
            if fit.signs == "lapack":
                basis = lapack_signs(basis, (base.matrix(kind, i) for i in range(base.num_layers)))
            elif isinstance(fit.signs, int):
                basis = with_signs(basis, kind_seed(fit.signs, kind))
            save_basis(basis, partial / f"{kind}.safetensors")
    return path


def predictors(fit: Fitted, svd: Path, params: Params, folder: Path) -> tuple[Path, Any]:
    """The folder of the predictors, fitted if they are not there, and their metrics by kind."""
    preset = params.fit.presets[fit.preset].model_dump() | fit.settings
    path = folder / f"fit-{key_of(fit.model_dump())[:16]}"
    path.mkdir(parents=True, exist_ok=True)
    job = Job(BASE, svd, path, Predictor(**preset), fit.seed, ALL_TRIPLES)
    return path, fit_kinds(job, f"fit {fit.preset} {fit.seed}")


def deepen(row: Row, svd: Path, fits: tuple[Path, ...], params: Params, folder: Path) -> list[int]:
    """Write the row's checkpoint; returns the indexes of its new layers."""
    method = table()[row.method]
    options = method.options.model_validate(row.options)
    base = Checkpoint(BASE)
    plan = method.plan(base.num_layers, row.gaps or params.gaps)
    expand(Source(base, svd, fits, options), row.method, method, plan, folder)
    return [slot.layer_idx for slot in plan if slot.new]


def scores(folder: Path, row: Row, params: Params) -> dict[str, Any]:
    """The held-out losses of a checkpoint: of every block and, if asked for, every document."""
    train, heldout = params.train, load_blocks(CORPUS, "test")
    blocks, size = tokens_of(heldout), train.per_device_batch_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(folder).to(device)
    found: dict[str, Any] = {"document_losses": None, "document_perplexity": None}
    if row.documents:  # before the model is cut
        texts = map(json.loads, HELDOUT.read_text(encoding="utf-8").splitlines())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = first_tokens(texts, tokenizer, params.evaluate.document_tokens)
        losses = [block_losses(model, [one], train.bf16, 1)[0] for one in ids.values()]
        found["document_losses"] = losses
        found["document_perplexity"] = mean_perplexity(losses)
    freeze(model, folder)
    cache = skip_prefix(model, folder, blocks, train.bf16, device, PREFIX)
    states = cache.read if cache else None
    losses = block_losses(model, blocks, train.bf16, size, states)
    loss = mean(losses)
    return found | {
        "heldout_documents": list(heldout["document"]),
        "block_losses": losses,
        "loss": loss,
        "perplexity": float(torch.tensor(loss).double().exp()),
    }


def measure(name: str, row: Row, params: Params, unfinished: Path) -> dict[str, Any]:
    """The numbers of one row, for metrics/start."""
    fit, svd, fitted = row.fit, SVD, None
    fits: tuple[Path, ...] = ()
    if fit is not None:
        svd = bases(fit, unfinished)
        path, fitted = predictors(fit, svd, params, unfinished)
        fits = (path,)
    folder = unfinished / "checkpoint"
    added = deepen(row, svd, fits, params, folder)
    new = Checkpoint(folder)
    inserted = {k: structure(new.matrix(k, i) for i in added) if added else None for k in new.kinds}
    said = {
        "row": name,
        "method": row.method,
        "options": row.options,
        "layers": new.num_layers,
        "gaps": row.gaps.model_dump() if row.gaps else None,
        "preset": fit.preset if fit else None,
        "seed": fit.seed if fit else None,
        "settings": fit.settings if fit else None,
        "signs": fit.signs if fit else None,
        "raw": fit.raw if fit else None,
        "dtype": dtype_name(params.train.bf16),
        "norm_ratio": {k: m["train"]["norm_ratio"] for k, m in fitted.items()} if fitted else None,
        "new_weight_structure": {k: asdict(s) if s else None for k, s in inserted.items()},
        **scores(folder, row, params),
    }
    shutil.rmtree(folder)
    return said


def work(params: Params, log: Tracker, args: argparse.Namespace) -> None:
    group = group_of(args.group)
    key = key_of(
        {name: row.model_dump() for name, row in group.items()},
        [tree_digest(folder) for folder in (BASE, SVD, CORPUS / "test")],
        [params.gaps.model_dump(), params.fit.model_dump(), params.train.bf16],
        code_digest("pipelines.start"),
    )
    folder = Path("artifacts/start") / args.group
    with work_folder(f"artifacts/work/start/{args.group}", key) as unfinished:
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
