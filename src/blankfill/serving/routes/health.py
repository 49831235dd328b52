"""Whether the server takes requests."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from blankfill.serving.limits import refused
from blankfill.serving.state import Phase, State

router = APIRouter(tags=["server"])


@router.get("/health", summary="Whether the server takes requests")
async def health(state: State) -> JSONResponse:
    """Return 200 while the server takes requests, and 503 while it loads its models or ends. `key_needed` says whether
    requests need an API key."""
    body = {"status": state.phase.value, "key_needed": bool(state.settings.api_keys)}
    if state.phase is Phase.READY:
        return JSONResponse(body)
    error = refused(state.phase)
    assert error is not None
    return JSONResponse(body, 503, {"Retry-After": str(error.retry_after)})
