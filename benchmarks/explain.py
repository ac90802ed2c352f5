"""Checking before publishing, and explaining, comparing and going back afterwards, beside publishing itself.

    python -m benchmarks explain                                   synthetic rows: 10,000, 100,000, 1,000,000
    python -m benchmarks explain --rows 10000000 --folder /dev/shm
    python -m benchmarks explain --floods PATH                     a real dataset with tiles, too

Each command runs as a process of its own: what is told is what a person waits for, Python's start included.
The three scopes of an explanation are a month over all places, a year of a region, and a year of a bin. Then
the values of the first tenth of the rows are changed, and that is published, compared and undone.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.process import Cost, run

_QUALIFIERS: Final = {f"feature {number}": ["crop", "market"] for number in (1, 2)}
_FLOODS: Final = ("Area", "Dead", "Displaced", "Ended", "Severity")


def main(arguments: Sequence[str]) -> None:
    """Run and print."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="datacube-benchmark-", dir=options.folder) as name:
        folder = Path(name)
        print(f"{'input':<24}{'command':<28}{'seconds':>9}{'processor':>11}{'peak MB':>9}  of publishing")
        for rows in options.rows:
            part = folder / f"synthetic-{rows}.parquet.gzip"
            program = [sys.executable, "-m", "benchmarks.synthetic", "--rows", str(rows), str(part)]
            run(program, folder / "synthetic.log")
            _measure(f"{rows:,} rows", part, _QUALIFIERS, folder / str(rows))
        if options.floods:
            _measure("floods", options.floods, {name: ["MainCause"] for name in _FLOODS}, folder / "floods")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks explain", description="Time checking and explaining beside publishing."
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--floods", type=Path, help="a real dataset with tiles")
    parser.add_argument("--folder", type=Path, help="where to work, for instance a memory-backed folder")
    return parser.parse_args(arguments)


def _measure(name: str, part: Path, qualifiers: dict[str, list[str]], home: Path) -> None:
    home.mkdir()
    ids = ["--model-id", "model", "--run-id", "run", "--qualifier-map", json.dumps(qualifiers)]
    published = _datacube(home, "publish", str(part), *ids)
    _print(name, "publish", published, published)
    _print(name, "check", _datacube(home, "check", str(part), *ids), published)
    for scope, words in _scopes(home, next(iter(qualifiers))).items():
        _print(name, f"explain, {scope}", _datacube(home, "explain", "model:run", *words), published)
    changed = home / "changed.parquet"
    run([sys.executable, "-c", _CHANGE, str(part), str(changed)], home / "change.log")
    _print(name, "publish, changed", _datacube(home, "publish", str(changed), *ids), published)
    _print(name, "diff", _datacube(home, "diff", "model:run@1", "model:run@2"), published)
    _print(name, "rollback", _datacube(home, "rollback", "model:run", "--yes"), published)


_CHANGE: Final = """import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
rows = pq.read_table(sys.argv[1])
values = rows["value"].cast(pa.float64()).to_numpy().copy()
values[: len(values) // 10] *= 1.1
place = rows.column_names.index("value")
pq.write_table(rows.set_column(place, "value", pa.array(values, from_pandas=True)), sys.argv[2])
"""


def _scopes(home: Path, feature: str) -> dict[str, list[str]]:
    """What is asked for: the first month, and in its year the first region and the first bin."""
    script = (
        "import json, sys\n"
        "from datacube_assets.read import open_tables\n"
        "cube = open_tables(sys.argv[1], 'model', 'run')\n"
        "time = cube.timestamps(sys.argv[2])[0]\n"
        "region = cube.regions(sys.argv[2], 'admin1', time=str(time)[:4])['region_id'][0].as_py()\n"
        "bin_ = cube.bins(sys.argv[2], str(time)[:7], zoom=8).slice(0, 1).to_pylist()[0]\n"
        "x, y = bin_['x'], bin_['y']\n"
        "print(json.dumps([str(time)[:7], region, [x // 64, y // 64, y % 64 * 64 + x % 64]]))\n"
    )
    log = home / "scopes.log"
    run([sys.executable, "-c", script, str(home / "lake"), feature], log)
    month, region, bin_ = json.loads(log.read_text().splitlines()[-1])
    asked = ["--feature", feature, "--time"]
    return {
        "a month": [*asked, month],
        "a region": [*asked, month[:4], "--region", region],
        "a bin": [*asked, month[:4], "--bin", "/".join(map(str, (8, *bin_)))],
    }


def _datacube(home: Path, *arguments: str) -> Cost:
    command = [sys.executable, "-m", "datacube_assets.cli", *arguments, "--home", str(home)]
    return run(command, home / f"{arguments[0]}.log")


def _print(name: str, command: str, cost: Cost, published: Cost) -> None:
    print(
        f"{name:<24}{command:<28}{cost.wall:>9.2f}{cost.cpu:>11.2f}{cost.peak_mb:>9.0f}"
        f"  {cost.wall / published.wall:.0%}",
        flush=True,
    )
