"""What a request may take: its size, its time, and whether the server takes requests now.

`Limits` reads the body of a request before its handler starts, so that a body beyond the limit costs no more memory
than the limit, and a client that sends slowly holds no handler. While the handler runs, the connection is watched:
when the client goes away, when the time is over or when the server ends, the handler is cancelled, and with it the
texts that wait for a model and the rows that it writes. This holds for streams too: an answer that has begun as
server-sent events ends with an event that has the error.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from email.message import Message as MimeMessage

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blankfill.serving.errors import ApiError, too_large
from blankfill.serving.requests import GONE, RunningRequest, current
from blankfill.serving.state import Phase, ServerState

log = logging.getLogger("blankfill.serving")

ALWAYS = frozenset({"/", "/health", "/metrics", "/docs", "/openapi.json"})
"""Paths that are answered while the server loads its models or ends."""
LINGER_SECONDS = 2.0
"""How long the rest of a body that is too large is read and dropped, so that the client sees the answer; and how long
the error of a request that ended early may take to be sent."""
LONGEST_TYPE = 200
"""Characters of the header Content-Type."""
RETRY_LOADING, RETRY_DRAINING = 2, 5
"""Seconds after which a client may try again while the server loads, or ends and is perhaps started again."""


class GoneError(Exception):
    """The client went away before its request was complete."""


class Limits:
    """Reads the body of each request, runs its handler, and ends it early where there is a reason."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = current.get() or RunningRequest()
        answer = _Answer(send, request)
        if scope["path"] not in ALWAYS and (error := refused(self.state.phase)):
            await answer.error(scope, error)
            return
        request.task = asyncio.current_task()
        seconds = self.state.settings.request_timeout
        timer = asyncio.get_running_loop().call_later(seconds, lambda: request.end(late(seconds, request.reading)))
        self.state.began(request)
        try:
            await self._run(scope, receive, request, answer)
        except asyncio.CancelledError:
            if request.why is None or request.task is None:
                raise
            request.task.uncancel()
            if request.why is not GONE:
                with suppress(TimeoutError):  # a client that does not read what is sent holds no model
                    async with asyncio.timeout(LINGER_SECONDS):
                        await answer.error(scope, request.why)
        finally:
            timer.cancel()
            self.state.ended(request)

    async def _run(self, scope: Scope, receive: Receive, request: RunningRequest, answer: _Answer) -> None:
        headers = Headers(scope=scope)
        try:
            request.body = body = await self._body(headers, receive)
            request.reading = False
            check_type(scope["method"], headers, body)
        except ApiError as error:
            await answer.error(scope, error, receive if error.status == 413 else None)
            return
        except GoneError:
            request.why = GONE
            return
        given, gone = False, asyncio.Event()

        async def replayed() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            request.end(GONE)

        watcher = asyncio.create_task(watch())
        try:
            await self.app(scope, replayed, answer.send)
        except Exception as error:
            log.error("%s %s failed", scope["method"], scope["path"][:200], exc_info=error)
            await answer.error(scope, ApiError(500, "the server failed; its log says why", "internal_error"))
        finally:
            watcher.cancel()

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Return the body of a request. Raises ApiError for one that is too large, GoneError without its end."""
        most = self.state.settings.max_body_bytes
        length = headers.get("content-length", "")
        if length.isascii() and length.isdecimal() and int(length[:20]) > most:
            raise body_too_large(most)
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise body_too_large(most)
            if not message.get("more_body", False):
                return b"".join(parts)


class _Answer:
    """The answer of a request: sends its messages, and puts an error in its place or behind what was sent."""

    def __init__(self, send: Send, request: RunningRequest) -> None:
        self._send, self.request = send, request
        self.started = self.streams = False

    async def send(self, message: Message) -> None:
        """Send a message of the answer."""
        if message["type"] == "http.response.start":
            self.started = True
            self.streams = "text/event-stream" in Headers(raw=message["headers"]).get("content-type", "")
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.request.answered = True
        await self._send(message)

    async def error(self, scope: Scope, error: ApiError, rest: Receive | None = None) -> None:
        """Send an error. rest: where the rest of the body comes from, which is read and dropped for a while."""
        if self.request.answered:
            return
        if self.started:
            if self.streams:  # otherwise the connection is closed, since the answer is not complete
                event = f"data: {json.dumps(error.to_json())}\n\n".encode()
                await self.send({"type": "http.response.body", "body": event, "more_body": False})
            return
        response = error.response()
        if error.status in (408, 413, 503):
            response.headers["Connection"] = "close"
        start: Message = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        await self.send(start)
        await self.send({"type": "http.response.body", "body": response.body, "more_body": rest is not None})
        if rest is not None:
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    while (await rest()).get("more_body", False):
                        pass
            except TimeoutError:
                pass
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def refused(phase: Phase) -> ApiError | None:
    """Return the error of a request while the server does not take any; None while it does."""
    if phase is Phase.LOADING:
        return ApiError(503, "the server loads its models; try again soon", "loading", retry_after=RETRY_LOADING)
    if phase is Phase.DRAINING:
        return ApiError(503, "the server ends; try again later", "draining", retry_after=RETRY_DRAINING)
    return None


def late(seconds: float, reading: bool) -> ApiError:
    """Return the error of a request whose time is over. reading: whether its body has not arrived in full."""
    if reading:
        return ApiError(408, f"the body did not arrive within {seconds:g} seconds; send less at a time", "timeout")
    return ApiError(504, f"the request took longer than {seconds:g} seconds; send less at a time", "timeout")


def body_too_large(most: int) -> ApiError:
    """Return the error of a body beyond the limit."""
    return too_large(f"the body is larger than {most:,} bytes; send fewer texts at a time")


def check_type(method: str, headers: Headers, body: bytes) -> None:
    """Raise ApiError (415) for a body that is not JSON in UTF-8 by its headers."""
    if not body or method not in ("POST", "PUT", "PATCH"):
        return
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(415, "the body is compressed; send it without Content-Encoding", "unsupported_media_type")
    given = headers.get("content-type", "")
    if given == "application/json":  # of almost all requests, which need no parser
        return
    mime = MimeMessage()
    mime["content-type"] = given if len(given) <= LONGEST_TYPE else ""  # long ones take seconds to read
    kind = mime.get_content_subtype() if mime["content-type"] else ""
    if mime.get_content_maintype() != "application" or not (kind == "json" or kind.endswith("+json")):
        raise ApiError(
            415, "the body must be JSON; send it with the header Content-Type: application/json",
            "unsupported_media_type",
        )  # fmt: skip
    charset = mime.get_param("charset", "utf-8")
    if not isinstance(charset, str) or charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise ApiError(415, "the body must be JSON in UTF-8; send it in this encoding", "unsupported_media_type")
