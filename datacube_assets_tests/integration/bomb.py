"""Normalizes one file, in a process of its own whose memory is limited from outside, and says how it went.

    python -m datacube_assets_tests.integration.bomb FILE

Prints a JSON document: the points or why it is refused, and the peak of resident memory in bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from datacube_assets.kernels.errors import InputError
from datacube_assets_tests.hostile import normalize_files


def main() -> None:
    told: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = normalize_files(Path(folder), Path(sys.argv[1]).read_bytes())
            told["points"] = made.info.report.points
        except InputError as error:
            told["refused"] = str(error)
    # As `getrusage` tells it, it may be that of the process which started this one.
    status = Path("/proc/self/status").read_text()
    told["peak"] = int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024
    print(json.dumps(told))


if __name__ == "__main__":
    main()
