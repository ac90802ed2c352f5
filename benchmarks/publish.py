"""What the project's own command costs, next to the floor measured in the same run.

    python -m benchmarks publish                                  a million synthetic rows
    python -m benchmarks publish --rows 10000 100000 --repeat 3   several sizes, medians of three trials
    python -m benchmarks publish --case floods --floods PATH      a real dataset with tiles
    python -m benchmarks publish --folder /dev/shm                without the cost of a disk

The input comes from `benchmarks.synthetic`, the floor from `benchmarks.floor`; each runs as a process of its
own, because a child inherits the peak memory of the process that starts it, so this one imports nothing
large. Every trial publishes into fresh folders, and nothing is deleted before the last measurement: creating
files is slower where many were just deleted.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import time_ns
from typing import Any, Final, TypeAlias

from benchmarks.process import Cost, run

Json: TypeAlias = dict[str, Any]

_RUN: Final = "run-1"
IMPORTS: Final = (
    "datacube_assets.operations.publish",
    "datacube_assets.orchestration.home",
    "datacube_assets.orchestration.sqlite_storage",
    "dagster._core.execution.execute_in_process",
    "dagster._core.execution.plan.resume_retry",
    "dagster._core.instance.runs.run_domain",
)
"""What the command imports before it does anything; some of it only when Dagster needs it."""
IMPORTING: Final = (
    "from datacube_assets.orchestration.startup import importing, keep_memory, spare_imports\n"
    f"keep_memory()\nwith importing():\n    spare_imports()\n    import {', '.join(IMPORTS)}"
)
"""The same as a program, which imports as the command does."""
_FLOODS_FEATURES: Final = ("Area", "Dead", "Displaced", "Ended", "Severity")


@dataclass(frozen=True)
class Case:
    """One input and how it is published."""

    name: str
    parts: tuple[Path, ...]
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One fresh publication, the same again unchanged, and the floor for its objects."""

    publish: Cost
    report: Json  # of the command: seconds per asset, seconds inside, seconds of start-up
    again: Cost
    rewritten: int  # objects that the second run touched
    floor: Json

    def figures(self) -> dict[str, float]:
        wall = self.publish.wall
        return {
            "wall": wall,
            "inside": self.report["seconds"],
            "start-up": self.report.get("startup_seconds", 0.0),
            "cpu": self.publish.cpu,
            "peak": self.publish.peak_mb,
            "objects": self.floor["objects"],
            "megabytes": self.floor["bytes"] / 1e6,
            "objects/s": self.floor["objects"] / wall,
            "floor": self.floor["seconds"],
            "read": self.floor["read"],
            "group": self.floor["group"],
            "write": self.floor["write"],
            "ratio": wall / self.floor["seconds"],
            "again": self.again.wall,
            "rewritten": self.rewritten,
        }


def main(arguments: Sequence[str]) -> None:
    """Run and print."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(
        prefix="datacube-benchmark-", dir=options.folder and options.folder.resolve()
    ) as name:
        folder = Path(name)
        print(f"in {folder}, {options.repeat} trial(s) of each case, {os.cpu_count()} cores\n")
        imports = [python("-c", IMPORTING, folder=folder).wall for _ in range(3)]
        bare = [python("-c", "pass", folder=folder).wall for _ in range(3)]
        print(f"starting Python takes {median(bare):.2f} s, with all imports {median(imports):.2f} s\n")
        if options.case == "floods":
            cases = [floods_case(options.floods)]
        else:
            cases = [synthetic_case(rows, folder) for rows in options.rows]
        # Trials of different cases alternate, so that a slow minute of the machine hits all of them.
        trials = [[_trial(case, folder) for case in cases] for _ in range(options.repeat)]
        for number, case in enumerate(cases):
            _print(case, [trial[number] for trial in trials])


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks publish",
        description="Time `datacube publish` against the machine's floor.",
    )
    parser.add_argument("--case", choices=("synthetic", "floods"), default="synthetic")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000], help="sizes of synthetic input")
    parser.add_argument("--floods", type=Path, help="the file of the case floods")
    parser.add_argument("--folder", type=Path, help="where to work, for instance a memory-backed folder")
    parser.add_argument("--repeat", type=int, default=1, help="trials of each case; medians are printed")
    options = parser.parse_args(arguments)
    if options.case == "floods" and not (options.floods and options.floods.is_file()):
        parser.error("--case floods needs --floods PATH, an existing file")
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    return options


def synthetic_case(rows: int, folder: Path) -> Case:
    """A synthetic input of so many rows, which is written into the folder."""
    path = folder / f"synthetic-{rows}.parquet.gzip"
    python("-m", "benchmarks.synthetic", "--rows", str(rows), str(path), folder=folder)
    qualifiers = {f"feature {number}": ["crop", "market"] for number in (1, 2)}
    arguments = ("--model-id", "synthetic", "--run-id", _RUN, "--qualifier-map", json.dumps(qualifiers))
    return Case(f"synthetic, {rows:,} rows", (path,), arguments)


def floods_case(path: Path) -> Case:
    """The real dataset with tiles."""
    qualifiers = json.dumps({feature: ["MainCause"] for feature in _FLOODS_FEATURES})
    arguments = ("--model-id", "floods", "--indicator", "--qualifier-map", qualifiers)
    return Case("floods with tiles", (path.resolve(),), arguments)


def _trial(case: Case, folder: Path) -> Trial:
    fresh = Path(tempfile.mkdtemp(prefix="trial-", dir=folder))
    publish, report = publish_case(case, fresh)
    root = fresh / ("indicators" if "--indicator" in case.arguments else "models")
    before = time_ns()
    again, _ = publish_case(case, fresh)
    rewritten = sum(path.is_file() and path.stat().st_mtime_ns > before for path in root.rglob("*"))
    parts = [str(part) for part in case.parts]
    folders = ("--published", str(root), "--target", str(fresh / "floor"))
    floor_log = fresh / "floor.log"
    run([sys.executable, "-m", "benchmarks.floor", *parts, *folders], floor_log)
    floor = json.loads(floor_log.read_text())
    return Trial(publish, report, again, rewritten, floor)


def publish_case(case: Case, fresh: Path) -> tuple[Cost, Json]:
    """Publish it by the project's command, everything below a folder; what that cost, and its own report."""
    report = fresh / "report.json"
    report.unlink(missing_ok=True)
    command = Path(sys.executable).with_name("datacube")
    program = [str(command)] if command.exists() else [sys.executable, "-m", "datacube_assets.cli"]
    places = {
        "--lake": (fresh / "lake").as_uri(),
        "--models-bucket": (fresh / "models").as_uri(),
        "--indicators-bucket": (fresh / "indicators").as_uri(),
        # Its own, so that no older settings of Dagster or runs of before take part.
        "--home": str(fresh / "home"),
        "--report-json": str(report),
    }
    flags = [text for option in places.items() for text in option]
    parts = [str(part) for part in case.parts]
    cost = run([*program, "publish", *parts, *case.arguments, *flags], fresh / "publish.log")
    return cost, json.loads(report.read_text())


def python(*arguments: str, folder: Path) -> Cost:
    """Run the interpreter."""
    return run([sys.executable, *arguments], folder / "python.log")


def _print(case: Case, trials: Sequence[Trial]) -> None:
    size = sum(part.stat().st_size for part in case.parts) / 1e6
    walls = [trial.publish.wall for trial in trials]
    spread = f", from {min(walls):.2f} to {max(walls):.2f}" if len(walls) > 1 else ""
    figures = _medians([trial.figures() for trial in trials])
    _table(
        f"{case.name} ({size:,.1f} MB)",
        [
            ("wall", f"{figures['wall']:,.2f}", f"s{spread}"),
            ("  inside the command", f"{figures['inside']:,.2f}", "s"),
            ("  start-up", f"{figures['start-up']:,.2f}", "s"),
            ("cpu", f"{figures['cpu']:,.2f}", "s"),
            ("peak memory", f"{figures['peak']:,.0f}", "MB, largest process"),
            ("objects", f"{figures['objects']:,.0f}", f"of {figures['megabytes']:,.1f} MB together"),
            ("objects per second", f"{figures['objects/s']:,.0f}", ""),
            ("floor", f"{figures['floor']:,.2f}", "s"),
            ("  read", f"{figures['read']:,.2f}", "s"),
            ("  group", f"{figures['group']:,.2f}", "s"),
            ("  write", f"{figures['write']:,.2f}", "s"),
            ("wall / floor", f"{figures['ratio']:,.2f}", ""),
            ("again", f"{figures['again']:,.2f}", f"s: {figures['rewritten']:,.0f} objects published"),
        ],
    )
    assets = _medians([trial.report["assets"] for trial in trials])
    _table("  seconds per asset", [(f"  {name}", f"{seconds:,.2f}", "s") for name, seconds in assets.items()])


def _medians(trials: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: median(trial[name] for trial in trials) for name in trials[0]}


def _table(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    print(title)
    for label, figure, unit in rows:
        print(f"  {label:<24}{figure:>12} {unit}".rstrip())
    print()
