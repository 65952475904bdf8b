"""MLflow bookkeeping: one parent run per pipeline run, one nested run per stage instance.

Tracking is a convenience, never a dependency: whatever goes wrong here is said once on stderr and
the stage goes on with :class:`Tracker`, which does nothing.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lesa.errors import UserError
from lesa.files import read_json
from lesa.redaction import redacted

DEFAULT_URI = "sqlite:///mlflow.db"
EXPERIMENT = "lesa"
OPEN_SECONDS = 60.0  # mlflow retries an unusable database for minutes; the stage does not wait
QUIET = {  # set only where the user has not
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # of an error, `warn` tells
}
OUTPUTS = (  # tracked files that a pipeline run itself rewrites
    "metrics",
    "dvc.lock",
    "pipelines/studies/*/dvc.lock",
    "reports/REPORT.md",
    "reports/report.html",
    "reports/report.pdf",
    "reports/results.md",
    "reports/figures",
    "reports/tables",
    "reports/plots",
    "reports/summary.json",
    "reports/initialisation.md",
    "README.md",  # its block of results
)
DIGESTS = {"model": Path("metrics/base.json"), "data": Path("metrics/corpus.json")}


class Tracker:
    """The no-op tracker, and the interface that stages see."""

    @property
    def parent(self) -> Tracker:
        """The tracker of the pipeline run as a whole."""
        return self

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested mappings become dotted names."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, all at one `step`; values that are no finite number are left out."""

    def artifact(self, path: str | Path) -> None:
        """Log one file, or a folder under its own name."""

    def text(self, text: str, name: str) -> None:
        """Log an artifact that is no file here; `name` may have folders."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """Log tags of the stage's run."""


class MlflowTracker(Tracker):
    """Writes to one run; after the first error it warns once and writes no more."""

    def __init__(self, client: Any, run_id: str, parent: MlflowTracker | None = None) -> None:
        self.client, self.run_id, self.alive = client, run_id, True
        self.of_pipeline = parent or self

    @property
    def parent(self) -> Tracker:
        return self.of_pipeline

    def safely(self, call: Callable[..., object], *args: object, **named: object) -> None:
        """Make one call to MLflow; an error is a warning and ends tracking."""
        if not self.alive:
            return
        try:
            call(*args, **named)
        except Exception as error:  # MLflow's backends raise anything
            self.alive = False
            warn(error)

    def batch(self, **items: Sequence[object]) -> None:
        """Log params, metrics or tags in batches of the size that MLflow takes."""
        for kind, entries in items.items():
            for start in range(0, len(entries), 100):
                part = {kind: entries[start : start + 100]}
                self.safely(self.client.log_batch, self.run_id, **part)

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        self.batch(params=[Param(clean(k), v[:6000]) for k, v in flatten(values).items()])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
        self.batch(metrics=[Metric(clean(k), v, now, step or 0) for k, v in finite.items()])

    def artifact(self, path: str | Path) -> None:
        self.safely(self.client.log_artifact, self.run_id, str(path))

    def text(self, text: str, name: str) -> None:
        self.safely(self.client.log_text, self.run_id, text, name)

    def tags(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.batch(tags=[RunTag(clean(k), redacted(str(v))[:5000]) for k, v in values.items()])


def warn(error: BaseException | str) -> None:
    """One line on stderr."""
    text = redacted(" ".join(str(error).split()))[:200] or type(error).__name__
    print(f"warning: MLflow tracking is off for this stage: {text}", file=sys.stderr)


def clean(name: str) -> str:
    """A name that MLflow accepts."""
    return re.sub(r"[^\w\-. /]", "_", name)[:250]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": [1]}}` becomes `{"a.b": "[1]"}`."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, str):
            flat[name] = redacted(value)
        else:
            flat[name] = redacted(json.dumps(value, default=str))
    return flat


def pipeline_id() -> str:
    """What all stages of one pipeline run have in common: the `dvc` process above them."""
    if given := os.environ.get("LESA_PIPELINE_RUN"):
        return given
    here = psutil.Process()
    found = next((p for p in here.parents() if is_dvc(p)), here)
    return f"{found.pid}-{found.create_time():.0f}"  # pids are reused, pid and time are not


def is_dvc(process: psutil.Process) -> bool:
    """Is this `dvc …`, `python …/dvc …` or `python -m dvc …`?"""
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return any(Path(word).name == "dvc" for word in command[:1]) or (
        bool(command)
        and "python" in Path(command[0]).name
        and any(Path(word).name == "dvc" for word in command[1:3])
    )


def git_state() -> dict[str, Any]:
    """Commit and whether tracked sources differ from it; the pipeline's own outputs don't count."""
    try:
        commit = git("rev-parse", "HEAD")
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", ".",
            *(f":(exclude){path}" for path in OUTPUTS),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "uncommitted_changes": bool(changed)}


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], capture_output=True, text=True, check=True, timeout=20
    ).stdout.strip()


def digests() -> dict[str, str]:
    """Digests of the base model and of the text, as far as their stages have run."""
    found = {}
    for name, path in DIGESTS.items():
        try:
            found[name] = str(read_json(path)["digest"])
        except (UserError, LookupError, TypeError):
            continue
    return found


def git_tags() -> dict[str, str]:
    state = git_state()
    if not state:
        return {}
    dirty = str(state["uncommitted_changes"]).lower()
    return {"mlflow.source.git.commit": state["commit"], "git_dirty": dirty}


def digest_tags() -> dict[str, str]:
    return {f"{name}_digest": digest for name, digest in digests().items()}


class Run:
    """The parent and the nested run in the store; every method may raise what MLflow raises."""

    def __init__(self, name: str, profile: str, params: Mapping[str, Any]) -> None:
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient  # seconds to import: only here

        uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = self.find_or_create_experiment()
        self.parent = self.find_or_create_parent(profile, params)
        tags = {"mlflow.parentRunId": self.parent, "profile": profile, **git_tags()}
        run = self.client.create_run(self.experiment, run_name=name, tags=tags)
        whole = MlflowTracker(self.client, self.parent)
        self.tracker = MlflowTracker(self.client, run.info.run_id, whole)

    def find_or_create_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        return str(self.client.create_experiment(name))

    def find_or_create_parent(self, profile: str, params: Mapping[str, Any]) -> str:
        key = pipeline_id()
        query = f"tags.pipeline_run = '{clean(key)}'"
        for found in self.client.search_runs([self.experiment], query, max_results=1):
            return str(found.info.run_id)
        tags = {"pipeline_run": clean(key), "profile": profile, **git_tags()}
        run = self.client.create_run(
            self.experiment, run_name=f"{profile} {time.strftime('%Y-%m-%d %H:%M')}", tags=tags
        )
        MlflowTracker(self.client, run.info.run_id).params(params)
        return str(run.info.run_id)

    def close(self, status: str) -> None:
        """End the nested run, and the parent for now: the next stage ends it again, later.

        Nobody knows which stage is a pipeline run's last; a failure is not painted over.
        """
        log = self.tracker
        log.tags(digest_tags())
        log.safely(self.client.set_terminated, log.run_id, status)
        log.safely(self.close_parent, status)

    def close_parent(self, status: str) -> None:
        if self.client.get_run(self.parent).info.status in ("FAILED", "KILLED"):
            status = "FAILED"
        self.client.set_terminated(self.parent, status)
        MlflowTracker(self.client, self.parent).tags(digest_tags())


def open_run(name: str, profile: str, params: Mapping[str, Any]) -> Run | None:
    """Open the runs within OPEN_SECONDS, or warn and return None."""
    outcome: list[Run | BaseException] = []

    def work() -> None:
        try:
            outcome.append(Run(name, profile, params))
        except BaseException as error:  # handed to the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()  # a thread: a hanging connection cannot be interrupted, only left behind
    thread.join(OPEN_SECONDS)
    if not outcome:
        warn(f"the store did not answer within {OPEN_SECONDS:.0f} s")
    elif isinstance(outcome[0], Run):
        return outcome[0]
    else:
        warn(outcome[0])
    return None


@contextmanager
def track(name: str, profile: str, params: Mapping[str, Any]) -> Iterator[Tracker]:
    """The tracker of one stage instance; its run ends FINISHED, FAILED or KILLED as the block does.

    `params` (the whole experiment) are logged once, on the parent run.
    """
    run = open_run(name, profile, params)
    if run is None:
        yield Tracker()
        return
    try:
        yield run.tracker
    except KeyboardInterrupt:
        run.close("KILLED")
        raise
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FINISHED")
