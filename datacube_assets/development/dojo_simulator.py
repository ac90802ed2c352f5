"""A simulator of Dojo, for development and tests: its listings, documents and files over HTTP.

Here belongs what Dojo does towards us (docs/specification/dojo-documents.md) and the handles that make it
do it: let a run finish, add documents, misbehave. What every simulator needs is
`development/simulator_http.py`. Nothing of the pipeline itself belongs here, and the pipeline never imports
it.

Dojo's own paths lie below the prefix; the files below `/files`, open to everybody as the public
bucket is; the handles below `/simulator`, never misbehaving:

    POST   /simulator/{runs|models|indicators}   add or replace one document or a list, unchecked
    POST   /simulator/runs/{id}/finish           {"data_paths": [...], "executed_at": "..."}, both optional
    POST   /simulator/runs/{id}/fail
    GET    /                      says what this is
    GET    /simulator/switches    PUT: change some of them (see `Switches`)
    GET    /simulator/requests    counters per "METHOD /path"; DELETE: start anew
"""

from __future__ import annotations

import glob
import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import uvicorn
from pydantic import BaseModel, TypeAdapter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from datacube_assets.development.simulator_http import (
    Document,
    Simulator,
    inside,
    json_body,
    json_object,
    page,
    table,
    validated,
)
from datacube_assets.dojo.request import digest

Collection = Literal["runs", "models", "indicators"]
COLLECTIONS: tuple[Collection, ...] = get_args(Collection)

DEFAULT_SIZES: Mapping[Collection, int] = {"runs": 100, "models": 10, "indicators": 10}
"""Documents per page when the caller names no size."""
LARGEST_SIZE = 10_000
"""Elasticsearch refuses more; Dojo answers 500 then."""
REQUIRED_OF_A_RUN = ("id", "model_name", "model_id", "created_at", "data_paths", "parameters", "tags")
"""What `POST` and `PUT /runs` insist on."""
FILES_PLACEHOLDER = "{files}"
"""Stands in stored documents for the address of the file server."""

_RESERVED_KEYS = ("model_id", "model_name", "size", "scroll_id")
_CHUNK = 1 << 20


@dataclass
class _Scroll:
    """A listing under way: what it held when it began, and how far it was read."""

    documents: list[Document]
    size: int
    touched: float
    """Seconds of the monotonic clock."""
    position: int = 0

    def turn(self) -> list[Document]:
        """The next page; its length is that of the first call's `size`, whatever is asked for later."""
        page = self.documents[self.position : self.position + self.size]
        self.position += len(page)
        self.touched = time.monotonic()
        return page


@dataclass
class _Index:
    """One Elasticsearch index: documents in the order of indexing, and the scrolls over them."""

    documents: dict[str, Document] = field(default_factory=dict)
    scrolls: dict[str, _Scroll] = field(default_factory=dict)

    def put(self, document: Document) -> None:
        """Store under its id. A replaced document moves to the end, as in Elasticsearch."""
        name = document.get("id")
        key = name if isinstance(name, str) else uuid.uuid4().hex
        self.documents.pop(key, None)
        self.documents[key] = document


class _Finish(BaseModel):
    """What may be said about how a run finishes."""

    data_paths: list[str] | None = None
    executed_at: str | None = None


_FINISH = TypeAdapter(_Finish)


class DojoSimulator(Simulator):
    """The state of the simulator. Documents are replaced, never changed, so a scroll keeps what it saw."""

    def __init__(
        self, files: Path | None = None, *, prefix: str = "", username: str = "", password: str = ""
    ) -> None:
        """`files`: folder served below `/files`. `prefix`: path in front of Dojo's API, `/api/dojo`."""
        super().__init__(username, password)
        self._files = files
        self._prefix = prefix.rstrip("/")
        self._indices: dict[Collection, _Index] = {name: _Index() for name in COLLECTIONS}

    @classmethod
    def load(cls, folder: Path, *, prefix: str = "", username: str = "", password: str = "") -> DojoSimulator:
        """Read `runs/*.json`, `models/*.json`, `indicators/*.json` (a document or a list) and `files/*`.

        The documents come in no order of any meaning, but always in the same one. Raises
        json.JSONDecodeError when a file is no JSON.
        """
        simulator = cls(folder / "files", prefix=prefix, username=username, password=password)
        for collection in COLLECTIONS:
            loaded = [json.loads(path.read_text()) for path in (folder / collection).glob("*.json")]
            for document in sorted((d for content in loaded for d in _as_list(content)), key=digest):
                simulator.put(collection, document)
        return simulator

    def put(self, collection: Collection, document: Document) -> None:
        """Add or replace a document, unchecked, so that malformed ones can be had."""
        self._indices[collection].put(document)

    def get(self, collection: Collection, name: str) -> Document:
        """The document of that id. Raises a 404 when there is none."""
        try:
            return self._indices[collection].documents[name]
        except KeyError:
            raise HTTPException(404, "Not Found") from None

    def finish_run(
        self, run_id: str, data_paths: list[str] | None = None, executed_at: str | None = None
    ) -> Document:
        """Let a run succeed as the executor does; again: a re-execution.

        Without `data_paths` the parts are the files named after the run. Raises a
        404 for an unknown run, a 409 when there are neither paths nor such files.
        """
        run = self.get("runs", run_id)
        paths = self._parts_of(run) if data_paths is None else data_paths
        if data_paths is None and not paths:
            raise HTTPException(409, f"no file is named after run {run_id}: give data_paths")
        now = executed_at or time.strftime("%Y-%m-%d %H:%M:%S")
        finished = {**run, "data_paths": paths, "pre_gen_output_paths": []}
        return self._put_status(finished, status="success", executed_at=now)

    def fail_run(self, run_id: str) -> Document:
        """Let a run fail; its paths stay as they were. Raises a 404 for an unknown run."""
        return self._put_status(self.get("runs", run_id), status="failed")

    def page(
        self, collection: Collection, size: int, scroll_id: str | None, where: Mapping[str, str]
    ) -> tuple[int, str | None, list[Document]]:
        """One page of a listing as (hits, scroll id, documents), by the rules of
        docs/specification/dojo-documents.md#lists.

        `where`: fields that must have these values. Raises a 500 for a size Elasticsearch refuses
        and for a scroll that is unknown or was left alone for too long.
        """
        index = self._indices[collection]
        found = [d for d in index.documents.values() if all(d.get(k) == v for k, v in where.items())]
        if not found:
            return 0, None, []
        name, scroll = self._open(index, found, size) if scroll_id is None else self._resume(index, scroll_id)
        documents = scroll.turn()
        return len(found), None if len(documents) < size else name, documents

    def _open(self, index: _Index, documents: list[Document], size: int) -> tuple[str, _Scroll]:
        if not 0 < size <= LARGEST_SIZE:
            raise HTTPException(500, "Internal Server Error")
        if self.switches.shuffle:
            random.shuffle(documents)
        self._forget_expired(index)
        name = uuid.uuid4().hex
        index.scrolls[name] = _Scroll(documents, size, time.monotonic())
        return name, index.scrolls[name]

    def _resume(self, index: _Index, scroll_id: str) -> tuple[str, _Scroll]:
        self._forget_expired(index)
        if scroll_id not in index.scrolls:
            raise HTTPException(500, "Internal Server Error")
        return scroll_id, index.scrolls[scroll_id]

    def _forget_expired(self, index: _Index) -> None:
        oldest = time.monotonic() - self.switches.scroll_seconds
        index.scrolls = {name: scroll for name, scroll in index.scrolls.items() if scroll.touched >= oldest}

    def _parts_of(self, run: Document) -> list[str]:
        pattern = glob.escape(f"{run.get('id')}_{run.get('model_id')}") + "*.parquet.gzip"
        found = self._files.glob(pattern) if self._files else ()
        return [f"{FILES_PLACEHOLDER}/{path.name}" for path in sorted(found)]

    def _put_status(self, run: Document, **attributes: str) -> Document:
        before = run.get("attributes")
        updated = {**run, "attributes": {**(before if isinstance(before, dict) else {}), **attributes}}
        self.put("runs", updated)
        return updated

    def app(self) -> Starlette:
        """The simulator as an ASGI application."""
        files = Route("/{path:path}", self._get_file)
        return self.application(
            [
                Route("/", self._get_front, methods=["GET"], middleware=[self.guarded()]),
                Mount("/files", routes=[files], middleware=[self.misbehaving()]),
                Mount(self._prefix, routes=self._api(), middleware=[self.misbehaving(), self.guarded()]),
            ]
        )

    async def _get_front(self, request: Request) -> Response:
        runs = self._indices["runs"].documents.values()
        rows = [
            (run.get("model_id"), run.get("id"), run.get("attributes", {}).get("status", "")) for run in runs
        ]
        prefix = self._prefix or "/"
        return page(
            "Dojo simulator",
            "This stands in for Dojo while one develops. It serves documents and files as Dojo does, and "
            f"does nothing else: the pipeline asks it, at {prefix}, which runs are through. To finish one, "
            "send POST /simulator/runs/ID/finish.",
            {
                "Model runs": table(("model", "run", "status"), rows),
                "Datasets": table(
                    ("id", "published"),
                    [
                        (one.get("id"), one.get("published"))
                        for one in self._indices["indicators"].documents.values()
                    ],
                ),
            },
        )

    def handles(self) -> list[BaseRoute]:
        """The routes below `/simulator`."""
        return [
            *super().handles(),
            *(
                Route(f"/{name}", partial(self._add_documents, name), methods=["POST"])
                for name in COLLECTIONS
            ),
            Route("/runs/{name}/finish", self._finish_run, methods=["POST"]),
            Route("/runs/{name}/fail", self._fail_run, methods=["POST"]),
        ]

    def _api(self) -> list[BaseRoute]:
        return [
            Route("/runs", self._create_run, methods=["POST"]),
            Route("/runs", self._update_run, methods=["PUT"]),
            *(Route(f"/{name}", partial(self._list, name)) for name in COLLECTIONS),
            Route("/indicators/latest", self._list_published),
            *(Route(f"/{name}/{{name}}", partial(self._one, name)) for name in COLLECTIONS),
        ]

    async def _list(self, collection: Collection, request: Request) -> Response:
        query = request.query_params
        terms = _terms(query) if collection == "runs" else {}
        size = _size_of(request, DEFAULT_SIZES[collection])
        hits, scroll_id, documents = self.page(collection, size, query.get("scroll_id"), terms)
        if self.switches.repeats():
            hits, documents = hits + len(documents), [*documents, *documents]
        if collection == "runs":
            documents = _with_parameters(documents, query)
        else:
            _validate_answer(documents)
        return _answer(request, {"hits": hits, "scroll_id": scroll_id, "results": documents})

    async def _list_published(self, request: Request) -> Response:
        """The short list of datasets, which Dojo does not validate."""
        documents = self._indices["indicators"].documents.values()
        published = [one for one in documents if one.get("published") is True]
        brief = ("description", "name", "id", "created_at", "deprecated", "maintainer")
        return _answer(request, [{name: one.get(name) for name in brief} for one in published])

    async def _one(self, collection: Collection, request: Request) -> Response:
        document = self.get(collection, request.path_params["name"])
        if collection != "runs":
            _validate_answer([document])
        return _answer(request, document)

    async def _create_run(self, request: Request) -> Response:
        run = _checked_run(await json_object(request))
        self._put_status({**run, "created_at": round(time.time() * 1000)}, status="Running")
        location = {"Location": f"/api/v1/runs/{run['id']}"}
        return PlainTextResponse(f"Created run with id = {run['id']}", 201, location)

    async def _update_run(self, request: Request) -> Response:
        run = _checked_run(await json_object(request))
        self.put("runs", run)
        location = {"Location": f"/api/runs/{run['id']}"}
        return PlainTextResponse(f"Updated run with id = {run['id']}", 201, location)

    async def _get_file(self, request: Request) -> Response:
        """A whole file, whatever Range says: not every server of files knows ranges."""
        path = inside(self._files, request.path_params["path"]) if self._files else None
        if path is None:
            raise HTTPException(404, "Not Found")
        headers = {"Content-Length": str(path.stat().st_size), "Accept-Ranges": "none"}
        return StreamingResponse(_chunks(path), headers=headers, media_type="binary/octet-stream")

    async def _add_documents(self, collection: Collection, request: Request) -> Response:
        documents = _as_list(await json_body(request))
        if not all(isinstance(document, dict) for document in documents):
            raise HTTPException(400, "a document must be a JSON object")
        for document in documents:
            self.put(collection, document)
        return JSONResponse({"added": len(documents)}, 201)

    async def _finish_run(self, request: Request) -> Response:
        content = await json_body(request)
        wishes = validated(_FINISH, {} if content is None else content)
        finished = self.finish_run(request.path_params["name"], wishes.data_paths, wishes.executed_at)
        return _answer(request, finished)

    async def _fail_run(self, request: Request) -> Response:
        return _answer(request, self.fail_run(request.path_params["name"]))


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _answer(request: Request, content: object) -> Response:
    """JSON with the address of the file server as this caller knows it."""
    files = f"{request.url.scheme}://{request.url.netloc}/files"
    body = json.dumps(content).replace(FILES_PLACEHOLDER, files)
    return Response(body, media_type="application/json")


def _as_list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _size_of(request: Request, default: int) -> int:
    try:
        return int(request.query_params.get("size", default))
    except ValueError:
        raise HTTPException(422, "size: value is not a valid integer") from None


def _checked_run(run: Document) -> Document:
    missing = [name for name in REQUIRED_OF_A_RUN if name not in run]
    if missing:
        raise HTTPException(422, f"field required: {', '.join(missing)}")
    return run


def _validate_answer(documents: Iterable[Document]) -> None:
    """Models and datasets pass a response model: one invalid document spoils the answer."""
    for number, document in enumerate(documents):
        outputs = document.get("outputs", [])
        if not isinstance(outputs, list) or not isinstance(document.get("data_paths") or [], list):
            detail = {
                "loc": ["response", "results", number],
                "msg": "value is not a valid list",
                "type": "type_error.list",
            }
            raise HTTPException(422, json.dumps([detail]))


def _terms(query: Mapping[str, str]) -> dict[str, str]:
    """The field a listing of runs is narrowed by: `model_name` wins."""
    return next(({name: query[name]} for name in ("model_name", "model_id") if query.get(name)), {})


def _with_parameters(runs: list[Document], query: Mapping[str, str]) -> list[Document]:
    """The runs that match any further key of the query, once per match."""
    filters = {name: wanted for name, wanted in query.items() if name not in _RESERVED_KEYS}
    if not filters:
        return runs
    return [run for run in runs for name, wanted in filters.items() if _matches(run, name, wanted)]


def _matches(run: Document, parameter: str, wanted: str) -> bool:
    parameters = run.get("parameters")
    named = [p for p in parameters if isinstance(p, dict)] if isinstance(parameters, list) else []
    value = next((p.get("value") for p in reversed(named) if p.get("name") == parameter), None)
    if isinstance(value, str):
        return bool(value) and wanted.lower() in value.lower()
    return bool(value) and wanted == str(value)


def serve(
    folder: Path, host: str, port: int, *, prefix: str = "", username: str = "", password: str = ""
) -> None:
    """Stand in for Dojo with the documents and files of a folder, until interrupted."""
    simulator = DojoSimulator.load(folder, prefix=prefix, username=username, password=password)
    uvicorn.run(simulator.app(), host=host, port=port, log_level="warning")
