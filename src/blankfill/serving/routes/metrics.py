"""The numbers of the server, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from blankfill.serving.metrics import CONTENT_TYPE
from blankfill.serving.state import State

router = APIRouter(tags=["server"])


@router.get("/metrics", summary="The numbers of the server, for Prometheus", response_class=Response)
async def metrics(state: State) -> Response:
    """Return requests by route and status, times, tokens, texts, queues and batches in the text form of Prometheus."""
    state.metrics.observe(state.models, state.running)
    return Response(state.metrics.text(), headers={"Content-Type": CONTENT_TYPE})
