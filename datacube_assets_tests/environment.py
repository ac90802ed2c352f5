"""The environment that tests give to processes: nothing is set of ours but what costs time to no end."""

from __future__ import annotations

import os

OURS = ("DATACUBE_", "DOJO_", "CAUSEMOS_", "DAGSTER_", "MAKE", "MFLAGS", "ARGS")
"""Beginnings of names; `make test ARGS=...` would hand its arguments to every `make` of a test."""


def nothing_set() -> dict[str, str]:
    """This process's environment without settings. Runs make no pictures: a fifth of a small one's work."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, "DATACUBE_PICTURES": "no", "DAGSTER_DISABLE_TELEMETRY": "1"}
