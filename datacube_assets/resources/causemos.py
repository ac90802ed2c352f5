"""Dagster resource for CauseMos.

Thin: the client is `causemos/client.py`, when to report is in `sensors/reports.py`.
"""

from __future__ import annotations

from dagster import ConfigurableResource

from datacube_assets.causemos.client import CauseMosClient


class CauseMosResource(ConfigurableResource["CauseMosResource"]):
    """CauseMos at a URL; without one nobody is told."""

    url: str = ""
    username: str = ""
    password: str = ""

    def client(self) -> CauseMosClient:
        """A client, to be used as a context manager."""
        return CauseMosClient(self.url, username=self.username, password=self.password)
