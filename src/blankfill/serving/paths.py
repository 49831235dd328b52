"""The routes of an application, found by path in one step.

FastAPI asks one included router after another whether it has a path, each of them by patterns, which takes longer than
reading a short body. Most paths have no parameters: `KnownPaths` finds the router of such a path and method in a table,
and leaves everything else (parameters, 404, 405) to the routes behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

KEY = "blankfill.route"
"""Where the scope of a request has the route that was found."""


class KnownPaths(BaseRoute):
    """A route that hands requests of known paths to their routes. table: by path and method."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], BaseRoute] = {}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the table has the path and the method of a request."""
        if scope["type"] != "http" or scope.get("root_path"):
            return Match.NONE, {}
        route = self.table.get((scope["path"], scope["method"]))
        if route is None:
            return Match.NONE, {}
        more: Scope = {}
        if isinstance(route, Route):  # not a router, which looks for its own route
            more = route.matches(scope)[1]
        return Match.FULL, {**more, KEY: route}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand over a request that `matches` has found."""
        route: BaseRoute = scope[KEY]
        await route.handle(scope, receive, send)


def include_all(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Include routers in an application, with a table of their paths in front."""
    known = KnownPaths()
    app.router.routes.insert(0, known)
    for router in routers:
        first = len(app.router.routes)
        app.include_router(router)
        included = app.router.routes[first:]
        for route in router.routes:
            if not isinstance(route, Route) or "{" in route.path:
                continue
            for method in route.methods or ():
                scope = {"type": "http", "path": route.path, "method": method, "headers": []}
                owner = next((it for it in included if it.matches(dict(scope))[0] is Match.FULL), None)
                if owner is not None:
                    known.table.setdefault((route.path, method), owner)
