"""The application: its routes, and what is said where a request is not answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from fusetune.errors import ShortageError, UserError, clipped
from fusetune.serve.batcher import Batcher
from fusetune.serve.counts import Counts
from fusetune.serve.current import Current, Served, read_served
from fusetune.serve.desk import Desk
from fusetune.serve.gate import FAILED, Door, Gate
from fusetune.serve.leaving import drained
from fusetune.serve.options import ENVIRONMENT, Options
from fusetune.serve.refusal import RefusedError
from fusetune.serve.routes import model_routes, page_routes, state_routes
from fusetune.serve.routes_v2 import v2_routes
from fusetune.version import VERSION


def create(options: Options, served: Served | None = None) -> ASGIApp:
    """Return the application that serves the model of a folder.

    Args:
        options: Folder and limits.
        served: The model, if it was read before.

    Raises:
        BundleError: If the folder holds no usable model.
    """
    counts, door = Counts(), Door()
    current = Current(options, served or read_served(options), counts.load)
    counts.load("ok")
    desk = Desk(options, current, Batcher(options.gather, counts), door, counts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(current.watch())
        async with desk.batcher:
            with drained(door, options.drain):
                yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        desk.close()

    app = FastAPI(
        title=f"fusetune: {options.name}", version=VERSION, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="Predictions of a model on pictures, texts and columns.",
    )  # fmt: skip
    for routes in (state_routes, model_routes, v2_routes, page_routes):
        app.include_router(routes(desk))
    for kind in (RefusedError, UserError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _said)
    return Gate(app, options, door, counts)


def from_environment() -> ASGIApp:
    """Return the application of a worker process, as the environment says."""
    return create(Options.model_validate_json(os.environ[ENVIRONMENT]))


async def _said(_: Request, error: Exception) -> JSONResponse:
    """Return why a request is not answered."""
    status, reason, headers = 422, str(error), dict[str, str]()
    match error:
        case RefusedError():
            status, reason, headers = error.status, error.reason, error.headers
        case ShortageError():
            status, headers = 503, {"Retry-After": "5"}
        case HTTPException():
            status, reason, headers = error.status_code, str(error.detail), dict(error.headers or {})
        case RequestValidationError():
            reason = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        case UserError():
            pass
        case _:  # which is logged where it is raised again
            status, reason = 500, FAILED
    return JSONResponse({"error": clipped(reason, 2000)}, status, headers)
