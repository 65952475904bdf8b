"""`make release MODEL=…`: a folder to hand on, release/<model>, and only when asked an upload.

Weights, tokenizer and a model card whose every number is read from metrics. What is released is
loaded by transformers first, and must have the held-out loss that the metrics say.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import sys
from math import exp
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lesa.checkpoints.base import copy_checkpoint, describe
from lesa.checkpoints.reader import Checkpoint
from lesa.checkpoints.writer import CARD, PLAN_FILE
from lesa.commands.evaluate import load as load_model
from lesa.downloads import explained
from lesa.errors import CheckError, UserError
from lesa.files import read_json, whole_folder, write_text
from lesa.params import HubBase, Params, load
from lesa.text.documents import describe as describe_text
from lesa.training.blocks import load_blocks, tokens_of
from lesa.training.heldout import block_losses
from lesa.upscaling.card import ROUTER
from lesa.upscaling.plan import from_json, plan_line
from pipelines.stage import fail
from pipelines.tracking import git_state
from reports import measured
from reports.measured import Metrics, losses_at
from reports.paired import Interval, interval, paired
from reports.tables import Measured, number, show, show_interval

TRAINED, CORPUS, RELEASE = Path("artifacts/trained"), Path("artifacts/corpus"), Path("release")
TEMPLATES = Path(__file__).parent
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
        write_text(folder / CARD, card(model, metrics, Checkpoint(folder)))
    return RELEASE / model


def check(folder: Path, run: dict[str, Any]) -> None:
    """transformers loads it, and the first held-out block has the loss of the run's last point."""
    network, _ = load_model(folder)
    block = tokens_of(load_blocks(CORPUS, "test").select([0]))
    (found,) = block_losses(network, block, bf16=False, batch_size=1)
    said = run["steps"][-1]["block_losses"][0]
    if not abs(found - said) < TOLERANCE:  # NaN too
        raise CheckError(
            f"{folder}: the first held-out block's loss is {found:.4f}, but {said:.4f} in the "
            "metrics; run `dvc repro`, so that both are of the same weights"
        )


def card(model: str, m: Metrics, checkpoint: Checkpoint) -> str:
    """The model card as Markdown, with the metadata that hubs read at its top."""
    params, entry, run = m.params, m.params.methods[model], m.pretrain[model]
    expanded, last = m.expand[model], run["steps"][-1]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md").render(
        metadata=metadata(params, entry.method),
        model=model,
        base=describe(params.base),
        before=m.base["num_hidden_layers"],
        after=checkpoint.num_layers,
        method=entry.method,
        options=", ".join(f"{key} {value}" for key, value in (entry.model_extra or {}).items()),
        fits=[fit_line(params, name) for name in entry.needs],
        plan=plan_line(from_json(read_json(checkpoint.folder / PLAN_FILE))),
        parameters_before=number(expanded["parameters_before"]),
        parameters_after=number(expanded["parameters_after"]),
        trainable=number(run["trainable_parameters"]),
        router=ROUTER if checkpoint.family.router and entry.needs else None,
        text=describe_text(params.corpus.text),
        documents=number(m.corpus["documents"]["train"]),
        heldout=len(set(run["heldout_documents"])),
        steps=last["step"],
        tokens_per_step=number(run["tokens_per_step"]),
        trained_tokens=number(last["tokens"]),
        rate=number(run["learning_rate"]),
        warnings=run.get("rate_warnings", []),
        seed=params.train.seed,
        dtype=run["dtype"],
        points=points(m, model),
        rivals=rivals(m, model),
        tasks=tasks(m, model),
        licence=params.base.license,
        text_licence=params.corpus.text.license,
        **provenance(),
        profile=params.profile,
        base_digest=m.base["digest"],
        text_digest=m.corpus["digest"],
    )


def metadata(params: Params, method: str) -> str:
    """What hubs read, as YAML. A licence that is no identifier of theirs is named as it is."""
    licence = params.base.license
    known = re.fullmatch(r"[a-z0-9.-]+", licence.lower()) is not None
    return str(
        ModelCardData(
            license=licence.lower() if known else "other",
            license_name=None if known else licence,
            base_model=params.base.id if isinstance(params.base, HubBase) else None,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["depth-up-scaling", method.replace("_", "-")],
        ).to_yaml()
    )


def fit_line(params: Params, name: str) -> str:
    run = params.fit.runs[name]
    settings = params.fit.presets[run.preset].model_dump(exclude={"fitted_on"})
    said = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"preset {run.preset}, seed {run.seed}: {said}"


def perplexity(loss: Interval) -> str:
    """An interval of losses as one of perplexities."""
    return show_interval(Interval(exp(loss.estimate), exp(loss.low), exp(loss.high), loss.n))


def points(m: Metrics, model: str) -> list[list[str]]:
    """The curve of the held-out loss, its untouched base beside it."""
    run, untouched, rows = m.pretrain[model], m.model_of("base"), []
    start = losses_at(m.pretrain[untouched], 0) if untouched else None
    if start is not None:
        loss = interval(start)
        rows.append(["the untouched base", "0", show_interval(loss), perplexity(loss), "0"])
    for index, step in enumerate(run["steps"]):
        losses = losses_at(run, index)
        loss = interval(losses)
        less = show_interval(paired(losses, start)) if start is not None else "not measured"
        at = f"step {step['step']}"
        rows.append([at, number(step["tokens"]), show_interval(loss), perplexity(loss), less])
    return rows


def rivals(m: Metrics, model: str) -> list[list[str]]:
    own = losses_at(m.pretrain[model], -1)
    others = {name: losses_at(run, -1) for name, run in m.pretrain.items() if name != model}
    return [
        [name, show_interval(interval(losses)), show_interval(paired(own, losses))]
        for name, losses in others.items()
    ]


def tasks(m: Metrics, model: str) -> list[list[str]]:
    """Every metric of every task, before and after training."""
    before, after = (m.evaluate[phase][model]["tasks"] for phase in measured.PHASES)
    return [
        [task, metric, shown(before[task]["metrics"][metric]), shown(value)]
        for task, content in after.items()
        for metric, value in content["metrics"].items()
    ]


def shown(metric: dict[str, Any]) -> str:
    return show(Measured(metric["value"], metric["stderr"]))


def provenance() -> dict[str, Any]:
    """The commit and whether it is all; outside of a git repository neither is known."""
    state = git_state()
    return {
        "commit": state.get("mlflow.source.git.commit", "not stated"),
        "dirty": state.get("git_dirty") == "true",
        "python": platform.python_version(),
    }


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
    try:
        folder = release(args.model, load())
        print(f"release: {folder}", flush=True)
        if args.push:
            print(f"pushed: {push(folder, args.push)}")
    except UserError as error:
        fail(str(error))
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        fail(f"{error.filename or Path.cwd()}: {error.strerror or error}")


if __name__ == "__main__":
    main()
