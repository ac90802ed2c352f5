"""Dagster resource for Dojo.

Thin: the client is `dojo/client.py`, the derivation of requests `dojo/derive.py`.
"""

from __future__ import annotations

import math

from dagster import ConfigurableResource

from datacube_assets.dojo.address_encryption import Seal
from datacube_assets.dojo.client import DojoClient
from datacube_assets.dojo.derive import request_for_indicator, request_for_run
from datacube_assets.dojo.documents import has_numeric_part
from datacube_assets.dojo.fetch import SCHEMES, Source
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError


class DojoResource(ConfigurableResource["DojoResource"]):
    """Dojo's API at a URL; without one Dojo is not asked."""

    url: str = ""
    username: str = ""
    password: str = ""
    source_schemes: list[str] = sorted(SCHEMES)
    """Kinds of addresses that parts may be read from."""
    source_hosts: list[str] = []
    """Hosts that parts may be read from; empty for any."""
    s3_endpoint: str = ""
    max_part_bytes: int = 0
    """Size beyond which a part is refused; 0 for any."""
    guarded: bool = False
    """Whether Dojo's documents may lead to internal addresses only where `source_hosts` names them."""
    home: str = ""
    """Folder with the key that seals addresses, unless that is given."""
    address_key: str = ""

    def source(self) -> Source:
        """From where parts may be fetched."""
        return Source(
            s3_endpoint=self.s3_endpoint,
            allowed_schemes=frozenset(self.source_schemes),
            allowed_hosts=tuple(self.source_hosts),
            max_bytes=self.max_part_bytes or None,
            guarded=self.guarded,
            seal=self._seal,
        )

    @property
    def _seal(self) -> Seal:
        return Seal(self.home, self.address_key)

    def client(self, *, seconds: float = math.inf) -> DojoClient:
        """A client, to be used as a context manager; all its calls may take so long together."""
        return DojoClient(self.url, username=self.username, password=self.password, seconds=seconds)

    def renew_request(self, left: DatacubeRequest) -> DatacubeRequest:
        """A request that was left for a run, with the parts the run has now.

        What a person asked for by hand outlives a re-execution of the run; the files of the execution
        before do not. Requests that were not derived from Dojo stay as they are, and so does one whose run
        is being executed again just now.
        """
        if not self.url or not left.source_version:
            return left
        now = self.derive_request(ModelRun.of(left))
        if now.source_version == left.source_version or not has_numeric_part(now.data_paths):
            return left
        news = ("data_paths", "source_version", "executed_at")
        return left.model_copy(update={name: getattr(now, name) for name in news})

    def derive_request(self, run: ModelRun) -> DatacubeRequest:
        """The request that Dojo's documents imply (docs/specification/requests.md), its addresses sealed.

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
                request = request_for_indicator(client.indicator(run.model_id))
            else:
                request = request_for_run(client.run(run.run_id), client.model(run.model_id))
        return self._seal.close_all(request)
