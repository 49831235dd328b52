"""The routes, a file for each group; `ROUTERS` lists them in the order of the description at /docs."""

from __future__ import annotations

from blankfill.serving.routes import embeddings, fill, health, inspect, models, page, rerank, score, tasks, tokens

ROUTERS = [
    health.router, models.router, fill.router, embeddings.router, rerank.router, tasks.router, score.router,
    tokens.router, inspect.router, page.router,
]  # fmt: skip
