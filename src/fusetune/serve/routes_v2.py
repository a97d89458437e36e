"""The routes of the Open Inference Protocol, version 2."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse

from fusetune.answers import Extras
from fusetune.serve import inference
from fusetune.serve.batcher import Prepared, prepared
from fusetune.serve.current import Served
from fusetune.serve.desk import Desk
from fusetune.serve.refusal import RefusedError, busy
from fusetune.serve.routes import PROBLEMS, answered
from fusetune.serve.rows import Asked, frame_of
from fusetune.version import VERSION

Name = Annotated[str, Path(description="What the model is called.")]


def v2_routes(desk: Desk) -> APIRouter:
    """Return the routes of the Open Inference Protocol, version 2."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
    guarded = [Depends(desk.check_key), Depends(desk.check_options)]

    def check(model: str) -> None:
        if model != desk.options.name:
            raise RefusedError(404, f"there is no model of that name; this server has '{desk.options.name}'")

    @routes.get("", summary="What the server is.")
    async def server() -> JSONResponse:
        extensions = ["binary_tensor_data"]
        return JSONResponse({"name": "fusetune", "version": VERSION, "extensions": extensions})

    @routes.get("/health/live", summary="Is the process alive?")
    async def live() -> JSONResponse:
        return JSONResponse({"live": True})

    @routes.get("/health/ready", summary="May requests come?")
    async def ready() -> JSONResponse:
        if desk.door.draining:
            raise busy("the server is about to stop")
        return JSONResponse({"ready": True})

    @routes.get("/models/{model}", dependencies=guarded, summary="Tensors of the model.")
    async def metadata(model: Name) -> JSONResponse:
        check(model)
        served = desk.current.served
        return JSONResponse(inference.metadata(served.model, desk.options, served.version))

    @routes.get("/models/{model}/ready", summary="May the model be asked?")
    async def model_ready(model: Name) -> JSONResponse:
        check(model)
        if desk.door.draining:
            raise busy("the server is about to stop")
        return JSONResponse({"name": desk.options.name, "ready": True})

    @routes.post("/models/{model}/infer", dependencies=guarded, responses=PROBLEMS, summary="Predict rows of tensors.")
    async def infer(request: Request, model: Name) -> Response:
        check(model)
        served, extras = desk.current.served, Extras()
        content, header = await request.body(), request.headers.get(inference.HEADER)
        rows, asked = await desk.read(_tensors, desk, served, content, header)
        table = await answered(desk, rows, extras)
        reply, length = await desk.read(
            inference.replied, table, served.model.classes, desk.options.name, served.version, asked
        )
        if length is None:
            return Response(reply, media_type="application/json")
        return Response(reply, media_type=inference.BINARY, headers={inference.HEADER: str(length)})

    return routes


def _tensors(desk: Desk, served: Served, content: bytes, header: str | None) -> tuple[Prepared, dict[str, Any]]:
    asked, rest = inference.asked_of(content, header, served.model, desk.options)
    frame = frame_of(Asked(asked.rows, {}), served.model.schema, desk.options)
    return prepared(served, frame, refuse=True), rest
