"""A process that draws beside: the same pictures, and none of its troubles is one of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import pytest

from datacube_assets.kernels import pictures
from datacube_assets.resources import drawing

DRAW = partial(pictures.top_regions, {"yield": (["Kenya", "Uganda"], np.array([2.0, 1.0]))}, "Largest")


def _fails() -> bytes:
    raise ValueError("nothing to draw with")


def _hangs() -> bytes | None:
    """Draws here only."""
    if os.environ.get("MPLCONFIGDIR") == "beside":
        signal.pause()
    return b"drawn here"


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a command that has imported nothing yet."""
    monkeypatch.delitem(sys.modules, "dagster", raising=False)


@pytest.mark.usefixtures("cold")
def test_the_same_picture_comes_from_the_process_beside() -> None:
    expected = DRAW()
    assert drawing.begin(DRAW) is DRAW
    with drawing.drawing_beside():
        begun = [drawing.begin(DRAW) for _ in range(2)]
        assert all(one is not DRAW for one in begun)
        assert [one() for one in begun] == [expected, expected]
        (process,) = drawing._BESIDE
    assert not drawing._BESIDE
    assert process._process.poll() is not None


@pytest.mark.usefixtures("cold")
def test_what_it_cannot_draw_is_drawn_here_and_so_is_all_after_its_death() -> None:
    with drawing.drawing_beside():
        with pytest.raises(ValueError, match="nothing to draw with"):
            drawing.begin(_fails)()
        here: dict[str, Any] = {"drawn": 0}

        def counted() -> bytes:
            here["drawn"] += 1
            return b"drawn here"

        # Neither can a function inside of another one be told to a process, nor is that one there any more.
        assert drawing.begin(counted)() == b"drawn here"
        assert here["drawn"] == 1
        assert drawing.begin(DRAW)() == DRAW()


@pytest.mark.usefixtures("cold")
def test_one_that_stands_still_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_PATIENCE", 0.2)
    monkeypatch.setenv("MPLCONFIGDIR", "beside")
    with drawing.drawing_beside():
        monkeypatch.setenv("MPLCONFIGDIR", "here")
        assert drawing.begin(_hangs)() == b"drawn here"


def test_there_is_none_where_it_is_not_wanted_or_everything_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dagster", sys)
    with drawing.drawing_beside():
        assert not drawing._BESIDE
    monkeypatch.delitem(sys.modules, "dagster")
    with drawing.drawing_beside(wanted=False):
        assert not drawing._BESIDE


def test_it_ends_with_whoever_started_it_however_that_ends() -> None:
    program = (
        "import os, signal\n"
        "from datacube_assets.resources import drawing\n"
        "with drawing.drawing_beside():\n"
        "    print(drawing._BESIDE[-1]._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    beside, deadline = int(done.stdout), time.monotonic() + 60
    while _is_there(beside) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_there(beside)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
