"""Running a server: load the models, listen, and end in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from blankfill.errors import UserError
from blankfill.serving.served import ModelSet, ModelSource
from blankfill.serving.settings import ServeSettings
from blankfill.serving.state import Phase, ServerState
from blankfill.system.console import say


def serve(sources: Sequence[ModelSource], settings: ServeSettings) -> None:
    """Serve models over HTTP until a signal ends the server.

    Raises ConfigError for settings that contradict one another, and UserError for a model that cannot be opened or an
    address that cannot be listened on.
    """
    settings.check()
    names = [source.name for source in sources]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two models have the name {repeated}; give them different names: NAME=DIR")
    import uvicorn

    from blankfill.serving.app import create_app

    models = ModelSet({source.name: source for source in sources}, settings)
    state = ServerState(models, settings)
    models.open_all()
    state.phase = Phase.READY
    config = uvicorn.Config(create_app(state), settings.host, settings.port, log_config=None, access_log=False)
    say(f"listening on http://{settings.host}:{settings.port}")
    try:
        asyncio.run(uvicorn.Server(config).serve())
    finally:
        models.close(settings.shutdown_timeout)
