"""The application: routes, the layers before them (limits, keys, headers), and how errors are answered.

From the outside to the routes a request passes `Access` (log, numbers, headers), CORS where origins are given, `Hosts`,
`Keys`, `Limits`. None of them waits for a whole answer, so that streams pass as they are written.
"""

from __future__ import annotations

import json
import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from blankfill._version import __version__
from blankfill.errors import UserError, in_keys
from blankfill.serving.access import Access
from blankfill.serving.auth import OWN_NAMES, Hosts, Keys
from blankfill.serving.errors import ApiError, invalid, unreadable
from blankfill.serving.limits import Limits
from blankfill.serving.paths import include_all
from blankfill.serving.reference import described_api, operation_id
from blankfill.serving.routes import ROUTERS
from blankfill.serving.settings import ServeSettings, is_local
from blankfill.serving.state import ServerState

log = logging.getLogger("blankfill.serving")


def create_app(state: ServerState) -> FastAPI:
    """Make the application of a server."""
    app = FastAPI(
        title="blankfill", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False,
        generate_unique_id_function=lambda route: operation_id(route.path_format, (route.path_format[3:],)),
    )  # fmt: skip
    app.state.server = state
    include_all(app, ROUTERS)
    described_api(app, bool(state.settings.api_keys))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    settings = state.settings
    app.add_middleware(Limits, state=state)  # the last one added is the first that a request passes
    if settings.api_keys:
        app.add_middleware(Keys, keys=settings.api_keys)
    if names := host_names(settings):
        app.add_middleware(Hosts, names=names)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=("GET", "POST"), allow_headers=("*",),
            expose_headers=("X-Request-ID", "Retry-After"),
        )  # fmt: skip
    app.add_middleware(Access, state=state)
    return app


def host_names(settings: ServeSettings) -> tuple[str, ...]:
    """Return the names under which a server answers; none where it answers under every name."""
    if not is_local(settings.host):
        return settings.allowed_hosts
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    return (*OWN_NAMES, own, *settings.allowed_hosts)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return ApiError(400, in_keys(error.sentence), "invalid_request").response()


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.__cause__, json.JSONDecodeError):
        return unreadable(error.__cause__).response()
    return invalid(error.errors()).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400 and error.__cause__ is not None:  # the body could not be read
        return unreadable(error.__cause__).response()
    if error.status_code == 404:
        return ApiError(404, "there is no such path; /docs lists the paths", "not_found").response()
    if error.status_code == 405:
        response = ApiError(405, "the path has no such method; /docs lists them", "method_not_allowed").response()
        response.headers.update(error.headers or {})
        return response
    return ApiError(error.status_code, str(error.detail), "http_error").response()
