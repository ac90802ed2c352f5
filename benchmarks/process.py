"""Running a command as a process of its own, and saying what it cost."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """What a process and its children used. The peak is that of the largest single process among them."""

    wall: float
    cpu: float
    peak_mb: float


def run(command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command, its output in a log. Exits with the end of the log when the command fails."""
    os.sync()  # or it would also pay for what was written before it
    with log.open("wb") as output:
        start = perf_counter()
        process = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{tail}\nfailed with status {process.returncode}: {' '.join(command)}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak / 1e6)
