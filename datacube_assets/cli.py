"""The `datacube` command.

Reading arguments and telling people what happened belong here; what a command does is elsewhere.
Dagster is imported only by the commands that need it, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from pydantic import ValidationError

from datacube_assets import __version__
from datacube_assets.datacube.errors import InputError
from datacube_assets.dojo.request import INDICATOR_RUN_ID, DatacubeRequest
from datacube_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    from datacube_assets.process import Outcome

STARTED = time.monotonic()

F = TypeVar("F", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def main() -> None:
    """Turn model output from Dojo into the datacubes that CauseMos shows.

    \b
    Begin with
      datacube demo                     process a small sample, see what comes out
      datacube publish PART... --help   process files of your own
      datacube dev                      the Dagster UI on the same data
    """


def _store_options(command: F) -> F:
    """Options that say where everything goes; each has a setting of the environment behind it."""
    options = [
        click.option("--home", metavar="FOLDER", help="Folder for everything not placed elsewhere. [DATACUBE_HOME]"),
        click.option("--lake", metavar="URL", help="Where tables are kept. [DATACUBE_LAKE]"),
        click.option("--models-bucket", metavar="URL", help="Bucket of model runs. [DATACUBE_MODELS_BUCKET]"),
        click.option(
            "--indicators-bucket", metavar="URL", help="Bucket of datasets. [DATACUBE_INDICATORS_BUCKET]"
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _settings(home: str | None, lake: str | None, models: str | None, indicators: str | None) -> Settings:
    with _told():
        return Settings.from_environment(
            DATACUBE_HOME=home,
            DATACUBE_LAKE=lake,
            DATACUBE_MODELS_BUCKET=models,
            DATACUBE_INDICATORS_BUCKET=indicators,
        )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """End the command with one line for errors that a user can do something about."""
    try:
        yield
    except (InputError, SettingsError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise click.ClickException(f"{error.strerror or error}{where}") from error


@main.command(short_help="Turn Parquet parts into a published datacube.")
@click.argument("parts", nargs=-1, required=True, metavar="PART...")
@click.option("--model-id", required=True, metavar="ID", help="Id of the model or dataset.")
@click.option("--run-id", metavar="ID", help=f"Id of the run; with --indicator it is `{INDICATOR_RUN_ID}`.")
@click.option("--indicator", is_flag=True, help="The parts are a dataset: publish into the indicators bucket.")
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
@click.option("--fill-timestamp", default=0, metavar="MS", help="Time of rows without one, ms UTC. [default: 0]")
@click.option(
    "--raw-count-threshold",
    default=10_000,
    metavar="N",
    help="Features with more rows get no raw.csv. [default: 10000]",
)
@click.option(
    "--timestamp-unit", type=click.Choice(["ms", "s"]), default="ms", help="Unit of numeric timestamps. [default: ms]"
)
@_store_options
@click.option("--report-json", type=click.Path(dir_okay=False), hidden=True, help="Write figures to a file.")
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
    home: str | None,
    lake: str | None,
    models_bucket: str | None,
    indicators_bucket: str | None,
    report_json: str | None,
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
    settings = _settings(home, lake, models_bucket, indicators_bucket)
    request = _request(
        model_id=model_id,
        run_id=INDICATOR_RUN_ID if indicator else run_id,
        data_paths=[_absolute(part) for part in parts],
        is_indicator=indicator,
        qualifier_map=_json("--qualifier-map", qualifier_map),
        weight_column=weight_column,
        qualifier_thresholds=_json("--thresholds", thresholds),
        fill_timestamp=fill_timestamp,
        raw_count_threshold=raw_count_threshold,
        timestamp_unit=timestamp_unit,
    )
    outcomes = _process(settings, [request], quiet=quiet)
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
        raise click.ClickException(f"{option} is no JSON: {error}. Quote it: '{{\"feature\": [\"column\"]}}'") from error


def _request(**fields: object) -> DatacubeRequest:
    try:
        return DatacubeRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=True)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-").replace("qualifier-thresholds", "thresholds")
        where = "".join(f" {part!r}" for part in first["loc"][1:])
        raise click.ClickException(f"{option}{where}: {first['msg']} (got {first['input']!r})") from error


def _process(settings: Settings, requests: list[DatacubeRequest], *, quiet: bool) -> list[Outcome]:
    """Process requests one after the other, showing progress."""
    from datacube_assets.home import open_instance
    from datacube_assets.process import STEPS, process

    def progress(asset: str, metadata: dict[str, Any], done: int) -> None:
        if not quiet:
            click.echo(f"  {done:2} of {STEPS}  {asset:20} {_figures(metadata)}")

    outcomes = []
    with _told(), open_instance(settings) as instance:
        for request in requests:
            if not quiet:
                click.secho(f"{request.model_id} {request.run_id}", bold=True)
            outcomes.append(process(settings, instance, request, progress))
            if not quiet:
                click.echo(f"  {_summary(outcomes[-1])}")
    return outcomes


def _figures(metadata: dict[str, Any]) -> str:
    """The figures of one asset that tell most, on one line."""
    if "objects" in metadata:
        counted = f"{metadata['objects']:>9,} objects"
        if metadata["objects unchanged"]:
            counted += f", {metadata['objects unchanged']:,} unchanged"
    elif "dagster/row_count" in metadata:
        counted = f"{metadata['dagster/row_count']:>9,} rows"
        if metadata.get("rows dropped"):
            counted += f", {metadata['rows dropped']:,} dropped"
    else:
        counted = f"{metadata['parts'] if isinstance(metadata['parts'], int) else len(metadata['parts']):>9,} parts"
    return f"{counted:34} {metadata['seconds']:6.2f} s" if "seconds" in metadata else counted


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
def demo(home: str | None, lake: str | None, models_bucket: str | None, indicators_bucket: str | None) -> None:
    """Process a small sample: three runs of a toy crop model and a dataset of market prices.

    Everything happens in one local folder, without any server.
    """
    from datacube_assets.home import write_sample_requests

    settings = _settings(home, lake, models_bucket, indicators_bucket)
    with _told():
        requests = write_sample_requests(settings.home / "sample")
    outcomes = _process(settings, requests, quiet=False)
    _tell_where(settings, outcomes)
    click.echo(
        "\nWhat next\n"
        "  make dev                     look at lineage and data quality in the Dagster UI,\n"
        "                               and materialize or backfill these partitions by hand\n"
        "  .venv/bin/datacube publish PART... --model-id ID --run-id ID\n"
        "                               process Parquet files of your own\n"
        "  README.md, docs/             what the objects mean, and how it all works"
    )


@main.command(short_help="Open the Dagster UI on the sample.")
@click.option("--host", default="127.0.0.1", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", default=3000, help="Port to listen on. [default: 3000]")
@_store_options
def dev(
    host: str,
    port: int,
    home: str | None,
    lake: str | None,
    models_bucket: str | None,
    indicators_bucket: str | None,
) -> None:
    """Open the Dagster UI on the sample, with its runs registered as partitions.

    Every partition can be materialized, materialized again and backfilled by hand; no run config is
    needed. Stop it with Ctrl-C.
    """
    from datacube_assets.assets.partitions import model_runs
    from datacube_assets.home import open_instance, write_sample_requests
    from datacube_assets.storage.lake import Lake
    from datacube_assets.storage.requests import leave_request
    from datacube_assets.storage.stores import open_store

    settings = _settings(home, lake, models_bucket, indicators_bucket)
    with _told(), open_instance(settings) as instance:
        store = Lake(open_store(settings.lake, settings.s3_endpoint))
        runs = [leave_request(store, one) for one in write_sample_requests(settings.home / "sample")]
        instance.add_dynamic_partitions(str(model_runs.name), [run.key for run in runs])
    os.environ |= {
        "DATACUBE_LAKE": settings.lake,
        "DATACUBE_MODELS_BUCKET": settings.models_bucket,
        "DATACUBE_INDICATORS_BUCKET": settings.indicators_bucket,
    }
    click.echo(f"The Dagster UI will be at http://{host}:{port} in a few seconds; stop it with Ctrl-C.")
    sys.stdout.flush()
    command = ["-m", "dagster", "dev", "-m", "datacube_assets.definitions", "-h", host, "-p", str(port)]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
