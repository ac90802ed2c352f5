"""The embedded default: one local folder that holds the lake, the buckets and Dagster's own storage.

Preparing that folder and opening Dagster's storage belong here. Production brings its own `dagster.yaml`
(`infra/`), stores and settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from datacube_assets.orchestration.startup import importing
from datacube_assets.settings import Settings, SettingsError

if TYPE_CHECKING:
    from dagster import DagsterInstance

DAGSTER_YAML = """\
# Dagster's settings for the embedded default. Written once; change what you like.
telemetry:
  enabled: false
nux:
  enabled: false
python_logs:
  # Dagster's storage keeps every event; a terminal wants what a person would read.
  python_log_level: INFO
storage:
  custom:
    # Dagster's SQLite files in this folder, read and written without opening them each time.
    module: datacube_assets.orchestration.sqlite_storage
    class: KeptSqliteStorage
run_coordinator:
  # Dagster's own, with a process that waits for runs from the daemon's start on, and in which a run that
  # waits for Dojo or a file server holds no place.
  module: datacube_assets.orchestration.run_queue
  class: RunQueue
  config:
    # A look at the queue is cheap; a run that could start but waits for the next look is not.
    dequeue_interval_seconds: 1
    max_concurrent_runs: {max_runs}
    tag_concurrency_limits:
      # One run at a time per model run or dataset: two would write the same objects.
      - key: dagster/partition
        limit: 1
        value:
          applyLimitPerUniqueValue: true
run_launcher:
  module: datacube_assets.orchestration.run_launcher
  class: LocalProcessLauncher
run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  start_timeout_seconds: 180
run_retries:
  # A run whose process died is repeated; one whose input is bad is not.
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false
"""

_NEEDED = {
    "run_monitoring": """\
run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  start_timeout_seconds: 180
""",
    "run_retries": """\
run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false
""",
}
_WITHOUT = {
    "run_monitoring": "a run whose process dies stays started for ever, and holds back its model run",
    "run_retries": "a run whose process dies is not repeated",
}


def faults_of_settings(instance: DagsterInstance) -> list[str]:
    """What a `dagster.yaml` lacks without which runs are lost, each with the lines to add."""
    missing = {
        "run_monitoring": not instance.run_monitoring_enabled,
        "run_retries": not instance.run_retries_enabled,
    }
    return [
        f"{name} is off in the dagster.yaml of DAGSTER_HOME: {_WITHOUT[name]}. Add:\n{_NEEDED[name]}"
        for name, is_missing in missing.items()
        if is_missing
    ]


WORKSPACE_YAML = """\
load_from:
  - python_module:
      module_name: datacube_assets.definitions
      attribute: defs
      location_name: datacube_assets
"""


def prepare(settings: Settings) -> None:
    """Make the home folder and point Dagster to it, unless DAGSTER_HOME says otherwise."""
    os.environ["DATACUBE_HOME"] = str(settings.home)
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    # Dagster gives up on a tick after a minute, which is less than an unresponsive Dojo or CauseMos takes.
    os.environ.setdefault("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "300")
    if os.environ.get("DAGSTER_HOME"):
        return
    folder = settings.home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "dagster.yaml"
    if not configuration.exists():
        configuration.write_text(DAGSTER_YAML.format(max_runs=settings.max_runs))
    else:
        _renew(configuration)
    os.environ["DAGSTER_HOME"] = str(folder)


_MOVED = {
    "module: datacube_assets.dagster_storage\n": "module: datacube_assets.orchestration.sqlite_storage\n",
    "module: datacube_assets.launcher\n": "module: datacube_assets.orchestration.run_launcher\n",
}
"""Modules that earlier versions named in `dagster.yaml`, and where they are now."""
_STORAGE = DAGSTER_YAML[DAGSTER_YAML.index("storage:") : DAGSTER_YAML.index("run_coordinator:")]
_QUEUE = DAGSTER_YAML[DAGSTER_YAML.index("run_coordinator:") : DAGSTER_YAML.index("run_launcher:")]
_PLACES_BEFORE = """\
concurrency:
  runs:
    max_concurrent_runs: {max_runs}
    tag_concurrency_limits:
      # One run at a time per model run or dataset: two would write the same objects.
      - key: dagster/partition
        limit: 1
        value:
          applyLimitPerUniqueValue: true
"""
_QUEUES_BEFORE = (
    """\
run_queue:
  # A look at the queue is cheap; a run that could start but waits for the next look is not.
  dequeue_interval_seconds: 1
""",
    """\
run_coordinator:
  # Dagster's own, with a process that waits for runs from the daemon's start on.
  module: datacube_assets.orchestration.run_queue
  class: RunQueue
  config:
    # A look at the queue is cheap; a run that could start but waits for the next look is not.
    dequeue_interval_seconds: 1
""",
)
"""What earlier versions wrote of the queue; the first one wrote of its places only."""


def _renew(configuration: Path) -> None:
    """Bring what an earlier version wrote up to date.

    Modules that moved are named anew wherever they stand, and so is the queue where nobody changed it. What
    the first version did not write is added, unless somebody changed more than the number of runs.
    """
    written = text = configuration.read_text()
    for before, now in _MOVED.items():
        text = text.replace(before, now)
    places = re.search(r"max_concurrent_runs: (\d+)", text)
    if places:
        now = _QUEUE.format(max_runs=places[1])
        limits = _PLACES_BEFORE.format(max_runs=places[1])
        for before in _QUEUES_BEFORE:
            text = text.replace(before + limits, now)
        if text == DAGSTER_YAML.replace(_STORAGE + _QUEUE, limits):
            text = text.replace(limits, f"{_STORAGE}{now}")
    if text != written:
        renewed = configuration.with_suffix(f".{os.getpid()}")
        renewed.write_text(text)
        renewed.replace(configuration)


def write_workspace(settings: Settings) -> Path:
    """A workspace file for `dagster dev`; the location has the name it has everywhere else."""
    path = settings.home / "dagster" / "workspace.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(WORKSPACE_YAML)
    return path


def has_instance(settings: Settings) -> bool:
    """Whether there is a Dagster storage to look into, without making one."""
    return bool(os.environ.get("DAGSTER_HOME")) or (settings.home / "dagster" / "dagster.yaml").exists()


@contextmanager
def passing_instance() -> Iterator[DagsterInstance]:
    """Dagster's storage for the time being: in memory, known to nobody."""
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    with importing():
        from dagster import DagsterInstance

        with DagsterInstance.ephemeral() as instance:
            yield instance


def open_instance(settings: Settings) -> DagsterInstance:
    """Dagster's storage: of the home folder, or of DAGSTER_HOME. Raises SettingsError if that cannot be."""
    prepare(settings)
    with importing():
        from dagster import DagsterInstance, DagsterInvalidConfigError

        try:
            return DagsterInstance.get()
        except DagsterInvalidConfigError as error:
            unset = sorted(set(re.findall(r'environment variable "(\w+)" which is not set', str(error))))
            raise SettingsError(
                f"DAGSTER_HOME is {os.environ['DAGSTER_HOME']}, whose dagster.yaml "
                + (f"needs {', '.join(unset)}: set it" if unset else f"cannot be used: {error}")
                + ", or leave DAGSTER_HOME empty to work in the folder DATACUBE_HOME"
            ) from None
