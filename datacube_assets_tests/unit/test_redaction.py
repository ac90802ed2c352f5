"""What may be shown of addresses and of what others say: secrets planted everywhere, in odd writing."""

from __future__ import annotations

import base64
import logging
import time
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datacube_assets import redaction
from datacube_assets.redaction import keep_secret, public, redact_error, redacted, secrets_of

SECRET = "s3cr3t-TmFpcm9iaQ"

BEFORE = st.sampled_from(["", " ", "\ufeff", '"', "'", "<", "\t", "\u200b", " \ufeff'", "\u00a0"])
SCHEMES = st.sampled_from(["https", "HTTPS", "Http", "s3", "ftp", "gs", "x-custom+1"])
SLASHES = st.sampled_from(["://", ":/", ":///", ":\\\\", ":\\", ":/\\", ":////"])
USERINFO = st.sampled_from(["", f"ann:{SECRET}@", f"{SECRET}@", f"ann:12/{SECRET}@", f"a:b@c:{SECRET}@"])
QUERIES = st.sampled_from(
    [
        f"?X-Amz-Signature={SECRET}",
        f"?{SECRET}",
        f"?a=1&b={SECRET}#c",
        f"#{SECRET}",
        f"?sig={SECRET}'\"> more",
        f"%3Fsig={SECRET}",
        f"？sig={SECRET}",
        f"?a=\n{SECRET}",
        "",
    ]
)


@given(BEFORE, SCHEMES, SLASHES, USERINFO, QUERIES)
@example("", "https", ":/", "", f"?{SECRET}")
@example("\ufeff", "https", "://", f"ann:{SECRET}@", "")
def test_no_secret_of_an_address_is_shown_however_it_is_mistyped(
    before: str, scheme: str, slashes: str, userinfo: str, query: str
) -> None:
    address = f"{before}{scheme}{slashes}{userinfo}bucket.example/folder/x.parquet.gzip{query}"
    assert SECRET not in public(address)
    assert SECRET not in public(public(address))


@pytest.mark.parametrize(
    "address",
    [
        f"bucket.example/x?X-Amz-Signature={SECRET}",
        f"//bucket.example/x?{SECRET}",
        f"ann:{SECRET}@bucket.example/x",
        f"https:ann:{SECRET}@bucket.example/x?a={SECRET}",
        f"see https://bucket.example/x?{SECRET} there",
        f"ht\ntps://bucket.example/x?{SECRET}",
        f"/data/x?token={SECRET}",
        f"https://bucket.example/x;X-Amz-Signature={SECRET}",
        f"https://host:80/{SECRET}@elsewhere/x",
    ],
)
def test_neither_is_one_where_hardly_anything_is_left_of_the_address(address: str) -> None:
    assert SECRET not in public(address)


@pytest.mark.parametrize(
    "path",
    [
        "/data/a b.parquet",
        "/a/b?c#d@e",
        "./x?y",
        "relative/file.parquet.gzip",
        "C.parquet",
        "file:///a@b/c:d",
    ],
)
def test_a_path_of_files_stays_as_it_is(path: str) -> None:
    assert public(path) == path


ODD_ANSWERS = st.sampled_from(
    [
        "Authorization: Basic {basic}",
        "'authorization', b'Basic {basic}'",
        '{{"Authorization": "Bearer {secret}"}}',
        "Proxy-Authorization: {secret}",
        "Bearer {secret}",
        "X-Amz-Signature: {secret}",
        "x-amz-security-token={secret}&x=1",
        "<CanonicalRequest>GET /x X-Amz-Signature=1&X-Amz-Credential={secret}</CanonicalRequest>",
        "illegal header line: bytearray(b'X-Amz-Signature: {secret}')",
        "https://ann:{secret}@host/x?sig={secret} was not found",
        "redirected to HTTPS:\\/\\/host\\/x?{secret}",
        "https%3A%2F%2Fhost%2Fx%3Fsig%3D{secret}",
        "AWS4-HMAC-SHA256 Credential={secret}/2023/us-east-1/s3, SignedHeaders=host, Signature={secret}",
        "host/x?sig={secret}",
        "password={secret}, token={secret}; access_token={secret}",
    ]
)


@given(ODD_ANSWERS, st.text(max_size=40), st.text(max_size=40))
def test_no_secret_of_an_odd_answer_is_shown(answer: str, before: str, after: str) -> None:
    basic = base64.b64encode(f"ann:{SECRET}".encode()).decode()
    said = answer.format(secret=SECRET, basic=basic)
    shown = redacted(f"{before} {said} {after}")
    assert SECRET not in shown
    assert basic not in shown


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=30), st.text(max_size=50))
def test_what_is_known_to_be_secret_is_shown_in_no_text(secret: str, around: str) -> None:
    before = dict(redaction._secrets)
    try:
        keep_secret(secret, pairs=[("ann", secret)])
        basic = base64.b64encode(f"ann:{secret}".encode()).decode()
        for form in (secret, quote(secret, safe=""), basic):
            assert form not in redacted(f"{around}{form}{around}").replace("...", "\0")
    finally:
        redaction._secrets.clear()
        redaction._secrets.update(before)


@pytest.mark.parametrize(
    "said",
    [
        "file https://host/a/b.parquet.gzip: the server answered 404",
        "3 of 5 rows (60 %) have no value: see docs/bad-input.md",
        "column a=b has type string; give it numbers",
        "What is this? It is text, isn't it?",
    ],
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert redacted(said) == said


@pytest.mark.parametrize(
    "piece",
    [
        "a", "a.", "http:", "://", "x-amz-", "authorization: ", "token=", "?", "?a", "%3a%2f%2f", "\"", "a@",
        "http://", "basic ", "a+.-", "https%3A%2F%2F", "/a", "@", "a:", "X-Amz-a-",
    ],
)  # fmt: skip
def test_nothing_takes_longer_than_its_length_deserves(piece: str) -> None:
    """An expression that is quadratic turned 30,000 letters of a server's error into seconds."""
    redacted("x" * 10)

    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            redacted(text)
            public(text)
            best = min(best, time.process_time() - start)
        return best

    small, large = seconds(20_000), seconds(200_000)
    assert large < 0.5 or large < 25 * max(small, 0.002), (piece, small, large)
    assert large < 2


def test_an_error_and_what_caused_it_say_no_more_than_may_be_shown() -> None:
    class Stubborn(Exception):
        def __str__(self) -> str:
            return f"https://host/x?sig={SECRET}"

    def fail() -> None:
        try:
            raise Stubborn
        except Stubborn as error:
            raise ValueError(f"Authorization: Basic {SECRET}") from error

    with pytest.raises(ValueError, match="Authorization") as caught:
        fail()
    redact_error(caught.value)
    error = caught.value
    assert SECRET not in f"{error!r} {error.__cause__!r} {error.__context__!r}"
    assert "https://host/x" in str(error.__cause__)


def test_logs_are_redacted_whoever_writes_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = logging.getLogger("of.somebody.else")
    log.info("asking %s with %d", f"https://host/x?sig={SECRET}", 5)
    try:
        raise RuntimeError(f"Bearer {SECRET}")
    except RuntimeError:
        log.exception("failed for Authorization: Basic %s", SECRET)
    assert "asking https://host/x with 5" in caplog.text
    assert SECRET not in caplog.text


def test_the_pieces_of_an_address_are_left_out_of_what_is_said_of_it() -> None:
    address = f"https://ann:{SECRET}@host/x?key=other-{SECRET}&plain"
    assert SECRET not in redacted(f"cannot ask {SECRET} and other-{SECRET}", *secrets_of(address))
