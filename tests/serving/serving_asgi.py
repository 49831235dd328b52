"""Calls of an application without a server and without a client, message by message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Pairs = Sequence[tuple[bytes, bytes]]
JSON: Pairs = [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")]


@dataclass
class Answer:
    """What an application sent. complete: whether the last message was sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    def json(self) -> Any:
        return json.loads(self.body)


async def call(
    app: Any, path: str, parts: Sequence[bytes] = (b"",), method: str = "POST", headers: Pairs = JSON,
    ends: bool = True, gone: asyncio.Event | None = None, reads: bool = True,
) -> Answer:  # fmt: skip
    """Call an application. parts: of the body. ends: whether the body has an end. gone: set when the client goes.
    reads: whether the client reads more than the head and the first part of an answer."""
    answer, waiting = Answer(), list(parts)
    leaves = gone or asyncio.Event()

    async def receive() -> dict[str, Any]:
        if waiting:
            part = waiting.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(waiting) or not ends}
        await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            if answer.body and not reads:
                await asyncio.Event().wait()
            answer.body += message.get("body", b"")
            answer.complete = not message.get("more_body", False)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": list(headers), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": {},
    }  # fmt: skip
    await app(scope, receive, send)
    return answer
