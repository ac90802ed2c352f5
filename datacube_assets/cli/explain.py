"""`datacube explain`: where a published number comes from, for a person, a program or a spreadsheet.

What an explanation is, is in `read/explain.py`; how it reads in a terminal, here.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TextIO

import click

from datacube_assets.cli.options import in_a_folder, store_options, told
from datacube_assets.cli.tables import show_more

if TYPE_CHECKING:
    import pyarrow as pa

    from datacube_assets.kernels.schema import RegionLevel
    from datacube_assets.read import Explanation
    from datacube_assets.read.tables import LakeDatacube
    from datacube_assets.settings import Settings

_LEVELS = ("country", "admin1", "admin2", "admin3")
"""Written out, since where they are defined takes long to import."""
_SHOWN = 20
"""Rows and cells that a person is shown, unless more are asked for."""
_COLUMNS = ("part", "row", "timestamp", "value", "counted", "reason")


@click.command(short_help="Where does a published number come from?")
@click.argument("key", metavar="MODEL_ID:RUN_ID[@VERSION]")
@click.option("--feature", required=True, metavar="NAME")
@click.option(
    "--time", "when", required=True, metavar="TIME", help="A month (2020-01), a year (2020), or `all`."
)
@click.option("--region", metavar="ID", help="A region: names from the country down, joined by `__`.")
@click.option("--level", type=click.Choice(_LEVELS), help="Its level, where the id does not tell.")
@click.option("--bin", "bin_", metavar="Z/X/Y/BIN", help="A bin of a tile of the map.")
@click.option("--qualifier", metavar="NAME=VALUE", help="One value of a qualifier.")
@click.option("--figure", default="s_sum_t_sum", show_default=True, metavar="NAME", help="Which figure.")
@click.option(
    "--rows",
    "shown",
    type=click.IntRange(min=0),
    default=_SHOWN,
    show_default=True,
    metavar="N",
    help="Rows to show.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything, as one JSON document.")
@click.option(
    "--csv",
    "csv_file",
    type=click.File("w"),
    callback=in_a_folder,
    metavar="FILE",
    help="Write all rows to a file.",
)
@store_options
def explain(
    key: str,
    feature: str,
    when: str,
    region: str | None,
    level: RegionLevel | None,
    bin_: str | None,
    qualifier: str | None,
    figure: str,
    shown: int,
    as_json: bool,
    csv_file: TextIO | None,
    settings: Settings,
) -> None:
    """Tell which rows of Dojo's files made a published figure, and which did not count.

    Without a place the figure is that over all places. The numbers of rows are those in their file, from 0.
    With a version, the figure is that of this version, which has to keep its tables (`datacube history`).

    \b
    Examples
      datacube explain locusts:run-1 --feature presence --time 2020-01 --region Kenya__Nakuru
      datacube explain locusts:run-1@2 --feature presence --time 2020 --bin 8/154/127/1171 --json
      datacube explain prices:indicator --feature price --time 2020-01 --qualifier market=Kitui --csv rows.csv
    """
    from datacube_assets.read import NoDataError, open_tables

    if qualifier is not None and "=" not in qualifier:
        raise click.BadParameter("give NAME=VALUE, such as crop=maize", param_hint="--qualifier")
    with told():
        try:
            from datacube_assets.dojo.model_run import ModelRun

            named, separate, number = key.partition("@")
            run = ModelRun.named(named)
            cube = open_tables(
                settings.lake,
                run.model_id,
                run.run_id,
                version=_version(number) if separate else None,
                s3_endpoint=settings.s3_endpoint,
            )
            name, value = _qualifier(qualifier, cube, feature) if qualifier else (None, None)
            found = cube.explain(
                feature,
                when,
                region=region,
                level=level,
                bin=_bin(bin_),
                qualifier=name,
                value=value,
                figure=figure,
            )
        except (NoDataError, ValueError) as error:
            raise click.ClickException(str(error)) from error
        with ExitStack() as stack:
            progress = _progress(stack)
            if as_json:
                document = found.to_json(progress)
                if csv_file:
                    _write(csv_file, document["rows"])
                click.echo(json.dumps(document, indent=1))
            else:
                _tell(found, key, shown, csv_file, progress)


def _version(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise click.BadParameter(f"{text!r} is no version: give a number, such as locusts:run-1@2")
    return int(text)


def _qualifier(text: str, cube: LakeDatacube, feature: str) -> tuple[str, str]:
    """Name and value of a qualifier, of which each may hold the sign between them."""
    splits = [(text[:at], text[at + 1 :]) for at, sign in enumerate(text) if sign == "="]
    known = [(name, value) for name, value in splits if name in cube.qualifiers(feature)]
    there = [(name, value) for name, value in known if value in cube.qualifier_values(feature, name)]
    return (there or known or splits)[0]


def _bin(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        zoom, x, y, number = (int(part) for part in text.split("/"))
    except ValueError:
        raise click.BadParameter("give zoom/x/y/bin, such as 8/154/127/1171", param_hint="--bin") from None
    return zoom, x, y, number


def _progress(stack: ExitStack) -> Callable[[int, int], None]:
    """Tells how many rows were looked through, on a terminal."""
    if not sys.stderr.isatty():
        return lambda *_: None

    def tell(seen: int, total: int) -> None:
        click.echo(f"\r\x1b[K  {seen:,} of {total:,} rows looked through", nl=False, err=True)

    stack.callback(click.echo, "\r\x1b[K", nl=False, err=True)
    return tell


def _tell(
    found: Explanation, key: str, shown: int, csv_file: TextIO | None, progress: Callable[[int, int], None]
) -> None:
    from datacube_assets.read.explain import counts_of, plain_rows

    scope = found.scope
    place = (
        f"the region {scope.region}"
        if scope.level is not None
        else "one bin of the map"
        if scope.bin
        else "all places"
    )
    value = "no value" if found.value is None else repr(found.value)
    click.secho(f"{found.name} of {scope.feature} in {_when(found)}, {place}: {value}", bold=True)
    click.echo(f"  {key}")
    if scope.qualifier is not None:
        click.echo(f"  only rows whose {scope.qualifier} is {scope.value}")
    click.echo(f"\nHow it is made\n  {found.name} = {found.formula}")
    if found.name != "s_count":
        click.echo(f"  s_count = {found.figures['s_count']}: the cells that have a mean")
    click.echo(f"\nTemporal cells in it: {found.cells.num_rows:,}")
    _table(found.cells.slice(0, shown))
    show_more(found.cells.num_rows, shown)

    writer = csv.writer(csv_file) if csv_file else None
    if writer:
        writer.writerow(_COLUMNS)
    first: list[dict[str, Any]] = []
    counts: Counter[str | None] = Counter()
    for batch in found.rows(progress):
        counts.update(counts_of(batch))
        if len(first) < shown:
            wanted = plain_rows(batch.slice(0, shown - len(first)))
            changed = batch["cleaning"].slice(0, len(wanted)).to_pylist()
            first += [{**row, "cleaning": note} for row, note in zip(wanted, changed, strict=True)]
        if writer:
            writer.writerows(row.values() for row in plain_rows(batch))
    counted = counts.pop(None, 0)
    click.echo(f"\nRows of Dojo's files: {counted:,} count, {counts.total():,} do not")
    for reason, number in sorted(counts.items(), key=str):
        click.echo(f"  {number:,}: {reason}")
    parts = list(dict.fromkeys(row["part"] for row in first))
    for part in parts:
        click.echo(f"  {part}")
        for row in first:
            if row["part"] == part:
                click.echo(f"    {_line(row)}")
    show_more(counted + counts.total(), shown)


def _line(row: dict[str, Any]) -> str:
    reason = f"does not count: {row['reason']}" if row["reason"] else None
    said = "; ".join(note for note in (reason, row["cleaning"]) if note)
    delivered = f"timestamp {row['timestamp']!s:<15} value {row['value']!s:<10}"
    return f"row {row['row']:<9} {delivered} {said}".rstrip()


def _when(found: Explanation) -> str:
    import numpy as np

    if found.scope.period == "all":
        return "the whole period"
    unit = "M" if found.scope.period == "month" else "Y"
    return str(np.datetime64(found.scope.start, "ms").astype(f"datetime64[{unit}]"))


def _table(cells: pa.Table) -> None:
    names = [name for name in cells.column_names if name not in ("feature", "timestamp")]
    lines = [names, *([str(cell[name]) for name in names] for cell in cells.select(names).to_pylist())]
    widths = [max(len(line[number]) for line in lines) for number in range(len(names))]
    for line in lines:
        click.echo(
            "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        )


def _write(csv_file: TextIO, rows: list[dict[str, Any]]) -> None:
    writer = csv.writer(csv_file)
    writer.writerow(_COLUMNS)
    writer.writerows(row.values() for row in rows)
