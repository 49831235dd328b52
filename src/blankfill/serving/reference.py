"""The description of the API (OpenAPI, at /openapi.json), as `/docs` shows it: names, examples, errors, the key."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from blankfill.serving.auth import OPEN_PATHS

ERRORS = {
    "400": "The body is not JSON, the text lacks what the model needs, or the model cannot do this.",
    "401": "The API key is missing or wrong.",
    "404": "There is no such model.",
    "413": "The body or the list of texts is larger than the server takes.",
    "415": "The body is not JSON by its Content-Type.",
    "422": "A field is missing, unknown or out of its range, or a text is longer than the model reads.",
    "429": "Too many texts wait for the model; `Retry-After` says when to try again.",
    "503": "The server loads its models or ends; `Retry-After` says when to try again.",
    "504": "The request took longer than the server allows.",
}
"""What the errors of a request with a body mean, by status."""
EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "The old boat", "max_tokens": 16},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Where is the old boat?"}], "max_tokens": 16},
    "/v1/embeddings": {"input": ["The old boat sleeps.", "The red lamp sings."]},
    "/rerank": {"query": "boats at sea", "documents": ["The old boat sleeps.", "The red lamp sings."], "top_n": 1},
    "/v1/fill": {"input": "The old [MASK] sleeps near the sea.", "top_k": 3},
    "/v1/classify": {"input": "The old boat sleeps."},
    "/v1/tag": {"input": "The old boat sleeps near Bergen."},
    "/v1/answer": {"input": {"question": "Where does the boat sleep?", "context": "The old boat sleeps near the sea."}},
    "/v1/score": {"input": "The old boat sleeps near the sea."},
    "/v1/inspect": {"input": "The old [MASK] sleeps near the sea.", "use": "fill"},
    "/tokenize": {"input": "The old boat sleeps."},
    "/detokenize": {"ids": [11, 12, 13]},
}
"""A body for each path that takes one."""
EXAMPLES |= dict.fromkeys(("/v1/rerank", "/v2/rerank"), EXAMPLES["/rerank"])
ERROR_SCHEMA = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "One sentence: what is wrong, and the remedy."},
                "type": {"type": "string", "enum": ["invalid_request_error", "server_error"]},
                "param": {"type": ["string", "null"], "description": "The field of the request."},
                "code": {"type": "string", "description": "A word for programs, such as too_many_requests."},
            },
        }
    },
}
"""The body of every error."""


def operation_id(path: str, paths: Collection[str] = ()) -> str:
    """Return the name of a path: `chat_completions` for /v1/chat/completions; with its version where `paths` has the
    same path without one."""
    short = path.removeprefix("/v1")
    return re.sub(r"\W+", "_", path if short in paths else short).strip("_")


def described_api(app: FastAPI, key_needed: bool) -> None:
    """Let an application describe itself with examples, errors and its key."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = description(app, key_needed)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def description(app: FastAPI, key_needed: bool) -> dict[str, Any]:
    """Return the description of an application."""
    schema = get_openapi(title=app.title, version=app.version, summary="Language models of your own", routes=app.routes)
    parts = schema.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas["Error"] = ERROR_SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if key_needed:
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            operation["operationId"] = operation_id(path, schema["paths"])
            _complete(path, operation, key_needed and path not in OPEN_PATHS)
    return schema


def _complete(path: str, operation: dict[str, Any], key_needed: bool) -> None:
    """Add to a path of the description its example, its errors and its key."""
    body = operation.get("requestBody")
    statuses = list(ERRORS) if body else ["503"] * (path.startswith("/v1") or path == "/health")
    if "{" in path:
        statuses.append("404")
        operation["responses"].pop("422", None)  # any text is a name
    if key_needed:
        operation["security"] = [{"key": []}]
        statuses.append("401")
    if body and path in EXAMPLES:
        body["content"]["application/json"]["example"] = EXAMPLES[path]
    answers = operation["responses"]
    for status in sorted(set(statuses)):
        if status == "401" and not key_needed:
            continue
        answers[status] = {
            "description": ERRORS[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
