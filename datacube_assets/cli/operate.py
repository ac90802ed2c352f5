"""Commands that change what is stored, or leave work to be done: `reprocess`, `copy`, `gc`, `withdraw`.

What they do belongs elsewhere (`operations/reprocess.py`, `storage/copying.py`,
`operations/garbage_collection.py`, `operations/withdraw.py`).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from datacube_assets.cli.options import (
    age,
    known_limits,
    known_tasks,
    named_run,
    read_json,
    store_options,
    told,
)
from datacube_assets.cli.progress import counting
from datacube_assets.cli.tables import show

if TYPE_CHECKING:
    from datacube_assets.settings import Settings


@click.command(short_help="Ask for runs: process again, with other parameters or as they were.")
@click.argument("keys", nargs=-1, metavar="[MODEL_ID:RUN_ID]...")
@click.option("--model", "models", multiple=True, metavar="ID", help="All known runs of a model or dataset.")
@click.option("--failed", is_flag=True, help="All partitions whose last run failed.")
@click.option(
    "--qualifier-map", metavar="JSON|@FILE", help="Replaces the qualifiers that break features down."
)
@click.option("--weight-column", metavar="NAME", help="Replaces the weight column; an empty one is none.")
@click.option("--thresholds", metavar="JSON", help="Replaces the limits on qualifiers.")
@click.option("--fill-timestamp", type=int, metavar="MS", help="Replaces the time of rows without one.")
@click.option("--raw-count-threshold", type=int, metavar="N", help="Replaces the limit of raw.csv.")
@click.option(
    "--timestamp-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="Replaces the unit of timestamps."
)
@click.option("--tasks", metavar="A,B", help="Only these output tasks, for instance compute_tiles.")
@click.option("--json", "as_json", is_flag=True, help="Print what was asked for, as JSON.")
@store_options
def reprocess(
    keys: tuple[str, ...],
    models: tuple[str, ...],
    failed: bool,
    tasks: str | None,
    as_json: bool,
    settings: Settings,
    **changes: Any,
) -> None:
    """Ask for runs of model runs or datasets (MODEL_ID:RUN_ID, as the UI shows partitions).

    What is asked for waits in the lake; the sensor `requests` starts it within a tick. Parameters given
    here replace those of the request the partition was last made from, or that Dojo's documents imply,
    and stay in force for later runs. `-` reads partitions from standard input, one a line.

    \b
    Examples
      datacube reprocess locusts:run-1
      datacube reprocess locusts:run-1 --thresholds '{"max_count": 50}'
      datacube reprocess --failed
      datacube reprocess --model locusts --tasks compute_tiles
      datacube list --failed --newer-than 1d --keys | datacube reprocess -
    """
    from datacube_assets.operations.reprocess import failed_partitions, partitions_of
    from datacube_assets.operations.reprocess import reprocess as ask

    replaced: dict[str, object] = {
        name: value for name, value in changes.items() if value is not None and name != "thresholds"
    }
    if changes["qualifier_map"] is not None:
        replaced["qualifier_map"] = read_json("--qualifier-map", changes["qualifier_map"])
    if changes["thresholds"] is not None:
        replaced["qualifier_thresholds"] = known_limits(read_json("--thresholds", changes["thresholds"]))
    if tasks is not None:
        replaced["selected_output_tasks"] = known_tasks(tasks)
    wanted = [key for key in keys if key != "-"]
    if "-" in keys:
        wanted += [line.strip() for line in sys.stdin if line.strip()]
    if models or failed:
        from datacube_assets.orchestration.home import open_instance

        with told(), open_instance(settings) as instance:
            for model in models:
                wanted += partitions_of(instance, model)
            if failed:
                wanted += failed_partitions(instance)
    if not wanted and not (models or failed or "-" in keys):
        raise click.ClickException("nothing to ask for: name partitions, or use --model or --failed")
    asked: list[str] = []
    refused: dict[str, str] = {}
    for key in dict.fromkeys(wanted):
        try:
            ask(settings, key, replaced)
            asked.append(key)
            if not as_json:
                click.echo(f"Asked for {key}")
        except (ValueError, RuntimeError) as error:
            refused[key] = str(error)
            if not as_json:
                click.echo(f"{key}: {error}", err=True)
    if as_json:
        click.echo(json.dumps({"asked": asked, "refused": refused}, indent=1))
    elif not wanted:
        click.echo("Nothing to ask for: no partition is of that kind.")
    if refused:
        raise click.ClickException(f"{len(refused)} of {len(set(wanted))} could not be asked for")


@click.command(short_help="Copy published datacubes to another bucket.")
@click.argument("keys", nargs=-1, required=True, metavar="MODEL_ID:RUN_ID...")
@click.option(
    "--to", "target", required=True, metavar="URL", help="Bucket to copy to: s3://, file:// or a folder."
)
@click.option(
    "--from",
    "source",
    metavar="URL",
    help="Bucket to copy from. [default: the one that such runs are published into]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was copied, as JSON.")
@store_options
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def copy(
    keys: tuple[str, ...], target: str, source: str | None, as_json: bool, settings: Settings, quiet: bool
) -> None:
    """Copy the datacubes of model runs or datasets (MODEL_ID:RUN_ID, as the UI shows partitions).

    Only complete datacubes are copied. Objects of an older copy that are no longer part of the datacube are
    deleted at the target, and results.json is written last: a copy that was interrupted does not count as
    complete, and is made good by copying again. Both buckets are reached through the same endpoint and
    account; docs/s3.md tells how to copy between two servers.

    \b
    Examples
      datacube copy locusts:run-1 --to s3://other-models
      datacube copy locusts:run-1 --from s3://old-models --to /backup/models
    """
    from datacube_assets.settings import as_url
    from datacube_assets.storage.copying import copy as copy_datacube
    from datacube_assets.storage.lake import Lake
    from datacube_assets.storage.opening import open_store

    runs = [named_run(key) for key in dict.fromkeys(keys)]

    all_copied: dict[str, Any] = {}
    with told():
        lake = open_store(settings.lake, settings.s3_endpoint)
        lake.check("DATACUBE_LAKE", write=False)
        to = open_store(as_url(target), settings.s3_endpoint)
        to.check("--to")
        for run in runs:
            run.check()
            configured = settings.bucket_for(indicator=run.is_indicator)
            bucket = open_store(as_url(source or configured), settings.s3_endpoint)
            bucket.check("--from", write=False)
            started = time.monotonic()
            with counting(f"copy {run}", not quiet) as progress:
                copied = copy_datacube(Lake(lake), bucket, to, run, progress)
            all_copied[run.key] = asdict(copied)
            if not quiet and not as_json:
                seconds, size = time.monotonic() - started, copied.bytes / 1e6
                click.echo(
                    f"Copied  {to.url}/{run.prefix}  {copied.objects:,} objects, {size:,.1f} MB "
                    f"in {seconds:.1f} s, {copied.deleted:,} stale deleted"
                )
    if as_json:
        click.echo(json.dumps({"to": to.url, "copied": all_copied}, indent=1))


@click.command("gc", short_help="Find, and delete, what nothing refers to any more.")
@click.option("--delete", is_flag=True, help="Delete it. Without this, nothing is changed.")
@click.option(
    "--older-than",
    default="7d",
    show_default=True,
    callback=age,
    metavar="AGE",
    help="Leave alone what is younger: 7d, 12h, 30m. Longer than any run takes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything that is found, as JSON.")
@store_options
def gc(delete: bool, older_than: float, as_json: bool, settings: Settings) -> None:
    """Find what runs that died have left in the lake and in the buckets, and that no later run cleared.

    These are files of tables that were never committed, traces of publications, objects that no manifest
    names, unfinished writes, and settled reports about runs that Dagster has forgotten. Nothing that waits
    or is in use is touched, nor anything of a partition that a run is at work on, nor anything that is not
    ours. docs/lake.md tells more.

    \b
    Examples
      datacube gc                           say what would be deleted
      datacube gc --delete --older-than 2d
    """
    from datacube_assets.operations.garbage_collection import collect

    with told(), counting("gc") as progress:
        report = collect(settings, older_than, delete=delete, progress=progress)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
        return
    done = "deleted" if delete else "would be deleted; add --delete"
    counted = {**report.by_kind(), done: (len(report.found), report.bytes)}
    show(
        ((f"{number:,}", f"{size / 1e6:,.1f} MB", what) for what, (number, size) in counted.items()),
        (-9, -15),
    )
    for run in report.unfinished:
        click.echo(f"A publication of {run} broke off: materialize it again, which mends its objects")
    for run in report.orphaned:
        click.echo(f"{run.key} is published, and Dagster does not know it: datacube withdraw {run.key}")


@click.command(short_help="Take published datacubes back.")
@click.argument("keys", nargs=-1, required=True, metavar="MODEL_ID:RUN_ID...")
@click.option("--tables", is_flag=True, help="Delete what the lake computed of it, too.")
@click.option("--parts", is_flag=True, help="Delete the raw parts, too; with --tables nothing of it remains.")
@click.option("--tell", is_flag=True, help="Have CauseMos told that processing failed: it has no other word.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print what was withdrawn, as JSON. Does not ask.")
@store_options
def withdraw(
    keys: tuple[str, ...],
    tables: bool,
    parts: bool,
    tell: bool,
    yes: bool,
    as_json: bool,
    settings: Settings,
) -> None:
    """Take back the datacubes of model runs or datasets (MODEL_ID:RUN_ID, as the UI shows partitions).

    results.json goes first, then every other object, requests that wait for it, and the partition in Dagster.
    Tables of the lake and raw parts stay, unless --tables or --parts say otherwise, and nobody is told unless
    --tell says so. Dojo's sensors do not bring it back, until the run is executed again there; `datacube
    reprocess` does. Broken off anywhere, the same command does the rest.

    \b
    Examples
      datacube withdraw locusts:run-1
      datacube withdraw locusts:run-1 --tables --parts --yes
      datacube list --state ORPHANED --keys | xargs datacube withdraw --yes
    """
    from datacube_assets.operations.inventory import check_known
    from datacube_assets.operations.withdraw import withdraw as take_back
    from datacube_assets.orchestration.home import open_instance

    runs = [named_run(key) for key in dict.fromkeys(keys)]
    all_done = []
    with told(), open_instance(settings) as instance:
        check_known(settings, instance, [run.key for run in runs])
        if not yes and not as_json:
            click.confirm(f"Take back {', '.join(run.key for run in runs)}?", abort=True)
        for run in runs:
            with counting(f"withdraw {run.key}") as progress:
                done = take_back(
                    settings, instance, run, tables=tables, parts=parts, tell=tell, progress=progress
                )
            all_done.append(done)
            if not as_json:
                click.echo(
                    f"Withdrawn  {done.key}  {done.objects:,} objects, {done.bytes / 1e6:,.1f} MB, "
                    f"{done.tables:,} files of the lake, {done.requests:,} waiting requests"
                )
    if as_json:
        click.echo(json.dumps([done.to_json() for done in all_done], indent=1))
