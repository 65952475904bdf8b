"""The model card of a trained model, every number of it from metrics: for a release and MLflow."""

from __future__ import annotations

import platform
import re
from math import exp
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from baselines import method_of
from lesa.params import HubBase, Params
from lesa.upscaling.card import ROUTER
from lesa.upscaling.plan import from_json, plan_line
from pipelines.tracking import git_state
from reports import measured
from reports.measured import Metrics, losses_at
from reports.paired import Interval, interval, paired
from reports.tables import measured_of, minus_untouched, number, show, show_interval

TEMPLATES = Path(__file__).parent


def cards(m: Metrics) -> dict[str, str]:
    """The card of every model of the run that has more layers than the base."""
    before = m.base["num_hidden_layers"]
    return {name: card(name, m) for name in m.models if len(m.expand[name]["plan"]) > before}


def card(model: str, m: Metrics) -> str:
    """The model card as Markdown, with the metadata that hubs read at its top."""
    params, entry, run = m.params, m.params.methods[model], m.pretrain[model]
    expanded, last = m.expand[model], run["steps"][-1]
    method, _ = method_of(params, model)
    plan = from_json(expanded["plan"])
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
        base=m.base["source"],
        before=m.base["num_hidden_layers"],
        after=len(plan),
        method=entry.method,
        options=", ".join(f"{key} {value}" for key, value in (entry.model_extra or {}).items()),
        fits=[fit_line(params, name) for name in entry.needs],
        plan=plan_line(plan),
        parameters_before=number(expanded["parameters_before"]),
        parameters_after=number(expanded["parameters_after"]),
        trainable=number(run["trainable_parameters"]),
        router=ROUTER if expanded.get("router") and method.reads_bases else None,
        text=m.corpus["source"],
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
    if untouched is not None:
        loss = interval(losses_at(m.pretrain[untouched], 0))
        rows.append(["the untouched base", "0", show_interval(loss), perplexity(loss), "0"])
    for index, step in enumerate(run["steps"]):
        loss, less = interval(losses_at(run, index)), show(minus_untouched(m, run, index))
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
        [
            task,
            metric,
            *(show(measured_of(own[task]["metrics"][metric])) for own in (before, after)),
        ]
        for task, content in after.items()
        for metric in content["metrics"]
    ]


def provenance() -> dict[str, Any]:
    """The commit and whether it is all; outside of a git repository neither is known."""
    state = git_state()
    return {
        "commit": state.get("commit", "not stated"),
        "dirty": state.get("uncommitted_changes", False),
        "python": platform.python_version(),
    }
