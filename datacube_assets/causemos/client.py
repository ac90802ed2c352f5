"""Telling CauseMos how the processing of a run went (docs/specification/queue-and-causemos.md#reports).

Here belong the three reports and one attempt to deliver each. When to report, how often to try
again and what follows from a refusal are the sensors' decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import httpx
from pydantic import BaseModel, ConfigDict

from datacube_assets.http_client import ServiceClient, failure

_REPORTING = "api/maas/pipeline-reporting"


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    """`indicator` for a dataset."""
    data_id: str
    """The model or dataset."""
    doc_ids: tuple[str, ...] | None
    """Documents in CauseMos that wait; without any CauseMos refuses the report."""
    is_indicator: bool


class QueueRuntime(_Report):
    """How long a request waited before it was started."""

    start_time: int
    """Milliseconds UTC when the request came."""
    end_time: int
    """Milliseconds UTC when it was started."""


class ProcessingFailed(_Report):
    """The datacube could not be made, or CauseMos refused it."""

    flow_id: str
    """Id of our run; CauseMos keeps it for its log view."""
    start_time: int | None = None
    end_time: int | None = None
    """Given only when the report replaces one of success."""


class ProcessingSucceeded(_Report):
    """The datacube is published, `results.json` included: CauseMos reads it before it answers."""

    flow_id: str
    """Id of our run; CauseMos keeps it for its log view."""
    start_time: int
    """Milliseconds UTC when the run was started."""
    end_time: int
    """Milliseconds UTC when it was over."""

    def as_failure(self) -> ProcessingFailed:
        """What to report instead when CauseMos refuses this one: the original queue reused its body."""
        return ProcessingFailed(**self.model_dump())


@dataclass(frozen=True)
class Delivered:
    """CauseMos took the report."""

    message: str


@dataclass(frozen=True)
class Refused:
    """CauseMos answered, but not with success."""

    status: int
    message: str


@dataclass(frozen=True)
class Unreachable:
    """CauseMos did not answer; it may have taken the report all the same."""

    error: str


Delivery = Delivered | Refused | Unreachable


class CauseMosClient(ServiceClient):
    """The reporting API of CauseMos. May be shared between threads; its methods raise nothing of HTTP."""

    def __init__(
        self, base_url: str, username: str = "", password: str = "", *, timeout: float = 60.0
    ) -> None:
        """`timeout`: seconds, of a whole call; CauseMos itself waits up to 45 for the results.

        Raises ValueError when the base URL is none, or carries credentials.
        """
        super().__init__(base_url, username, password, timeout=timeout, total=timeout)

    def answers(self) -> Delivery:
        """Ask for its front page, which changes nothing: whether it is there, and lets us in."""
        try:
            response = self._call("GET", "")
        except httpx.RequestError as error:
            return Unreachable(failure(error))
        known = response.status_code < 500 and response.status_code not in (401, 403)
        message = self._shown(_message(response))
        return Delivered("") if known else Refused(response.status_code, message)

    def queue_runtime(self, report: QueueRuntime) -> Delivery:
        """Say that a request left the queue. The original ignored the answer."""
        return self._put("queue-runtime", report)

    def processing_succeeded(self, report: ProcessingSucceeded) -> Delivery:
        """Say that the datacube is complete. Refused with 404 when its results cannot be read."""
        return self._put("processing-succeeded", report)

    def processing_failed(self, report: ProcessingFailed) -> Delivery:
        """Say that there is no datacube."""
        return self._put("processing-failed", report)

    def _put(self, call: str, report: _Report) -> Delivery:
        # Only the times of a failure have a default: they are left out, absent doc_ids go as null.
        body = report.model_dump(mode="json", exclude_defaults=True)
        try:
            response = self._call("PUT", f"{_REPORTING}/{call}", json=body)
        except httpx.RequestError as error:
            return Unreachable(failure(error))
        message = self._shown(_message(response))
        return Delivered(message) if response.is_success else Refused(response.status_code, message)


def _message(response: httpx.Response) -> str:
    """The `message` of the answer, or whatever a proxy said."""
    try:
        content = response.json()
    except ValueError:
        content = None
    message = content.get("message") if isinstance(content, dict) else None
    return message if isinstance(message, str) else response.text
