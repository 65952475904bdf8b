"""Tables of the report as text for a terminal."""

from __future__ import annotations

from textwrap import fill

from tabulate import tabulate

from reports.tables import Table

TITLE, LINE = 14, 100  # characters of a column's title and of the whole table in one line


def text(table: Table) -> str:
    """A table under its caption, with as many of its columns, from the left, as a line takes."""
    titles = [fill(title, TITLE) for title in table.header]
    for count in range(len(titles), 0, -1):
        cells = [row[:count] for row in table.cells]
        shown = tabulate(cells, titles[:count], disable_numparse=True)
        if max(map(len, shown.splitlines())) <= LINE:
            break
    return f"\n{table.caption}\n{shown}\n"
