"""Connections: how long the head of a request may be, and how long it may take.

uvicorn's parser of choice (httptools) waits for the end of a head for ever and keeps all of it meanwhile. Here a
connection is closed whose head is too long or late; a connection that waits for its next request is closed by uvicorn.
"""

from __future__ import annotations

import asyncio
from typing import Any

HEAD_BYTES = 65536
"""Largest size of the first line and the headers of a request."""
HEAD_SECONDS = 30.0
"""Seconds within which the first line and the headers of a request must arrive."""
REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 28\r\nconnection: close\r\n\r\nThe headers are too large.\r\n"
)


def protocol() -> Any:
    """Return the class of connections for uvicorn; its choice of parser where httptools is not installed, since the
    other parser has a limit of its own."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return "auto"

    class Connection(HttpToolsProtocol):
        """A connection with limits for the heads of its requests."""

        head_bytes = 0
        in_head = True
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._begin_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end_head()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.in_head:
                self.head_bytes += len(data)
            super().data_received(data)
            if self.in_head and self.head_bytes > HEAD_BYTES and not self.transport.is_closing():
                self.transport.write(REFUSAL)
                self.transport.close()

        def on_message_begin(self) -> None:
            if not self.in_head:
                self._begin_head()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._end_head()
            super().on_headers_complete()

        def _begin_head(self) -> None:
            self.in_head, self.head_bytes = True, 0
            self.timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def _end_head(self) -> None:
            self.in_head = False
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Connection
