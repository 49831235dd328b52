"""What surrounds every request: its number, headers that keep browsers careful, its line in the log, its place in the
numbers.

A line has no text of a request or an answer, unless the server was started so:

    POST /v1/fill 200 12 ms model=bert read=15 written=0 id=req-…
"""

from __future__ import annotations

import logging
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blankfill.serving.requests import RunningRequest, current
from blankfill.serving.state import Phase, ServerState
from blankfill.system.console import visible

log = logging.getLogger("blankfill.serving.access")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""A number of a request that is taken over from its client."""
METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Headers of every answer that does not set them itself."""
RAW_HEADERS = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in HEADERS.items()]
WATCHED = frozenset({"/health", "/metrics"})
"""Paths that programs read every few seconds, which are not in the log."""
LONGEST_PATH = 200
"""Characters of a path in the log."""
LONGEST_TEXT = 2000
"""Characters of a request's body in the log, where texts are let in."""


class Access:
    """Gives requests a number and answers their headers, and writes down how each ended."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        request, status = RunningRequest(count=self.state.metrics.tokens), 0
        for name, value in scope["headers"]:
            if name == b"x-request-id" and REQUEST_ID.fullmatch(given := value.decode("latin-1")):
                request.id = given

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                more = [pair for pair in RAW_HEADERS if pair[0] not in given]
                more.append((b"x-request-id", request.id.encode("ascii")))
                if self.state.phase is Phase.DRAINING and b"connection" not in given:
                    more.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        token = current.set(request)
        try:
            await self.app(scope, receive, noted)
        finally:
            current.reset(token)
            self._ended(scope, request, status, time.perf_counter() - begin)

    def _ended(self, scope: Scope, request: RunningRequest, status: int, seconds: float) -> None:
        if request.why is not None and (status == 0 or not request.answered):
            status = request.why.status
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "other")
        self.state.metrics.ended(route, method, status, seconds)
        level = logging.DEBUG if scope["path"] in WATCHED else logging.INFO
        if not log.isEnabledFor(level):
            return
        path = in_line(scope["path"])
        path = path if len(path) <= LONGEST_PATH else f"{path[:LONGEST_PATH]}…"
        line = f"{method} {path} {status} {seconds * 1000:.0f} ms"
        if request.model:
            line += f" model={request.model} read={request.read} written={request.written}"
        line += f" id={request.id}"
        if self.state.settings.log_texts and request.body:
            text = in_line(request.body[: 4 * LONGEST_TEXT].decode("utf-8", "replace"))
            line += f" body={text[:LONGEST_TEXT]}{'…' if len(text) > LONGEST_TEXT else ''}"
        log.log(level, "%s", line)


def in_line(text: str) -> str:
    """Return a text as part of a line, which it can neither end nor colour."""
    return visible(text).replace("\n", "\\n")
