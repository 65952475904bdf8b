"""A table as LaTeX: booktabs rules, a caption and a label, shrunk only where it is too wide."""

from __future__ import annotations

import pandas as pd

from reports.markup import latex
from reports.tables import Table

LONGEST = 40  # characters of a cell; longer text is set in a paragraph
PARAGRAPH = "p{.3\\linewidth}"


def table(t: Table) -> str:
    """A `table` float; needs \\usepackage{booktabs, adjustbox}."""
    cells = [[latex(text) for text in row] for row in t.cells]
    columns = "".join(
        "r" if numeric else PARAGRAPH if max(map(len, texts)) > LONGEST else "l"
        for numeric, texts in zip(t.numeric, zip(*t.cells, strict=True), strict=True)
    )
    frame = pd.DataFrame(cells, columns=[latex(name) for name in t.header])
    tabular = frame.style.hide(axis="index").to_latex(hrules=True, column_format=columns)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{latex(t.caption)}.}}\n\\label{{tab:{t.name}}}\n"
        f"\\begin{{adjustbox}}{{max width=\\linewidth}}\n{tabular}\\end{{adjustbox}}\n\\end{{table}}\n"
    )
