"""Group `results`: results.json, the last object of a datacube and the mark that it is complete.

Its contents are made in `kernels/views.py`; that nothing is missing is checked in
`storage/publishing.py`.
"""

import json
import time
import uuid

from dagster import AssetExecutionContext, DataVersion, MaterializeResult, MetadataValue

from datacube_assets.assets.asking import how_to_ask
from datacube_assets.assets.datacube import DATACUBE_ASSETS
from datacube_assets.assets.tables import datacube_asset, same_version
from datacube_assets.assets.versions import begin, ended
from datacube_assets.kernels import views
from datacube_assets.kernels.schema import RESOLUTIONS
from datacube_assets.partitions import FROM_SCRATCH
from datacube_assets.resources.publishing import Publisher, address, published_metadata
from datacube_assets.storage.history import History, Version
from datacube_assets.storage.lake import Lake, LakeTable, aggregate_folder
from datacube_assets.storage.publishing import complete
from datacube_assets.storage.run_info import RunInfo

GROUP = "results"


@datacube_asset(
    GROUP,
    {"s3", "json"},
    "results.json: counts, levels, timeseries sizes and (for model runs) the summary of each feature. "
    "Written last, and only when every other object is published from the same input.",
    deps=DATACUBE_ASSETS,
)
def pipeline_results(
    context: AssetExecutionContext,
    normalized_points: LakeTable,
    global_aggregates: LakeTable,
    publisher: Publisher,
) -> MaterializeResult[None]:
    started = time.monotonic()
    version = same_version(normalized_points, global_aggregates)
    info, lake = RunInfo.of(normalized_points), publisher.lake.open()
    body = results_of(lake, normalized_points, global_aggregates)
    bucket = publisher.bucket(context, normalized_points)
    history = History(lake, info.run)
    begun: list[Version] = []
    published = complete(
        lake,
        bucket,
        info.run,
        version,
        f"{context.run.run_id}-{uuid.uuid4().hex[:8]}",
        body,
        [definition.key.path[-1] for definition in DATACUBE_ASSETS],
        anew=FROM_SCRATCH in context.run.tags,
        first=lambda: begun.append(begin(context, history, bucket, normalized_points)),
    )
    (this,) = begun
    return MaterializeResult(
        data_version=DataVersion(version),
        metadata={
            "version": this.number,
            **ended(context, publisher, history, this),
            **published_metadata(published, time.monotonic() - started),
            "results": MetadataValue.json(json.loads(body)),
            "address": address(bucket, info.run),
            "input version": version,
            **publisher.ui.links(info.run, context.asset_key.path[-1]),
            **publisher.ui.next_steps(info.run),
            **how_to_ask(lake, info.run, context.asset_key.path[-1], publisher.ui),
        },
    )


def results_of(lake: Lake, points: LakeTable, aggregates: LakeTable) -> bytes:
    """results.json as the tables say."""
    info = RunInfo.of(points)
    sizes = {
        resolution: views.timeseries_sizes(
            lake.read_all(aggregates, aggregate_folder(resolution), ["feature", "timestamp"])
        )
        for resolution in RESOLUTIONS
    }
    return views.results(
        info.report,
        info.layout,
        features=info.features,
        raw_count_threshold=info.request.raw_count_threshold,
        timeseries_sizes=sizes,
        summary=lake.read_all(aggregates, aggregate_folder("all")) if "all" in info.periods else None,
    )
