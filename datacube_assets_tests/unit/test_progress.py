"""Progress: a bar on a terminal, plain lines elsewhere, and figures that a person can go by."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from datacube_assets.cli import progress as terminal
from datacube_assets.cli.progress import Display
from datacube_assets.progress import Stage, duration, listening, tell


def test_a_stage_tells_how_far_it_is_by_the_work_of_its_pieces() -> None:
    stage = Stage("publish-tiles", [69, 19, 9], started=0.0)
    assert stage.seconds_left is None
    stage.finished(0, 700)
    assert stage.share == 0.7
    assert stage.seconds_left == pytest.approx(stage.seconds * 3 / 7, rel=0.01)
    assert str(stage).startswith("1 of 3 pieces, 700 objects, ")
    assert str(stage).endswith(" left")
    stage.finished(1)
    stage.finished(2, 50)
    assert stage.share == 1.0
    assert str(stage).startswith("3 of 3 pieces, 750 objects, ")
    assert "left" not in str(stage)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (89, "89 s"), (95, "2 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")]
)
def test_time_left_is_told_as_people_say_it(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_only_who_listens_is_told() -> None:
    told: list[Stage] = []
    stage = Stage("cells", [1])
    with listening(told.append):
        tell(stage)
    tell(stage)
    assert told == [stage]


def test_where_there_is_no_terminal_a_long_stage_gets_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    display = Display(17)
    stage = Stage("publish-tiles", [5, 5])
    with display.shown():
        display.begins("spatial_tiles")
        tell(stage)
        stage.finished(0, 30)
        tell(stage)
        monkeypatch.setattr(terminal, "PLAIN_SECONDS", -1)
        tell(stage)
        display.ends("spatial_tiles", "60 objects")
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("            spatial_tiles: 1 of 2 pieces, 30 objects, ")
    assert last == "   1 of 17  spatial_tiles        60 objects"


def test_on_a_terminal_a_bar_grows_and_gives_way_to_the_figures() -> None:
    program = """
import time
from datacube_assets.progress import Stage, tell
from datacube_assets.cli.progress import Display
display, stage = Display(17), Stage("publish-tiles", [5, 5])
with display.shown():
    display.begins("spatial_tiles")
    stage.finished(0, 30)
    tell(stage)
    time.sleep(1)
    display.ends("spatial_tiles", "60 objects")
"""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # how a terminal says that everybody has left
        pass
    finally:
        os.close(ours)
    assert done.wait(30) == 0
    drawn = [line for line in re.split(r"\r\x1b\[K", shown.decode().replace("\r\n", "\n")) if line]
    assert drawn[0].startswith(
        "   1 of 17  spatial_tiles        [##########----------] 1 of 2 pieces, 30 objects"
    )
    assert all(len(line) < 100 for line in drawn)
    assert drawn[-1] == "   1 of 17  spatial_tiles        60 objects\n"
