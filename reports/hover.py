"""What a pointer shows over the points of a figure: names and values, as a layer of its SVG."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.paired import Array
from reports.tables import number

MOST = 40  # points a line: a curve of a thousand would hide itself
POINTS_PER_INCH = 72.0  # matplotlib's unit of an SVG


def _name(artist: Artist) -> str:
    """A line's gid, where its label would put it into the legend; else the label."""
    name = str(artist.get_gid() or artist.get_label())
    return "" if name.startswith("_") else name


def _series(axes: Axes) -> Iterator[tuple[Array, list[list[str]]]]:
    """Positions (N x 2, data units) and lines of text of each named artist's points."""
    for line in axes.lines:
        if not _name(line) or line.get_marker() in ("None", "", None):
            continue
        xy = np.asarray(line.get_xydata(), dtype=np.float64)
        kept = np.unique(np.linspace(0, len(xy) - 1, min(MOST, len(xy))).round().astype(int))
        labels = axes.get_xlabel(), axes.get_ylabel()
        said = [
            [
                _name(line),
                *(f"{name}: {number(v)}" for name, v in zip(labels, at, strict=True) if name),
            ]
            for at in xy[kept].tolist()
        ]
        yield xy[kept], said
    for dots in axes.collections:
        values = dots.get_array()
        if _name(dots) and values is not None:
            said = [[axes.get_title(), f"{_name(dots)} {number(v)}"] for v in values.tolist()]
            yield np.asarray(dots.get_offsets(), float), said


def layer(figure: Figure) -> str:
    """An SVG group over a figure that was saved: a circle a point, and the text it shows."""
    scale = POINTS_PER_INCH / figure.dpi
    width, height = figure.get_size_inches() * POINTS_PER_INCH
    out: list[str] = []
    for axes in figure.axes:
        for xy, said in _series(axes):
            for place, lines in zip(axes.transData.transform(xy), said, strict=True):
                if not axes.bbox.padded(1).contains(*place):
                    continue
                x, y = place[0] * scale, height - place[1] * scale
                anchor, side = ("start", 7) if x < width / 2 else ("end", -7)
                texts = "".join(
                    f'<tspan x="{x + side:.1f}" dy="{11 if i else 0}">{escape(line)}</tspan>'
                    for i, line in enumerate(lines)
                )
                out.append(
                    f'<g><circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
                    f'<text y="{y - 11 * len(lines):.1f}" text-anchor="{anchor}">{texts}</text></g>'
                )
    return "\n".join(['<g class="points">', *out, "</g>\n"])
