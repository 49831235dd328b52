"""What a server knows of itself: its settings and models, whether it takes requests, and how many run."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from fastapi import Depends, Request

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
        self.phase = Phase.LOADING
        self.running = 0
        """Number of requests that run."""


def _state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


State = Annotated[ServerState, Depends(_state)]
"""The parameter of a route for the state of the server."""
