"""Streams of events to clients (server-sent events)."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from blankfill.errors import UserError, in_keys
from blankfill.serving.errors import ApiError

log = logging.getLogger("blankfill.serving")

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers that keep proxies from collecting events."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def event(value: Any) -> bytes:
    """Return an event whose data is JSON."""
    return b"data: " + _encode(value).encode() + b"\n\n"


class EventStream(Response):
    """A stream of events, which ends when its task is cancelled, as it is when the client goes away.

    events: whole events, as bytes. An error is sent as an event with the object of the error, and ends the stream.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(None, 200, HEADERS)
        del self.headers["content-length"]
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for data in self.events:
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except OSError:  # of the connection
            raise
        except Exception as error:
            await send({"type": "http.response.body", "body": event(_described(error)), "more_body": True})
        finally:
            await self.events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _described(error: Exception) -> dict[str, Any]:
    """Return the object of an error."""
    if isinstance(error, ApiError):
        return error.to_json()
    if isinstance(error, UserError):
        return ApiError(400, in_keys(error.sentence), "invalid_request").to_json()
    log.error("a stream failed", exc_info=error)
    return ApiError(500, "the server failed; its log says why", "internal_error").to_json()
