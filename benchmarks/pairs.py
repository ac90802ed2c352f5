"""What the project's own command costs beside the hand-written script of `benchmarks.peer`.

    python -m benchmarks peer --floods PATH              three cases, five pairs each, in memory
    python -m benchmarks peer --rows 100000 --repeat 1   a quick look
    python -m benchmarks peer --floods PATH --compare    that both publish the same, too

Whole commands are timed, from the start of Python to its end. A pair is both, one right after the other, in
fresh folders; which comes first alternates. Beside each stands what it imports, measured in the same pair, so
that the work itself can be compared, too. Only medians over pairs are printed: a slow minute of the machine
hits both sides of a pair.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.process import Cost, run
from benchmarks.publish import IMPORTING, Case, floods_case, publish_case, python, synthetic_case

_MEMORY: Final = Path("/dev/shm")
_PEER_IMPORTS: Final = "import benchmarks.peer"


@dataclass(frozen=True)
class Pair:
    """One publication by each side, and what either imports."""

    ours: Cost
    peer: Cost
    our_imports: Cost
    peer_imports: Cost

    @property
    def ratio(self) -> float:
        return self.ours.wall / self.peer.wall

    @property
    def cpu_ratio(self) -> float:
        return self.ours.cpu / self.peer.cpu

    @property
    def beyond(self) -> tuple[float, float]:
        """Seconds of both without their imports."""
        return self.ours.wall - self.our_imports.wall, self.peer.wall - self.peer_imports.wall

    @property
    def beyond_ratio(self) -> float:
        ours, peer = self.beyond
        return ours / peer


def main(arguments: Sequence[str]) -> None:
    """Run and print."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="datacube-pairs-", dir=options.folder) as name:
        folder = Path(name)
        print(f"in {folder}, {options.repeat} pair(s) of each case, {os.cpu_count()} cores")
        cases = [synthetic_case(rows, folder) for rows in options.rows]
        if options.floods:
            cases.append(floods_case(options.floods))
        # Once before, so that both find their files in memory and their modules compiled.
        python("-c", IMPORTING, folder=folder)
        python("-c", _PEER_IMPORTS, folder=folder)
        pairs: list[list[Pair]] = [[] for _ in cases]
        for number in range(options.repeat):
            for case, of_case in zip(cases, pairs, strict=True):
                compare = options.compare and number == 0
                of_case.append(_pair(case, folder, peer_first=bool(number % 2), compare=compare))
        for case, of_case in zip(cases, pairs, strict=True):
            _print(case, of_case)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peer",
        description="Time `datacube publish` beside a hand-written script for the same objects.",
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000], help="synthetic inputs")
    parser.add_argument("--floods", type=Path, help="the file of the case floods, left out without it")
    parser.add_argument("--repeat", type=int, default=5, help="pairs of each case; medians are printed")
    parser.add_argument(
        "--compare", action="store_true", help="compare the objects of the first pair, number by number"
    )
    memory = _MEMORY if _MEMORY.is_dir() else None
    parser.add_argument("--folder", type=Path, default=memory, help="where to work; in memory by default")
    options = parser.parse_args(arguments)
    if options.floods and not options.floods.is_file():
        parser.error("--floods needs an existing file")
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    return options


def _pair(case: Case, folder: Path, *, peer_first: bool, compare: bool) -> Pair:
    fresh = Path(tempfile.mkdtemp(prefix="pair-", dir=folder))
    theirs = fresh / "peer"
    costs: dict[str, Cost] = {}
    sides = ["ours", "peer"]
    for side in reversed(sides) if peer_first else sides:
        if side == "ours":
            costs["our imports"] = python("-c", IMPORTING, folder=folder)
            costs[side], _ = publish_case(case, fresh)
        else:
            costs["peer imports"] = python("-c", _PEER_IMPORTS, folder=folder)
            command = [sys.executable, "-m", "benchmarks.peer", *map(str, case.parts)]
            costs[side] = run([*command, *case.arguments, "--bucket", str(theirs)], fresh / "peer.log")
    ours = fresh / ("indicators" if "--indicator" in case.arguments else "models")
    differing = _keys(ours) ^ _keys(theirs)
    if differing:
        raise SystemExit(f"{case.name}: {len(differing)} objects are published by one of both only, as "
                         f"{sorted(differing)[:3]}")  # fmt: skip
    if compare:
        _compare(case, ours, theirs, fresh)
    shutil.rmtree(fresh)
    return Pair(costs["ours"], costs["peer"], costs["our imports"], costs["peer imports"])


def _keys(bucket: Path) -> set[str]:
    """Keys of all objects; what a bucket keeps for itself is none."""
    keys, folders = set[str](), [entry.path for entry in os.scandir(bucket) if entry.name[0] != "."]
    cut = len(str(bucket)) + 1
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                else:
                    keys.add(entry.path[cut:])
    return keys


def _compare(case: Case, ours: Path, theirs: Path, fresh: Path) -> None:
    command = [sys.executable, "-m", "datacube_assets.cli", "compare", str(ours), str(theirs)]
    log = fresh / "compare.log"
    run([*command, "--home", str(fresh / "home"), "--lake", (fresh / "lake").as_uri()], log)
    print(f"{case.name}: {log.read_text().splitlines()[0]}")


def _print(case: Case, pairs: Sequence[Pair]) -> None:
    print(f"\n{case.name}")
    print(f"  {'':<26}{'ours':>9}{'peer':>9}{'ratio':>9}")
    rows: tuple[tuple[str, list[float], list[float], list[float]], ...] = (
        ("whole command, s", [p.ours.wall for p in pairs], [p.peer.wall for p in pairs],
         [p.ratio for p in pairs]),
        ("  processor time, s", [p.ours.cpu for p in pairs], [p.peer.cpu for p in pairs],
         [p.cpu_ratio for p in pairs]),
        ("  of that imports, s", [p.our_imports.wall for p in pairs], [p.peer_imports.wall for p in pairs],
         []),
        ("beyond imports, s", [p.beyond[0] for p in pairs], [p.beyond[1] for p in pairs],
         [p.beyond_ratio for p in pairs]),
        ("peak memory, MB", [p.ours.peak_mb for p in pairs], [p.peer.peak_mb for p in pairs], []),
    )  # fmt: skip
    for label, ours, peer, ratios in rows:
        digits = 0 if label.endswith("MB") else 2
        ratio = f"{median(ratios):>9.2f}  from {min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
        print(f"  {label:<26}{median(ours):>9.{digits}f}{median(peer):>9.{digits}f}{ratio}")
