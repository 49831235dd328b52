"""The routes, a file for each group; `ROUTERS` lists them in the order of the description at /docs."""

from __future__ import annotations

from blankfill.serving.routes import chat, completions, fill, health, models, page

ROUTERS = [health.router, models.router, completions.router, chat.router, fill.router, page.router]
