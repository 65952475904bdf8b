"""Sets of lm-eval tasks: which, from where, and the folder that holds their YAMLs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from lesa.errors import UserError

TASKS = Path(__file__).parent / "tasks"


@dataclass(frozen=True)
class Suite:
    """Tasks that share a source. `folders` are all that lm-eval indexes (None: all its own)."""

    names: tuple[str, ...]
    source: Literal["offline", "mirror", "hub"]
    folders: tuple[Path, ...] | None

    def load(self) -> list[Task | Group]:
        """Build the lm-eval tasks and read their data, one entry a name.

        Raises UserError where a task is unknown or its data cannot be read.
        """
        manager = task_manager(self.folders)
        unknown = [name for name in self.names if name not in manager.task_index]
        if unknown:
            raise UserError(f"evaluate.tasks: lm-eval has no task {unknown[0]!r}")
        loaded: list[Task | Group] = []
        leaves: set[str] = set()
        for name in self.names:
            try:
                found = manager.load([name])
            except (DatasetGenerationError, DatasetNotFoundError, OSError, ValueError) as error:
                line = " ".join(str(error).split())
                raise UserError(
                    f"evaluate.tasks: cannot read the data of {name} from the {self.source}"
                    f" ({line[:200]})" + ("; set evaluate.mirror" if self.source == "hub" else "")
                ) from error
            whole = found["groups"].get(name) or found["tasks"].get(name)
            if whole is None:
                raise UserError(
                    f"evaluate.tasks: {name} is a tag; name its tasks: {', '.join(found['tasks'])}"
                )
            twice = leaves & set(found["tasks"])
            if twice:
                raise UserError(f"evaluate.tasks: {min(twice)} is there twice, maybe in a group")
            leaves |= set(found["tasks"])
            loaded.append(whole)
        return loaded


def task_manager(folders: tuple[Path, ...] | None) -> TaskManager:
    """lm-eval's index of `folders` alone: indexing its thousands of tasks takes ten seconds."""
    if folders is None:
        return TaskManager()
    return TaskManager(include_defaults=False, include_path=[str(path) for path in folders])


def write_yaml(folder: Path, name: str, config: Mapping[str, Any]) -> None:
    """Write the task or group `name` as `folder`/`name`.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
