"""Tables of the report as text for a terminal."""

from __future__ import annotations

from tabulate import tabulate

from reports.tables import Table


def text(table: Table) -> str:
    """A table under its caption, its columns' titles a word a line: numbers are narrow."""
    titles = [title.replace(" ", "\n") for title in table.header]
    return f"\n{table.caption}\n{tabulate(table.cells, titles, disable_numparse=True)}\n"
