"""blankfill on a cluster with Ray Serve: replicas with a model each, on the machines that have room.

    pip install 'ray[serve]' 'blankfill[serve]'
    MODEL=/shared/runs/bert KEYS=/shared/keys.txt serve run ray_serve:app

Ray routes requests to the replicas, adds and removes them with the load, and starts those again that die. The folder of
the model must have the same path on every machine. Each replica is a whole server without a listener: its queue, its
batches, its limits and its keys are those of `blankfill serve`, and a client that goes away cancels its request. Ray
stops a replica after it has finished its requests (`graceful_shutdown_timeout_s`).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from ray import serve

from blankfill.serving.app import create_app
from blankfill.serving.run import sources_of
from blankfill.serving.served import ModelSet
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import Phase, ServerState

CPUS = 2
"""Cores of a replica, which are also its threads."""


class Forward:
    """The application of the replica that gets a request."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; and Ray, which begins before the replica is made, that there is nothing to begin with."""
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
            return
        await serve.get_replica_context().servable_object.server(scope, receive, send)


@serve.deployment(
    ray_actor_options={"num_cpus": CPUS},
    autoscaling_config={"min_replicas": 1, "max_replicas": 8, "target_ongoing_requests": 32},
    max_ongoing_requests=256,
    health_check_period_s=10,
    graceful_shutdown_timeout_s=60,
)
@serve.ingress(Forward())
class Blankfill:
    """A replica. folder: of the model. keys: file with API keys, one on each line; None for a cluster of one's own."""

    def __init__(self, folder: str, keys: str | None = None) -> None:
        lines = Path(keys).read_text(encoding="utf-8").split() if keys else []
        host = "0.0.0.0" if lines else "127.0.0.1"  # without keys, Ray's proxy must be on the client's machine
        settings = ServeSettings(host=host, api_keys=tuple(lines))
        settings.check()
        sources = sources_of(folder, adapter=None, dtype="auto", device="auto", threads=CPUS)
        self.state = ServerState(ModelSet({source.name: source for source in sources}, settings), settings)
        self.state.models.open_all()
        self.state.phase = Phase.READY
        self.server = create_app(self.state)

    async def reconfigure(self, config: dict[str, Any] | None) -> None:
        """Open the model again where its files have changed: `serve deploy` with another `user_config`."""
        await asyncio.to_thread(self.state.models.reload)

    def check_health(self) -> None:
        """Raise when the thread of a model has died, so that Ray starts another replica."""
        if not all(model.engine.alive for model in self.state.models):
            raise RuntimeError("the thread of a model has ended")


app = Blankfill.bind(os.environ.get("MODEL", "runs/bert"), os.environ.get("KEYS"))
