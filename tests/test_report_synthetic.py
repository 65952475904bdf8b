"""A made-up metrics folder: every number in it is invented here and means nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lesa.params import Params, parse

MODELS = ["base", "lesa", "lesa_official", "llama_pro", "solar", "average", "noise"]
KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PRESETS = {"paper": 5e-5, "official_code": 5e-4}
SEEDS = [0, 1, 2]
DOCUMENTS = [f"document {i // 2}" for i in range(24)]  # of every held-out block


def params(**changes: Any) -> Params:
    predictor = {
        "epochs": 5,
        "hidden_size": 8,
        "batch_size": 4,
        "learning_rate": 0.001,
        "weight_decay": 0.0,
    }
    methods = {name: {"method": name.split("_official")[0]} for name in MODELS}
    tree: dict[str, Any] = {
        "profile": "made-up",
        "base": {"source": "path", "path": "a/folder", "license": "none"},
        "corpus": {
            "text": {
                "source": "files",
                "paths": ["a.txt"],
                "text_field": "text",
                "license": "none",
            },
            "min_characters": 1,
            "max_documents": None,
            "heldout_documents": 24,
            "block_size": 32,
            "blocks_per_document": 2,
            "seed": 0,
        },
        "gaps": {"first": 14, "last": 28},
        "svd": {"method": "gram", "rank_tolerance": 1e-6},
        "fit": {
            "presets": {k: {**predictor, "norm_weight": v} for k, v in PRESETS.items()},
            "runs": {f"{p}-{s}": {"preset": p, "seed": s} for p in PRESETS for s in SEEDS},
            "heldout_every": 5,
        },
        "methods": methods,
        "train": {
            "launch": "python",
            "max_steps": 40,
            "eval_every": 5,
            "save_every": 5,
            "per_device_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "bf16": False,
            "prefix_cache": False,
            "seed": 0,
        },
        "grid": {"learning_rates": [0.0005], "max_steps": 5},
        "evaluate": {
            "launch": "python",
            "offline_documents": 2,
            "offline_examples": 2,
            "tasks": ["arc_easy", "piqa"],
            "limit": 40,
            "mirror": None,
            "batch_size": 1,
            "document_tokens": 64,
            "dtype": "float32",
            "bootstrap_iters": 10,
        },
    }
    return parse({**tree, **changes}, "made-up")


# What names a file of a study in its content.
NAMED = {
    "budget": "run",
    "scale": "run",
    "start": "row",
    "code": "model",
    "sft": "model",
    "humaneval": "model",
}


Kind = TypeVar("Kind")


def checked(kind: type[Kind], cell: object) -> Kind:
    """A table's cell, which is of this kind."""
    assert isinstance(cell, kind)
    return cell


def save(folder: Path, name: str, value: Any) -> None:
    stage, _, inner = name.partition("/")
    if isinstance(value, dict) and stage in NAMED:
        value = value | {NAMED[stage]: inner}
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def change(folder: Path, name: str, *keys: Any, value: Any) -> None:
    """Replace one value of one metrics file."""
    tree = json.loads((folder / f"{name}.json").read_text())
    *inner, last = keys
    at = tree
    for key in inner:
        at = at[key]
    at[last] = value
    save(folder, name, tree)


def errors(rng: np.random.Generator) -> dict[str, float]:
    mse = float(rng.uniform(0.9, 1.4))
    return {
        "mse": mse,
        "explained_variance": 1 - mse,
        "cosine": float(rng.uniform(-0.05, 0.3)),
        "norm_ratio": float(rng.uniform(0.2, 0.9)),
        "loss": mse,
        "zero_mse": 1.0,
    }


def heldout(rng: np.random.Generator) -> dict[str, Any]:
    """Errors of a predictor on triples it did not see, and on those it was fitted on."""
    return {**errors(rng), "fitted": errors(rng)}


def blocks(loss: float, seed: int = 0) -> list[float]:
    """Losses of `DOCUMENTS` whose mean is `loss`: documents differ alike for all, noise by seed."""
    noise = np.random.default_rng(seed).normal(scale=0.01, size=24)
    found = loss + np.linspace(-0.4, 0.4, 24) + noise - noise.mean()
    return [float(value) for value in found]


def step_row(step: int, loss: float, seed: int = 0) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": step * 2048,
        "heldout_loss": loss,
        "heldout_perplexity": math.exp(loss),
        "block_losses": blocks(loss, seed),
    }


def write(
    folder: Path, layers: int = 30, optional: bool = True, kinds: Sequence[str] = KINDS
) -> Path:
    """Fill `folder` with a full set of metrics files and return it."""
    rng = np.random.default_rng(7)
    save(
        folder,
        "base",
        {
            "profile": "made-up",
            "source": "local folder a",
            "license": "none",
            "model_type": "llama",
            "num_hidden_layers": layers,
            "hidden_size": 64,
            "parameters": 134515008,
            "digest": "0",
        },
    )
    save(
        folder,
        "corpus",
        {
            "documents": {"train": 70, "heldout": 19},
            "block_size": 32,
            "begins_with": [],
            "duplicates": 0,
            "tokens": {"train": 450000, "validation": 6144, "test": 90000},
            "blocks": {"train": 800},
            "digest": "0",
            "license": "none",
            "source": "files",
        },
    )
    svd = {}
    for i, kind in enumerate(kinds):
        rows = (
            np.cumsum(rng.normal(size=(layers, 12)), axis=0)
            if i < 4
            else rng.normal(size=(layers, 12))
        )
        rank = 192 if kind in ("k_proj", "v_proj") else 576
        values = np.exp(-np.linspace(0, 0.5 + i / 4, rank)) * (3 + i)
        svd[kind] = {
            "method": "gram",
            "rank": rank,
            "shape": [rank, 12],
            "layers": layers,
            "singular_values": values.tolist(),
            "top_rows": rows.tolist(),
            "structure": {"rank_one_share": 0.0625, "mean_cosine": 0.002},
            "seconds": 1.5,
        }
    save(folder, "svd", svd)
    for preset in PRESETS:
        for seed in SEEDS:
            save(
                folder,
                f"fit/{preset}-{seed}",
                {
                    "preset": preset,
                    "seed": seed,
                    "kinds": {
                        kind: {
                            "train": errors(rng),
                            "heldout": heldout(rng),
                            "seconds": 3.25,
                            "triples": 28,
                            "heldout_triples": 5,
                        }
                        for kind in kinds
                    },
                },
            )
    for i, model in enumerate(MODELS):
        copies = model in ("base", "llama_pro", "solar")
        save(
            folder,
            f"expand/{model}",
            {
                "model": model,
                "method": model,
                "parameters_before": 1,
                "parameters_after": 2,
                "trainable_parameters": 1,
                "seconds": 1.0,
                "new_weight_norms": {},
                "new_weight_structure": {
                    kind: None
                    if model in ("base", "solar")
                    else {"rank_one_share": 0.93, "mean_cosine": 0.91}
                    for kind in kinds
                },
                "plan": [
                    {"layer_idx": n, "copy_of": model if copies else None}
                    for n in range(layers if model == "base" else layers * 3 // 2)
                ],
            },
        )
        start = [3.15, 3.37, 4.11, 3.15, 3.55, 3.91, 3.5][i]
        steps = []
        for step in range(0, 41, 5):
            loss = 3.02 + 0.02 * i + (start - 3.02 - 0.02 * i) * math.exp(-step / 6)
            steps.append(step_row(step, loss, seed=i))
        save(
            folder,
            f"pretrain/{model}",
            {
                "model": model,
                "learning_rate": 0.0005,
                "dtype": "float32",
                "trainable_parameters": 53000000 + i,
                "tokens_per_step": 2048,
                "heldout_documents": DOCUMENTS,
                "steps": steps,
                "train": [],
                "heldout_tokens": 6144,
                "tokens_per_second": 200.0 - 10 * i,
                "seconds": 81920 / (200 - 10 * i),
                "prefix_seconds": 40.0 if model not in ("base", "llama_pro", "solar") else 0.0,
            },
        )
        for phase in ("init", "trained"):
            tasks = {
                "wiki_perplexity": {
                    "metrics": {
                        "word_perplexity": score(rng, 30, 60, 1.5),
                        "bits_per_byte": score(rng, 0, 1),
                    },
                    "examples": 8,
                    "source": "offline",
                },
                "wiki_last_word": {
                    "metrics": {"acc": score(rng, 0, 1)},
                    "examples": 40,
                    "source": "offline",
                },
            }
            if optional:
                tasks["arc_easy"] = {
                    "metrics": {"acc": score(rng, 0, 1)},
                    "examples": 40,
                    "source": "mirror",
                }
            save(
                folder,
                f"evaluate/{phase}/{model}",
                {
                    "model": model,
                    "phase": phase,
                    "dtype": "float32",
                    "tasks": tasks,
                    "document_perplexity": {"value": 31.25 + i, "documents": ["a"], "losses": [3]},
                },
            )
    if optional:
        save(
            folder,
            "grid/lesa",
            {
                "model": "lesa",
                "max_steps": 5,
                "best": 0.0005,
                "runs": [
                    {"learning_rate": r, "validation_loss": 3.1 + r, "validation_loss_at_0": 3.37}
                    for r in (0.0002, 0.0005, 0.001)
                ],
            },
        )
        benchmarks(folder, layers)
        start_study(folder)
        budget_study(folder)
        official_study(folder)
    return folder


def start_row(method: str, loss: float, **more: Any) -> dict[str, Any]:
    """A row of the study `start`; `more` overrides any of its keys."""
    own: dict[str, Any] = dict.fromkeys(("preset", "seed", "signs", "settings", "raw", "gaps"))
    own |= {"options": {}, "noise": 0, "norm_ratio": None} | more
    noise = own.pop("noise")
    structure = {kind: {"rank_one_share": 0.5, "mean_cosine": 0.25} for kind in KINDS}
    return {
        "row": method,
        "method": method,
        "dtype": "float32",
        "heldout_documents": DOCUMENTS,
        "block_losses": blocks(loss, noise),
        "loss": loss,
        "perplexity": math.exp(loss),
        "document_losses": None,
        "document_perplexity": 2 * math.exp(loss),
        "new_weight_structure": structure if method not in ("base", "solar") else {},
        **own,
    }


# Losses at the start of LESA's draws of (seed, signs), and of the constant row's.
DRAWS = {
    "paper": [3.2, 3.3, 3.1, 3.25, 3.4, 3.35, 3.28, 3.22],  # all below SOLAR's 3.55
    "official_code": [4.1, 4.9, 3.9, 5.0, 4.4, 4.6, 4.2, 3.5],  # one of eight
}


def save_start(folder: Path, name: str, row: dict[str, Any]) -> None:
    """A row is called as its file."""
    save(folder, f"start/{name}", row | {"row": name})


def start_study(folder: Path) -> None:
    """Eight draws of two presets, each with its constant row, and methods without draws."""
    for preset, losses in DRAWS.items():
        for seed, loss in enumerate(losses):
            draw = {"preset": preset, "seed": seed, "signs": "largest", "noise": seed + 1}
            draw["norm_ratio"] = dict.fromkeys(KINDS, 0.5)
            save_start(folder, f"lesa-{preset}-{seed}", start_row("lesa", loss, **draw))
            constant = start_row("constant_row", 2 * loss - 3, **draw)
            save_start(folder, f"constant_row-{preset}-{seed}", constant)
    raw = {"preset": "paper", "seed": 0, "signs": "largest", "raw": True, "noise": 3}
    save_start(folder, "lesa_raw", start_row("lesa", 3.7, **raw))
    for seed in (1, 2):
        loss = DRAWS["paper"][seed] + 0.5
        save_start(folder, f"lesa_raw_{seed}", start_row("lesa", loss, **(raw | {"seed": seed})))
    fit = {"preset": "paper", "seed": 0, "signs": "largest"}
    no_term = {**fit, "settings": {"norm_weight": 0.0}, "noise": 5}
    ratios = dict.fromkeys(KINDS, 0.1)  # LESA's own are 0.5
    save_start(folder, "norm_weight_0", start_row("lesa", 3.9, **no_term, norm_ratio=ratios))
    save_start(folder, "noise", start_row("noise", 3.6, **fit, options={"seed": 0}, noise=6))
    for method, loss in (("base", 3.15), ("llama_pro", 3.15), ("solar", 3.55), ("average", 3.91)):
        noise = 0 if method in ("base", "llama_pro") else 2
        save_start(folder, method, start_row(method, loss, noise=noise))


def budget_run(
    name: str, seed: int, end: float, max_steps: int = 40, **more: Any
) -> dict[str, Any]:
    """A run of the study `budget` that falls from a loss of 3.4 in a straight line to `end`."""
    rng = np.random.default_rng(seed)
    train = [
        {"step": i, "loss": 3.4 + float(rng.normal(scale=0.1)), "learning_rate": 0.001}
        for i in range(1, max_steps + 1)
    ]
    points = range(0, max_steps + 1, 10)
    return {
        "run": f"{name}-{seed}",
        "model": name,
        "method": name,
        "gaps": None,
        "preset": None,
        "seed": seed,
        "trains": "new",
        "max_steps": max_steps,
        "learning_rate": 0.001,
        "heldout_documents": DOCUMENTS,
        "steps": [step_row(i, 3.4 + (end - 3.4) * i / max_steps, seed + 7) for i in points],
        "train": train,
        "seconds": 100.0,
        "prefix_seconds": 20.0,
        **more,
    }


def budget_study(folder: Path) -> None:
    """Three seeds a method, LESA's half schedule, and LESA with other layers trained."""
    lesa = {"method": "lesa", "preset": "paper"}
    for seed in SEEDS:
        shift = 0.01 * seed
        ends = {"base": 3.0, "llama_pro": 3.05, "solar": 3.3, "identity": 3.04}
        for name, end in ends.items():
            more: dict[str, Any] = {"trains": "all"} if name in ("base", "solar") else {}
            seconds = {"seconds": 150.0, "prefix_seconds": 0.0}
            run = budget_run(name, seed, end + shift, **(seconds | more))
            save(folder, f"budget/{run['run']}", run)
        for name, end, more in (
            ("lesa", 3.1, {}),
            ("lesa_half", 3.2, {"max_steps": 20}),
            ("lesa_all", 3.2, {"trains": "all"}),
            ("lesa_raw", 3.25, {}),
        ):
            run = budget_run(name, seed, end + shift, **(lesa | more))
            if name == "lesa_all":  # twice the noise around the same level
                for row in run["train"]:
                    row["loss"] = 3.4 + 2 * (row["loss"] - 3.4)
            save(folder, f"budget/{run['run']}", run)


def scale_run(name: str, seed: int, end: float, **more: Any) -> dict[str, Any]:
    """A run of the study `scale`: a straight fall to `end`, four blocks of each of eight packages,
    whose falls differ, and a second text that is forgotten by as much as the loss falls."""
    packages = np.repeat(np.random.default_rng(seed).normal(scale=0.01, size=8), 4)
    noise = np.random.default_rng(len(name)).normal(scale=0.01, size=32)
    noise -= noise.mean()
    steps = []
    for step in range(0, 1281, 64):
        fall = (2.0 - end) * step / 1280
        losses = 2.0 - fall + (packages + noise) * step / 1280
        second = np.linspace(2.8, 3.2, 12) + fall / 2 + packages[:12] * step / 1280
        row = step_row(step, float(losses.mean()))
        row |= {"tokens": step * 8192, "block_losses": losses.tolist()}
        row |= {
            "second_text_loss": float(second.mean()),
            "second_text_block_losses": second.tolist(),
        }
        steps.append(row)
    changes = {"max_steps": 1280, "steps": steps, "train": []}
    return budget_run(name, seed, end) | changes | {
        "heldout_documents": [f"package {i // 4}" for i in range(32)],
        "second_text_documents": [f"article {i // 2}" for i in range(12)],
        **more,
    }  # fmt: skip


def scale_study(folder: Path) -> None:
    """Two seeds a model but for the last, measured on another machine than all else."""
    for name, end, seeds, more in (
        ("lesa", 1.6, (0, 1), {"preset": "paper"}),
        ("llama_pro", 1.5, (0, 1), {}),
        ("base", 1.45, (0, 1), {"trains": "all"}),
        ("lora", 1.55, (0, 1), {"method": "base", "trains": "lora"}),
        ("identity", 1.7, (0,), {}),
    ):
        for seed in seeds:
            save(folder, f"scale/{name}-{seed}", scale_run(name, seed, end, **more))
            machine(folder, f"scale-{name}-{seed}", "NVIDIA H100")


def machine(folder: Path, run: str, device: str) -> None:
    save(folder, f"provenance/{run}", {"machine": {"device": device}})


def rates_study(folder: Path) -> None:
    for study, model, run, tried, best in (
        ("budget", "lesa", "lesa_120-0", {0.001: 3.2, 0.003: 3.1, 0.01: 3.3}, 0.003),
        ("scale", "lora", "lora-0", {0.0003: 1.7, 0.001: 1.6}, 0.001),
    ):
        runs = [
            {"learning_rate": rate, "validation_loss": loss, "validation_loss_at_0": 3.4}
            for rate, loss in tried.items()
        ]
        content = {"study": study, "model": model, "run": run, "max_steps": 160, "tokens": 163840}
        save(folder, f"rates/{study}-{model}", content | {"runs": runs, "best": best})


def official_study(folder: Path) -> None:
    """Two tasks of 40 examples: the base right at every second one, LESA at all of them."""
    for model, phase, right in (("base", "init", 2), ("lesa", "trained", 1)):
        found = [float(i % right == 0) for i in range(40)]
        tasks = {
            task: {"metrics": {"acc": {"value": sum(found) / 40, "examples": found}}}
            for task in ("arc_easy", "piqa")
        }
        save(folder, f"official/{model}-{phase}", {"model": model, "phase": phase, "tasks": tasks})


def benchmarks(folder: Path, base_layers: int) -> None:
    """Two comparisons, one of them a level deeper, and a measurement over depths."""
    machine = {
        "cores": 3,
        "memory_bytes": 5 * 2**30,
        "processor": "made-up",
        "instructions": "avx2",
        "python": "3.11",
        "torch": "0.0",
        "date": "2000-01-01",
    }

    def compared(own: str, peer: str, seconds: float, **more: Any) -> dict[str, Any]:
        return {
            "repetitions": 3,
            "medians": {
                peer: {"seconds": 7 * seconds, "peak_bytes": 900 * 2**20},
                own: {"seconds": seconds, "peak_bytes": 300 * 2**20},
            },
            "ratios": {peer: {"seconds": 7.0, "peak_bytes": 3.0}},
            **more,
        }

    basis = {"q_proj": compared("gram", "concat", 1.25, largest_relative_difference=3.5e-7)}
    save(folder, "benchmarks/basis-default", {"machine": machine, "shape": {}, **basis})
    tensors = {"tensors": 12, "bit_for_bit": 10, "zeros_differ_in_sign": 2}
    merge = {"solar": compared("lesa", "mergekit", 0.5, **tensors)}
    save(folder, "benchmarks/expansion", {"machine": machine, "deeper": merge})
    profile = {
        "shares": {"matrix products": 0.75, "all else": 0.25},
        "products_seconds": 2.5,
        "most_times_as_fast": 4.25,
    }
    step = compared("lesa", "trainer", 0.25, largest_loss_difference=1e-6)
    training = {"machine": machine, "one step": step, "profile": profile}
    save(folder, "benchmarks/pretrain-float32", training)
    depths = [
        {
            "layers": layers,
            "layers_after": layers * 3 // 2,
            "base_bytes": layers * 2**20,
            "seconds": 10.0 + layers,
            "seconds_per_layer": 10.0 / layers + 1,
            "seconds_by_stage": {"extract": 4.0, "expand": 6.0 + layers},
            "peak_bytes": 700 * 2**20,
            "peak_anonymous_bytes": 640 * 2**20 if layers > 4 else None,
            "fit": {"epochs": 1},
            "fit_seconds": {"q_proj": 1.0 * (layers - 2), "k_proj": 0.5 * (layers - 2)},
        }
        for layers in (4, 8)
    ]
    line = {"seconds_per_layer": 1.0, "seconds_at_no_depth": 10.0, "largest_residual": 0.0625}
    lines = {"all stages": line, "extract": None}
    save(folder, "benchmarks/depth", {"machine": machine, "depths": depths, "lines": lines})
    repeated = [2.0, 2.1, 1.9, 2.05, 1.95]  # the machine's moods, shared by all methods
    steps = {
        name: {"seconds": [factor * s for s in repeated], "prefix_seconds_per_step": prefix}
        for name, factor, prefix in (("lesa", 1, 0.5), ("llama_pro", 1.5, 0), ("solar", 2, 0))
    }
    shape = {"layers": base_layers, "hidden": 64}
    save(
        folder, "benchmarks/training_steps", {"machine": machine, "methods": steps, "shape": shape}
    )


def score(rng: np.random.Generator, low: float, high: float, stderr: float = 0.08) -> Any:
    return {"value": float(rng.uniform(low, high)), "stderr": stderr, "higher_is_better": True}
