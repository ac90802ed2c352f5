"""A simulator of CauseMos, for development and tests: it takes reports and shows what it got.

Here belongs what CauseMos does with a report (docs/specification/queue-and-causemos.md#reports): it reads
the results as the reader would, and changes the status of the documents that waited. With a queue it also
does what CauseMos does when Dojo says that something is through: it sends flow parameters to the queue, and
asks there for the state and log of runs. The pipeline never imports it. Its handles lie below `/simulator`,
never misbehaving:

    GET    /                       a page for people
    POST   /api/maas/model-runs/ID/post-process, /api/maas/indicators/post-process    what Dojo says
    GET    /api/maas/model-runs/ID/status, /api/maas/model-runs/ID/logs    what the queue says of a run
    GET    /simulator/reports      every report in the order it came, with the answer it got
    GET    /simulator/documents    the documents, per Elasticsearch index; POST: add or replace some
    GET    /simulator/switches, /simulator/requests    as in Dojo's simulator
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import httpx
import uvicorn
from pydantic import BaseModel, ConfigDict, TypeAdapter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from datacube_assets.development.simulator_http import (
    IS_CUT,
    Document,
    Simulator,
    json_object,
    page,
    table,
    validated,
)
from datacube_assets.dojo.derive import NUMERIC_TYPES, request_for_indicator, request_for_run
from datacube_assets.dojo.documents import IndicatorDocument, ModelDocument, RunDocument
from datacube_assets.dojo.request import INDICATOR_RUN_ID, DatacubeRequest
from datacube_assets.storage.stores import MissingObjectError, Store, StoreError

Index = Literal["data-model-run", "data-datacube"]
INDICES: tuple[Index, ...] = get_args(Index)
CALLS = ("queue-runtime", "processing-succeeded", "processing-failed")


class _Waiting(BaseModel):
    """A document of CauseMos; what else it holds is nobody's business here."""

    model_config = ConfigDict(extra="allow")

    id: str


_DOCUMENTS = TypeAdapter(dict[Index, list[_Waiting]])
_RUN, _MODEL = TypeAdapter(RunDocument), TypeAdapter(ModelDocument)
_INDICATOR = TypeAdapter(IndicatorDocument)


@dataclass(frozen=True)
class ReceivedReport:
    """One call of the reporting API that reached CauseMos, and its answer."""

    call: str
    received_at: int
    """Milliseconds UTC."""
    body: Document
    status: int
    message: str
    is_cut: bool = False
    """Whether the answer was made to break off: whoever reported does not know it."""


class CauseMosSimulator(Simulator):
    """The state of the simulator: its documents, and the reports in the order they came."""

    def __init__(
        self,
        models_bucket: Store,
        indicators_bucket: Store,
        *,
        upsert: bool = False,
        queue_url: str = "",
        username: str = "",
        password: str = "",
    ) -> None:
        """`upsert`: an unknown document is created by the first report.

        The real one answers 200 and changes nothing then, which leaves little to see.

        `queue_url`: where requests are sent, and where runs are asked for; empty: there is no queue.
        """
        super().__init__(username, password)
        self._models_bucket = models_bucket
        self._indicators_bucket = indicators_bucket
        self._upsert = upsert
        self._queue_url = queue_url.rstrip("/")
        self.documents: dict[Index, dict[str, Document]] = {index: {} for index in INDICES}
        self.reports: list[ReceivedReport] = []

    def put(self, index: Index, document: Document) -> None:
        """Add or replace a document under its id."""
        self.documents[index][document["id"]] = document

    def receive(self, call: str, body: Document, *, is_cut: bool = False) -> tuple[int, str]:
        """Take a report, as (status, message), with the effects of the real CauseMos."""
        status, message = self._handle(call, body)
        self.reports.append(ReceivedReport(call, round(time.time() * 1000), body, status, message, is_cut))
        return status, message

    def _handle(self, call: str, body: Document) -> tuple[int, str]:
        names = body.get("doc_ids")
        if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return 400, "No document IDs"
        times = {"start_time": body.get("start_time"), "end_time": body.get("end_time")}
        if call == "queue-runtime":
            self._update_waiting(body, {"runtimes": {"queued": times}})
        elif call == "processing-failed":
            self._update_waiting(body, {"status": "PROCESSING FAILED", "flow_id": body.get("flow_id")})
        else:
            results = self._results(str(body.get("data_id")), str(body.get("run_id")))
            if results is None:
                return 404, "Pipeline results could not be found"
            ready = {
                "status": "READY",
                "flow_id": body.get("flow_id"),
                "runtimes": {"post_processing": times},
            }
            self._update_waiting(body, {**ready, **results})
            self._describe_model(body, {"data_info": results["data_info"]})
        return 200, f"{call} noted"

    def _update_waiting(self, body: Document, patch: Document) -> None:
        index: Index = "data-datacube" if body.get("is_indicator") else "data-model-run"
        for name in body["doc_ids"]:
            if self._upsert:
                self.documents[index].setdefault(name, {"id": name})
            self._update(index, name, patch)

    def _update(self, index: Index, name: str, patch: Document) -> None:
        """A partial update; a missing document is a line in CauseMos' log and nothing more."""
        if name in self.documents[index]:
            self.documents[index][name] = _merged(self.documents[index][name], patch)

    def _describe_model(self, body: Document, patch: Document) -> None:
        """A model's default run describes the model, too."""
        runs = self.documents["data-model-run"]
        if any(runs.get(name, {}).get("is_default_run") for name in body["doc_ids"]):
            self._update("data-datacube", str(body.get("data_id")), patch)

    def _results(self, data_id: str, run_id: str) -> Document | None:
        """What the reader gives of `results.json`: two keys, the second unless empty."""
        bucket = self._indicators_bucket if run_id == INDICATOR_RUN_ID else self._models_bucket
        try:
            content = json.loads(bucket.get(f"{data_id}/{run_id}/results/results.json"))
        except (MissingObjectError, StoreError, OSError, ValueError):
            return None
        if not isinstance(content, dict):
            return None
        values = content.get("output_agg_values")
        return {"data_info": content.get("data_info"), **({"output_agg_values": values} if values else {})}

    def app(self) -> Starlette:
        """The simulator as an ASGI application."""
        maas = [Route("/pipeline-reporting/{call}", self._take_report, methods=["PUT"])]
        if self._queue_url:
            maas += [
                Route("/model-runs/{id}/post-process", self._process_run, methods=["POST"]),
                Route("/indicators/post-process", self._process_indicator, methods=["POST"]),
                Route("/model-runs/{id}/{what:str}", self._get_flow),
            ]
        return self.application(
            [
                Mount("/api/maas", routes=maas, middleware=[self.misbehaving(), self.guarded()]),
                Mount("/", routes=[Route("/", self._get_page)], middleware=[self.guarded()]),
            ]
        )

    def handles(self) -> list[BaseRoute]:
        """The routes below `/simulator`."""
        return [
            Route("/reports", self._get_reports),
            Route("/documents", self._get_documents, methods=["GET"]),
            Route("/documents", self._post_documents, methods=["POST"]),
            *super().handles(),
        ]

    async def _take_report(self, request: Request) -> Response:
        call = request.path_params["call"]
        if call not in CALLS:
            raise HTTPException(404, "Not Found")
        status, message = self.receive(
            call, await json_object(request), is_cut=bool(request.scope.get(IS_CUT))
        )
        return JSONResponse({"message": message}, status)

    async def _process_run(self, request: Request) -> Response:
        """Dojo says that a model run is through."""
        body = await json_object(request)
        run = validated(_RUN, body)
        model = self.documents["data-datacube"].get(run.model_id)
        if model is None:
            return JSONResponse({"message": "Model metadata could not be found"}, 409)
        known = run.id in self.documents["data-model-run"]
        wanted = request_for_run(run, validated(_MODEL, model))
        status = "PROCESSING" if known else "TEST"
        self.put(
            "data-model-run",
            _merged(self.documents["data-model-run"].get(run.id, {}), {**body, "status": status}),
        )
        await self._send(wanted, [run.id] if known else [])
        return JSONResponse({"message": "sent to the queue"}, 200 if known else 201)

    async def _process_indicator(self, request: Request) -> Response:
        """Dojo says that a dataset is published: one document for each of its features."""
        body = await json_object(request)
        indicator = validated(_INDICATOR, body)
        datacubes = self.documents["data-datacube"]
        known = {
            document["default_feature"]: name
            for name, document in datacubes.items()
            if document.get("data_id") == indicator.id
        }
        features = [output.name for output in indicator.outputs if output.type in NUMERIC_TYPES]
        ids = {feature: known.get(feature) or str(uuid.uuid4()) for feature in features}
        # In this order: a queue that cannot be reached leaves the documents as they are.
        await self._send(request_for_indicator(indicator, list(ids.values())), list(ids.values()))
        for feature, name in ids.items():
            more = {"id": name, "data_id": indicator.id, "default_feature": feature, "status": "PROCESSING"}
            self.put("data-datacube", _merged(datacubes.get(name, {}), {**body, **more}))
        new = [name for feature, name in ids.items() if feature not in known]
        return JSONResponse({"new_ids": new, "existing_ids": list(known.values())}, 200 if known else 201)

    async def _send(self, wanted: DatacubeRequest, doc_ids: list[str]) -> None:
        """Send flow parameters to the queue. Raises a 500 when it does not take them."""
        fields = {
            "model_id",
            "run_id",
            "data_paths",
            "qualifier_map",
            "weight_column",
            "qualifier_thresholds",
        }
        parameters = {
            **wanted.model_dump(mode="json", include=fields),
            "doc_ids": doc_ids,
            **({"is_indicator": True} if wanted.is_indicator else {"compute_tiles": True}),
        }
        try:
            async with httpx.AsyncClient(timeout=60) as http:
                answer = await http.put(f"{self._queue_url}/data-pipeline/enqueue", json=parameters)
                answer.raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HTTPException(500, f"the queue did not take it: {type(error).__name__}") from None

    async def _get_flow(self, request: Request) -> Response:
        """State, or state and log, of the run that made a document."""
        fields = {"status": "", "logs": "logs { timestamp message } agent { id labels }"}
        document = self.documents["data-model-run"].get(request.path_params["id"])
        if document is None or request.path_params["what"] not in fields:
            raise HTTPException(404, "Not Found")
        flow_id = request.query_params.get("flow_id") or document.get("flow_id")
        where = f'where: {{ id: {{_eq: "{flow_id}"}}}}'
        told = f"state start_time end_time {fields[request.path_params['what']]}"
        try:
            async with httpx.AsyncClient(timeout=60) as http:
                answer = await http.post(
                    self._queue_url, json={"query": f"query {{ flow_run({where}) {{ {told} }} }}"}
                )
            flows = answer.raise_for_status().json()["data"]["flow_run"]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HTTPException(500, f"the pipeline does not answer: {type(error).__name__}") from None
        return JSONResponse(flows[0] if flows else {})

    async def _get_reports(self, request: Request) -> Response:
        return JSONResponse([asdict(report) for report in self.reports])

    async def _get_documents(self, request: Request) -> Response:
        return JSONResponse(self.documents)

    async def _post_documents(self, request: Request) -> Response:
        """Takes `{index: [document, ...]}`."""
        content = await json_object(request)
        documents = validated(_DOCUMENTS, {index: content.get(index, []) for index in INDICES})
        for index, some in documents.items():
            for document in some:
                self.put(index, document.model_dump())
        return await self._get_documents(request)

    async def _get_page(self, request: Request) -> Response:
        return _page(self.documents, self.reports)


def _merged(document: Mapping[str, Any], patch: Mapping[str, Any]) -> Document:
    """A partial update as Elasticsearch does it: objects are merged, everything else is replaced."""
    both = {
        name: _merged(document[name], value)
        for name, value in patch.items()
        if isinstance(value, dict) and isinstance(document.get(name), dict)
    }
    return {**document, **patch, **both}


def _page(documents: Mapping[Index, Mapping[str, Document]], reports: Iterable[ReceivedReport]) -> Response:
    document_rows = [
        (index, name, document.get("status", ""), document.get("flow_id", ""))
        for index in INDICES
        for name, document in documents[index].items()
    ]
    report_rows = [
        (_clock(r.received_at), r.call, r.body.get("data_id"), r.body.get("run_id"), r.status, r.message)
        for r in reports
    ]
    return page(
        "CauseMos simulator",
        "This stands in for CauseMos while one develops: it takes the reports of the pipeline, and shows "
        "what it was told. A document is here once something was told about it.",
        {
            "Documents": table(("index", "id", "status", "flow"), document_rows),
            "Reports, newest first": table(
                ("received (UTC)", "call", "model", "run", "answer", "message"), report_rows[::-1]
            ),
        },
    )


def _clock(milliseconds: int) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(milliseconds / 1000))


def serve(
    models_bucket: Store,
    indicators_bucket: Store,
    host: str,
    port: int,
    *,
    upsert: bool = False,
    queue_url: str = "",
    username: str = "",
    password: str = "",
) -> None:
    """Stand in for CauseMos over two buckets, until interrupted."""
    simulator = CauseMosSimulator(
        models_bucket,
        indicators_bucket,
        upsert=upsert,
        queue_url=queue_url,
        username=username,
        password=password,
    )
    uvicorn.run(simulator.app(), host=host, port=port, log_level="warning")
