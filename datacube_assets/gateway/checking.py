"""Checks of requests that somebody asks for over HTTP: each in a process of its own, a few at a time.

A check takes as much of a core and of memory as a run does. In a process it can be ended when it takes too
long, or when nobody waits for it any more, and whatever a file does to it, the gateway goes on. What a check
finds out is told by the command `datacube check`, which knows all that publishing knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.redaction import redacted
from datacube_assets.settings import Settings, aws_environment

MOST_SECONDS = 900.0
"""How long a check may take."""
LOOK_SECONDS = 1.0
"""Between looks at whether somebody still waits for it."""
_KEPT_OF_ERROR = 4_000
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "SSL_CERT_FILE")
"""Variables beside the settings without which a process may not start, or work elsewhere."""


class BusyError(RuntimeError):
    """As many checks are under way as may be."""


class CheckFailedError(RuntimeError):
    """A check that came to no end; the message says why."""


class Checks:
    """Runs checks. Belongs to one event loop."""

    def __init__(self, settings: Settings, schemes: frozenset[str], most: int) -> None:
        """`schemes`: kinds of addresses that may be read; `most`: how many checks at the same time."""
        self._settings = settings.model_copy(update={"source_schemes": ",".join(sorted(schemes))})
        self._most = most
        self._under_way = 0

    async def run(
        self, request: DatacubeRequest, given_up: Callable[[], Awaitable[bool]]
    ) -> dict[str, Any] | None:
        """What the check of a request finds, as JSON; None when whoever asked has `given_up`.

        Raises BusyError at once where no further check may begin, CheckFailedError.
        """
        if self._under_way >= self._most:
            busy = (
                f"{self._under_way} checks are under way: ask again later, or raise DATACUBE_GATEWAY_CHECKS"
            )
            raise BusyError(
                busy if self._most else "this gateway makes no checks: DATACUBE_GATEWAY_CHECKS is 0"
            )
        self._under_way += 1
        try:
            return await self._run(request, given_up)
        finally:
            self._under_way -= 1

    async def _run(
        self, request: DatacubeRequest, given_up: Callable[[], Awaitable[bool]]
    ) -> dict[str, Any] | None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "datacube_assets.cli", "check", "--request", "-", "--json", "--quiet"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(),
            start_new_session=True,
        )
        talk = asyncio.ensure_future(process.communicate(request.model_dump_json().encode()))
        clock = asyncio.get_running_loop().time
        until = clock() + MOST_SECONDS
        try:
            while not (await asyncio.wait([talk], timeout=LOOK_SECONDS))[0]:
                if clock() > until:
                    raise CheckFailedError(f"it took longer than {MOST_SECONDS:,.0f} seconds")
                if await given_up():
                    return None
            out, err = await talk
        finally:
            with contextlib.suppress(ProcessLookupError):
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
            await asyncio.gather(talk, return_exceptions=True)
        try:
            found: dict[str, Any] = json.loads(out)
        except ValueError:
            said = redacted(err.decode(errors="replace")[-_KEPT_OF_ERROR:])
            logging.getLogger(__name__).error("a check ended with %s: %s", process.returncode, said)
            last = said.strip().splitlines()[-1:] or [f"it ended with status {process.returncode}"]
            raise CheckFailedError(last[0].removeprefix("Error: ")) from None
        return found

    def _environment(self) -> dict[str, str]:
        """The variables of the process: these settings, and what any process needs."""
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return passed | dict(aws_environment()) | self._settings.as_environment()
