"""No secret is kept or told, whatever goes well or wrong."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from datacube_assets.causemos.client import CauseMosClient, ProcessingFailed
from datacube_assets.development.simulator_http import in_background
from datacube_assets.dojo.client import DojoClient
from datacube_assets.dojo.fetch import FetchError
from datacube_assets.dojo.model_run import ModelRun
from datacube_assets.gateway.server import application as gateway_application
from datacube_assets.http_client import RetryPolicy
from datacube_assets.orchestration.home import prepare
from datacube_assets.sensors.reports import deliver
from datacube_assets.settings import Settings
from datacube_assets.storage.lake import Lake
from datacube_assets.storage.opening import open_store
from datacube_assets.storage.reports import Outbox, Report
from datacube_assets.storage.stores import StoreError
from datacube_assets_tests.integration.secrets import found
from datacube_assets_tests.integration.support import House, rows
from datacube_assets_tests.integration.system import MODEL, System, run_document, success, system, wait_for

SECRETS = {
    "DOJO_PASSWORD": "dojo-pa55-QXJ1c2hh",
    "CAUSEMOS_PASSWORD": "causemos-pa55-TW9tYmFzYQ",
    "AWS_SECRET_ACCESS_KEY": "aws-key-TmFpcm9iaQ/+x",
    "AWS_SESSION_TOKEN": "aws-token-S2lzdW11",
    "DATACUBE_ADDRESS_KEY": "address-key-TmFrdXJ1",
}
IN_ADDRESSES = {"password in an address": "url-pa55-RWxkb3JldA", "signature": "signature-TWFsaW5kaQ"}
ALL = {
    **SECRETS,
    **IN_ADDRESSES,
    "Authorization": base64.b64encode(f"ann:{SECRETS['DOJO_PASSWORD']}".encode()).decode(),
}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Serves a part at `good`; elsewhere refuses with the status in the path, and tells all it was told."""
    request = Request(scope)
    path = request.url.path
    if path.endswith("good"):
        body = io.BytesIO()
        pq.write_table(rows(), body)
        answer = Response(body.getvalue())
    elif path.endswith("bad"):
        answer = PlainTextResponse("PAR1 and no more")
    else:
        status = next((int(part) for part in path.split("/") if part.isdecimal()), 403)
        answer = PlainTextResponse(_told(request), status)
    await answer(scope, receive, send)


def _told(request: Request) -> str:
    headers = "".join(f"{name}:{value} " for name, value in request.headers.items())
    # As S3 explains a signature that does not match: with everything that was signed.
    return (
        f"<Error><Code>SignatureDoesNotMatch</Code><CanonicalRequest>{request.url} {headers}"
        "</CanonicalRequest></Error>"
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with in_background(echo) as served:
        yield served


@pytest.fixture
def kept(quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A house whose Dagster keeps everything on the disk, in an environment full of secrets."""
    for name in [name for name in os.environ if name.startswith(("DATACUBE_", "AWS_", "DAGSTER_HOME"))]:
        monkeypatch.delenv(name)
    for name, value in {**SECRETS, "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(RetryPolicy, "_wait", lambda *_: 0.01)
    with mock.patch.dict(os.environ):
        prepared = Settings.from_environment(DATACUBE_HOME=str(quick_folder))
        prepare(prepared)
        with DagsterInstance.get() as instance:
            yield House(quick_folder, prepared, instance)


def test_a_full_run_and_failing_ones_leave_no_secret_anywhere(
    kept: House, url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    password, signature = IN_ADDRESSES.values()
    host = url.removeprefix("http://")
    told: list[str] = []

    def address(path: str, scheme: str = "http") -> str:
        return f"{scheme}://ann:{password}@{host}/{path}?X-Amz-Signature={signature}"

    def fails(how: type[Exception], do: Callable[[], object], *words: str) -> None:
        with pytest.raises(how) as caught:
            do()
        told.append(f"{caught.value!r} {caught.value}")
        assert all(word in told[-1] for word in words), told[-1]

    kept.publish(address("good"))
    assert kept.datacube().complete
    for path in ("404", "403", "418", "bad"):
        fails(ValueError, partial(kept.publish, address(path), run_id=path), f"{url}/{path}")
    fails(FetchError, lambda: kept.publish(address("500"), run_id="500"), "answered 500")
    nobody = f"http://ann:{password}@127.0.0.1:1/x?sig={signature}"
    fails(FetchError, lambda: kept.publish(nobody, run_id="nobody"), "127.0.0.1:1/x")
    fails(ValueError, lambda: kept.publish(f"ftp://ann:{password}@{host}/x", run_id="ftp"), "ftp://")

    on_s3 = kept.with_settings(s3_endpoint=url)
    fails(ValueError, lambda: on_s3.publish("s3://403/key", run_id="s3"), "SignatureDoesNotMatch")
    fails(ValueError, lambda: on_s3.publish("s3://418/key", run_id="s3-418"), "S3 refused it")
    fails(FetchError, lambda: on_s3.publish("s3://500/key", run_id="s3-500"), "s3://500/key")
    lake = on_s3.with_settings(lake="s3://403/lake")
    fails(StoreError, lambda: lake.publish(address("good"), run_id="lake"), "refuses the credentials")
    away = kept.with_settings(models_bucket="s3://models", s3_endpoint="http://127.0.0.1:1")
    fails(Exception, lambda: away.publish(address("good"), run_id="away"), "cannot be reached")

    for status in ("401", "418", "422"):
        dojo = kept.with_settings(dojo_url=f"{url}/{status}", dojo_username="ann")
        run = ModelRun("model", f"dojo-{status}")
        kept.instance.add_dynamic_partitions("model_runs", [run.key])
        fails(Exception, partial(dojo.materialize, run, "dojo_request"))

    output = capfd.readouterr()
    everything = "\n".join([*told, caplog.text, output.out, output.err])
    assert [name for name, secret in ALL.items() if secret in everything] == []
    assert found(kept.folder, ALL) == []
    # The search itself works: what may be seen is found, in files and in what Dagster compressed.
    shown = found(kept.folder, {"address": f"{url}/good", "asset": "regional_timeseries"})
    assert {Path(where.rpartition(":")[0]).suffix for where in shown} >= {".json", ".db"}


# --- odd addresses, odd answers --------------------------------------------------------------------------

PLANTED = "pl4nt3d-TGFtdQ-secret"
"""Known to nobody: no setting has it."""
_BASIC = base64.b64encode(f"ann:{PLANTED}".encode()).decode()
ODD_ANSWERS = (
    f"X-Amz-Signature: {PLANTED}\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nAuthorization: Basic {_BASIC}\x00\r\n\r\n",
    f"HTTP/1.1 302 Found\r\nLocation: https:/h/x?sig={PLANTED}\r\nContent-Length: 0\r\n\r\n",
    f"HTTP/1.1 302 Found\r\nLocation: ftp://ann:{PLANTED}@h/x?{PLANTED}\r\nContent-Length: 0\r\n\r\n",
    f"HTTP/1.1 418 X-Amz-Signature={PLANTED}\r\nContent-Length: 60\r\n\r\nAuthorization: Basic {_BASIC}",
    f"HTTP/1.1 200 OK\r\nContent-Length: {PLANTED}\r\n\r\n",
    f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{PLANTED}\r\n",
)


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[str, list[str]]]:
    """A server that answers as the list says, whatever it is asked; its host."""
    answers = [ODD_ANSWERS[0]]
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(answers[0].encode("latin-1"))

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", answers
        # On Linux, what waits in `accept` hears of it this way only.
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.timeout(900)
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    before=st.sampled_from(["", " ", "\ufeff", '"', "'", "\u200b"]),
    scheme=st.sampled_from(["http", "HTTP", "https", "s3", ""]),
    slashes=st.sampled_from(["://", ":/", ":\\\\", ":///"]),
    user=st.sampled_from(["", f"ann:{PLANTED}@", f"ann:12/{PLANTED}@"]),
    query=st.sampled_from(
        [f"?X-Amz-Signature={PLANTED}", f"?{PLANTED}", f"#a?b={PLANTED}", f"?a='{PLANTED}' b"]
    ),
    answer=st.sampled_from(ODD_ANSWERS),
)
@example("\ufeff", "http", "://", "", f"?{PLANTED}", ODD_ANSWERS[0])
@example("", "https", ":/", "", f"?sig={PLANTED}", ODD_ANSWERS[0])
@example("", "http", "://", f"ann:{PLANTED}@", f"?sig={PLANTED}", ODD_ANSWERS[1])
@example("", "", "", "", f"?X-Amz-Signature={PLANTED}", ODD_ANSWERS[0])
def test_whatever_an_address_or_an_answer_looks_like_its_secrets_are_kept_and_told_nowhere(
    kept: House,
    odd: tuple[str, list[str]],
    caplog: pytest.LogCaptureFixture,
    before: str,
    scheme: str,
    slashes: str,
    user: str,
    query: str,
    answer: str,
) -> None:
    """Mistyped addresses were kept whole, and errors of transport repeated what a server had sent."""
    caplog.set_level(logging.DEBUG)
    host, answers = odd
    answers[0] = answer
    address = f"{before}{scheme}{slashes if scheme else ''}{user}{host}/folder/x{query}"
    told: list[str] = []

    def tried(do: Callable[[], object]) -> None:
        try:
            told.append(repr(do()))
        except Exception as error:
            told.append("".join(traceback.format_exception(error)))

    number = len(kept.instance.get_runs())
    tried(lambda: kept.publish(address, run_id=f"odd-{number}", doc_ids=["d"]))
    gateway = TestClient(
        gateway_application(kept.settings, kept.instance),
        base_url="http://localhost",
        client=("127.0.0.1", 1),
    )
    body = {"model_id": "m", "run_id": f"queued-{number}", "data_paths": [address], "note": f"see {address}"}
    gateway.headers["Host"] = "localhost"
    told.append(gateway.put("/data-pipeline/enqueue", json=body).text)
    told.append(gateway.get("/data-pipeline/jobs").text)
    for run in kept.instance.get_runs():
        asked = f'{{flow_run(where:{{id:{{_eq:"{run.run_id}"}}}}){{state logs {{message}}}}}}'
        told.append(gateway.post("/graphql", json={"query": asked}).text)
    with DojoClient(f"http://{host}", "ann", SECRETS["DOJO_PASSWORD"], retries=RetryPolicy(1)) as dojo:
        tried(dojo.runs)
        tried(lambda: dojo.run("r"))
    with CauseMosClient(f"http://{host}") as causemos:
        failed = ProcessingFailed(run_id="r", data_id="m", doc_ids=("d",), is_indicator=False, flow_id="f")
        outbox = Outbox(Lake(open_store(kept.settings.lake)))
        outbox.post(Report(f"f{number}", "processing-failed", "m:r", failed.model_dump(mode="json"), None, 1))
        deliver(outbox, causemos, outbox.lake, 10**15, told.append)
    planted = {"planted": PLANTED, "basic": _BASIC}
    everything = "\n".join([*told, caplog.text])
    lines = [line for line in everything.splitlines() if any(secret in line for secret in planted.values())]
    assert lines == [], address
    assert found(kept.folder, planted) == [], address


@pytest.mark.slow
def test_the_whole_system_leaves_no_secret_in_its_storage_and_logs(tmp_path: Path, url: str) -> None:
    secrets = {
        **SECRETS,
        "DOJO_USERNAME": "ann",
        "CAUSEMOS_USERNAME": "ann",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    }
    with system(tmp_path, **secrets) as whole:  # type: ignore[arg-type]
        whole.start_daemon()
        whole.start_webserver()
        signature = IN_ADDRESSES["signature"]
        for path in ("good", "403", "bad"):
            whole.dojo.put(
                "runs", run_document(path, data_paths=[f"{url}/{path}?sig={signature}"], attributes=success())
            )
        runs = {
            path: wait_for(partial(_outcome, whole, f"{MODEL}:{path}"), f"the run of {path}", 180)
            for path in ("good", "403", "bad")
        }
        assert runs == {
            "good": DagsterRunStatus.SUCCESS,
            "403": DagsterRunStatus.FAILURE,
            "bad": DagsterRunStatus.FAILURE,
        }
        wait_for(lambda: len(whole.causemos.documents()) == 3, "the reports")
        pages = "".join(
            whole.graphql(query).__repr__()
            for query in (
                "{ runsOrError { ... on Runs { results { runConfigYaml tags { key value } } } } }",
                "{ instance { info } }",
            )
        )
        time.sleep(1)
    assert [name for name, secret in ALL.items() if secret in pages] == []
    # Dojo's own documents hold the addresses, of course.
    assert [where for where in found(tmp_path, ALL) if f"{tmp_path}/dojo/" not in where] == []


def _outcome(whole: System, partition: str) -> DagsterRunStatus | None:
    runs = whole.runs(partition)
    return runs[-1].status if runs and runs[-1].is_finished else None
