"""Every private part of Dagster that is used here is there, takes what it is given, and is explained.

Which parts these are is read from the code of `orchestration/`, the only place where they may be. When a
newer Dagster breaks one, the test that fails has its name, and docs/dagster-internals.md says what would
take its place.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import dagster
import pytest

import datacube_assets
from datacube_assets.orchestration.dask_executor import StepsOnDask
from datacube_assets.orchestration.run_launcher import LocalProcessLauncher
from datacube_assets.orchestration.side_by_side import SideBySide
from datacube_assets.orchestration.sqlite_storage import (
    KeptEventLogStorage,
    KeptRunStorage,
    KeptScheduleStorage,
    KeptSqliteStorage,
    _Watchdog,
)

PACKAGE = Path(datacube_assets.__file__).parent
MODULES = sorted((PACKAGE / "orchestration").glob("*.py"))
PAGE = PACKAGE.parent / "docs" / "dagster-internals.md"


STANDARD = {"__future__", "_typeshed"}
DOCUMENTED = {"_replace", "_current_frames"}
"""Public in spite of their names: of named tuples, and of `sys`."""


def is_private(module: str) -> bool:
    """Whether a library's module is none of its public interface."""
    parts = module.split(".")
    return parts[0] == "dagster_shared" or any(part.startswith("_") for part in parts)


def private_imports(path: Path) -> set[tuple[str, str]]:
    """Modules and names that a module imports and that are another library's own business."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in STANDARD or node.module.startswith("datacube_assets"):
                continue
            found |= {
                (node.module, alias.name)
                for alias in node.names
                if is_private(node.module) or alias.name.startswith("_")
            }
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if is_private(alias.name)}
    return found


def foreign_attributes(path: Path) -> set[str]:
    """Private attributes, of other objects, that no class of the module itself has."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    } - (own | DOCUMENTED)


USES = sorted(set[tuple[str, str]]().union(*map(private_imports, MODULES)))
ELSEWHERE = sorted(path for path in PACKAGE.rglob("*.py") if path not in MODULES)


def test_only_orchestration_uses_what_a_library_keeps_to_itself() -> None:
    imports = {path.relative_to(PACKAGE).as_posix(): private_imports(path) for path in ELSEWHERE}
    attributes = {path.relative_to(PACKAGE).as_posix(): foreign_attributes(path) for path in ELSEWHERE}
    assert {path: found for path, found in imports.items() if found} == {}
    assert {path: found for path, found in attributes.items() if found} == {}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from dagster._core.errors import DagsterError", {("dagster._core.errors", "DagsterError")}),
        ("import dagster._core", {("dagster._core", "")}),
        ("def f():\n    from dagster_shared.utils import x", {("dagster_shared.utils", "x")}),
        ("from pyarrow.lib import _Weakrefable", {("pyarrow.lib", "_Weakrefable")}),
        ("from dagster import DagsterInstance\nfrom __future__ import annotations", set()),
    ],
)
def test_private_imports_are_seen(code: str, found: set[tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert private_imports(path) == found


def test_reaching_into_another_object_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("self._own, cls._own, instance._ref, self.a._b, x.__dict__")
    assert foreign_attributes(path) == {"_ref", "_b"}


@pytest.mark.parametrize(("module", "name"), USES, ids=lambda part: part)
def test_the_private_name_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"dagster {dagster.__version__} has no such name"


@pytest.mark.parametrize("name", sorted({name for _, name in USES}))
def test_the_page_says_why_the_private_name_is_used(name: str) -> None:
    assert f"`{name}`" in PAGE.read_text()


# --- what is called ---------------------------------------------------------------------------------


CALLS: dict[str, tuple[str, ...]] = {
    "dagster._core.execution.api.create_execution_plan": (
        "job", "run_config", "step_keys_to_execute", "known_state", "repository_load_data",
    ),
    "dagster._core.execution.api.execute_plan": (
        "execution_plan", "job", "instance", "dagster_run", "run_config", "retry_mode",
    ),
    "dagster._core.execution.plan.active.ActiveExecution.__init__": (
        "execution_plan", "retry_mode", "instance_concurrency_context",
    ),
    "dagster._core.execution.plan.active.ActiveExecution.check_for_interrupts": (),
    "dagster._core.execution.plan.active.ActiveExecution.mark_interrupted": (),
    "dagster._core.execution.plan.active.ActiveExecution.get_steps_to_execute": (),
    "dagster._core.execution.plan.active.ActiveExecution.get_known_state": (),
    "dagster._core.execution.plan.active.ActiveExecution.get_step_by_key": ("step_key",),
    "dagster._core.execution.plan.active.ActiveExecution.concurrency_event_iterator": ("plan_context",),
    "dagster._core.execution.plan.active.ActiveExecution.plan_events_iterator": ("job_context",),
    "dagster._core.execution.plan.active.ActiveExecution.handle_event": ("dagster_event",),
    "dagster._core.execution.plan.active.ActiveExecution.verify_complete": ("job_context", "step_key"),
    "dagster._core.execution.api.ExecuteRunWithPlanIterable.__init__": (
        "execution_plan", "iterator", "execution_context_manager",
    ),
    "dagster._core.execution.context_creation_job.PlanExecutionContextManager.__init__": (
        "job", "execution_plan", "run_config", "dagster_run", "instance", "retry_mode", "raise_on_error",
        "output_capture", "step_dependency_config",
    ),
    "dagster._core.execution.context.system.PlanExecutionContext.for_step": ("step", "known_state"),
    "dagster._core.execution.execute_in_process.core_execute_in_process": (
        "run_config", "job", "instance", "output_capturing_enabled", "raise_on_error", "run_tags", "run_id",
        "asset_selection",
    ),
    "dagster._core.execution.execute_in_process.merge_run_tags": (
        "job_def", "partition_key", "tags", "asset_selection", "instance", "run_config",
    ),
    "dagster._core.definitions.job_base.InMemoryJob.__init__": ("job_def",),
    "dagster.JobDefinition.as_ephemeral_job": ("resource_defs", "input_values", "asset_selection"),
    "dagster.JobDefinition.with_executor_def": ("executor_def",),
    "dagster._core.execution.plan.plan.ExecutionPlan.start": (
        "retry_mode", "instance_concurrency_context", "step_dependency_config",
    ),
    "dagster._core.execution.plan.plan.ExecutionPlan.get_steps_to_execute_in_topo_order": (),
    "dagster._core.execution.plan.execute_plan.dagster_event_sequence_for_step": ("step_context",),
    "dagster._core.execution.compute_logs.create_compute_log_file_key": (),
    "dagster._core.events.DagsterEvent.capture_logs": (
        "job_context", "step_keys", "log_key", "log_context",
    ),
    "dagster._core.events.EngineEventData.in_process": ("pid", "step_keys_to_execute"),
    "dagster._core.execution.plan.instance_concurrency_context.InstanceConcurrencyContext.__init__": (
        "instance", "dagster_run",
    ),
    "dagster._core.execution.context.system.PlanOrchestrationContext.for_step": ("step",),
    "dagster._core.execution.retries.RetryMode.for_inner_plan": (),
    "dagster._core.executor.base.Executor.log_failure_or_retry_event_after_error": (
        "step_context", "err_info", "known_state",
    ),
    "dagster._core.instance.DagsterInstance.from_ref": ("instance_ref",),
    "dagster._core.instance.DagsterInstance.get_ref": (),
    "dagster._core.instance.DagsterInstance.report_run_canceling": ("run",),
    "dagster._core.instance.DagsterInstance.all_instigator_state": ("instigator_type",),
    "dagster._core.instance.DagsterInstance.get_ticks": ("origin_id", "selector_id", "limit"),
    "dagster._core.launcher.CheckRunHealthResult": ("status", "msg"),
    "dagster._grpc.types.ExecuteRunArgs": ("job_origin", "run_id", "instance_ref"),
    "dagster._core.events.DagsterEvent.engine_event": ("plan_context", "message", "event_specific_data"),
    "dagster._utils.error.serializable_error_info_from_exc_info": ("exc_info",),
    "dagster._core.storage.sqlite.create_db_conn_string": ("base_dir", "db_name"),
    "dagster._core.storage.sqlite_storage._runs_directory": ("base",),
    "dagster._core.storage.sqlite_storage._event_logs_directory": ("base",),
    "dagster._core.storage.sqlite_storage._schedule_directory": ("base",),
    "dagster._core.storage.runs.sqlite.sqlite_run_storage.SqliteRunStorage.from_local": ("base_dir",),
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage.SqliteScheduleStorage.from_local": (
        "base_dir",
    ),
}  # fmt: skip
"""What is called, and the parameters that it is called with."""


def found_at(path: str) -> Any:
    """What a dotted path leads to, such as `package.module.Class.method`."""
    module, attributes = path, list[str]()
    while True:
        module, _, attribute = module.rpartition(".")
        attributes.insert(0, attribute)
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for attribute in attributes:
            found = getattr(found, attribute)
        return found


@pytest.mark.parametrize("path", CALLS)
def test_what_is_called_takes_what_it_is_given_and_asks_for_no_more(path: str) -> None:
    parameters = inspect.signature(found_at(path)).parameters
    ours = set(CALLS[path])
    assert ours - parameters.keys() == set()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = {
        name
        for name, one in parameters.items()
        if one.default is inspect.Parameter.empty and one.kind not in optional and name != "self"
    }
    assert required - ours == set()


# --- what is built upon -----------------------------------------------------------------------------

OURS: tuple[type, ...] = (
    LocalProcessLauncher, SideBySide, StepsOnDask, KeptEventLogStorage, KeptRunStorage, KeptScheduleStorage,
    KeptSqliteStorage, _Watchdog,
)  # fmt: skip
"""Our classes that take the place of Dagster's own."""


def own(ours: type) -> dict[str, Any]:
    """What is defined by us: by the class, or by what it shares with another of ours."""
    found: dict[str, Any] = {}
    for base in reversed(ours.__mro__):
        if base.__module__.startswith("datacube_assets"):
            found |= vars(base)
    return found


def theirs(ours: type) -> list[type]:
    return [base for base in ours.__mro__ if not base.__module__.startswith("datacube_assets")]


def overridden() -> list[tuple[type, str]]:
    """Methods of ours that stand for one of Dagster's; constructors are called by ourselves."""
    return [
        (ours, name)
        for ours in OURS
        for name, one in own(ours).items()
        if callable(one) and name != "__init__" and any(name in vars(base) for base in theirs(ours))
    ]


@pytest.mark.parametrize(
    ("ours", "name"), overridden(), ids=lambda part: part.__name__ if isinstance(part, type) else part
)
def test_a_method_that_stands_for_one_of_dagsters_takes_the_same(ours: type, name: str) -> None:
    replaced = next(vars(base)[name] for base in theirs(ours) if name in vars(base))
    expected = list(inspect.signature(replaced).parameters)
    assert list(inspect.signature(own(ours)[name]).parameters) == expected


STAND_FOR: dict[type, set[str]] = {
    LocalProcessLauncher: {"launch_run", "terminate", "check_run_worker_health"},
    SideBySide: {"execute"},
    StepsOnDask: {"execute"},
    KeptEventLogStorage: {
        "_connect", "_has_asset_key_col_on_connection", "delete_dynamic_partition", "dispose",
        "has_asset_key_col", "has_dynamic_partition", "has_secondary_index", "has_table", "register_instance",
        "store_event", "watch", "wipe",
    },
    KeptRunStorage: {"connect", "dispose", "register_instance"},
    KeptScheduleStorage: {"connect", "dispose", "register_instance"},
    KeptSqliteStorage: set(),
    _Watchdog: {"on_modified"},
}  # fmt: skip
"""Methods that Dagster must know under these names: else it would go on calling its own."""


@pytest.mark.parametrize("ours", OURS, ids=lambda one: one.__name__)
def test_every_method_that_should_stand_for_one_of_dagsters_does(ours: type) -> None:
    assert STAND_FOR[ours] - {name for one, name in overridden() if one is ours} == set()


def inherited(ours: type) -> set[str]:
    """Private names of itself that a class uses and neither defines nor sets: they are Dagster's."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(ours)))
    used = {
        node.attr: isinstance(node.ctx, ast.Store)
        for node in sorted(
            (
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and not node.attr.startswith("__")
                and isinstance(node.value, ast.Name)
                and node.value.id == "self"
            ),
            key=lambda node: isinstance(node.ctx, ast.Store),
        )
    }
    return {name for name, is_set in used.items() if not is_set} - own(ours).keys()


@pytest.mark.parametrize(
    ("ours", "name"),
    [(ours, name) for ours in OURS for name in sorted(inherited(ours))],
    ids=lambda part: part.__name__ if isinstance(part, type) else part,
)
def test_what_is_inherited_privately_is_there(ours: type, name: str) -> None:
    """As a method, or as an attribute that a constructor of Dagster's sets."""
    bases = [base for base in theirs(ours) if base is not object]
    # Of their modules: from Python 3.13 some classes of Dagster do not know where they begin.
    sources = [inspect.getsource(sys.modules[base.__module__]) for base in bases if base.__module__ != "abc"]
    assert any(name in vars(base) for base in bases) or any(
        re.search(rf"self\.{name}\b(:[^=]+)? = ", source) for source in sources
    )
