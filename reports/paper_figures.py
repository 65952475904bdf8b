"""The paper's figures in its shape, and that of the independent re-run.

Each function makes a figure or, where what it shows was not measured, None.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports import budget, opt_deus
from reports.claims.c01_continuity import SHOWN
from reports.claims.c09_without_freezing import OTHERS
from reports.figures import (
    WIDTH,
    Drawn,
    Made,
    layer_path,
    legend_below,
    line_style,
    model_styles,
    seeds_line,
    shown,
    styled,
    tsne_plane,
    write_made,
)
from reports.measured import Json, Metrics, files
from reports.paired import Array
from reports.training_runs import schedules, trained_otherwise

PAPERS = ("lesa", "llama_pro", "solar", "base")  # the paper's three, and the base trained alone
WINDOW = 8  # steps of a training curve that are averaged, at most an eighth of the run


def continuity(m: Metrics) -> Figure | None:
    """t-SNE of gate_proj's top coefficient rows as the paper draws it; the other kinds beside."""
    kinds = shown(m)
    gate = next((kind for kind in kinds if kind.endswith(SHOWN)), None)
    if gate is None:
        return None
    others = [kind for kind in kinds if kind != gate]
    lines = -(-len(others) // 2)
    figure = Figure(figsize=(WIDTH, max(3.4, 1.3 * lines)), layout="constrained")
    cells = figure.add_gridspec(lines, 4)
    points = _path(figure.add_subplot(cells[:, :2]), kinds[gate], gate, 44)
    for i, kind in enumerate(others):
        _path(figure.add_subplot(cells[i // 2, 2 + i % 2]), kinds[kind], kind, 10)
    bar = figure.colorbar(
        points, ax=figure.axes, location="bottom", fraction=0.05, aspect=50, label="layer"
    )
    bar.ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure


def _path(axes: Axes, content: Json, title: str, size: float) -> Any:
    xy = tsne_plane(np.asarray(content["top_rows"], dtype=np.float64))
    return layer_path(axes, xy, title, s=size, linewidths=0.3)


def smoothed(steps: npt.ArrayLike, losses: npt.ArrayLike) -> tuple[Array, Array]:
    """A training curve's means over a few consecutive steps, so that batches do not hide it."""
    width = max(1, min(WINDOW, len(np.asarray(losses)) // 8))
    window = np.full(width, 1 / width)
    x, means = (np.convolve(np.asarray(v, np.float64), window, "valid") for v in (steps, losses))
    return x, means


def training_curves(m: Metrics) -> dict[str, list[Json]]:
    """Training runs by name, a run a seed: of the study's main schedule, else of this run."""
    found = {runs.name: list(runs.by_seed.values()) for runs in budget.main_runs(m)}
    if not found:
        found = {name: [m.pretrain[name]] for name in m.models}
    kept = {name: [run for run in runs if run["train"]] for name, runs in found.items()}
    return {name: runs for name, runs in kept.items() if runs}


def training_loss(m: Metrics) -> Figure | None:
    """Training loss by step; of several seeds their mean, with a band from lowest to highest."""
    if not (curves := training_curves(m)):
        return None
    curves = {name: runs for name, runs in curves.items() if name in PAPERS} or curves
    return curves_figure(curves, model_styles(list(curves)))


def freezing(m: Metrics) -> Figure | None:
    """Training loss of LESA by what trains, in the longest schedule that has more than one; of the
    seeds that all have, as the batches of others make up most of how two curves differ."""
    for frozen in schedules(m.budget, "lesa")[::-1]:
        found = {"new layers alone": frozen}
        for trains, words in OTHERS.items():
            if (free := trained_otherwise(m.budget, frozen, trains, frozen.max_steps)) is not None:
                found[words] = free
        seeds = set.intersection(*(set(runs.by_seed) for runs in found.values()))
        if len(found) > 1 and seeds:
            curves = {name: [runs.by_seed[s] for s in seeds] for name, runs in found.items()}
            return curves_figure(curves, {name: line_style(i) for i, name in enumerate(curves)})
    return None


def curves_figure(curves: dict[str, list[Json]], styles: dict[str, dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, runs in curves.items():
        steps = min(len(run["train"]) for run in runs)
        rows = [run["train"][:steps] for run in runs]
        found = [smoothed([r["step"] for r in of], [r["loss"] for r in of]) for of in rows]
        x, seeds = found[0][0], np.stack([means for _, means in found], axis=1)
        seeds_line(axes, x, seeds, name, styles[name])
    axes.set(xlabel="training step", ylabel="training loss (nats/token)")
    legend_below(figure, axes)
    return figure


def predictor_curves(m: Metrics) -> Figure | None:
    """Loss of a preset's predictors by epoch, on what they are fitted on and on held-out triples.

    Reads `kinds.<kind>.curve` of metrics/fit: rows of epoch, fitted_mse, heldout_mse and zero_mse,
    that of the held-out triples, which the predictor does not see.
    """
    runs = {preset: m.fit[run]["kinds"] for preset, run in m.first_runs.items()}
    drawn = {
        preset: {kind: content for kind, content in kinds.items() if content.get("curve")}
        for preset, kinds in runs.items()
    }
    drawn = {preset: kinds for preset, kinds in drawn.items() if kinds}
    if not drawn:
        return None
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    grid = figure.subplots(1, len(drawn), squeeze=False).ravel()
    for axes, (preset, kinds) in zip(grid, drawn.items(), strict=True):
        for i, (kind, content) in enumerate(kinds.items()):
            style, curve = line_style(i), content["curve"]
            x = [row["epoch"] for row in curve]
            axes.plot(x, [r["heldout_mse"] / r["zero_mse"] for r in curve], label=kind, **style)
            fine: Any = style | {"alpha": 0.4, "markersize": 0, "linestyle": "-"}
            zero = content["heldout"]["fitted"]["zero_mse"]
            axes.plot(x, [r["fitted_mse"] / zero for r in curve], **fine)
        axes.axhline(1, color="0.5", linewidth=0.8)
        axes.set(xlabel="epoch", ylabel="MSE / MSE of predicting zero", title=preset)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend_below(figure, grid[0])
    return figure


def independent() -> Figure:
    """The re-run's accuracy and perplexity by budget; SOLAR's first points are cut off."""
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    grid = figure.subplots(2, len(opt_deus.BASES), sharex=True)
    steps = opt_deus.budgets()
    x = [opt_deus.percent(step) for step in steps]
    styles = model_styles(list(opt_deus.NAMES))
    for column, size in enumerate(opt_deus.BASES):
        above, below = grid[0][column], grid[1][column]
        accurate: list[float] = []
        perplexed: list[float] = []
        for method in opt_deus.methods(size):
            found = [opt_deus.accuracy(size, method, step) for step in steps]
            accuracies = np.array([one.value for one in found if one])
            words = np.array([opt_deus.perplexity(size, method, step) for step in steps])
            style = styles[method]
            above.plot(x, accuracies, label=opt_deus.NAMES[method], **style)
            below.plot(x, words, **style)
            if method == opt_deus.LESA:
                errors = np.array([one.stderr or 0.0 for one in found if one])
                band: Any = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
                above.fill_between(x, accuracies - errors, accuracies + errors, **band)
            if method != "solar":
                accurate.append(accuracies.min())
                perplexed += [words.min(), words.max()]
        above.set(title=size, ylim=(min(accurate) - 1.5, None))
        ylim = (0.98 * min(perplexed), 1.05 * max(perplexed))
        below.set(xlabel="% of 1.5B tokens", ylim=ylim)
    grid[0][0].set(ylabel="mean accuracy, %")
    grid[1][0].set(ylabel="WikiText perplexity a word")
    legend_below(figure, grid[0][0], ncols=3)
    return figure


def write_all(m: Metrics, folder: Path) -> dict[str, Drawn]:
    """Write what was measured into `folder`; the result is keyed by figure name."""
    fits, trained = files("fit", list(m.first_runs.values())), files("pretrain", m.models)
    with styled():
        made: list[Made] = [
            (
                "paper_continuity",
                continuity(m),
                f"t-SNE of the layers' top coefficient rows: {SHOWN}, as the paper draws it, and "
                "beside it the other matrix kinds",
                "metrics/svd.json",
            ),
            (
                "paper_training_loss",
                training_loss(m),
                f"Training loss, means over {WINDOW} steps at most; of several seeds their mean, "
                "with a band from lowest to highest",
                budget.SOURCES if m.budget else trained,
            ),
            (
                "paper_freezing",
                freezing(m),
                f"Training loss of LESA by what trains, means over {WINDOW} steps at most, of the "
                "seeds that all have",
                budget.SOURCES,
            ),
            (
                "paper_predictors",
                predictor_curves(m),
                "Error of the predictors by epoch, over that of predicting zero on the same "
                "triples: on held-out ones (markers), and faint on those they are fitted on",
                fits,
            ),
            (
                "rerun",
                independent(),
                "The independent re-run: mean accuracy of seven tasks (band: one standard error of "
                "LESA's) and WikiText's perplexity; SOLAR's first points are off the scale",
                opt_deus.SOURCES,
            ),
        ]
        return write_made(made, folder)
