"""Progress: a bar on a terminal, plain lines elsewhere, and figures that a person can go by."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from datacube_assets.cli import progress as terminal
from datacube_assets.cli.progress import Display, counting
from datacube_assets.cli.tables import show
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


def on_a_terminal(program: str, columns: int = 100) -> str:
    """What a program writes to a terminal, all of it."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    done = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment)
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
    return shown.decode().replace("\r\n", "\n")


def plain(shown: str) -> list[str]:
    """The lines that were drawn, one after the other, without colours and movements."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).split("\r")]


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
    drawn = [line for part in plain(on_a_terminal(program)) for line in part.split("\n")]
    bars = [line for line in drawn if "1 of 2 pieces, 30 objects" in line]
    assert bars[0].startswith("   1 of 17  spatial_tiles ")
    assert "━" * 10 in bars[0]
    assert all(len(line) <= 100 for line in drawn)
    assert "   1 of 17  spatial_tiles        60 objects" in drawn[drawn.index(bars[-1]) + 1 :]


def test_what_is_counted_is_shown_on_a_terminal_and_names_are_no_markup() -> None:
    program = """
import time
from datacube_assets.cli.progress import counting
with counting("[red]locusts:run-1", True) as progress:
    progress(3, 1000, "tiles")
    time.sleep(3.5)
"""
    assert any(
        "[red]locusts:run-1" in line and "3 of 1,000 tiles" in line for line in plain(on_a_terminal(program))
    )


def test_nothing_is_counted_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("export", True) as progress:
        progress(1, 2)
    assert capsys.readouterr().out == ""


ROWS = [
    ("well", "lake", "12 objects", "file:///lake"),
    ("broken", "dask", "1 object", "no [red]workers\nrestart"),
]


def test_a_table_is_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, (7, 6, -12), {"broken": "red"})
    assert capsys.readouterr().out.splitlines() == [
        "well     lake      12 objects  file:///lake",
        "broken   dask        1 object  no [red]workers",
        "            restart",
    ]


def test_a_table_on_a_terminal_is_as_wide_as_the_terminal_and_loses_nothing() -> None:
    program = f"from datacube_assets.cli.tables import show; show({ROWS!r}, (7, 6, -12), {{'broken': 'red'}})"
    shown = on_a_terminal(program, columns=38)
    assert "\x1b[31mbroken" in shown
    lines = "".join(plain(shown)).split("\n")
    assert all(len(line) <= 38 for line in lines)
    assert "".join(line[26:] for line in lines).replace(" ", "") == "file:///lakeno[red]workersrestart"
