"""Is the system well? Every part is asked by itself, with a time limit, so that none hides another.

What a part is asked belongs here. What is done about a fault is in docs/operating.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from datacube_assets.causemos.client import CauseMosClient, Delivered, Refused
from datacube_assets.dojo.client import DojoClient, DojoError
from datacube_assets.http_client import RetryPolicy
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.reports import Outbox, oldest
from datacube_assets.storage.requests import is_paused, runs_requested
from datacube_assets.storage.stores import StoreError

if TYPE_CHECKING:
    from dagster import DagsterInstance

State = Literal["well", "warning", "broken"]
SEVERITY: Mapping[State, int] = {"well": 0, "warning": 1, "broken": 2}
"""Exit status of `datacube status`, as monitoring systems expect it."""
_MANY = 10_000
"""Waiting requests that are counted, at most."""
_REPORT_IS_LATE = 600.0
"""Seconds after which an undelivered report is worth a look."""
_TICK_IS_LATE = 10
"""Intervals of a sensor after which its silence is worth a look."""
_DAEMON_IS_DEAD, _DAEMON_HANGS = 120.0, 600.0
"""Seconds without a heartbeat of any of its parts, and of one of them; they beat every 30 s, unless busy."""
_NAMED = 5


@dataclass(frozen=True)
class Part:
    """How one part of the system is."""

    name: str
    state: State
    says: str
    """For people, with a remedy where one is known."""
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a part said when it was asked."""

    state: State
    says: str
    figures: Mapping[str, Any] = field(default_factory=dict)


well = partial(Answer, "well")
warning = partial(Answer, "warning")
broken = partial(Answer, "broken")


@dataclass(frozen=True)
class Status:
    """How the system is."""

    parts: Sequence[Part]

    @property
    def state(self) -> State:
        """That of the part that is worst."""
        return max((part.state for part in self.parts), key=SEVERITY.__getitem__)

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state, "parts": [asdict(part) for part in self.parts]}


def status(settings: Settings, seconds: float) -> Status:
    """Ask every part; each gets so many seconds, all at the same time. Raises nothing.

    Nothing is changed, but that a bucket on S3 is tried by writing and deleting one small object.
    """
    questions: dict[str, Callable[[], Answer]] = {
        "dojo": lambda: _dojo(settings, seconds),
        "causemos": lambda: _causemos(settings, seconds),
        "lake": lambda: _lake(settings),
        "models bucket": lambda: _bucket(settings.models_bucket, settings, "DATACUBE_MODELS_BUCKET"),
        "indicators bucket": lambda: _bucket(
            settings.indicators_bucket, settings, "DATACUBE_INDICATORS_BUCKET"
        ),
        "dask": lambda: _dask(settings),
        "code": lambda: _code(settings),
        "requests": lambda: _requests(settings),
        "reports": lambda: _reports(settings),
    }
    # Dagster's storage is one place, which several questions are put to.
    of_dagster: dict[str, Callable[[DagsterInstance], Answer]] = {
        "daemon": _daemon,
        "run monitoring": _monitoring,
        "run queue": _queue,
        "sensors": lambda instance: _sensors(instance, settings),
        "partitions": lambda instance: _partitions(instance, settings),
    }
    answers: dict[str, Answer] = {}

    def ask(name: str, question: Callable[[], Answer]) -> None:
        try:
            answers[name] = question()
        except Exception as error:  # whatever breaks one part, the others are to be told as well
            answers[name] = broken(str(error).splitlines()[0] if str(error) else repr(error))

    def ask_dagster() -> None:
        from datacube_assets.orchestration.home import open_instance

        try:
            with open_instance(settings) as instance:
                for name, question in of_dagster.items():
                    ask(name, lambda question=question: question(instance))  # type: ignore[misc]
        except Exception as error:  # whatever keeps Dagster's storage from opening
            for name in of_dagster:
                answers.setdefault(
                    name,
                    broken(
                        f"Dagster's storage cannot be used: {str(error).splitlines()[0]}. "
                        "See DAGSTER_HOME and its dagster.yaml"
                    ),
                )

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in questions.items()]
    # Imports are not what is waited for.
    import datacube_assets.definitions  # noqa: F401

    threads.append(threading.Thread(target=ask_dagster, daemon=True))
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = broken(f"no answer within {seconds:g} s")
    return Status([Part(name, **vars(answers.get(name, late))) for name in (*questions, *of_dagster)])


# --- services --------------------------------------------------------------------------------------


def _dojo(settings: Settings, seconds: float) -> Answer:
    if not settings.dojo_url:
        return well("not asked: DOJO_URL is not set")
    with DojoClient(
        settings.dojo_url,
        settings.dojo_username,
        settings.dojo_password.get_secret_value(),
        timeout=seconds,
        retries=RetryPolicy(attempts=1),
    ) as client:
        try:
            runs = client.count_runs()
        except DojoError as error:
            return broken(str(error), {"url": settings.dojo_url})
    return well(f"answers at {settings.dojo_url}: {runs:,} runs", {"runs": runs})


def _causemos(settings: Settings, seconds: float) -> Answer:
    if not settings.causemos_url:
        return well("not told: CAUSEMOS_URL is not set")
    with CauseMosClient(
        settings.causemos_url,
        settings.causemos_username,
        settings.causemos_password.get_secret_value(),
        timeout=seconds,
    ) as client:
        answer = client.answers()
    url = settings.causemos_url
    if isinstance(answer, Delivered):
        return well(f"answers at {url}")
    if isinstance(answer, Refused):
        remedy = (
            "Set CAUSEMOS_USERNAME and CAUSEMOS_PASSWORD"
            if answer.status in (401, 403)
            else "Reports wait until it is well"
        )
        return broken(f"{url} answers {answer.status}. {remedy}")
    return broken(f"{url} does not answer: {answer.error}. Reports wait; see CAUSEMOS_URL")


def _lake(settings: Settings) -> Answer:
    url = settings.lake
    try:
        open_store(url, settings.s3_endpoint).check("DATACUBE_LAKE")
    except StoreError as error:
        return broken(str(error), {"url": url})
    return well(f"{url} can be read and written", {"url": url})


def _bucket(url: str, settings: Settings, setting: str) -> Answer:
    store = open_store(url, settings.s3_endpoint)
    try:
        store.check(setting)
        sure = store.swaps_for_sure()
    except StoreError as error:
        return broken(str(error), {"url": url})
    figures = {"url": url, "conditional writes": sure}
    if sure:
        return well(f"{url} can be read and written", figures)
    return warning(
        f"{url} can be read and written, but its server ignores conditions of writes: taking the lease "
        "of a datacube takes some seconds, and requests that are held up for longer may defeat it",
        figures,
    )


def _dask(settings: Settings) -> Answer:
    if settings.dask_mode != "scheduler":
        where = "threads of the run" if settings.dask_mode == "threads" else "processes of the run"
        return well(f"no cluster: {where} compute (DATACUBE_DASK={settings.dask_mode})")
    from datacube_assets.resources.dask import open_client
    from datacube_assets.settings import SettingsError

    try:
        client = open_client(settings.dask_scheduler)
    except SettingsError as error:
        return broken(str(error), {"scheduler": settings.dask_scheduler})
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"]
    finally:
        client.close()
    figures = {"scheduler": settings.dask_scheduler, "workers": len(workers)}
    if not workers:
        return broken(f"{settings.dask_scheduler} has no workers: runs wait", figures)
    return well(
        f"{settings.dask_scheduler} has {len(workers)} worker(s), with the versions that are installed here",
        figures,
    )


def _code(settings: Settings) -> Answer:
    from datacube_assets import __version__
    from datacube_assets.definitions import build_definitions

    definitions = build_definitions(settings)
    assets, sensors = len(list(definitions.assets or ())), len(list(definitions.sensors or ()))
    return well(
        f"version {__version__} loads: {assets} assets, {sensors} sensors",
        {"version": __version__, "assets": assets, "sensors": sensors},
    )


# --- what waits ------------------------------------------------------------------------------------


def _requests(settings: Settings) -> Answer:
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    waiting = runs_requested(lake, _MANY)
    paused = is_paused(lake)
    oldest = min((one.asked_at for one in waiting if one.asked_at), default=None)
    age = None if oldest is None else time.time() - oldest / 1000
    figures = {
        "waiting": len(waiting),
        "oldest seconds": None if age is None else round(age),
        "paused": paused,
    }
    if paused:
        return warning(
            f"paused, and {len(waiting):,} wait: PUT /data-pipeline/start at the gateway resumes the queue",
            figures,
        )
    if age is not None and age > _TICK_IS_LATE * settings.sensor_interval:
        return warning(
            f"{len(waiting):,} wait, the oldest for {age:,.0f} s: see that the sensor `requests` is on",
            figures,
        )
    return well(f"{len(waiting):,} wait for the next tick", figures)


def _reports(settings: Settings) -> Answer:
    outbox = Outbox(Lake(open_store(settings.lake, settings.s3_endpoint)))
    waiting = outbox.slips()
    if not waiting:
        return well("all reports to CauseMos are delivered", {"waiting": 0})
    first = oldest(waiting)
    age = 0.0 if first is None else max(time.time() - first / 1000, 0.0)
    _, stuck = outbox.stuck(_NAMED)
    refused = next((report.last_error for report in stuck if report.last_error), None)
    figures = {"waiting": len(waiting), "oldest seconds": round(age), "last error": refused}
    says = f"{len(waiting):,} undelivered, the oldest for {age:,.0f} s" + (f": {refused}" if refused else "")
    return (warning if refused or age > _REPORT_IS_LATE else well)(says, figures)


# --- Dagster ---------------------------------------------------------------------------------------


def _daemon(instance: DagsterInstance) -> Answer:
    beats = {name: one.last_heartbeat for name, one in instance.get_daemon_statuses().items() if one.required}
    ages = {name: time.time() - beat.timestamp if beat else None for name, beat in beats.items()}
    figures = {"seconds since": {name: None if age is None else round(age) for name, age in ages.items()}}
    known = [age for age in ages.values() if age is not None]
    if not known:
        return warning("none has run here yet: sensors are off until dagster-daemon runs", figures)
    # Dagster itself believes in a daemon for half an hour after its last heartbeat.
    if min(known) > _DAEMON_IS_DEAD:
        return broken(f"no heartbeat for {min(known):,.0f} s: start dagster-daemon", figures)
    silent = sorted(name for name, age in ages.items() if age is None or age > _DAEMON_HANGS)
    if silent:
        return broken(f"no heartbeat of {', '.join(silent)}: restart dagster-daemon", figures)
    errors = sorted(
        {error.message.splitlines()[0] for beat in beats.values() if beat for error in beat.errors or ()}
    )
    if errors:
        return warning(f"it beats, with errors: {errors[0]}", figures)
    return well(f"all of {', '.join(sorted(beats))} beat", figures)


def _monitoring(instance: DagsterInstance) -> Answer:
    from datacube_assets.orchestration.home import faults_of_settings

    faults = faults_of_settings(instance)
    if faults:
        return warning("\n".join(faults))
    return well("runs whose process dies are noticed and repeated")


def _queue(instance: DagsterInstance) -> Answer:
    from dagster import DagsterRunStatus, RunsFilter

    counts = {
        what: instance.get_runs_count(RunsFilter(statuses=list(statuses)))
        for what, statuses in {
            "queued": (DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED),
            "running": (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING),
        }.items()
    }
    return well(f"{counts['running']:,} running, {counts['queued']:,} queued", counts)


def _sensors(instance: DagsterInstance, settings: Settings) -> Answer:
    from datacube_assets.orchestration.dagster_private import sensor_states

    states = list(sensor_states(instance))
    if not states:
        return warning("no sensor has ticked yet: is dagster-daemon running?")
    figures = {
        state.name: {"on": state.on, "last tick": state.last_tick, "outcome": state.outcome}
        for state in states
    }
    too_old = time.time() - _TICK_IS_LATE * max(settings.sensor_interval, 30)
    stopped = [state.name for state in states if not state.on]
    failing = [f"{state.name}: {_reason(state.error)}" for state in states if state.on and state.failed]
    late = [
        state.name
        for state in states
        if state.on and not state.failed and (state.last_tick is None or state.last_tick < too_old)
    ]
    faults = [
        f"stopped: {', '.join(sorted(stopped))}" if stopped else "",
        f"failed last: {'; '.join(sorted(failing))}" if failing else "",
        f"silent for long: {', '.join(sorted(late))}" if late else "",
    ]
    told = "; ".join(fault for fault in faults if fault)
    if told:
        return warning(told, figures)
    return well(f"{len(states)} tick: {', '.join(sorted(figures))}", figures)


def _reason(message: str) -> str:
    """The line of an error that says most: Dagster puts where it happened before what happened."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"


def _partitions(instance: DagsterInstance, settings: Settings) -> Answer:
    from datacube_assets.operations.inventory import orphaned
    from datacube_assets.operations.reprocess import failed_partitions
    from datacube_assets.partitions import model_runs

    known = len(instance.get_dynamic_partitions(str(model_runs.name)))
    failed = failed_partitions(instance)
    lake = Lake(open_store(settings.lake, settings.s3_endpoint))
    forgotten = [run.key for run in orphaned(lake, instance)]
    figures = {
        "known": known,
        "failed": len(failed),
        "failed partitions": failed,
        "orphaned partitions": forgotten,
    }
    if forgotten:
        some = ", ".join(forgotten[:_NAMED]) + (" ..." if len(forgotten) > _NAMED else "")
        also = f"; the newest run of {len(failed):,} failed" if failed else ""
        return warning(
            f"{len(forgotten):,} published that Dagster does not know: {some}. "
            f"`datacube withdraw` takes them back, `datacube reprocess` makes them known again{also}",
            figures,
        )
    if failed:
        some = ", ".join(failed[:_NAMED]) + (" ..." if len(failed) > _NAMED else "")
        return warning(
            f"the newest run of {len(failed):,} of {known:,} failed: {some}. See `datacube list --failed`",
            figures,
        )
    return well(f"{known:,} known, none whose newest run failed", figures)
