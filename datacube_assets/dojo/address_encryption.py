"""What is secret in the address of a part, kept sealed until the part is asked for.

An address may carry a password or a signature, and a request has to be kept until it is processed. So
whatever is not for everybody to see is encrypted where a request comes in, and opened where the part is
fetched: the lake, Dagster's storage and everything shown hold the public part and a seal. How addresses
are shown is in `http_client/`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from datacube_assets.dojo.request import DatacubeRequest
from datacube_assets.kernels.errors import InputError
from datacube_assets.redaction import public
from datacube_assets.settings import Settings

KEY_FILE = "address.key"
"""In the home folder; made when the first address has to be sealed."""
_SEALED = re.compile(r"([^?]*)\?sealed=([A-Za-z0-9_-]+=*)", re.DOTALL)


@dataclass(frozen=True)
class Seal:
    """Seals addresses, and opens them."""

    home: str = ""
    """Folder where the key is kept, unless there is a secret to make it from."""
    secret: str = field(default="", repr=False)
    """DATACUBE_ADDRESS_KEY: the same wherever requests are left and runs are executed."""

    @classmethod
    def of(cls, settings: Settings) -> Seal:
        return cls(str(settings.home), settings.address_key.get_secret_value())

    def close(self, address: str) -> str:
        """The address as it may be kept: as it is, if everybody may see it.

        Of equal addresses equal ones, so that what was fetched before is known again.
        """
        shown = public(address)
        if shown == address:
            return address
        token = AESSIV(self._key(make=True)).encrypt(address.encode(), [shown.encode()])
        return f"{shown}?sealed={base64.urlsafe_b64encode(token).decode()}"

    def close_all(self, request: DatacubeRequest) -> DatacubeRequest:
        """A request whose addresses may be kept."""
        return request.model_copy(update={"data_paths": tuple(map(self.close, request.data_paths))})

    def open(self, address: str) -> str:
        """The address as it came. Raises InputError when it was closed with another key."""
        sealed = _SEALED.fullmatch(address)
        if sealed is None:
            return address
        try:
            token = base64.urlsafe_b64decode(sealed[2])
            return AESSIV(self._key(make=False)).decrypt(token, [sealed[1].encode()]).decode()
        except (InvalidTag, ValueError, OSError):
            raise InputError(
                "its signature or password was sealed with another key",
                file=sealed[1],
                remedy="Ask for the run again, and set DATACUBE_ADDRESS_KEY to the same secret wherever "
                "requests are left and runs are executed",
            ) from None

    def _key(self, *, make: bool) -> bytes:
        if self.secret:
            return hashlib.sha512(self.secret.encode()).digest()
        path = Path(self.home, KEY_FILE)
        if make and not path.exists():
            _make_key(path)
        return bytes.fromhex(path.read_text())


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(AESSIV.generate_key(512).hex())
    # Whole or not at all, and the first of several processes wins.
    with contextlib.suppress(FileExistsError):
        os.link(own, path)
    own.unlink()
