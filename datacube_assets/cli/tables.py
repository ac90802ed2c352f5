"""Tables at the command line: fitted into a terminal; elsewhere plain lines that other programs can cut up.

What stands in the cells belongs to the commands. Tables are drawn by rich, which is imported for a terminal
only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

import click


def show(
    rows: Iterable[Sequence[str]], widths: Sequence[int], colours: Mapping[str, str] | None = None
) -> None:
    """Show rows of cells; the first cell has a colour by what it says.

    `widths` are those of all but the last cell where there is no terminal; a negative one is right-aligned.
    Further lines of the last cell are put below.
    """
    if not sys.stdout.isatty():
        for row in rows:
            *cells, last = row
            padded = [
                cell.rjust(-width) if width < 0 else cell.ljust(width)
                for cell, width in zip(cells, widths, strict=True)
            ]
            first, *others = last.split("\n")
            click.echo("  ".join([*padded, first]))
            for line in others:
                click.echo(f"            {line}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for width in widths:
        table.add_column(justify="right" if width < 0 else "left", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        # Text, not markup: names come from outside.
        told = [Text(cell) for cell in row]
        told[0].stylize((colours or {}).get(row[0], ""))
        table.add_row(*told)
    Console().print(table)


def show_more(number: int, shown: int) -> None:
    """Say how many rows were not shown, if any."""
    if number > shown:
        click.echo(f"  ... and {number - shown:,} more")
