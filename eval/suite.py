"""Sets of lm-eval tasks: which, from where, and the folder that holds their YAMLs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lm_eval.tasks
import yaml
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from lesa.errors import UserError, explained

OFFICIAL = Path(lm_eval.tasks.__file__).parent
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
        # It advises on `custom_dataset` and on white space, once a task.
        logging.getLogger("lm_eval.api.task").setLevel(logging.ERROR)
        manager = task_manager(self.folders)
        loaded: list[Task | Group] = []
        seen: set[str] = set()
        for name in self.names:
            if name not in manager.task_index:
                raise UserError(f"evaluate.tasks: lm-eval has no task {name!r}")
            advice = "; set evaluate.mirror to a copy" if self.source == "hub" else ""
            with explained(
                f"evaluate.tasks: cannot read the data of {name} from the {self.source}{advice}"
            ):
                found = manager.load([name])
            task = found["groups"].get(name) or found["tasks"].get(name)
            if task is None:
                raise UserError(
                    f"evaluate.tasks: {name} is a tag; name its tasks: {', '.join(found['tasks'])}"
                )
            if twice := seen & set(found["tasks"]):
                raise UserError(f"evaluate.tasks: {min(twice)} is there twice, maybe in a group")
            seen |= set(found["tasks"])
            loaded.append(task)
        return loaded

    def check(self) -> dict[str, int]:
        """Build every example of every task; returns their numbers, a group's all together.

        Raises UserError as `load`, or where an example lacks a field that its task asks for.
        """
        return {
            name: sum(check_examples(member) for member in leaves(task))
            for name, task in zip(self.names, self.load(), strict=True)
        }


def offline(folder: Path) -> Suite:
    """The tasks that `eval.offline` has written into `folder`."""
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    return Suite(tuple(names), "offline", (folder,))


def mirrored(names: list[str], folder: Path) -> Suite:
    """The official tasks `names` that `eval.mirror` has written into `folder`."""
    return Suite(tuple(names), "mirror", (folder,))


def hub(names: list[str]) -> Suite:
    """The tasks as lm-eval ships them; their data comes from the hub or its local cache."""
    return Suite(tuple(names), "hub", official_folders(names))


def stored(folder: Path, tasks: list[str], mirror: str | None) -> list[Suite]:
    """All that a checkpoint is scored on, as the stage `tasks` has left it in `folder`."""
    suites = [offline(folder / "offline")]
    if tasks:
        suites.append(mirrored(tasks, folder / "mirror") if mirror else hub(tasks))
    return suites


def leaves(task: Task | Group) -> list[Task]:
    """The tasks of a group, or the task itself."""
    return list(task.get_all_tasks()) if isinstance(task, Group) else [task]


def check_examples(task: Task) -> int:
    """Make lm-eval's requests of every example; returns the number of examples."""
    examples = task.eval_docs
    for number, example in enumerate(examples, start=1):
        with explained(f"evaluate.tasks: example {number} of {task.task_name} is not as it asks"):
            task.construct_requests(
                doc=example, ctx=task.fewshot_context(example, 0), metadata=(task.task_name, 0, 1)
            )
            task.doc_to_target(example)
    return len(examples)


def task_manager(folders: tuple[Path, ...] | None) -> TaskManager:
    """lm-eval's index of `folders` alone: indexing its thousands of tasks takes ten seconds."""
    if folders is None:
        return TaskManager()
    return TaskManager(include_defaults=False, include_path=[str(path) for path in folders])


def official_folders(names: list[str]) -> tuple[Path, ...] | None:
    """lm-eval's folders with the tasks `names`, or None where they are not all known."""
    families = {FAMILIES.get(n) or ("blimp" if n.startswith("blimp_") else "") for n in names}
    if "" in families:
        return None
    return tuple(OFFICIAL / family for family in sorted(families))


def write_task(
    folder: Path, config: Mapping[str, Any], files: Mapping[str, str], fields: Sequence[str] = ()
) -> None:
    """Write a task as `folder`/<task>.yaml whose data `eval.data.read` reads: a file a split."""
    data = {"files": dict(files), "fields": list(fields)}
    text = yaml.safe_dump({**config, "dataset_kwargs": data}, sort_keys=False)
    write_yaml(folder, config["task"], text + "custom_dataset: !function eval.data.read\n")


def write_yaml(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
