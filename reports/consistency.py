"""What the metrics' numbers say of each other and of params chosen by them: a changed one
contradicts its neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from lesa.errors import UserError
from lesa.files import read_object

RELATIVE = 1e-6  # losses are means of float32 numbers
Part = Mapping[str, Any]
Relation = Callable[[Part], tuple[Any, Any]]  # the recorded value, and what the others give for it
# A relation, of every part of a file, at any depth, that has all of its keys; and what it is of.
Known = tuple[tuple[str, ...], str, Relation]


def mean_of_blocks(loss: str) -> Known:
    keys = ("block_losses", loss)
    return keys, loss, lambda part: (part[loss], fmean(part["block_losses"]))


def exponential(loss: str, perplexity: str, *others: str) -> Known:
    keys = (*others, loss, perplexity)
    return keys, perplexity, lambda part: (part[perplexity], math.exp(part[loss]))


def mean_exponential(losses: str, value: str, *others: str) -> Known:
    keys = (*others, losses, value)
    return keys, value, lambda part: (part[value], fmean(map(math.exp, part[losses])))


def mean_accuracy(part: Part) -> tuple[Any, Any]:
    """Of examples that are right or wrong; a perplexity's are not."""
    examples, value = part["examples"], part["value"]
    yes_or_no = isinstance(examples, list) and examples and all(e in (0, 1) for e in examples)
    return value, fmean(examples) if yes_or_no else value


def best_rate(part: Part) -> tuple[Any, Any]:
    known = [run for run in part["runs"] if run["validation_loss"] is not None]
    return part["best"], min(known, key=lambda run: run["validation_loss"])["learning_rate"]


def tokens_of_steps(part: Part) -> tuple[Any, Any]:
    steps = part["steps"]
    return [s["tokens"] for s in steps], [s["step"] * part["tokens_per_step"] for s in steps]


def blocks_of_documents(part: Part) -> tuple[Any, Any]:
    return len(part["heldout_documents"]), len(part["block_losses"])


def tokens_of_blocks(part: Part) -> tuple[Any, Any]:
    return part["tokens"], {k: n * part["block_size"] for k, n in part["blocks"].items()}


def layers_in_order(part: Part) -> tuple[Any, Any]:
    return [slot["layer_idx"] for slot in part["plan"]], list(range(len(part["plan"])))


def new_layers(part: Part) -> tuple[Any, Any]:
    new = sum(slot["new"] for slot in part["plan"])
    norms = part["new_weight_norms"]
    return {k: len(v) for k, v in norms.items()}, dict.fromkeys(norms, new)


RELATIONS: tuple[Known, ...] = (
    mean_of_blocks("heldout_loss"),
    mean_of_blocks("loss"),
    exponential("heldout_loss", "heldout_perplexity"),
    exponential("loss", "perplexity", "block_losses"),
    mean_exponential("document_losses", "document_perplexity"),
    mean_exponential("losses", "value", "documents"),
    (("heldout_documents", "block_losses"), "heldout_documents", blocks_of_documents),
    (("steps", "tokens_per_step"), "steps.*.tokens", tokens_of_steps),
    (("examples", "value"), "value", mean_accuracy),
    (("runs", "best"), "best", best_rate),
    (("tokens", "blocks", "block_size"), "tokens", tokens_of_blocks),
    (("plan",), "plan.*.layer_idx", layers_in_order),
    (("plan", "new_weight_norms"), "new_weight_norms", new_layers),
)


def parts(value: Any, place: str) -> Iterator[tuple[str, Part]]:
    """Every mapping of a metrics tree by its place, the whole tree first."""
    if isinstance(value, Mapping):
        yield place, value
    inner = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, child in inner:
        if isinstance(child, Mapping | list):
            yield from parts(child, f"{place}{key}.")


def agree(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=RELATIVE)
    return bool(one == other)


def within_file(name: str, content: Part) -> Iterator[str]:
    """A line for each number of a metrics file that others of the same file contradict."""
    for place, part in parts(content, ""):
        known = {key for key, value in part.items() if value is not None}
        for keys, key, relation in RELATIONS:
            if known.issuperset(keys):
                try:
                    recorded, given = relation(part)
                    differ = not agree(recorded, given)
                except (
                    ArithmeticError,
                    AttributeError,
                    LookupError,
                    TypeError,
                    ValueError,
                ) as error:
                    yield f"{name}: {place}{key} cannot be checked ({error!r})"
                    continue
                if differ:
                    said = f"{recorded}, but {', '.join(k for k in keys if k != key)}"
                    yield f"{name}: {place}{key} is {said} there give {given}"


def links(metrics: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Pairs of places, a file and keys, that hold the same number."""
    for kind in read(metrics, "svd.json"):
        yield ("svd.json", kind, "layers"), ("base.json", "num_hidden_layers")
    for path in sorted(metrics.glob("expand/*.json")):
        expand, pretrain, grid = (
            f"{stage}/{path.name}" for stage in ("expand", "pretrain", "grid")
        )
        yield (expand, "parameters_before"), ("base.json", "parameters")
        yield (pretrain, "trainable_parameters"), (expand, "trainable_parameters")
        yield (pretrain, "learning_rate"), (grid, "best")


def read(folder: Path, name: str) -> Part:
    """Nothing of a file that is not there, nor of one that `contradictions` names as broken."""
    try:
        return read_object(folder / name)
    except UserError:
        return {}


def looked_up(tree: Any, keys: Iterable[str]) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def between_files(metrics: Path) -> Iterator[str]:
    """A line for each number that another metrics file has otherwise."""
    for places in links(metrics):
        found = [looked_up(read(metrics, name), keys) for name, *keys in places]
        if None not in found and found[0] != found[1]:
            (name, *keys), (other, *other_keys) = places
            there = f"metrics/{other}: {'.'.join(other_keys)} is {found[1]}"
            yield f"metrics/{name}: {'.'.join(keys)} is {found[0]}, but {there}"


def sought_rates(root: Path) -> Iterator[tuple[Path, Part]]:
    """What study rates found, with its file."""
    log = Path("reports/rates_of_a_log.json")
    if (root / log).is_file():
        for found in read(root, str(log)).get("found") or [{}]:
            again = root / f"metrics/rates/{found.get('study')}-{found.get('model')}.json"
            if not again.is_file():  # which counts, as in reports/rates.py
                yield log, found
    for path in sorted(root.glob("metrics/rates/*.json")):
        yield path.relative_to(root), read(path.parent, path.name)


def last_rates(root: Path, params: Path, study: str) -> Iterator[tuple[str, str, float]]:
    """Each run of a study's params, the key of the learning rate it ends with, and the rate, read
    as the stages do: YAML 1.1 takes 1e-2 for text. Raises UserError naming the file."""
    key = study
    try:
        rows = yaml.safe_load((root / params).read_text(encoding="utf-8"))[study]
        for run, row in rows.items():
            key = f"{study}.{run}"
            last = len(row["phases"]) - 1
            rate = float(row["phases"][last]["learning_rate"])
            yield str(run), f"{key}.phases.{last}.learning_rate", rate
    except (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{params}: {key}: no learning rate can be read ({said})") from None


def differing_rates(root: Path) -> Iterator[str]:
    """A line for each learning rate of a study's params that is not the best that was sought for
    the same model, by metrics/rates or a log; a model whose rate was not sought may have any."""
    sought: dict[str, list[tuple[Path, str, float]]] = {}  # by study
    for name, found in sought_rates(root):
        try:
            model, best = found["run"].rpartition("-")[0], float(found["best"])
            sought.setdefault(str(found["study"]), []).append((name, model, best))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            yield f"{name}: best cannot be checked ({error!r})"
    for study, bests in sought.items():
        params = Path("pipelines/studies") / study / "params.yaml"
        try:
            rates = list(last_rates(root, params, study))
        except UserError as error:
            yield str(error)
            continue
        for (name, model, best), (run, key, rate) in product(bests, rates):
            if run.rpartition("-")[0] == model and rate != best:
                yield f"{params}: {key} is {rate}, but {name}: best is {best}"


def contradictions(metrics: Path) -> Iterator[str]:
    """A line for each file below `metrics` that is no mapping in JSON, and each number that another
    one contradicts."""
    for path in sorted(metrics.rglob("*.json")):
        try:
            yield from within_file(str(path), read_object(path))
        except UserError as error:
            yield str(error)
    yield from between_files(metrics)
