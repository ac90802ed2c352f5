"""The one place where everything is wired: assets, checks, resources, jobs, sensors.

`build_definitions` takes settings, so that tests and the command line wire the same graph to other
places. Each part is defined in its own package; nothing is defined here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from dagster import (
    AssetsDefinition,
    AssetSpec,
    Definitions,
    EnvVar,
    ExecutorDefinition,
    LoggerDefinition,
    MetadataValue,
    SensorDefinition,
)

from datacube_assets.assets.tables import DOCUMENTATION, PAGES
from datacube_assets.check_limits import LimitsFile
from datacube_assets.checks.check import LimitsResource
from datacube_assets.checks.steps import CHECKS
from datacube_assets.orchestration import side_by_side
from datacube_assets.orchestration.jobs import ASSETS, JOBS
from datacube_assets.resources.causemos import CauseMosResource
from datacube_assets.resources.dask import DaskResource
from datacube_assets.resources.dojo import DojoResource
from datacube_assets.resources.publishing import Publisher
from datacube_assets.resources.storage import LakeIOManager, LakeResource, buckets_of
from datacube_assets.resources.ui import UserInterface, documentation
from datacube_assets.sensors.dojo import build_dojo_sensor, list_indicators, list_runs
from datacube_assets.sensors.reports import build_reports_sensor
from datacube_assets.sensors.requests import build_requests_sensor
from datacube_assets.settings import Settings, names

# Dagster says this of what it does itself, when it gives sensors their jobs; a person at a terminal reads it.
warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition")


def build_resources(settings: Settings, *, passing: bool = False) -> dict[str, object]:
    """The resources of the graph, by the names that assets ask for; `passing`: with a passing lake."""
    lake = LakeResource(
        url=settings.lake,
        s3_endpoint=settings.s3_endpoint,
        shard_rows=settings.shard_rows,
        keep_versions=settings.keep_versions,
        keep_days=settings.keep_days,
        passing=passing,
    )
    buckets = buckets_of(settings)
    dask = DaskResource(
        mode=settings.dask_mode,
        workers=settings.dask_workers,
        scheduler=settings.dask_scheduler,
        stores=[settings.lake, settings.models_bucket, settings.indicators_bucket],
    )
    limits = LimitsFile.read(settings.check_limits).model_dump_json()
    ui = UserInterface(
        pictures=settings.pictures,
        dojo_url=settings.dojo_url,
        causemos_url=settings.causemos_url,
        causemos_page=settings.causemos_page,
        view_url=settings.view_url,
        docs_url=settings.docs_url,
    )
    return {
        "lake": lake,
        "buckets": buckets,
        "dask": dask,
        "limits": LimitsResource(document=limits, max_objects=settings.max_objects),
        "ui": ui,
        "publisher": Publisher(
            lake=lake,
            buckets=buckets,
            dask=dask,
            ui=ui,
            lease_seconds=settings.lease_seconds,
            limits=limits,
        ),
        "io_manager": LakeIOManager(lake=lake, ui=ui),
        "dojo": DojoResource(
            url=settings.dojo_url,
            username=settings.dojo_username,
            # Read when a run starts, so that it is in no configuration that the UI shows.
            password=EnvVar("DOJO_PASSWORD") if settings.dojo_password.get_secret_value() else "",
            source_schemes=names(settings.source_schemes),
            source_hosts=names(settings.source_hosts),
            s3_endpoint=settings.s3_endpoint,
            max_part_bytes=settings.max_part_bytes,
            guarded=settings.environment == "production",
            home=str(settings.home),
            address_key=EnvVar("DATACUBE_ADDRESS_KEY") if settings.address_key.get_secret_value() else "",
        ),
        "causemos": CauseMosResource(
            url=settings.causemos_url,
            username=settings.causemos_username,
            password=EnvVar("CAUSEMOS_PASSWORD") if settings.causemos_password.get_secret_value() else "",
        ),
    }


def build_sensors(settings: Settings) -> list[SensorDefinition]:
    """The sensors, on from the start; one whose other side is not configured skips and says so."""
    interval, limit = settings.sensor_interval, settings.runs_per_tick
    return [
        build_dojo_sensor("dojo_model_runs", "model run", list_runs, interval=interval, limit=limit),
        build_dojo_sensor("dojo_indicators", "dataset", list_indicators, interval=interval, limit=limit),
        build_requests_sensor(interval=interval, limit=limit),
        build_reports_sensor(interval=interval),
    ]


def documented(docs_url: str) -> list[AssetsDefinition]:
    """The assets, each leading to its page where the documentation can be read."""
    if not docs_url:
        return ASSETS

    def with_link(spec: AssetSpec) -> AssetSpec:
        page = PAGES[str(spec.group_name)].removeprefix("docs/")
        link = MetadataValue.url(f"{docs_url.rstrip('/')}/{page}")
        return spec.merge_attributes(metadata={DOCUMENTATION: link})

    return [definition.map_asset_specs(with_link) for definition in ASSETS]


def build_executor(settings: Settings) -> ExecutorDefinition:
    """What executes the steps of a run."""
    if settings.executor == "dask":
        # Imported here: it takes a while, and hardly anybody uses it.
        from datacube_assets.orchestration.dask_executor import build_dask_executor

        return build_dask_executor(settings)
    # With a process per step, starting them costs more than the work:
    # ten assets take 1 to 2 s in one process, and were seen to take 84 s in ten.
    return side_by_side.build_executor()


def build_definitions(
    settings: Settings, *, loggers: Mapping[str, LoggerDefinition] | None = None, passing: bool = False
) -> Definitions:
    """The whole code location for these settings; `loggers` replace Dagster's own.

    `passing`: for tables that nobody keeps, such as those of a check before publishing.
    """
    return Definitions(
        assets=documented(documentation(settings.docs_url, settings.view_url)),
        asset_checks=CHECKS,
        jobs=JOBS,
        sensors=build_sensors(settings),
        resources=build_resources(settings, passing=passing),
        loggers=loggers,
        executor=build_executor(settings),
    )


defs = build_definitions(Settings.from_environment())
