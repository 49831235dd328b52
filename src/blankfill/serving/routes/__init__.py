"""The routes, a file for each group; `ROUTERS` lists them in the order of the description at /docs."""

from __future__ import annotations

from blankfill.serving.routes import (
    chat,
    completions,
    embeddings,
    fill,
    health,
    inspect,
    metrics,
    models,
    page,
    reference,
    rerank,
    score,
    tasks,
    tokens,
)

ROUTERS = [
    health.router, metrics.router, models.router, completions.router, chat.router, embeddings.router, rerank.router,
    fill.router, tasks.router, score.router, tokens.router, inspect.router, page.router, reference.router,
]  # fmt: skip
