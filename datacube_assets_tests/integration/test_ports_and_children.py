"""What serves says so only when it can, is the only one on its home, and leaves no process behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from datacube_assets.development.ports import free_port, free_ports
from datacube_assets_tests.environment import nothing_set

COMMAND = (sys.executable, "-m", "datacube_assets.cli")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        env=nothing_set(),
        check=False,
    )


@pytest.mark.parametrize("command", ["view", "gateway", "causemos-simulator", "dev"])
def test_a_taken_port_is_said_before_anything_is_announced(command: str, tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        done = run(tmp_path, command, "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_any_of_the_ports_of_dev_may_be_the_taken_one(tmp_path: Path) -> None:
    *before, taken = free_ports(3)
    with socket.create_server(("127.0.0.1", taken)):
        done = run(tmp_path, "dev", "--port", str(before[0]))
    assert f":{taken}:" in done.stderr
    assert done.stdout == ""


def processes_of(home: Path) -> list[str]:
    """Command lines of the processes that have the home in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if f"DATACUBE_HOME={home}".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_all_children_end_with_dev_and_a_second_one_is_refused_by_name(
    number: signal.Signals, tmp_path: Path
) -> None:
    port, other = free_ports(4)[0], free_ports(4)[0]
    command = [*COMMAND, "dev", "--port", str(port), "--home", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=nothing_set()) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any("Stop everything with Ctrl-C" in line for line in lines)
        deadline = time.monotonic() + 200
        for page in (port + 1, port + 2, port + 3):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = httpx.get(f"http://127.0.0.1:{page}/")
                    break
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert answer.status_code == 200, "the root of each says what it is"
            assert "<h1>" in answer.text
        second = run(tmp_path, "dev", "--port", str(other))
        assert second.returncode == 1
        assert f"process {process.pid}, UI at http://127.0.0.1:{port}" in second.stderr
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(200) == 0
    end = time.monotonic() + 30
    while processes_of(tmp_path) and time.monotonic() < end:
        time.sleep(0.5)
    assert processes_of(tmp_path) == []
