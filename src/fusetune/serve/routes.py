"""The routes: predictions, explanations, the state of the server, the inference protocol and the page."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from fusetune.answers import Extras
from fusetune.data.choices import By
from fusetune.report.explanation import render_explanation
from fusetune.report.template import page
from fusetune.serve import told
from fusetune.serve.batcher import Prepared, prepared
from fusetune.serve.body import asked_in, form_of, media_type
from fusetune.serve.current import Served
from fusetune.serve.desk import Desk
from fusetune.serve.refusal import RefusedError, busy
from fusetune.serve.rows import frame_of

_JSON, _FORM = "application/json", "multipart/form-data"
_EXPLAINED = 4  # explanations that may wait for one
_ROWS: dict[str, Any] = {
    "type": "object",
    "required": ["rows"],
    "additionalProperties": False,
    "properties": {"rows": {"type": "array", "minItems": 1, "items": {"type": "object"}}},
    "example": {"rows": [{"note": "words", "age": 54, "scan": "data:image/png;base64,..."}]},
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Cells by column. A picture is base64, a data: address, an address of an allowed host, or a "
        "file of a form: called after its column (`scan`, or `scan[2]` for the third row).",
        "content": {
            _JSON: {"schema": _ROWS},
            _FORM: {"schema": {"type": "object", "properties": {"rows": {"type": "string"}}}},
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {_JSON: {"example": {"error": "the reason"}}}}
    for status, what in {
        400: "The body cannot be read.",
        401: "The key is missing or wrong.",
        413: "Too many bytes or rows.",
        422: "A row or an option cannot be used.",
        503: "Too much to do; try again.",
    }.items()
}
OnFault = Annotated[
    Literal["raise", "warn"],
    Query(description="Pictures and cells that cannot be used: refuse the request, or answer from the rest."),
]


def model_routes(desk: Desk) -> APIRouter:
    """Return the routes that ask the model."""
    checks = [Depends(desk.check_key), Depends(desk.check_options)]
    routes = APIRouter(dependencies=checks, responses=PROBLEMS)

    @routes.post("/v1/predict", openapi_extra=_BODY, summary="Predict rows.")
    async def predict(
        request: Request,
        sets: Annotated[float | None, Query(description="Also sets of classes at this coverage, such as 0.9.")] = None,
        margin: Annotated[float | None, Query(description="Mark rows closer than this to another decision.")] = None,
        unlike: Annotated[bool, Query(description="Also how unlike the training rows each input is.")] = False,
        by: Annotated[By, Query(description="Which rule decides.")] = "judged",
        on_problem: OnFault = "raise",
    ) -> JSONResponse:
        served, extras = desk.current.served, Extras(by, sets, margin, unlike)
        extras.check(served.model.calibration, served.model.reference, served.model.measure)
        frame = await _frame(desk, request, served)
        rows = await desk.read(prepared, served, frame, on_problem == "raise")
        table = await answered(desk, rows, extras)
        return JSONResponse(await desk.read(told.as_json, served, table, extras, desk.options))

    @routes.post("/v1/explain", openapi_extra=_BODY, summary="Say why one row is decided as it is.")
    async def explain(
        request: Request,
        form: Annotated[Literal["json", "html"], Query(alias="as", description="As data, or as a page.")] = "json",
        on_problem: OnFault = "raise",
    ) -> Response:
        served = desk.current.served
        frame = await _frame(desk, request, served)
        if len(frame) != 1:
            raise RefusedError(422, f"one row is explained at a time, not {len(frame):,}")
        await desk.read(prepared, served, frame, on_problem == "raise")  # which refuses what cannot be read
        return await _explained(desk, served, frame, form)

    @routes.get("/v1/model", summary="What the model reads and says.")
    async def model() -> JSONResponse:
        return JSONResponse(told.described(desk.current.served, desk.options))

    @routes.post("/v1/reload", summary="Read the model's folder again; without a key this is refused.")
    async def reload() -> JSONResponse:
        if desk.options.key is None:
            raise RefusedError(403, "this server was started without a key, so that nobody may change its model")
        before = desk.current.served.version
        served = await desk.current.reload()
        desk.current.ring()
        return JSONResponse({"version": served.version, "before": before, "loaded": served.loaded})

    return routes


async def _frame(desk: Desk, request: Request, served: Served) -> pd.DataFrame:
    """Return the table of a request.

    Raises:
        RefusedError: If it is none, or of another type.
    """
    schema, options, kind = served.model.schema, desk.options, media_type(request)
    if kind == _FORM:
        asked = await desk.read(form_of, await request.body(), request.headers["content-type"], schema)
    elif kind == _JSON:
        asked = await desk.read(asked_in, await request.body())
    else:
        raise RefusedError(415, f"the body must be {_JSON} or {_FORM}, and say so in its Content-Type")
    return await desk.read(frame_of, asked, schema, options)


async def answered(desk: Desk, rows: Prepared, extras: Extras) -> pd.DataFrame:
    """Return the lines of the rows of a request, after the network was run for them and others."""
    outputs = await desk.batcher.ask(rows)
    return await desk.read(told.predicted, rows, outputs, extras)


async def _explained(desk: Desk, served: Served, frame: pd.DataFrame, form: str) -> Response:
    if desk.explanations > _EXPLAINED:
        raise busy(f"{_EXPLAINED} explanations are waiting; try again later")
    schema = served.model.schema
    name = schema.named("id") if schema.gather is None else None
    one = frame.drop(columns=[name] if name in frame else [])
    row = "0" if schema.gather is None else str(frame[schema.gather].iloc[0])

    loop = asyncio.get_running_loop()
    desk.explanations += 1
    try:
        explanation = await loop.run_in_executor(desk.explaining, served.model.explain, one, row, "mask")
    finally:
        desk.explanations -= 1
    if form == "json":
        return JSONResponse(await desk.read(told.explained, served, explanation, desk.options))
    html = await desk.read(render_explanation, explanation, {"Decided by": served.model.rule.words})

    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return HTMLResponse(html, headers={"Content-Security-Policy": policy})


def state_routes(desk: Desk) -> APIRouter:
    """Return the routes about the server itself."""
    routes = APIRouter()

    @routes.get("/health", summary="Is the process alive?")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @routes.get("/ready", summary="Is there a model, and may requests come?")
    async def ready() -> JSONResponse:
        if desk.door.draining:
            raise busy("the server is about to stop")
        return JSONResponse({"status": "ready", "version": desk.current.served.version})

    @routes.get("/metrics", summary="Numbers for Prometheus.", dependencies=[Depends(desk.check_key)])
    async def metrics() -> Response:
        return Response(await desk.read(desk.counts.text), media_type=CONTENT_TYPE_LATEST)

    return routes


def page_routes(desk: Desk) -> APIRouter:
    """Return the page, which asks the routes above, and the description of all routes as a page."""
    routes = APIRouter(include_in_schema=False)
    here = files("fusetune.serve")
    style = (files("fusetune.report") / "page.css").read_text("utf-8") + (here / "page.css").read_text("utf-8")

    @routes.get("/")
    async def first() -> HTMLResponse:
        return HTMLResponse(page("serve/page.html", name=desk.options.name, guarded=desk.options.key is not None))

    @routes.get("/page.css")
    async def css() -> Response:
        return Response(style, media_type="text/css")

    @routes.get("/page.js")
    async def script() -> Response:
        return Response((here / "page.js").read_text("utf-8"), media_type="text/javascript")

    @routes.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page("serve/docs.html", api=request.app.openapi()))

    return routes
