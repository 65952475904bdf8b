"""The report's figures: PNG (200 dpi) and SVG, the same bytes for the same metrics.

Okabe-Ito colours; every line also differs by dash and marker, so black-and-white print is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from reports import budget, ends, hover, scale, start
from reports.measured import Json, Metrics, files
from reports.paired import Array
from reports.training_runs import Runs, groups

OKABE_ITO = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*", "<", ">", "h")
STYLE: Any = {  # Any: matplotlib types each key apart
    "svg.hashsalt": "lesa",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
MILLIONS = 1e6  # of tokens: an axis writes 2.5 M
FAR = 300  # perplexity: draws above it are told by their number
WIDTH = 7.0  # inches: the text width of an A4 page


@dataclass(frozen=True)
class Drawn:
    """A figure that was written: `name`.png and `name`.svg."""

    name: str
    caption: str
    sources: str
    svg: str
    points: str = ""  # the layer of `reports.hover`

    @property
    def inline(self) -> str:
        """The SVG as an element of a page that holds other figures: ids of its own, and points."""
        element = self.svg[self.svg.find("<svg") :].rstrip().removesuffix("</svg>")
        own = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{self.name}-", element)
        return f"{own}{self.points}</svg>"


# These have the same style in every figure; other models share out the rest.
MODELS = ("lesa", "llama_pro", "solar", "base", "noise", "lora", "llama_pro_lora", "identity")


def model_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A line's style by the model's name; those that MODELS lacks have what its others leave."""
    own = {name: MODELS.index(name) for name in names if name in MODELS}
    free = (index for index in count() if index not in own.values())
    return {name: line_style(own[name] if name in own else next(free)) for name in names}


def line_style(index: int) -> dict[str, Any]:
    """Colour, dash and marker of the index-th line; no two of the first 56 agree in all."""
    return {
        "color": OKABE_ITO[index % len(OKABE_ITO)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 1.4,
        "markeredgecolor": "black",
        "markeredgewidth": 0.4,
    }


def legend_below(figure: Figure, axes: Axes, ncols: int = 4) -> None:
    """In `ncols` columns, or as many as long names leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    letters = max(map(len, labels), default=0)
    ncols = max(1, min(ncols, int(WIDTH * 72 / STYLE["font.size"] / (7 + 0.6 * letters))))
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, handlelength=4)


# A line of losses: the model, what it is called, its x (points,) and every seed's (points, seeds).
Curve = tuple[str, str, Array, Array]


def loss_curves(found: Iterable[Curve], unit: str) -> Figure | None:
    """Held-out loss: the whole run, and its second half enlarged. None without a curve."""
    if not (curves := list(found)):
        return None
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    whole, late = figure.subplots(1, 2)
    styles = model_styles([model for model, *_ in curves])
    for axes, title, share in ((whole, "whole run", 0), (late, "second half, enlarged", 0.5)):
        for model, label, x, seeds in curves:
            kept = x >= share * x[-1]
            seeds_line(axes, x[kept], seeds[kept], label, styles[model])
        axes.set(xlabel=unit, ylabel="held-out loss (nats/token)", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(5 if axes.get_xlim()[1] < MILLIONS / 10 else 4))
        millions = axes.get_xlim()[1] >= MILLIONS
        axes.xaxis.set_major_formatter(EngFormatter() if millions else StrMethodFormatter("{x:,g}"))
    legend_below(figure, whole)
    return figure


def run_curves(m: Metrics, by_seconds: bool = False) -> Iterator[Curve]:
    """This run's own models."""
    for name in m.models:
        speed = m.pretrain[name]["tokens_per_second"] if by_seconds else 1.0
        if speed:  # a run resumed at its end timed no step
            steps = m.pretrain[name]["steps"]
            x = np.array([step["tokens"] for step in steps]) / speed
            yield name, name, x, np.array([[step["heldout_loss"]] for step in steps])


def in_every_budget(m: Metrics, study: list[Runs]) -> list[Runs]:
    """Of a study's runs those of models that every budget has; all, where there is one budget."""
    shared = ends.of_all_budgets(m)
    return [runs for runs in study if not shared or runs.model in shared]


def seeds_line(axes: Axes, x: Array, seeds: Array, label: str, style: dict[str, Any]) -> None:
    """The mean of `seeds` (points, seeds), and a band from the lowest to the highest."""
    axes.plot(x, seeds.mean(1), label=label, markevery=max(1, len(x) // 8), **style)
    low, high = seeds.min(1), seeds.max(1)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def study_curves(study: list[Runs]) -> Iterator[Curve]:
    """A study's runs, from the highest end to the lowest."""
    most = max((len(runs.by_seed) for runs in study), default=0)
    for runs in sorted(study, key=lambda runs: -runs.final_loss):
        # A line without a band looks the surer for it.
        label = runs.model + (" (1 seed)" if len(runs.by_seed) == 1 < most else "")
        x, losses = np.array(list(runs.points)), runs.curve(list(runs.by_seed))
        yield runs.model, label, x, losses.mean(2)


def start_distributions(m: Metrics) -> Figure:
    """Perplexity of every draw, a line a preset or control, beside the base's and SOLAR's; what is
    above FAR stands as a number beside its line."""
    drawn = [s for s in start.starts(m) if len(s.rows) >= start.FEWEST]
    figure = Figure(figsize=(WIDTH, 1.4 + 0.4 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for i, one in enumerate(drawn):
        near = one.perplexities[one.perplexities <= FAR]
        style: Any = {"markersize": 4, "alpha": 0.6, "color": OKABE_ITO[1], "gid": one.name}
        axes.plot(near, np.full(len(near), i), "o", **style)
        axes.plot(min(FAR, np.median(one.perplexities)), i, "|", color="black", markersize=14)
        if far := len(one.rows) - len(near):
            words = f"› {far} more, up to {one.perplexities.max():,.0f}"
            axes.annotate(words, (1.01, i), xycoords=("axes fraction", "data"), va="center")
    beside = ("base", "solar")
    styles = model_styles(beside)
    for method in beside:
        if (single := start.of_method(m, method)) is not None:
            style = styles[method] | {"marker": "None"}
            axes.axvline(float(single.perplexities[0]), label=method, **style)
    axes.set(xscale="log", xlabel="held-out perplexity before training (bar: median)")
    axes.set_xlim(None, FAR)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(drawn)), [one.name for one in drawn])
    axes.set_ylim(-0.6, len(drawn) - 0.4)
    legend_below(figure, axes)
    return figure


def shown(m: Metrics) -> dict[str, Json]:
    """The matrix kinds that are drawn: of a mixture's experts the first."""
    return {kinds[0]: m.svd[kinds[0]] for kinds in m.kind_groups.values()}


def spectra(m: Metrics) -> Figure:
    """Singular values over the largest, by rank over the number of them."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (kind, content) in enumerate(shown(m).items()):
        values = np.array(content["singular_values"], dtype=float)
        x = (np.arange(len(values)) + 1) / len(values)
        # Markers are staggered so that curves that run together stay apart in print.
        every = (0.02 * (i % 7) + 0.01, 0.13)
        axes.plot(
            x, values / values[0], label=f"{kind} ({len(values)})", markevery=every, **line_style(i)
        )
    axes.set(
        xlabel="rank / number of singular values",
        ylabel="singular value / largest",
        ylim=(0, 1.03),
        xlim=(0, 1.01),
    )
    legend_below(figure, axes)
    return figure


def tsne_plane(rows: Array) -> Array:
    """Two t-SNE coordinates a row (L x 2), fixed seed, perplexity fit for few layers."""
    perplexity = min(10.0, max(1.0, (len(rows) - 1) / 3))
    model = TSNE(2, perplexity=perplexity, init="pca", method="exact", random_state=0)
    return np.asarray(model.fit_transform(rows), dtype=np.float64)


def pca_plane(rows: Array) -> Array:
    """First two principal components of the rows (L x 2)."""
    return np.asarray(PCA(2, svd_solver="full").fit_transform(rows), dtype=np.float64)


def layer_path(axes: Axes, xy: Array, title: str, **style: Any) -> PathCollection:
    """The layers of a kind as points in the plane, joined in their order."""
    x, y = xy.T
    axes.plot(x, y, color="0.6", linewidth=0.7, zorder=1)
    points = axes.scatter(
        x, y, c=np.arange(len(x)), cmap="cividis", zorder=2, edgecolors="black", **style
    )
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.margins(0.1)
    axes.spines[["top", "right"]].set_visible(True)
    return points


def planes(m: Metrics) -> Figure:
    """A panel a kind: layers in the PCA plane, coloured by index and joined in their order."""
    columns, kinds = 3, shown(m)
    lines = -(-len(kinds) // columns)
    figure = Figure(figsize=(WIDTH, 2.3 * lines + 0.2), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    spare = list(grid[len(kinds) :])  # panels without a kind make room for the colour-bar
    for axes in spare:
        axes.set_axis_off()
    points = None
    for axes, (kind, content) in zip(grid, kinds.items(), strict=False):
        xy = pca_plane(np.asarray(content["top_rows"], dtype=np.float64))
        points = layer_path(axes, xy, kind, s=22, label="layer", linewidths=0.4)
        for end, marker in ((0, "s"), (len(xy) - 1, "D")):
            axes.scatter(
                *xy[end],
                s=75,
                marker=marker,
                facecolors="none",
                edgecolors="#D55E00",
                linewidths=1.4,
                zorder=3,
            )
    if points is not None:
        bar = figure.colorbar(
            points,
            ax=spare or list(grid),
            location="bottom",
            fraction=0.1,
            label="layer (square: first, diamond: last)",
        )
        bar.ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return figure


def write(name: str, figure: Figure, folder: Path, caption: str, sources: str) -> Drawn:
    """Write PNG and SVG without dates or versions, so that equal figures are equal bytes."""
    figure.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None})
    svg = folder / f"{name}.svg"
    figure.savefig(svg, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Drawn(name, caption, sources, svg.read_text(encoding="utf-8"), hover.layer(figure))


Made = tuple[str, Figure | None, str, str]  # name, figure, caption, sources


def write_made(made: Iterable[Made], folder: Path) -> dict[str, Drawn]:
    """Write the figures that there are; the result is keyed by figure name."""
    return {
        name: write(name, figure, folder, caption, sources)
        for name, figure, caption, sources in made
        if figure is not None
    }


@contextmanager
def styled() -> Iterator[None]:
    """The report's style alone: a user's matplotlibrc must not change the figures."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def write_all(m: Metrics, folder: Path) -> dict[str, Drawn]:
    """Write what was measured into `folder`; the result is keyed by figure name."""
    pretrain, svd = files("pretrain", m.models), "metrics/svd.json"
    first = "; of a mixture's experts the first" if len(shown(m)) < len(m.svd) else ""
    layers = f"of the layers' top coefficient rows, a panel a matrix kind{first}"
    values = "Singular values of the concatenated weights over the largest; in brackets how many"
    by_tokens = "Held-out loss by training tokens"
    bands = ": means over seeds, bands from lowest to highest"
    by_seconds = "Held-out loss by training seconds (tokens over tokens/s; without measuring)"
    whole, longer = (in_every_budget(m, runs(m)) for runs in (budget.main_runs, budget.longer_runs))
    said = {
        "budget": f"{by_tokens}, study `budget`{bands}",
        "budget_longer": f"{by_tokens}, the longer schedule of study `budget`{bands}",
        "scale": f"{by_tokens} of Python source, study `scale`{bands}",
        "start": "Perplexity before training of every draw of predictor seed and signs",
    }
    tokens, seconds = "training tokens", "training seconds"
    with styled():
        made: list[Made] = [
            ("loss_tokens", loss_curves(run_curves(m), tokens), by_tokens, pretrain),
            (
                "loss_seconds",
                loss_curves(run_curves(m, by_seconds=True), seconds),
                by_seconds,
                pretrain,
            ),
            ("spectra", spectra(m), values + first, svd),
            ("pca", planes(m), f"PCA {layers}", svd),
            ("budget", loss_curves(study_curves(whole), tokens), said["budget"], budget.SOURCES),
            (
                "budget_longer",
                loss_curves(study_curves(longer), tokens),
                said["budget_longer"],
                budget.SOURCES,
            ),
            (
                "scale",
                loss_curves(study_curves(groups(m.scale)), tokens),
                said["scale"],
                scale.SOURCES,
            ),
            ("start", start_distributions(m) if m.start else None, said["start"], start.SOURCES),
        ]
        return write_made(made, folder)
