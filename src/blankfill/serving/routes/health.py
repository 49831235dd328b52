"""Whether the server takes requests."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from blankfill.serving.state import Phase, State

router = APIRouter(tags=["server"])


@router.get("/health")
async def health(state: State) -> JSONResponse:
    """Return 200 while the server takes requests, and 503 while it loads its models or ends."""
    ready = state.phase is Phase.READY
    return JSONResponse({"status": state.phase.value}, 200 if ready else 503)
