"""`datacube check`: what publishing some files would say, for a person, a program or a browser.

What is found out, and how, is in `operations/check.py`; how it reads in a terminal, and with which status the
command ends, here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datacube_assets.cli.options import in_a_folder, store_options, told
from datacube_assets.cli.request import request_options
from datacube_assets.cli.tables import show, show_more
from datacube_assets.orchestration.startup import importing, spare_imports

if TYPE_CHECKING:
    from datacube_assets.dojo.request import DatacubeRequest
    from datacube_assets.operations.check import Findings
    from datacube_assets.settings import Settings

REFUSED, WARNED = 1, 3
"""Statuses with which the command ends."""
_SHOWN = 3
"""Rows that are shown as examples of each reason."""
_NAMED = 12
"""Columns and features that are listed."""


@click.command(short_help="What would publishing these files say and make?")
@request_options(ids=False)
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=in_a_folder,
    help="Write a page with pictures to a file.",
)
@click.option("--strict", is_flag=True, help="End with status 3 where there are warnings.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def check(
    request: DatacubeRequest,
    settings: Settings,
    as_json: bool,
    html: Path | None,
    strict: bool,
    quiet: bool,
) -> None:
    """Tell everything that publishing the Parquet PARTs would say, and publish nothing.

    No bucket is touched, nothing is left in the lake, and CauseMos is told nothing. The options are those of
    `datacube publish`; ids matter only for comparing with the model's other runs.

    Ends with status 0 when all is well, 1 when the files would be refused, and with --strict 3 when there are
    warnings.

    \b
    Examples
      datacube check yields.parquet.gzip --qualifier-map '{"yield": ["crop"]}'
      datacube check part.*.parquet.gzip --model-id crops --html report.html
      datacube check output/*.parquet.gzip --json --strict > check.json
    """
    from datacube_assets.cli.progress import counting

    with importing():
        spare_imports()
        from datacube_assets.operations.check import check as find_out
        from datacube_assets.operations.check_page import page
    with told(), counting("Checking", wanted=not quiet) as counter:
        found = find_out(settings, request, counter, draw=html is not None)
    if html is not None:
        with told():
            html.write_text(page(found), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    elif not quiet:
        _tell(found)
    for error in found.errors:
        click.echo(f"Error: {error}", err=True)
    if found.errors:
        raise SystemExit(REFUSED)
    if strict and found.warnings:
        raise SystemExit(WARNED)


def _tell(found: Findings) -> None:
    """The findings for a person: from rows to objects, then what to look at."""
    from datacube_assets.checks.judging.sizes import size_text
    from datacube_assets.kernels.errors import shown

    click.secho(f"{found.run}: {_outcome(found)}", bold=True)
    if found.columns:
        click.echo("\nColumns")
        listed = found.columns[:_NAMED]
        width = max(len(shown(one.name)) for one in listed)
        show([(f"  {shown(one.name)}", one.becomes, one.why) for one in listed], (width + 2, 40))
        show_more(len(found.columns), _NAMED)
    if found.rows is not None and found.rows_kept is not None:
        click.echo(f"\nRows: {found.rows:,}, of which {found.rows_kept:,} are kept")
        for counts, what in ((found.dropped, "dropped"), (found.repaired, "kept")):
            for reason, number in counts.items():
                if number:
                    click.echo(f"  {number:,} {what}: {reason}")
                    for row in found.examples.get(reason, [])[:_SHOWN]:
                        told_ = f"timestamp {row.timestamp}, value {row.value}"
                        click.echo(f"    row {row.row:,} of {shown(row.part)}: {shown(told_)}")
    if found.features:
        click.echo(f"\nFeatures: {len(found.features):,}")
        features = list(found.features.items())[:_NAMED]
        show([(f"  {number:,}", f"rows of {shown(name)}") for name, number in features], (-12,))
        show_more(len(found.features), _NAMED)
    if found.first is not None:
        told_of = ", ".join(found.months_and_years)
        click.echo(f"\nTimes: {found.first} to {found.last}" + (f", {told_of}" if told_of else ""))
    if found.rows is not None:
        by_level = ", ".join(f"{number:,} {level}" for level, number in found.places.items())
        click.echo(f"Places: {by_level or 'no regions'}; {'tiles' if found.has_tiles else 'no tiles'}")
    if found.objects:
        click.echo("\nObjects, and bytes, about")
        whole = found.total
        rows = [
            (f"  {name}", f"{one.objects:,}", size_text(one.bytes)) for name, one in found.objects.items()
        ]
        show([*rows, ("  all", f"{whole.objects:,}", size_text(whole.bytes))], (22, -11))
        click.echo(f"  Publishing takes about {_duration(found.about_seconds or 0)} here.")
    for warning in found.warnings:
        click.secho(f"\nCheck this: {warning.name}\n  {shown_text(warning.says)}", fg="yellow")


def _outcome(found: Findings) -> str:
    if found.errors:
        return "it would be refused"
    number = len(found.warnings)
    if not number:
        return "fine"
    return f"it can be published, with {number} warning{'' if number == 1 else 's'}"


def shown_text(text: str) -> str:
    """A text on one line, without what could pass for something else."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
