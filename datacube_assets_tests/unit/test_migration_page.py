"""The page for operators of the original knows every document, script and variable that they knew.

The names are those of the original's settings and scripts and of its queue's settings.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datacube_assets.cli import main
from datacube_assets.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "coming-from-slow-tortoise.md").read_text()
DOCUMENTS = """
    README.md flows/README.md flows/run_local.sh flows/run_flow_local.py doc/minio-folder-structure.md
    doc/examples generate_proto.sh Makefile deploy/kubernetes/README.md deploy/kubernetes/build_and_push.sh
    deploy/kubernetes/register_flows.sh register_test_flows.sh deploy/kubernetes/local.env staging.env
    prod.env
    deploy/swarm-openstack/README.md deploy/swarm-openstack/build_and_update.sh dev.env infra/README.md
    infra/dask/setup.md infra/dask/docker-compose.yml infra/dask/dask_test.py infra/prefect/setup.md
    infra/prefect/curl-commands.md infra/docker/Dockerfile docker_build.sh docker_push.sh
    flows/test/flow_test.py dask_flow_test.py flows/test/throughput_test.py scripts/prefect_reprocess.sh
    prefect_reprocess_indicator.py prefect_reprocess_model_run.py scripts/get_data_ids.py
    scripts/sync_datasets.py scripts/fetch_all_indicators_from_dojo.py scripts/dedupe-indicators.py
    scripts/inspect_tile_pb.py scripts/common.py scripts/copy_es_docs.py copy_project.py copy_analyses.py
    reindex.py reindex_transforms scripts/gadm/ scripts/gadm-bbox/ scripts/vector-tiles/
    scripts/2023_07_minio_to_aws_s3_migration scripts/env
"""
OF_THE_FLOW = """
    WM_DEST_TYPE WM_S3_DEST_URL WM_S3_DEST_KEY WM_S3_DEST_SECRET AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
    WM_S3_DEFAULT_INDICATOR_BUCKET WM_S3_DEFAULT_MODEL_BUCKET WM_S3_SOURCE_URL WM_DEBUG_TILE WM_DASK_SCHEDULER
    WM_FLOW_STORAGE_S3_BUCKET_NAME WM_DATA_PIPELINE_IMAGE WM_RUN_CONFIG_TYPE WM_LOCAL PREFECT__SERVER__HOST
    PREFECT__SERVER__PORT HOST DOCKER_IMAGE DOCKER_IMAGE_VERSION PROJECT WM_QUEUE_MANAGER_CAUSEMOS
    WM_QUEUE_MANAGER_ANALYST WM_QUEUE_MANAGER_MODELER DOJO_URL DOJO_USER DOJO_PWD DOJO_API_URL CAUSEMOS_URL
    CAUSEMOS_USER CAUSEMOS_PWD ES_URL ES_USER ES_PWD ENV WM_QUEUE_SERVICE_URL WM_PIPELINE_URL WM_GO_URL
    S3_MODELS_BUCKET S3_INDICATORS_BUCKET
"""
OF_THE_QUEUE = """
    WM_MODE WM_ADDR WM_DATA_PIPELINE_ADDR WM_DATA_PIPELINE_TIMEOUT_SEC WM_DATA_PIPELINE_QUEUE_SIZE
    WM_DATA_PIPELINE_POLL_INTERVAL_SEC WM_DATA_PIPELINE_PROJECT_NAME WM_DATA_PIPELINE_FLOW_NAME
    WM_DATA_PIPELINE_IDEMPOTENCY_CHECKS WM_DATA_PIPELINE_PARALLELISM WM_DATAPIPELINEPERSISTEDQUEUE
    WM_DATA_PIPELINE_QUEUE_DIR WM_DATA_PIPELINE_QUEUE_NAME WM_PAUSE_TIME WM_RESUME_TIME WM_CAUSEMOS_ADDR
    WM_AGENT_LABEL_TO_IGNORE WM_USERNAME WM_PASSWORD
"""


def table(title: str) -> dict[str, str]:
    """First and second column of the table below a heading."""
    part = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ", 1) for line in part.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows[1:] if not row[0].startswith("---")}


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Documents and scripts", DOCUMENTS),
        ("Variables of the flow and its scripts", OF_THE_FLOW),
        ("Variables of the request queue", OF_THE_QUEUE),
    ],
)
def test_every_name_has_its_place_here_or_a_reason_why_it_is_gone(title: str, names: str) -> None:
    rows = table(title)
    quoted = {name: told for there, told in rows.items() for name in re.findall(r"`([^`]+)`", there)}
    for name in names.split():
        there = [
            told
            for known, told in quoted.items()
            if name in (known, known.rstrip("*"), known.rpartition("/")[0])
        ]
        assert there, f"{name} is not on the page"
        assert all(told == "the same" or len(told) > 5 for told in there)


@pytest.mark.parametrize("page", ["coming-from-slow-tortoise", "operating"])
def test_the_commands_and_settings_that_a_page_names_exist(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text()
    named = set(re.findall(r"(?:`|\n *|\| )datacube ([a-z][a-z0-9-]+)", text))
    # The gateway has its own tests.
    assert named - {"gateway"} <= set(main.commands), named
    settings = {field.alias for field in Settings.model_fields.values()}
    assert set(re.findall(r"\bDATACUBE_[A-Z0-9_]+", text)) <= settings
