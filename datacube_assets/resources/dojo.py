"""Dagster resource for Dojo.

Thin: the client is `dojo/client.py`, the derivation of requests `dojo/derive.py`.
"""

from __future__ import annotations

from dagster import ConfigurableResource

from datacube_assets.datacube.errors import InputError
from datacube_assets.dojo.client import DojoClient
from datacube_assets.dojo.derive import request_for_indicator, request_for_run
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest


class DojoResource(ConfigurableResource["DojoResource"]):
    """Dojo's API at a URL; without one Dojo is not asked."""

    url: str = ""
    username: str = ""
    password: str = ""

    def client(self) -> DojoClient:
        """A client, to be used as a context manager."""
        return DojoClient(self.url, username=self.username, password=self.password)

    def derive_request(self, run: ModelRun) -> DatacubeRequest:
        """The request that Dojo's documents imply (CONTRACTS C).

        Raises InputError when no Dojo is configured, DojoError when it cannot be asked.
        """
        if not self.url:
            raise InputError(
                "no request was left for it, and no Dojo is configured to derive one from",
                run=str(run),
                remedy="Leave a request with `datacube publish`, or set DOJO_URL",
            )
        with self.client() as client:
            if run.is_indicator:
                return request_for_indicator(client.indicator(run.model_id))
            return request_for_run(client.run(run.run_id), client.model(run.model_id))
