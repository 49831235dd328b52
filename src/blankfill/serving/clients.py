"""Noticing that a client goes away, and streams of events to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from blankfill.errors import UserError, in_keys
from blankfill.serving.errors import ApiError

Result = TypeVar("Result")

log = logging.getLogger("blankfill.serving")

DONE = b"data: [DONE]\n\n"
"""The last event of a stream."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Headers that keep proxies from collecting events."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of some work, and cancel the work when the client goes away before.

    Raises ApiError (499) then, for the log: nobody reads the answer.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client went away", "client_closed_request")
        return task.result()
    finally:
        await _end(task, gone)


async def _gone(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel what still runs, and wait for its end."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


def event(value: Any) -> bytes:
    """Return an event whose data is JSON."""
    return b"data: " + _encode(value).encode() + b"\n\n"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class EventStream(Response):
    """A stream of events (server-sent events). It ends when the client goes away, also while there is nothing to send.

    events: whole events, as bytes. An error is sent as an event with the object of the error, and ends the stream.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(None, 200, HEADERS)
        del self.headers["content-length"]
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(sending, gone)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for data in self.events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except (ApiError, UserError) as error:
            await send({"type": "http.response.body", "body": event(_error(error)), "more_body": True})
        except OSError:
            raise  # the connection
        except Exception as error:
            log.error("a stream failed", exc_info=error)
            await send({"type": "http.response.body", "body": event(_error(error)), "more_body": True})
        finally:
            await self.events.aclose()  # type: ignore[attr-defined]
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _error(error: Exception) -> dict[str, Any]:
    if isinstance(error, ApiError):
        return error.to_json()
    if isinstance(error, UserError):
        return ApiError(400, in_keys(error.sentence), "invalid_request").to_json()
    return ApiError(500, "the server failed; its log says why", "internal_error").to_json()
