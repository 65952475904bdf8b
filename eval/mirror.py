"""Official lm-eval tasks, with their data from the hub or from a dataset mirror.

A mirror is a folder laid out as the hub is, `<hub id>/[config/]<split>.jsonl` (or .parquet). A
task of it is the official one, included, with nothing but the place of its data changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval.tasks

from eval.suite import Suite, task_manager, write_yaml
from lesa.errors import UserError

OFFICIAL = Path(lm_eval.tasks.__file__).parent
SUFFIXES = (".jsonl", ".parquet")
# Where lm-eval keeps the tasks that are asked for most; any other needs its whole, slow index.
FAMILIES = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "winogrande": "winogrande",
    "lambada_openai": "lambada",
    "blimp": "blimp",
}


def hub(names: list[str]) -> Suite:
    """The tasks as lm-eval ships them; their data comes from the hub or its local cache."""
    return Suite(tuple(names), "hub", _folders(names))


def mirrored(names: list[str], mirror: Path, folder: Path) -> Suite:
    """Write YAMLs below `folder` that read the data of the tasks `names` from `mirror`.

    Raises UserError where a task is unknown, or the mirror lacks the split it is scored on.
    """
    if not mirror.is_dir():
        raise UserError(f"evaluate.mirror: {mirror}: no such folder")
    index = task_manager(_folders(names)).task_index
    yamls = folder / "tasks"
    pending = list(names)
    while pending:
        name = pending.pop()
        entry = index.get(name)
        if entry is None or entry.cfg is None or entry.yaml_path is None:
            raise UserError(f"evaluate.tasks: lm-eval has no task {name!r}")
        config = entry.cfg
        if "group" in config:
            children = config["task"]
            if not all(isinstance(child, str) for child in children):
                raise UserError(f"evaluate.tasks: name the tasks of {name}, not the group")
            pending += children
            write_yaml(yamls, name, config)  # a group's config is plain data: no include needed
            continue
        data = _data(name, config, mirror)
        write_yaml(
            yamls,
            name,
            {
                "include": str(entry.yaml_path),
                "task": name,
                "dataset_path": str(data.resolve()),
                "dataset_name": None,
                "dataset_kwargs": {"cache_dir": str((folder / "cache").resolve())},
                # Zero-shot needs the scored split alone; a mirror may hold no other.
                **{
                    split: None
                    for split in ("training_split", "validation_split", "fewshot_split")
                    if config.get(split) and not _has(data, config[split])
                },
            },
        )
    return Suite(tuple(names), "mirror", (yamls,))


def _data(name: str, config: dict[str, Any], mirror: Path) -> Path:
    """The folder in `mirror` with the split that the task `name` is scored on."""
    if not config.get("dataset_path"):
        raise UserError(f"evaluate.tasks: {name} has no dataset of the hub to mirror")
    folder = mirror / str(config["dataset_path"]) / str(config.get("dataset_name") or "")
    # The split lm-eval itself scores: falling back to another would change the task silently.
    split = config.get("test_split") or config["validation_split"]
    if not _has(folder, split):
        raise UserError(
            f"evaluate.mirror: no data for {name}: looked for {split}.jsonl (or .parquet) "
            f"in {folder}"
        )
    return folder


def _has(folder: Path, split: str) -> bool:
    files = (folder / f"{split}{suffix}" for suffix in SUFFIXES)
    return any(file.is_file() and file.stat().st_size > 0 for file in files)


def _folders(names: list[str]) -> tuple[Path, ...] | None:
    """lm-eval's folders with the tasks `names`, or None where they are not all known."""
    families = {FAMILIES.get(n) or ("blimp" if n.startswith("blimp_") else "") for n in names}
    if "" in families:
        return None
    return tuple(OFFICIAL / family for family in sorted(families))
