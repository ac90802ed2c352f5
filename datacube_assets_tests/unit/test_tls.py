"""Certificates are checked wherever we call, and the authority of one's own house can be trusted."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from datacube_assets import http_client
from datacube_assets.causemos.client import CauseMosClient, Delivered, QueueRuntime, Unreachable
from datacube_assets.dojo.client import DojoClient, DojoUnavailable
from datacube_assets.dojo.fetch import FetchError, Source, fetch
from datacube_assets.http_client import RetryPolicy
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.stores import StoreUnavailable

QUICK = RetryPolicy(attempts=1)
REPORT = QueueRuntime(run_id="r", data_id="m", doc_ids=("d",), is_indicator=False, start_time=0, end_time=1)
TRUST = "SSL_CERT_FILE"


class Handler(BaseHTTPRequestHandler):
    """An empty listing of Dojo, an object of S3, a report taken: whatever is asked."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"hits": 0, "scroll_id": null, "results": []}'
        if "list-type" in self.path:
            body = (
                b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'
            )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that refuse the certificate are what is tested."""


@dataclass(frozen=True)
class Server:
    url: str
    authority: Path
    """Certificate of the authority that vouches for it."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("tls")
    _write_certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    with Quiet(("127.0.0.1", 0), Handler) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        yield Server(f"https://127.0.0.1:{listening.server_port}", folder / "authority.pem")
        listening.shutdown()


def _write_certificates(folder: Path) -> None:
    """An authority, and a server that it vouches for."""
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "own house")])
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])

    def certificate(subject: x509.Name, of: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
        )

    # What RFC 5280 asks for, and Python from 3.13: what a key is for, and by which key it was signed.
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    itself = (
        certificate(authority, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_signs_certificates(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
    )
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    issued = (
        certificate(name, key).add_extension(address, critical=False).add_extension(signed_by, critical=False)
    )
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(itself.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "server.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + issued.sign(authority_key, hashes.SHA256()).public_bytes(pem)
    )


def _signs_certificates() -> x509.KeyUsage:
    others = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(key_cert_sign=True, **dict.fromkeys(others, False))


@pytest.fixture(params=["refused", "trusted"])
def trusted(
    request: pytest.FixtureRequest, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[bool]:
    """Whether the settings name the server's authority."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEYID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    if request.param == "trusted":
        monkeypatch.setenv(TRUST, str(server.authority))
    # Clients are kept, and one that trusts the server must not serve who does not.
    monkeypatch.setenv("AWS_TEST_OF_TLS", request.param)
    http_client.tls.cache_clear()
    yield request.param == "trusted"
    http_client.tls.cache_clear()


def test_dojo_is_asked_only_with_a_certificate_that_is_trusted(server: Server, trusted: bool) -> None:
    with DojoClient(server.url, retries=QUICK) as dojo:
        if trusted:
            assert dojo.runs() == []
            return
        with pytest.raises(DojoUnavailable) as caught:
            dojo.runs()
    assert f"certificate is not trusted. Name its authority in {TRUST}" in str(caught.value)


def test_causemos_is_told_only_with_a_certificate_that_is_trusted(server: Server, trusted: bool) -> None:
    with CauseMosClient(server.url) as causemos:
        told = causemos.queue_runtime(REPORT)
    assert isinstance(told, Delivered if trusted else Unreachable)
    if isinstance(told, Unreachable):
        assert f"certificate is not trusted. Name its authority in {TRUST}" in told.error


@pytest.mark.parametrize("kind", ["https", "s3"])
def test_parts_are_fetched_only_with_a_certificate_that_is_trusted(
    server: Server, trusted: bool, tmp_path: Path, kind: str
) -> None:
    source = Source(s3_endpoint=server.url, retries=QUICK)
    address = f"{server.url}/a" if kind == "https" else "s3://bucket/a"
    if trusted:
        assert fetch(address, tmp_path / "target", source).size
        return
    with pytest.raises(FetchError) as caught:
        fetch(address, tmp_path / "target", source)
    assert f"certificate is not trusted. Name its authority in {TRUST}" in str(caught.value)


def test_a_store_is_used_only_with_a_certificate_that_is_trusted(server: Server, trusted: bool) -> None:
    store = open_store("s3://bucket", server.url)
    if trusted:
        store.check("DATACUBE_LAKE", write=False)
        return
    with pytest.raises(StoreUnavailable) as caught:
        store.check("DATACUBE_LAKE")
    assert f"certificate is not trusted. Name its authority in {TRUST}" in str(caught.value)
