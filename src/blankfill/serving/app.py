"""The application: routes, what stands before them (limits, keys, headers), and how errors are answered."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from blankfill._version import __version__
from blankfill.errors import UserError, in_keys
from blankfill.serving.errors import ApiError, invalid
from blankfill.serving.routes import ROUTERS
from blankfill.serving.state import ServerState

log = logging.getLogger("blankfill.serving")


def create_app(state: ServerState) -> FastAPI:
    """Make the application of a server."""
    app = FastAPI(title="blankfill", version=__version__, redoc_url=None)
    app.state.server = state
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failure)
    return app


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return ApiError(400, in_keys(error.sentence), "invalid_request").response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors()).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return ApiError(error.status_code, str(error.detail), code).response()


async def _failure(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return ApiError(500, "the server failed; its log says why", "internal_error").response()
