"""A table as LaTeX: booktabs rules, a caption and a label, shrunk only where it is too wide."""

from __future__ import annotations

import re

import pandas as pd

from reports.markup import head_lines, latex
from reports.tables import Table

LONGEST = 40  # characters of a cell; longer text is set in a paragraph
PARAGRAPH = "p{.3\\linewidth}"


def _head(name: str, numeric: bool) -> str:
    lines = [latex(line) for line in head_lines(name)]
    if len(lines) == 1:
        return lines[0]
    return rf"\shortstack[{'r' if numeric else 'l'}]{{" + r" \\ ".join(lines) + "}"


def _cell(text: str) -> str:
    """A minus sign in place of the hyphen before a number."""
    return re.sub(r"(?<!\w)-(?=\d)", "$-$", latex(text))


def table(t: Table) -> str:
    """A `table` float; needs \\usepackage{booktabs, adjustbox}."""
    columns = [
        "r" if numeric else PARAGRAPH if max(map(len, texts)) > LONGEST else "l"
        for numeric, texts in zip(t.numeric, zip(*t.cells, strict=True), strict=True)
    ]
    frame = pd.DataFrame(
        [[_cell(text) for text in row] for row in t.cells],
        columns=[_head(name, n) for name, n in zip(t.header, t.numeric, strict=True)],
    )
    tabular = frame.style.hide(axis="index").to_latex(hrules=True, column_format="".join(columns))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(t.caption)}.}}",
        rf"\label{{tab:{t.name}}}",
        r"\begin{adjustbox}{max width=\linewidth, max totalheight=.9\textheight}",
        tabular.rstrip(),
        r"\end{adjustbox}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
