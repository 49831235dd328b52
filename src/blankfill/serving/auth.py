"""Who may use the server: API keys, and the host names under which it answers.

Keys are compared by their checksums, in constant time, with every key of the server, so that the time of an answer says
nothing about them, nor about their length. A server without keys listens on this machine alone, and a web page
elsewhere could still reach it under a name that its owner points here (DNS rebinding); so such a server answers only
under names of this machine.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from blankfill.serving.errors import ApiError

OPEN_PATHS = frozenset({"/", "/health", "/docs", "/openapi.json"})
"""Paths that need no key: the pages, which hold nothing of the models, and whether the server takes requests."""
OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""Host names of this machine, as the header Host has them."""


class Keys:
    """Refuses requests without one of the API keys (401)."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self.keys = [sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self.holds(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        error = ApiError(
            401, "the API key is missing or wrong; send it in the header Authorization: Bearer KEY", "invalid_api_key"
        )
        response = error.response()
        response.headers["WWW-Authenticate"] = 'Bearer realm="blankfill"'
        await response(scope, receive, send)

    def holds(self, headers: Headers) -> bool:
        """Return whether a request has a key of the server."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = sha256(given.strip().encode("latin-1")).digest()
        matches = False
        for known in self.keys:
            matches |= hmac.compare_digest(known, key)
        return matches and scheme.lower() == "bearer"


class Hosts:
    """Refuses requests under host names that are not those of the server (421)."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self.app = app
        self.names = frozenset(name.lower().rstrip(".") for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = host_of(Headers(scope=scope).get("host", ""))
            if name not in self.names:
                error = ApiError(
                    421, "the server does not answer under this host name; give it allowed_hosts to let it",
                    "unknown_host",
                )  # fmt: skip
                await error.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)


def host_of(header: str) -> str:
    """Return the name in a header Host, without its port, in small letters."""
    name = header.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")
