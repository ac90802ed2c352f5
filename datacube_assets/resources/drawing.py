"""A process that draws pictures, beside one that has a run to execute.

Drawing is Python from end to end, so that it keeps all other threads of a process waiting, and what draws
takes a while to import. A command that executes a run itself starts this process first: it imports while the
command imports, and draws while the run publishes. It is asked over its standard input and ends with it, so
it outlives nobody. Where it is not, or fails, pictures are drawn by whoever wants them.

    python -m datacube_assets.resources.drawing MODULE      gets ready with it, draws what it is asked for
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

Draw = Callable[[], bytes | None]
"""Makes a picture; None where there is nothing to be seen."""

_NEEDED: Final = "datacube_assets.assets.pictures"
"""What draws, and gets ready for it (`prepare`). A text, since it lies above this package."""


_PATIENCE: Final = 60.0
"""Seconds after which a picture is drawn by whoever waits for it."""


class _NoAnswer(Exception):
    """The process died, or could not be told what to draw, or to do it."""


class _Process:
    """The process, and a thread that waits for it."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", __name__, _NEEDED]
        # Interrupting the command is for the command to see to.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        self._thread = ThreadPoolExecutor(1, "drawing")

    def begin(self, draw: Draw) -> Draw:
        answer = self._thread.submit(self._ask, draw)

        def drawn() -> bytes | None:
            try:
                return answer.result(_PATIENCE)
            except (_NoAnswer, TimeoutError):
                return draw()

        return drawn

    def _ask(self, draw: Draw) -> bytes | None:
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None, "it is a pipe"
        assert answers is not None, "it is a pipe"
        try:
            pickle.dump(draw, asked)
            asked.flush()
            drawn: bytes | None = pickle.load(answers)
        except Exception as error:
            raise _NoAnswer from error
        return drawn

    def end(self) -> None:
        """Let it go, whatever it is at."""
        self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


_BESIDE: list[_Process] = []
"""The process of this command, if it has one."""


@contextmanager
def drawing_beside(*, wanted: bool = True) -> Iterator[None]:
    """Have pictures drawn by a process of their own, meanwhile.

    Not by a command in a process that has imported everything already: to that it would be no help.
    """
    process = _started() if wanted and "dagster" not in sys.modules else None
    if process is None:
        yield
        return
    _BESIDE.append(process)
    try:
        yield
    finally:
        _BESIDE.remove(process)
        process.end()


def _started() -> _Process | None:
    remember_fonts()
    try:
        return _Process()
    except OSError:
        return None


def begin(draw: Draw) -> Draw:
    """Begin to draw where there is a process for it; what is given back has the picture, or draws it."""
    return _BESIDE[-1].begin(draw) if _BESIDE else draw


def remember_fonts() -> None:
    """Say where matplotlib remembers which fonts there are: a home folder may be missing, or be read only."""
    os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir(), f"datacube-fonts-{os.getuid()}")))


def main() -> None:
    """Draw what is asked for, one picture after the other, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    # Whatever prints must not be taken for an answer.
    sys.stdout = sys.stderr
    importlib.import_module(sys.argv[1]).prepare()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            draw: Draw = pickle.load(asked)
            pickle.dump(draw(), answers)
            answers.flush()


if __name__ == "__main__":
    main()
