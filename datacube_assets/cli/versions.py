"""Commands about the versions of a datacube: `history`, `rollback`, `diff`.

What they do is in `operations/versions.py` and `operations/rollback.py`.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from datacube_assets.cli.options import named_run, store_options, told
from datacube_assets.cli.progress import counting
from datacube_assets.cli.tables import show, show_more

if TYPE_CHECKING:
    from datacube_assets.settings import Settings
    from datacube_assets.storage.history import Listed

_COLOURS = {"published": "green", "broken off": "yellow"}
_PREVIOUS = "previous"


@click.command(short_help="List what was published of a datacube: when, of what, by which run.")
@click.argument("key", metavar="MODEL_ID:RUN_ID")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known of each, as JSON.")
@store_options
def history(key: str, as_json: bool, settings: Settings) -> None:
    """List every version of a datacube, the oldest first.

    The newest of them is published, unless the datacube was withdrawn. What is `kept` has its tables still:
    `datacube rollback` can publish it again, and `datacube diff` compare it.

    \b
    Examples
      datacube history locusts:run-1
      datacube history locusts:run-1 --json
    """
    from datacube_assets.operations.versions import open_history

    with told():
        run = named_run(key)
        found = open_history(settings, run).listed()
        if not found:
            raise click.ClickException(f"nothing of {key} was ever published; `datacube list` shows what is")
    if as_json:
        published = next((one.version.number for one in found if one.is_published), None)
        document = {
            "partition": run.key,
            "published": published,
            "versions": [one.to_json() for one in found],
        }
        click.echo(json.dumps(document, indent=1))
    else:
        show(map(_cells, found), (10, -4, 16, 4, -13, 8), _COLOURS)


def _cells(one: Listed) -> tuple[str, ...]:
    version = one.version
    size = sum(file.bytes for file in version.files)
    files = f"{len(version.files):,} file{'' if len(version.files) == 1 else 's'}"
    said = [f"{files}, {size / 1e6:,.1f} MB"]
    if version.executed_at:
        said.append(f"executed {version.executed_at}")
    if version.back_to:
        said.append(f"back to version {version.back_to}")
    return (
        one.state,
        str(version.number),
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(version.published)),
        "kept" if one.is_kept else "-",
        f"{version.rows:,} rows",
        version.by[:8],
        ", ".join(said),
    )


@click.command(short_help="Publish an earlier version of a datacube again.")
@click.argument("key", metavar="MODEL_ID:RUN_ID")
@click.option(
    "--to", default=_PREVIOUS, metavar="VERSION", help="Its number. [default: the one before the published]"
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done, as JSON; nobody is asked.")
@store_options
def rollback(key: str, to: str, yes: bool, as_json: bool, settings: Settings) -> None:
    """Publish an earlier version from the tables that it keeps, and tell CauseMos.

    Only objects that differ are written, results.json last. No sensor publishes the version that was there
    before again, until Dojo or a person brings something newer. Broken off, it is made good by the same
    command, with the version's number.

    \b
    Examples
      datacube rollback locusts:run-1
      datacube rollback locusts:run-1 --to 2 --yes
    """
    from datacube_assets.operations.publish import STEPS
    from datacube_assets.operations.rollback import roll_back
    from datacube_assets.operations.versions import open_history
    from datacube_assets.orchestration.home import open_instance

    with told():
        run = named_run(key)
        found = open_history(settings, run)
        target, before = found.target(to), found.published()
        if not yes and not as_json:
            there = f"version {before.number}" if before else "nothing"
            click.confirm(
                f"Publish version {target.origin} of {run.key} again, where {there} is published?", abort=True
            )
        with open_instance(settings) as instance, counting(f"rollback {run.key}") as progress:
            outcome = roll_back(
                settings, instance, run, target, lambda asset, _, done: progress(done, STEPS, asset)
            )
        after = found.published()
    written, deleted = outcome.total("objects written"), outcome.total("objects deleted")
    if as_json:
        document = {
            "partition": run.key,
            "version": after.number if after else None,
            "back_to": target.origin,
            "objects": outcome.total("objects"),
            "written": written,
            "deleted": deleted,
            "seconds": round(outcome.seconds, 3),
            "warnings": outcome.warnings,
        }
        click.echo(json.dumps(document, indent=1))
        return
    for warning in outcome.warnings:
        click.echo(f"Warning: {warning}", err=True)
    click.echo(
        f"Published  {run.key}  version {target.origin} again; {written:,} objects written, "
        f"{deleted:,} deleted, in {outcome.seconds:.1f} s"
    )


@click.command(short_help="What changed between two versions of a datacube, or between two runs.")
@click.argument("before", metavar="MODEL_ID:RUN_ID[@VERSION]")
@click.argument("after", metavar="MODEL_ID:RUN_ID[@VERSION]")
@click.option(
    "--rows",
    "shown",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="Lines of each part.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@store_options
def diff(before: str, after: str, shown: int, as_json: bool, settings: Settings) -> None:
    """Compare two versions of a datacube, or two model runs, by their tables.

    Without a version the published one is meant; of others the tables have to be kept. Told are features,
    regions, months and values of qualifiers that came or went, how many figures changed and by how much, and
    the figures that changed most. A figure is the same where it agrees to nine digits.

    \b
    Examples
      datacube diff locusts:run-1@1 locusts:run-1@2
      datacube diff locusts:run-1 locusts:run-2 --json
    """
    from datacube_assets.operations.versions import difference

    with told(), counting("diff"):
        try:
            found = difference(settings, before, after).to_json()
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"before": before, "after": after, **found}, indent=1))
    else:
        _tell(found, shown)


def _tell(found: dict[str, Any], shown: int) -> None:
    figures = found["figures"]
    click.secho(
        f"{figures['changed']:,} of {figures['compared']:,} figures changed, {figures['came']:,} came, "
        f"{figures['went']:,} went",
        bold=True,
    )
    by = ", ".join(f"{name}: {count:,}" for name, count in figures["classes"].items() if count)
    if by:
        click.echo(f"  by {by}")
    for kind, one in found["names"].items():
        for what in ("came", "went"):
            if one[f"{what}_count"]:
                rest = one[f"{what}_count"] - len(one[what])
                more = f" and {rest:,} more" if rest else ""
                click.echo(f"  {kind} that {what}: {', '.join(one[what])}{more}")
    if found["by_feature"]:
        click.echo("\nBy feature and level")
        show((_line(one) for one in found["by_feature"][:shown]), (20, 8, -20, -12, -12))
        show_more(len(found["by_feature"]) + found["not_listed"], shown)
    if found["movers"]:
        click.echo("\nWhat changed most")
        show((_mover(one) for one in found["movers"][:shown]), (20, 8, 10, 16, -12, -12))
        show_more(len(found["movers"]), shown)


def _line(one: dict[str, Any]) -> tuple[str, ...]:
    moved = f"{one['moved']:,} of {one['regions']:,} regions moved much" if one["regions"] else ""
    return (
        one["feature"],
        one["level"],
        f"{one['changed']:,} of {one['compared']:,}",
        f"{one['came']:,} came",
        f"{one['went']:,} went",
        moved,
    )


def _mover(one: dict[str, Any]) -> tuple[str, ...]:
    before, after = ("-" if one[name] is None else f"{one[name]:g}" for name in ("before", "after"))
    return (
        one["feature"],
        one["level"],
        one["month"],
        one["figure"],
        before,
        after,
        one["region"] or "all places",
    )
