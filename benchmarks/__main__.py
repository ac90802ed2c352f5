"""The benchmarks, each a command: what the project costs, beside a peer or a floor measured in the same run.

    python -m benchmarks                    the main job on a million rows (`publish`, its options too)
    python -m benchmarks publish --help     the main job: other sizes, a real dataset, repeated trials
    python -m benchmarks peer               the main job beside a script for the same objects, in pairs
    python -m benchmarks size               inputs of many rows, features, regions, ... and their memory
    python -m benchmarks scaling            each dimension of an input at three sizes, and more workers
    python -m benchmarks plan               what 10^9 rows would take, by a model of measured costs
    python -m benchmarks pyramid            the tile pyramid on one core
    python -m benchmarks encode             CSV and tiles beside plain writers
    python -m benchmarks s3                 publishing to a real S3 server
    python -m benchmarks tick               a sensor's look at 20,000 runs
    python -m benchmarks explain            checking before, explaining and going back after, beside it
    python -m benchmarks gateway            requests to the gateway while 10,000 wait
    python -m benchmarks backfill           a backfill over 100 runs
    python -m benchmarks soak               everything for some minutes, while things break

Only choosing one of them belongs here.
"""

import importlib
import sys
from typing import Final

COMMANDS: Final = {
    "publish": "publish:main",
    "peer": "pairs:main",
    "size": "size:size",
    "scaling": "size:scaling",
    "plan": "plan:main",
    "pyramid": "pyramid:main",
    "encode": "encode:main",
    "s3": "s3:main",
    "tick": "tick:main",
    "explain": "explain:main",
    "gateway": "gateway:main",
    "backfill": "backfill:main",
    "soak": "soak:main",
}


def main() -> None:
    first, *rest = sys.argv[1:] or ["publish"]
    command, arguments = (first, rest) if first in COMMANDS else ("publish", sys.argv[1:])
    module, _, function = COMMANDS[command].partition(":")
    # Imported only now: what is imported here counts as memory of every process that is started.
    getattr(importlib.import_module(f"benchmarks.{module}"), function)(arguments)


if __name__ == "__main__":
    main()
