"""The `datacube` command.

Reading arguments and telling people what happened belong here; what a command does is elsewhere.
Dagster is imported only by the commands that need it, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from datacube_assets import __version__
from datacube_assets.datacube.errors import InputError
from datacube_assets.dojo.request import (
    INDICATOR_RUN_ID,
    OUTPUT_TASKS,
    DatacubeRequest,
    QualifierThresholds,
)
from datacube_assets.settings import Settings, SettingsError
from datacube_assets.startup import importing, keep_memory

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from datacube_assets.process import Outcome

STARTED = time.monotonic()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Turn model output from Dojo into the datacubes that CauseMos shows.

    \b
    Begin with
      datacube demo                     process a small sample, see what comes out
      datacube publish PART... --help   process files of your own
      datacube view                     look at what is published, on a map
      datacube dev                      the Dagster UI, beside stand-ins for Dojo and CauseMos
    """
    keep_memory()


def _store_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say where everything goes, given to the command as its `settings`."""

    @functools.wraps(command)
    def with_settings(
        *,
        home: str | None,
        lake: str | None,
        models_bucket: str | None,
        indicators_bucket: str | None,
        **others: Any,
    ) -> None:
        with _told():
            settings = Settings.from_environment(
                DATACUBE_HOME=home,
                DATACUBE_LAKE=lake,
                DATACUBE_MODELS_BUCKET=models_bucket,
                DATACUBE_INDICATORS_BUCKET=indicators_bucket,
            )
        command(settings=settings, **others)

    options = [
        click.option(
            "--home", metavar="FOLDER", help="Folder for everything not placed elsewhere. [DATACUBE_HOME]"
        ),
        click.option("--lake", metavar="URL", help="Where tables are kept. [DATACUBE_LAKE]"),
        click.option("--models-bucket", metavar="URL", help="Bucket of model runs. [DATACUBE_MODELS_BUCKET]"),
        click.option(
            "--indicators-bucket", metavar="URL", help="Bucket of datasets. [DATACUBE_INDICATORS_BUCKET]"
        ),
    ]
    for option in reversed(options):
        with_settings = option(with_settings)
    return with_settings


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """End the command with one line for errors that a user can do something about."""
    from datacube_assets.checks.verdict import ChecksFailedError
    from datacube_assets.dojo.client import DojoError
    from datacube_assets.dojo.fetch import FetchError
    from datacube_assets.storage.publishing import IncompleteDatacubeError
    from datacube_assets.storage.stores import StoreError

    known = (InputError, SettingsError, DojoError, FetchError, StoreError, IncompleteDatacubeError)
    try:
        yield
    except (*known, ChecksFailedError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise click.ClickException(f"{error.strerror or error}{where}") from error


@main.command(short_help="Turn Parquet parts into a published datacube.")
@click.argument("parts", nargs=-1, required=True, metavar="PART...")
@click.option("--model-id", required=True, metavar="ID", help="Id of the model or dataset.")
@click.option("--run-id", metavar="ID", help=f"Id of the run; with --indicator it is `{INDICATOR_RUN_ID}`.")
@click.option(
    "--indicator", is_flag=True, help="The parts are a dataset: publish into the indicators bucket."
)
@click.option(
    "--qualifier-map",
    default="{}",
    metavar="JSON|@FILE",
    help='Qualifier columns that break a feature down: \'{"yield": ["crop"]}\'.',
)
@click.option("--weight-column", default="", metavar="NAME", help="Column with the weights of rows.")
@click.option(
    "--thresholds",
    default="{}",
    metavar="JSON",
    help="Limits on qualifiers: max_count, regional_timeseries_count, regional_timeseries_max_level.",
)
@click.option(
    "--fill-timestamp", default=0, metavar="MS", help="Time of rows without one, ms UTC. [default: 0]"
)
@click.option(
    "--raw-count-threshold",
    default=10_000,
    metavar="N",
    help="Features with more rows get no raw.csv. [default: 10000]",
)
@click.option(
    "--timestamp-unit",
    type=click.Choice(["ms", "s"]),
    default="ms",
    help="Unit of numeric timestamps. [default: ms]",
)
@_store_options
@click.option("--report-json", type=click.Path(dir_okay=False), hidden=True, help="Write figures to a file.")
@click.option(
    "--from-scratch", is_flag=True, help="Make and write everything again, whether it is there or not."
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def publish(
    parts: tuple[str, ...],
    model_id: str,
    run_id: str | None,
    indicator: bool,
    qualifier_map: str,
    weight_column: str,
    thresholds: str,
    fill_timestamp: int,
    raw_count_threshold: int,
    timestamp_unit: str,
    settings: Settings,
    report_json: str | None,
    from_scratch: bool,
    quiet: bool,
) -> None:
    """Turn the Parquet PARTs of one model run or dataset into a published datacube.

    All assets of the run are materialized through Dagster, in this process; the run then also shows in
    the UI of `datacube dev`. Objects land at BUCKET/MODEL_ID/RUN_ID/... Publishing again writes only
    what changed.

    \b
    Examples
      datacube publish locusts.parquet.gzip --model-id locusts --run-id run-1
      datacube publish prices.parquet.gzip --model-id prices --indicator \\
          --qualifier-map '{"price": ["market"]}' --weight-column population
    """
    if indicator and run_id not in (None, INDICATOR_RUN_ID):
        raise click.UsageError(f"the run id of a dataset is `{INDICATOR_RUN_ID}`; leave --run-id out")
    if not indicator and not run_id:
        raise click.UsageError("give --run-id, or --indicator for a dataset")
    if not indicator and run_id == INDICATOR_RUN_ID:
        raise click.UsageError(f"the run id `{INDICATOR_RUN_ID}` is that of datasets; give --indicator")
    request = _request(
        model_id=model_id,
        run_id=INDICATOR_RUN_ID if indicator else run_id,
        data_paths=[_absolute(part) for part in parts],
        is_indicator=indicator,
        qualifier_map=_json("--qualifier-map", qualifier_map),
        weight_column=weight_column,
        qualifier_thresholds=_known_limits(_json("--thresholds", thresholds)),
        fill_timestamp=fill_timestamp,
        raw_count_threshold=raw_count_threshold,
        timestamp_unit=timestamp_unit,
    )
    outcomes = _process(settings, [request], quiet=quiet, from_scratch=from_scratch)
    if report_json:
        Path(report_json).write_text(json.dumps(_report(outcomes[0]), indent=1))
    if not quiet:
        _tell_where(settings, outcomes)


def _absolute(part: str) -> str:
    return part if "://" in part else str(Path(part).expanduser().absolute())


def _json(option: str, text: str) -> object:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except OSError as error:
            raise click.ClickException(f"{option}: {text[1:]} cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.ClickException(
            f'{option} is no JSON: {error}. Quote it: \'{{"feature": ["column"]}}\''
        ) from error


def _known_limits(thresholds: object) -> object:
    # Other senders may add what they like; whoever types a name wants it heeded.
    known = list(QualifierThresholds.model_fields)
    unknown = [name for name in thresholds if name not in known] if isinstance(thresholds, dict) else []
    if unknown:
        raise click.ClickException(
            f"--thresholds {unknown[0]!r}: there is no such limit. Give {', '.join(known)}"
        )
    return thresholds


def _known_tasks(tasks: str) -> list[str]:
    named = [task.strip() for task in tasks.split(",") if task.strip()]
    unknown = [task for task in named if task not in OUTPUT_TASKS]
    if unknown:
        raise click.ClickException(
            f"--tasks {unknown[0]!r}: there is no such task. Give {', '.join(OUTPUT_TASKS)}"
        )
    return named


def _request(**fields: object) -> DatacubeRequest:
    try:
        return DatacubeRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=True)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-").replace("qualifier-thresholds", "thresholds")
        where = "".join(f" {part!r}" for part in first["loc"][1:])
        told = first["msg"].replace("valid tuple", "valid list")
        raise click.ClickException(f"{option}{where}: {told} (got {first['input']!r})") from error


def _process(
    settings: Settings, requests: list[DatacubeRequest], *, quiet: bool, from_scratch: bool = False
) -> list[Outcome]:
    """Process requests one after the other, showing progress."""
    with importing():
        # Arrow imports it anyway, at its first array.
        import pandas  # noqa: F401

        import datacube_assets.process  # noqa: F401
        from datacube_assets.home import open_instance
        from datacube_assets.storage.stores import open_store

    outcomes = []
    with _told():
        # Requests are left there before any run begins.
        open_store(settings.lake, settings.s3_endpoint).check("DATACUBE_LAKE")
    with _told(), open_instance(settings) as instance:
        for request in requests:
            if not quiet:
                click.secho(f"{request.model_id} {request.run_id}", bold=True)
            outcomes.append(_process_one(settings, instance, request, quiet, from_scratch))
            if not quiet:
                click.echo(f"  {_summary(outcomes[-1])}")
                for warning in outcomes[-1].warnings:
                    click.secho(f"  Check this: {warning}", fg="yellow")
    return outcomes


def _process_one(
    settings: Settings, instance: DagsterInstance, request: DatacubeRequest, quiet: bool, from_scratch: bool
) -> Outcome:
    from datacube_assets.process import STEPS, process
    from datacube_assets.terminal import Display

    if quiet:
        return process(settings, instance, request, lambda *_: None, from_scratch=from_scratch)
    display = Display(STEPS)
    with display.shown():
        return process(
            settings,
            instance,
            request,
            lambda asset, metadata, _: display.ends(asset, _figures(metadata)),
            begun=display.begins,
            from_scratch=from_scratch,
        )


def _figures(metadata: dict[str, Any]) -> str:
    """The figures of one asset that tell most, on one line."""
    if "objects" in metadata:
        counted = _count(metadata["objects"], "object")
        if metadata["objects unchanged"]:
            counted += f", {metadata['objects unchanged']:,} unchanged"
    elif "dagster/row_count" in metadata:
        counted = _count(metadata["dagster/row_count"], "row")
        if metadata.get("rows dropped"):
            counted += f", {metadata['rows dropped']:,} dropped"
    else:
        parts = metadata["parts"]
        counted = _count(parts if isinstance(parts, int) else len(parts), "part")
    return f"{counted:34} {metadata['seconds']:6.2f} s" if "seconds" in metadata else counted


def _count(number: int, thing: str) -> str:
    return f"{number:>9,} {thing}{'' if number == 1 else 's'}"


def _summary(outcome: Outcome) -> str:
    objects, written = outcome.total("objects"), outcome.total("objects written")
    return (
        f"{objects:,} objects, {outcome.total('bytes') / 1e6:,.1f} MB in {outcome.seconds:.1f} s: "
        f"{written:,} written, {objects - written:,} unchanged, {outcome.total('objects deleted'):,} deleted"
    )


def _report(outcome: Outcome) -> dict[str, object]:
    """Figures for the benchmark."""
    return {
        "assets": {name: data.get("seconds", 0.0) for name, data in outcome.assets.items()},
        "objects": outcome.total("objects"),
        "written": outcome.total("objects written"),
        "bytes": outcome.total("bytes"),
        "seconds": outcome.seconds,
        "startup_seconds": time.monotonic() - STARTED - outcome.seconds,
    }


def _tell_where(settings: Settings, outcomes: list[Outcome]) -> None:
    from datacube_assets.storage.stores import open_store

    click.echo()
    for outcome in outcomes:
        url = settings.indicators_bucket if outcome.run.is_indicator else settings.models_bucket
        path = open_store(url, settings.s3_endpoint).local_path(outcome.run.prefix.rstrip("/"))
        click.echo(f"Published  {path or f'{url}/{outcome.run.prefix}'}")
    click.echo(f"Tables     {settings.lake}")


@main.command(short_help="Process a small sample and see what comes out.")
@_store_options
def demo(settings: Settings) -> None:
    """Process a small sample: three runs of a toy crop model and a dataset of market prices.

    Everything happens in one local folder, without any server.
    """
    from datacube_assets.home import write_sample_requests

    with _told():
        requests = write_sample_requests(settings.home / "sample")
    outcomes = _process(settings, requests, quiet=False)
    _tell_where(settings, outcomes)
    click.echo(
        "\nWhat next\n"
        "  make view                    look at it on a map\n"
        "  make dev                     look at lineage and data quality in the Dagster UI,\n"
        "                               and materialize or backfill these partitions by hand\n"
        "  .venv/bin/datacube publish PART... --model-id ID --run-id ID\n"
        "                               process Parquet files of your own\n"
        "  README.md, docs/             what the objects mean, and how it all works"
    )


@main.command(short_help="Open the Dagster UI, watching a simulated Dojo.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3000, help="Port of the UI; the stand-ins take the next two. [default: 3000]")
@_store_options
def dev(
    host: str,
    port: int,
    settings: Settings,
) -> None:
    """Open the Dagster UI with the sensors on, beside stand-ins for Dojo and CauseMos.

    The stand-in for Dojo has the sample: two finished runs and a dataset, which start at once, and a run
    that finishes when you say so. Every partition can be materialized, materialized again and
    backfilled by hand; no run config is needed. Where DOJO_URL or CAUSEMOS_URL is set, that one is
    used instead of its stand-in. Stop everything with Ctrl-C.
    """
    from datacube_assets.development import run_development

    with _told():
        sys.exit(run_development(settings, host, port, click.echo))


@main.command(short_help="Look at what is published, on a map.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3003, help="Port to listen on. [default: 3003]")
@_store_options
def view(host: str, port: int, settings: Settings) -> None:
    """Serve a page that shows published datacubes on a map, as CauseMos will show them.

    It reads the objects in the buckets and never writes. Whoever reaches the address can read everything
    that is published: leave it on this machine, or put a proxy that asks for a password before it.

    \b
    Examples
      datacube view
      datacube view --models-bucket s3://models --indicators-bucket s3://indicators
    """
    from datacube_assets.view.server import serve

    with _told():
        click.echo(f"Datacubes at http://{host}:{port}; stop it with Ctrl-C.")
        serve(settings, host, port)


@main.command(short_help="Take requests of CauseMos, in place of its queue.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=4040, help="Port to listen on. [default: 4040]")
@_store_options
def gateway(host: str, port: int, settings: Settings) -> None:
    """Serve what CauseMos calls as its request queue (WM_QUEUE_SERVICE_URL) and as Prefect (WM_PIPELINE_URL).

    Requests wait in the lake until the sensor `requests` starts their runs; runs are executed by Dagster's
    daemon, not here. Beyond this machine, DATACUBE_GATEWAY_CLIENTS has to say who may call.

    \b
    Examples
      datacube gateway
      DATACUBE_GATEWAY_CLIENTS=10.1.0.0/16 datacube gateway --host 0.0.0.0
    """
    with importing(), _told():
        from datacube_assets.gateway.server import serve

    with _told():
        click.echo(f"Taking requests at http://{host}:{port}/data-pipeline; stop it with Ctrl-C.")
        serve(settings, host, port)


@main.command(short_help="Ask for runs: process again, with other parameters or as they were.")
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
@click.option("--timestamp-unit", type=click.Choice(["ms", "s"]), help="Replaces the unit of timestamps.")
@click.option("--tasks", metavar="A,B", help="Only these output tasks, for instance compute_tiles.")
@_store_options
def request(
    keys: tuple[str, ...],
    models: tuple[str, ...],
    failed: bool,
    tasks: str | None,
    settings: Settings,
    **changes: Any,
) -> None:
    """Ask for runs of model runs or datasets (MODEL_ID:RUN_ID, as the UI shows partitions).

    What is asked for waits in the lake; the sensor `requests` starts it within a tick. Parameters given
    here replace those of the request the partition was last made from, or that Dojo's documents imply,
    and stay in force for later runs.

    \b
    Examples
      datacube request locusts:run-1
      datacube request locusts:run-1 --thresholds '{"max_count": 50}'
      datacube request --failed
      datacube request --model locusts --tasks compute_tiles
    """
    from datacube_assets.reprocess import failed_partitions, partitions_of, reprocess

    replaced: dict[str, object] = {
        name: value for name, value in changes.items() if value is not None and name != "thresholds"
    }
    if changes["qualifier_map"] is not None:
        replaced["qualifier_map"] = _json("--qualifier-map", changes["qualifier_map"])
    if changes["thresholds"] is not None:
        replaced["qualifier_thresholds"] = _known_limits(_json("--thresholds", changes["thresholds"]))
    if tasks is not None:
        replaced["selected_output_tasks"] = _known_tasks(tasks)
    wanted = list(keys)
    if models or failed:
        from datacube_assets.home import open_instance

        with _told(), open_instance(settings) as instance:
            for model in models:
                wanted += partitions_of(instance, model)
            if failed:
                wanted += failed_partitions(instance)
    if not wanted and (models or failed):
        click.echo("Nothing to ask for: no partition is of that kind.")
        return
    if not wanted:
        raise click.ClickException("nothing to ask for: name partitions, or use --model or --failed")
    refused = 0
    for key in dict.fromkeys(wanted):
        try:
            reprocess(settings, key, replaced)
            click.echo(f"Asked for {key}")
        except (ValueError, ValidationError, RuntimeError) as error:
            refused += 1
            click.echo(f"{key}: {error}", err=True)
    if refused:
        raise click.ClickException(f"{refused} of {len(set(wanted))} could not be asked for")


@main.command(short_help="Copy published datacubes to another bucket.")
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
@_store_options
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def copy(keys: tuple[str, ...], target: str, source: str | None, settings: Settings, quiet: bool) -> None:
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
    from datacube_assets.dojo.model_run import ModelRun
    from datacube_assets.settings import as_url
    from datacube_assets.storage.copying import copy as copy_datacube
    from datacube_assets.storage.lake import Lake
    from datacube_assets.storage.stores import open_store

    try:
        runs = [ModelRun.from_key(key) for key in dict.fromkeys(keys)]
    except ValueError as error:
        raise click.ClickException(str(error)) from error

    def progress(done: int, total: int) -> None:
        if not quiet and sys.stdout.isatty():
            click.echo(f"  {done:,} of {total:,}\r", nl=False)

    with _told():
        lake = open_store(settings.lake, settings.s3_endpoint)
        lake.check("DATACUBE_LAKE", write=False)
        to = open_store(as_url(target), settings.s3_endpoint)
        to.check("--to")
        for run in runs:
            run.check()
            configured = settings.indicators_bucket if run.is_indicator else settings.models_bucket
            bucket = open_store(as_url(source or configured), settings.s3_endpoint)
            bucket.check("--from", write=False)
            started = time.monotonic()
            copied = copy_datacube(Lake(lake), bucket, to, run, progress)
            if not quiet:
                seconds, size = time.monotonic() - started, copied.bytes / 1e6
                click.echo(
                    f"Copied  {to.url}/{run.prefix}  {copied.objects:,} objects, {size:,.1f} MB "
                    f"in {seconds:.1f} s, {copied.deleted:,} stale deleted"
                )


def _age(_: click.Context, option: click.Parameter, text: str) -> float:
    """Seconds of `7d`, `12h`, `30m` or `0`."""
    match = re.fullmatch(r"(\d+)(?:([dhm]))?", text.strip())
    if match is None or (match[2] is None and int(match[1])):
        raise click.BadParameter("give days, hours or minutes, such as 7d, 12h or 30m", param=option)
    return int(match[1]) * {"d": 86_400.0, "h": 3_600.0, "m": 60.0, None: 0.0}[match[2]]


@main.command("gc", short_help="Find, and delete, what nothing refers to any more.")
@click.option("--delete", is_flag=True, help="Delete it. Without this, nothing is changed.")
@click.option(
    "--older-than",
    default="7d",
    show_default=True,
    callback=_age,
    metavar="AGE",
    help="Leave alone what is younger: 7d, 12h, 30m. Longer than any run takes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything that is found, as JSON.")
@_store_options
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
    from datacube_assets.collecting import collect

    with _told():
        report = collect(settings, older_than, delete=delete)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
        return
    for kind, (number, size) in report.by_kind().items():
        click.echo(f"{number:9,}  {size / 1e6:12,.1f} MB  {kind}")
    done = "deleted" if delete else "would be deleted; add --delete"
    click.echo(f"{len(report.found):9,}  {report.bytes / 1e6:12,.1f} MB  {done}")
    for run in report.unfinished:
        click.echo(f"A publication of {run} broke off: materialize it again, which mends its objects")


@main.command("s3", short_help="Run a real S3 server for development.")
@click.option("--port", default=8333, help="Port to listen on, on loopback. [default: 8333]")
@_store_options
def s3(port: int, settings: Settings) -> None:
    """Run SeaweedFS on this machine, and print the variables that lead everything else to it.

    Its data stay in the folder s3 of the home folder. It comes with the extra `dev`.
    """
    from datacube_assets.s3_server import serve as serve_s3

    with _told():
        serve_s3(settings, port, click.echo)


@main.command("dojo-simulator", short_help="Stand in for Dojo.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3001, help="Port to listen on. [default: 3001]")
@click.option("--prefix", default="", metavar="PATH", help="Path in front of the API, as behind a proxy.")
def dojo_simulator(folder: Path, host: str, port: int, prefix: str) -> None:
    """Serve a FOLDER of runs/*.json, models/*.json, indicators/*.json and files/ as Dojo would.

    DOJO_USERNAME and DOJO_PASSWORD are asked for where they are set. Requests below /simulator finish or
    fail runs, add documents and make it misbehave; they are listed at the top of
    `datacube_assets/dojo/simulator.py`.
    """
    from datacube_assets.dojo.simulator import serve

    with _told():
        settings = Settings.from_environment()
    click.echo(f"Standing in for Dojo at http://{host}:{port}{prefix}; stop it with Ctrl-C.")
    serve(
        folder,
        host,
        port,
        prefix=prefix,
        username=settings.dojo_username,
        password=settings.dojo_password.get_secret_value(),
    )


@main.command("causemos-simulator", short_help="Stand in for CauseMos.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3002, help="Port to listen on. [default: 3002]")
@click.option("--queue", default="", metavar="URL", help="Gateway to send requests to, as CauseMos would.")
@_store_options
def causemos_simulator(
    host: str,
    port: int,
    queue: str,
    settings: Settings,
) -> None:
    """Receive reports as CauseMos would, and show them at its address.

    It reads results.json from the bucket before it believes a success. With --queue it also takes what Dojo
    says of runs and datasets that are through, and sends requests for them to `datacube gateway`.
    """
    from datacube_assets.causemos.simulator import serve
    from datacube_assets.storage.stores import open_store

    click.echo(f"Standing in for CauseMos at http://{host}:{port}; stop it with Ctrl-C.")
    serve(
        open_store(settings.models_bucket, settings.s3_endpoint),
        open_store(settings.indicators_bucket, settings.s3_endpoint),
        host,
        port,
        upsert=True,
        queue_url=queue,
        username=settings.causemos_username,
        password=settings.causemos_password.get_secret_value(),
    )


if __name__ == "__main__":
    main()
