"""Commands between two places: `export`, `import`, `sync`, `compare`.

What is compared and carried is in `operations/`; how it reads in a terminal, here.
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import click

from datacube_assets.cli.options import named_run, store_options, told
from datacube_assets.cli.progress import counting

if TYPE_CHECKING:
    from datacube_assets.dojo.model_run import ModelRun
    from datacube_assets.settings import Settings

_LISTED = 10


def _run(key: str) -> ModelRun:
    run = named_run(key)
    run.check()
    return run


@click.command(short_help="Write a datacube into one file.")
@click.argument("key", metavar="MODEL_ID:RUN_ID")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print what was exported, as JSON.")
@store_options
def export(key: str, file: Path, as_json: bool, settings: Settings) -> None:
    """Write a complete datacube into a FILE (tar): objects, tables, manifests and request.

    Equal datacubes give equal files. Addresses of parts travel without passwords and signatures, or sealed
    as they are kept. `datacube import` brings it into another environment.

    \b
    Example
      datacube export locusts:run-1 locusts.tar
    """
    from datacube_assets.operations import archive
    from datacube_assets.storage.lake import Lake, MissingTableError
    from datacube_assets.storage.opening import open_store
    from datacube_assets.storage.publishing import RESULTS_ASSET, manifest

    with told():
        run = _run(key)
        lake = Lake(open_store(settings.lake, settings.s3_endpoint))
        lake.store.check("DATACUBE_LAKE", write=False)
        head = manifest(lake, run, RESULTS_ASSET)
        if head is None:
            raise click.ClickException(f"{run} is not complete: process it before it is exported")
        bucket = open_store(head["bucket"], settings.s3_endpoint)
        try:
            with counting("export") as progress:
                done = archive.export(lake, bucket, run, file, progress)
        except MissingTableError as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=1))
    else:
        click.echo(
            f"Exported  {file}  {done.objects:,} objects, {done.files:,} files of the lake, "
            f"{done.bytes / 1e6:,.1f} MB"
        )


@click.command("import", short_help="Bring an exported datacube into lake and bucket.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--replace", is_flag=True, help="Replace what is there of the same model run or dataset.")
@click.option("--json", "as_json", is_flag=True, help="Print what was imported, as JSON.")
@store_options
def import_(file: Path, replace: bool, as_json: bool, settings: Settings) -> None:
    """Bring the datacube of a FILE, which `datacube export` wrote, into the lake and the bucket.

    All of the file is read and compared with its contents before anything is written; results.json is
    written last. CauseMos is not told. The run that is at work on the same partition has to be over.

    \b
    Example
      datacube import locusts.tar
    """
    from datacube_assets.operations import archive
    from datacube_assets.operations.garbage_collection import is_busy
    from datacube_assets.orchestration.home import open_instance
    from datacube_assets.orchestration.locks import Locked, locked
    from datacube_assets.partitions import model_runs
    from datacube_assets.storage.lake import Lake
    from datacube_assets.storage.opening import open_store

    with told(), open_instance(settings) as instance:
        run = archive.contents_of(file)
        busy = f"a run is at work on {run}: import it when that is over"
        if is_busy(instance, run):
            raise click.ClickException(busy)
        url = settings.bucket_for(indicator=run.is_indicator)
        lake, bucket = (open_store(one, settings.s3_endpoint) for one in (settings.lake, url))
        lake.check("DATACUBE_LAKE")
        bucket.check("DATACUBE_INDICATORS_BUCKET" if run.is_indicator else "DATACUBE_MODELS_BUCKET")
        try:
            with (
                locked(instance, run.key, str(uuid.uuid4())),
                counting("import") as progress,
            ):
                done = archive.restore(file, Lake(lake), bucket, progress, replace=replace)
        except Locked:
            raise click.ClickException(busy) from None
        instance.add_dynamic_partitions(str(model_runs.name), [run.key])
    if as_json:
        click.echo(json.dumps(done.to_json(), indent=1))
    else:
        click.echo(
            f"Imported  {bucket.url}/{run.prefix}  {done.objects:,} objects, {done.bytes / 1e6:,.1f} MB"
        )


@click.command(short_help="Compare two environments; ask for what the second lacks.")
@click.argument("source", metavar="FIRST")
@click.argument("target", metavar="SECOND")
@click.option("--process", "ask", is_flag=True, help="Leave requests in SECOND for what it lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print all keys, as JSON.")
def sync(source: str, target: str, ask: bool, as_json: bool) -> None:
    """Compare what two environments have, and say what SECOND lacks, or has older or otherwise.

    Each is a file of settings (NAME=VALUE lines, the variables of docs/settings.md), `.` for the settings of
    this process, the address of a Dojo, or a bucket (URL or folder). Two Dojos are compared by their finished
    runs and published datasets; buckets by their complete datacubes; and a Dojo with buckets by what is not
    processed yet.

    Nothing is changed without --process. With it, requests are left in the lake of SECOND for what is missing
    or older there; its sensor starts them. Exit status: 0 when nothing differs, 1 when something does, 2
    when a request could not be left.

    \b
    Examples
      datacube sync production.env staging.env
      datacube sync https://dojo.example/api/dojo . --process
      datacube sync s3://old-models s3://models
    """
    from datacube_assets.operations import environments

    with told():
        first, second = (environments.Environment.of(where) for where in (source, target))
        with counting("sync"):
            synced = environments.compare(first, second)
            if ask:
                environments.process(first, second, synced)
    if as_json:
        click.echo(json.dumps(synced.to_json(), indent=1))
    else:
        for title, part in (("In Dojo", synced.dojo), ("Datacubes", synced.datacubes)):
            for difference, keys in (part or {}).items():
                says = environments.DIFFERENCES[difference]
                _tell(f"{title}, {difference} ({says})", keys)
        _tell("Finished in Dojo, not published", synced.unprocessed or [])
        for key in synced.asked:
            click.echo(f"Asked for {key}")
        for key, why in synced.refused.items():
            click.echo(f"{key}: {why}", err=True)
        if not synced.differs:
            click.echo("Nothing differs.")
    sys.exit(2 if synced.refused else int(synced.differs))


def _tell(title: str, keys: list[str]) -> None:
    if keys:
        click.echo(f"{title}: {len(keys):,}")
        for key in keys[:_LISTED]:
            click.echo(f"  {key}")
        if len(keys) > _LISTED:
            click.echo(f"  and {len(keys) - _LISTED:,} more; --json lists all")


@click.command(short_help="Compare a bucket of the original pipeline with ours, object by object.")
@click.argument("ours", metavar="OURS")
@click.argument("theirs", metavar="THEIRS")
@click.option("--run", "keys", multiple=True, metavar="MODEL_ID:RUN_ID", help="Only this. [default: all]")
@click.option(
    "--tolerance", default=1e-9, show_default=True, metavar="X", help="Relative difference of equal numbers."
)
@click.option("--json", "as_json", is_flag=True, help="Print all that is found, as JSON.")
@store_options
def compare(
    ours: str, theirs: str, keys: tuple[str, ...], tolerance: float, as_json: bool, settings: Settings
) -> None:
    """Compare OURS with THEIRS, two buckets (URL or folder), for a time in which both pipelines run.

    Rows and lists may be in any order, and numbers differ within a tolerance. Differences that are wanted
    (docs/differences.md) are named and counted apart: `intended` where the two objects show it, `explained`
    where the lake tells that the run has such rows. All others are `missing` (only theirs), `unexpected`
    (only ours) or `differs`.

    Runs that are complete in THEIRS are compared, or those that --run names. Exit status: 0 when all agrees
    or is wanted, 1 when something differs besides, 2 when a run could not be compared.

    \b
    Examples
      datacube compare s3://shadow-models s3://causemos-prod-models
      datacube compare datacube-home/buckets/models /mnt/old/models --run locusts:run-1 --json
    """
    from datacube_assets.kernels.keys import RESULTS
    from datacube_assets.operations import compare as comparing
    from datacube_assets.settings import as_url
    from datacube_assets.storage.history import History
    from datacube_assets.storage.lake import Lake, MissingTableError
    from datacube_assets.storage.opening import open_store
    from datacube_assets.storage.run_info import RunInfo
    from datacube_assets.storage.stores import StoreError

    with told():
        mine, other = (open_store(as_url(url), settings.s3_endpoint) for url in (ours, theirs))
        for name, store in (("OURS", mine), ("THEIRS", other)):
            store.check(name, write=False)
        lake = Lake(open_store(settings.lake, settings.s3_endpoint))
        runs = [_run(key) for key in keys] or [
            run
            for run in comparing.runs_in(other)
            if any(True for _ in other.list(f"{run.prefix}{RESULTS.rpartition('/')[0]}/"))
        ]
        if not runs:
            raise click.ClickException(f"{other.url} has no complete datacube")
        found = []
        for run in sorted(runs):
            try:
                info = RunInfo.of(History(lake, run).published_table("normalized_points"))
            except (MissingTableError, StoreError):
                info = None
            with counting(f"compare {run}") as progress:
                one = comparing.compare(mine, other, run, progress, info=info, tolerance=tolerance)
            found.append(one)
            if not as_json:
                _tell_compared(one)
    if as_json:
        click.echo(
            json.dumps(
                {"agrees": all(one.agrees for one in found), "runs": [one.to_json() for one in found]},
                indent=1,
            )
        )
    else:
        agree = sum(one.agrees for one in found)
        click.echo(f"{agree:,} of {len(found):,} agree, but for differences that are wanted")
    sys.exit(2 if any(one.problem for one in found) else int(not all(one.agrees for one in found)))


def _tell_compared(one: object) -> None:
    from datacube_assets.operations.compare import UNEXPLAINED, WANTED, Compared

    assert isinstance(one, Compared)
    if one.problem:
        click.echo(f"FAILED   {one.key}  {one.problem}")
        return
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(one.counts.items()))
    click.echo(f"{'agrees' if one.agrees else 'DIFFERS':8} {one.key}  {counts}")
    for rule, count in sorted(one.rules.items()):
        click.echo(f"         {count:,} because of difference {rule}: {WANTED[rule]}")
    for kind in UNEXPLAINED:
        for example in one.examples.get(kind, []):
            click.echo(f"         {kind}: {example}")
