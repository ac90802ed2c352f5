"""Show that the locked versions can be installed on every Python: what `make wheels` runs.

    python infra/wheels.py 3.11 3.12 3.13 3.14

Needs none of these Pythons. For each of them, it asks the package index for a wheel of every locked version,
without installing it, and holds what the wheels ask for on that Python against the lock. Exits with 1 when
a wheel, or a line of the lock, is missing. It takes some minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKED = Path(__file__).with_name("constraints.txt")
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--dry-run", "--ignore-installed")


def not_locked(packages: Iterable[Mapping[str, Any]], python: str) -> list[str]:
    """What packages ask for on a Python, extras apart, and the lock does not know."""
    packages = list(packages)
    locked = {canonicalize_name(package["name"]) for package in packages}
    on = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    asked = [
        (package["name"], Requirement(text))
        for package in packages
        for text in package.get("requires_dist", ())
    ]
    return [
        f"{name} asks for {wanted.name}, which is not locked"
        for name, wanted in asked
        if canonicalize_name(wanted.name) not in locked and (not wanted.marker or wanted.marker.evaluate(on))
    ]


def problems(python: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        where = ("--only-binary", ":all:", "--python-version", python, "--target", folder)
        command = (*PIP, "--no-deps", *where, "--requirement", str(LOCKED), "--report", str(report))
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            # Before the last one pip lists what it did not look at.
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return errors[-1:] or [done.stderr[-500:] or "pip said nothing"]
        wheels = json.loads(report.read_text())["install"]
    return not_locked((wheel["metadata"] for wheel in wheels), python)


def main(*pythons: str) -> int:
    with ThreadPoolExecutor() as pool:
        found = dict(zip(pythons, pool.map(problems, pythons), strict=True))
    for python, lines in found.items():
        print(f"Python {python}: {'; '.join(lines) or 'there is a wheel of every locked version'}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
