"""What a server knows of itself: its settings and models, whether it takes requests, and how many run."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Annotated

from fastapi import Depends, Request

from blankfill.serving.metrics import Metrics
from blankfill.serving.requests import RunningRequest
from blankfill.serving.served import ModelSet
from blankfill.serving.settings import ServeSettings


class Phase(Enum):
    """What the server does now."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class ServerState:
    """The state that all requests share; it lives in the event loop."""

    def __init__(self, models: ModelSet, settings: ServeSettings) -> None:
        self.models, self.settings = models, settings
        self.metrics: Metrics = models.metrics
        self.phase = Phase.LOADING
        self.requests: set[RunningRequest] = set()
        """The requests that run."""
        self.idle = asyncio.Event()
        """Set while no request runs."""
        self.idle.set()

    @property
    def running(self) -> int:
        """Number of requests that run."""
        return len(self.requests)

    def began(self, request: RunningRequest) -> None:
        """Count a request that runs."""
        self.requests.add(request)
        self.idle.clear()

    def ended(self, request: RunningRequest) -> None:
        """Let go of a request, and of the models that it held."""
        self.requests.discard(request)
        request.release()
        if not self.requests:
            self.idle.set()


async def _state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


State = Annotated[ServerState, Depends(_state)]
"""The parameter of a route for the state of the server."""
