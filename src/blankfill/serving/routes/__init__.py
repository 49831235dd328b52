"""The routes, a file for each group; `ROUTERS` lists them in the order of the description at /docs."""

from __future__ import annotations

from blankfill.serving.routes import fill, health, inspect, models, page

ROUTERS = [health.router, models.router, fill.router, inspect.router, page.router]
