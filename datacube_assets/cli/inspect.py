"""Commands that look and change nothing: `status`, `list`, `inspect`, `verify`.

What is looked at, and what it means, is in `operations/`; how it reads in a terminal, here.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from datacube_assets.cli.options import age, named_run, store_options, told
from datacube_assets.cli.progress import counting
from datacube_assets.cli.tables import show

if TYPE_CHECKING:
    from datacube_assets.operations.inventory import Listed
    from datacube_assets.settings import Settings

_COLOURS = {"well": "green", "warning": "yellow", "broken": "red"}


@click.command(short_help="Is everything well? With an exit status for monitoring.")
@click.option(
    "--timeout", "seconds", default=10.0, show_default=True, metavar="SECONDS", help="What each part gets."
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures, as JSON.")
@store_options
def status(seconds: float, as_json: bool, settings: Settings) -> None:
    """Ask every part of the system how it is.

    These are Dojo, CauseMos, the lake and both buckets, Dask, the code, waiting requests, undelivered
    reports, Dagster's daemon, its run queue, its sensors, and partitions whose newest run failed. Each is
    asked by itself: one that does not answer hides no other. What to do about each is in
    docs/operating.md.

    Exit status: 0 when all is well, 1 when something is worth a look, 2 when something is broken.
    """
    from datacube_assets.operations.status import SEVERITY
    from datacube_assets.operations.status import status as ask

    with counting("status"):
        found = ask(settings, seconds)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        show(((part.state, part.name, part.says) for part in found.parts), (7, 18), _COLOURS)
    sys.stdout.flush()
    sys.exit(SEVERITY[found.state])


@click.command("list", short_help="List partitions, with their state.")
@click.argument("keys", nargs=-1, metavar="[MODEL_ID:RUN_ID]...")
@click.option("--model", "models", multiple=True, metavar="ID", help="Only those of this model or dataset.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(
        [
            "READY",
            "PROCESSING",
            "QUEUED",
            "FAILED",
            "CANCELED",
            "INCOMPLETE",
            "NEW",
            "ORPHANED",
            "WITHDRAWN",
            "UNKNOWN",
        ],
        case_sensitive=False,
    ),
    help="Only those of this state.",
)
@click.option("--failed", is_flag=True, help="The same as --state FAILED.")
@click.option("--older-than", callback=age, metavar="AGE", help="Unchanged for so long: 7d, 12h, 30m.")
@click.option("--newer-than", callback=age, metavar="AGE", help="Changed since: 7d, 12h, 30m.")
@click.option("--keys", "only_keys", is_flag=True, help="Print keys only, for `datacube reprocess -`.")
@click.option("--json", "as_json", is_flag=True, help="Print everything known of each, as JSON.")
@store_options
def list_(
    keys: tuple[str, ...],
    models: tuple[str, ...],
    states: tuple[str, ...],
    failed: bool,
    older_than: float | None,
    newer_than: float | None,
    only_keys: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """List model runs and datasets: state, when published, objects, bytes, newest run, and why it failed.

    \b
    READY       complete, and its newest run did not fail
    PROCESSING  a run is at work on it
    QUEUED      a run waits for its turn, or is asked for
    FAILED      its newest run failed, or its command died; an older datacube may still stand
    CANCELED    its newest run was canceled; an older datacube may still stand
    INCOMPLETE  objects are published, but results.json is not
    NEW         known, and nothing of it is published
    ORPHANED    Dagster does not know it, and objects are published: withdraw it, or process it again
    WITHDRAWN   Dagster does not know it, and nothing is published; the lake still has tables
    UNKNOWN     what is stored of it cannot be read; the error says why

    \b
    Examples
      datacube list --failed
      datacube list --model locusts --older-than 30d
      datacube list --failed --newer-than 1d --keys | datacube reprocess -
    """
    from datacube_assets.operations.inventory import chosen, list_partitions
    from datacube_assets.orchestration.home import open_instance

    with told(), open_instance(settings) as instance, counting("list"):
        wanted = [state.upper() for state in states] + (["FAILED"] if failed else [])
        found = chosen(
            list_partitions(settings, instance, keys),
            states=wanted,
            models=models,
            older_than=older_than,
            newer_than=newer_than,
        )
    if as_json:
        click.echo(json.dumps([one.to_json() for one in found], indent=1))
    elif only_keys:
        for one in found:
            click.echo(one.key)
    else:
        show(map(_cells, found), (10, 16, -17, -13, 8))
        where = "" if found else f" (looked in {settings.home} and {settings.lake})"
        click.echo(f"{len(found):,} partition{'' if len(found) == 1 else 's'}{where}", err=True)


def _cells(one: Listed) -> tuple[str, ...]:
    published = "-" if one.published is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.published))
    return (
        one.state,
        published,
        f"{one.objects:,} objects",
        f"{one.bytes / 1e6:,.1f} MB",
        (one.newest_run or "-")[:8],
        f"{one.key}\n{one.error}" if one.error else one.key,
    )


@click.command(short_help="Look into a tile, an object, a table, a manifest, or a datacube.")
@click.argument("what", metavar="MODEL_ID:RUN_ID|FILE|URL")
@click.option("--object", "key", metavar="KEY", help="An object of the datacube, by its key after RUN_ID/.")
@click.option("--table", metavar="NAME", help="A table of the lake, for instance grid_cells.")
@click.option("--manifest", "asset", metavar="ASSET", help="What an asset has published.")
@click.option("--bins", is_flag=True, help="List the bins of a tile.")
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@store_options
def inspect(
    what: str,
    key: str | None,
    table: str | None,
    asset: str | None,
    bins: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """Look into what is stored.

    With a partition alone: its health, that is its tables, manifests, results.json and the last verdicts of
    its checks; the exit status is 0 when it is well, 1 when something is worth a look, and 2 when it is not
    complete or not consistent. With a file or URL: the object that is there.

    \b
    Examples
      datacube inspect locusts:run-1
      datacube inspect locusts:run-1 --table regional_aggregates
      datacube inspect locusts:run-1 --manifest spatial_tiles
      datacube inspect locusts:run-1 --object month/hoppers/tiles/1577836800000-0-0-0.tile --bins
      datacube inspect s3://models/locusts/run-1/results/results.json
    """
    from datacube_assets.dojo.model_run import ModelRun, UnknownPartitionError
    from datacube_assets.operations import inspect as inspecting

    if sum(one is not None for one in (key, table, asset)) > 1:
        raise click.UsageError("give one of --object, --table and --manifest")
    exit_status = 0
    found: dict[str, Any]
    with told(), counting("inspect"):
        try:
            if table is not None:
                found = inspecting.table(settings, what, table)
            elif asset is not None:
                found = inspecting.manifest_of(settings, what, asset, everything=as_json)
            elif key is not None:
                found = inspecting.published_object(settings, what, key, bins=bins)
            elif inspecting.names_an_object(what):
                found = inspecting.any_object(settings, what, bins=bins)
            else:
                from datacube_assets.orchestration.home import open_instance

                with open_instance(settings) as instance:
                    found = inspecting.health(settings, instance, ModelRun.named(what).key)
                exit_status = {"well": 0, "warning": 1, "broken": 2}[found["state"]]
        except UnknownPartitionError:
            raise
        except (LookupError, ValueError) as error:
            raise click.ClickException(str(error).strip("'\"")) from error
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        _show(found)
    sys.exit(exit_status)


def _show(found: Any, indent: str = "") -> None:
    """A document as indented lines."""
    for name, value in found.items():
        if isinstance(value, dict) and value:
            click.echo(f"{indent}{name}")
            _show(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            click.echo(f"{indent}{name}")
            for one in value:
                parts = "  ".join(f"{key}={_text(key, part)}" for key, part in one.items())
                click.echo(f"{indent}  {parts}")
        elif name in _SENTENCES and value:
            click.echo(f"{indent}{name}")
            for one in value:
                click.echo(f"{indent}  - {one}")
        else:
            click.echo(f"{indent}{name:24} {_text(name, value)}")


_SENTENCES = ("faults", "warnings")
"""Lists whose members are sentences: each has a line."""
_MOMENTS = ("at", "modified", "published")
"""Figures that are seconds UTC."""


def _text(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if name in _MOMENTS and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
    return "-" if value is None or value == {} else str(value)


@click.command(short_help="Compare published objects with manifests and tables.")
@click.argument("keys", nargs=-1, metavar="[MODEL_ID:RUN_ID]...")
@click.option("--model", "models", multiple=True, metavar="ID", help="All runs of a model or dataset.")
@click.option("--all", "everything", is_flag=True, help="All partitions of which something is published.")
@click.option("--no-tables", is_flag=True, help="Do not format the tables again: bucket and manifests only.")
@click.option("--json", "as_json", is_flag=True, help="Print all that is found, as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but faults.")
@store_options
def verify(
    keys: tuple[str, ...],
    models: tuple[str, ...],
    everything: bool,
    no_tables: bool,
    as_json: bool,
    quiet: bool,
    settings: Settings,
) -> None:
    """Compare every published object with its manifest (there, size, checksum, none besides), and every
    manifest with what the tables of the lake give when they are formatted again.

    Nothing is changed. It takes about as long as publishing, and reads every object of a local folder; S3
    tells checksums in its listing. Exit status: 0 when all is well, 1 when something differs, 2 when
    something could not be compared.

    \b
    Examples
      datacube verify locusts:run-1
      datacube verify --model locusts --no-tables
      datacube verify --all --json
    """
    from datacube_assets.operations.verify import verify as compare

    with told():
        if models or everything:
            from datacube_assets.operations.inventory import list_partitions
            from datacube_assets.orchestration.home import open_instance

            with open_instance(settings) as instance, counting("list", not quiet):
                known = list_partitions(settings, instance)
            keys = (
                *keys,
                *(one.key for one in known if one.objects and (everything or one.model_id in models)),
            )
        if not keys and not (models or everything):
            raise click.ClickException("nothing to verify: name partitions, or use --model or --all")
        runs = [named_run(key) for key in dict.fromkeys(keys)]
        all_found = []
        for number, run in enumerate(runs, 1):
            with counting(f"{number}/{len(runs)} {run}", not quiet) as progress:
                found = compare(
                    settings, run, lambda what, done, total: progress(done, total, what), tables=not no_tables
                )
            all_found.append(found)
            if as_json or (quiet and found.is_well):
                continue
            click.echo(
                f"{'well' if found.is_well else 'FAULTY':7} {found.key}  {found.recorded:,} recorded, "
                f"{found.read:,} compared with the bucket, {found.formatted:,} with the tables"
            )
            for fault, count in found.faults.items():
                click.echo(f"        {count:,} {fault}: {', '.join(found.examples[fault])}")
            for problem in found.problems:
                click.echo(f"        {problem}")
    if as_json:
        click.echo(json.dumps([found.to_json() for found in all_found], indent=1))
    sys.exit(
        2 if any(found.problems for found in all_found) else int(any(found.faults for found in all_found))
    )
