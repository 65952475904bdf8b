"""Official lm-eval tasks with their data from a dataset mirror.

A mirror is a folder laid out as the hub is, `<hub id>/[config/]<split>.jsonl` (or .parquet). A
task of it is the official one, included, with nothing but the place of its data changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment
from jinja2.meta import find_undeclared_variables
from lm_eval.tasks._index import Entry, Kind

from eval.suite import official_folders, task_manager, write_task, write_yaml
from lesa.errors import UserError
from lesa.files import named_folder

SUFFIXES = (".jsonl", ".parquet")


def write(names: list[str], source: str, folder: Path) -> None:
    """Write YAMLs into `folder` that read the data of the tasks `names` from the mirror `source`.

    They name files of lm-eval and of the mirror by absolute paths. Raises UserError where a task
    is unknown or reads its data by code of its own, or the mirror lacks the split it is scored on.
    """
    mirror = named_folder(source, "evaluate.mirror")
    index = task_manager(official_folders(names)).task_index
    pending = list(names)
    while pending:
        name = pending.pop()
        entry = index.get(name)
        if entry is None:
            raise UserError(f"evaluate.tasks: lm-eval has no task {name!r}")
        if entry.kind is Kind.TAG:
            raise UserError(
                f"evaluate.tasks: {name} is a tag; name its tasks: {', '.join(sorted(entry.tags))}"
            )
        if entry.kind is Kind.PY_TASK or entry.cfg is None or entry.yaml_path is None:
            raise UserError(
                f"evaluate.tasks: {name} reads its data by code of its own, and from no mirror"
            )
        if entry.kind is Kind.GROUP:
            children = members(name, entry, index)
            pending += children
            # A group's config is plain data: no include needed.
            config = {**entry.cfg, "task": children}
            write_yaml(folder, name, yaml.safe_dump(config, sort_keys=False))
        else:
            write_official(name, entry.cfg, entry.yaml_path, mirror, folder)


def members(name: str, group: Entry, index: dict[str, Entry]) -> list[str]:
    """What a group holds: tasks and groups by name, in place of a tag the tasks that have it."""
    found: list[str] = []
    for child in group.cfg["task"] if group.cfg else []:
        if not isinstance(child, str):
            raise UserError(f"evaluate.tasks: name the tasks of {name}, not the group")
        entry = index.get(child)
        tagged = entry is not None and entry.kind is Kind.TAG
        found += sorted(entry.tags) if entry and tagged else [child]
    return found


def write_official(
    name: str, config: dict[str, Any], official: Path, mirror: Path, folder: Path
) -> None:
    """One official task, with what the mirror has of its splits; it must have the scored one."""
    files = {}
    for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
        split = config.get(key)
        if split and (file := find_split(name, config, mirror, split)):
            files[split] = str(file.resolve())
    # The split lm-eval itself scores: falling back to another would change the task silently.
    scored = config.get("test_split") or config["validation_split"]
    if scored not in files:
        raise UserError(
            f"evaluate.mirror: no data for {name}: looked for {scored}.jsonl (or .parquet) "
            f"in {data_folder(name, config, mirror)}"
        )
    # Zero-shot needs the scored split alone; a mirror may hold no other.
    absent = {
        key: None
        for key in ("training_split", "validation_split", "fewshot_split")
        if config.get(key) and config[key] not in files
    }
    task = {"include": str(official), "task": name, **absent}
    write_task(folder, task, files, fields_of(config))


def fields_of(config: dict[str, Any]) -> list[str]:
    """The fields of a row that a task's templates name, where they see rows as they are."""
    if config.get("process_docs"):
        return []
    templates = [config.get(f"doc_to_{what}") for what in ("text", "target", "choice")]
    sources = [template for template in templates if isinstance(template, str)]
    parsed = [Environment().parse(source) for source in sources]
    return sorted({name for tree in parsed for name in find_undeclared_variables(tree)})


def data_folder(name: str, config: dict[str, Any], mirror: Path) -> Path:
    """Where the mirror has the data of the task `name`."""
    if not config.get("dataset_path"):
        raise UserError(f"evaluate.tasks: {name} has no dataset of the hub to mirror")
    return mirror / str(config["dataset_path"]) / str(config.get("dataset_name") or "")


def find_split(name: str, config: dict[str, Any], mirror: Path, split: str) -> Path | None:
    """The file with a split of a task's data, where the mirror has it."""
    folder = data_folder(name, config, mirror)
    files = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return next((file for file in files if file.is_file()), None)
