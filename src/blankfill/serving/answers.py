"""Answers of the endpoints that return a list: their bytes are made here, once, without a model of the response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from blankfill.serving.requests import counted
from blankfill.serving.served import ServedModel


def answer(value: Any) -> Response:
    """Return a JSON value as a response."""
    body = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(), media_type="application/json")


def rows_of(served: ServedModel, rows: Sequence[dict[str, Any]], tokens: int, cut: Sequence[bool] = ()) -> Response:
    """Return the answer with a row for each text. tokens: read from the request. cut: whether each text was cut."""
    data: list[dict[str, Any]] = []
    for index, row in enumerate(rows):
        data.append({"index": index, **row})
        if cut and cut[index]:
            data[-1]["truncated"] = True
    return answer({"object": "list", "model": served.name, "data": data, "usage": usage(tokens)})


def usage(tokens: int) -> dict[str, int]:
    """Return the number of tokens of a request, as OpenAI counts them."""
    counted(tokens)
    return {"prompt_tokens": tokens, "total_tokens": tokens}
