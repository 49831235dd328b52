"""Errors of the API: a status, one sentence, and a code that programs can test, in the shape that OpenAI's clients
read.

A `UserError` of the code below is a request's mistake (400 with its sentence); any other exception is ours (500, with
no traceback for the client).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A request that is answered with an error.

    status: of HTTP. message: one sentence with the remedy. code: for programs. param: the field of the request.
    retry_after: seconds after which the client may try again.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def response(self) -> JSONResponse:
        """Return the error as a response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse(self.to_json(), self.status, headers)

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        kind = INVALID if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy(message: str, retry_after: int = 1) -> ApiError:
    """Return the error of a request for which there is no room now."""
    return ApiError(429, message, "too_many_requests", retry_after=retry_after)


def too_large(message: str, param: str | None = None) -> ApiError:
    """Return the error of a request beyond a limit of size."""
    return ApiError(413, message, "request_too_large", param)


def invalid(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the error of a body that is not as the description says. problems: as pydantic lists them."""
    sentences = [f"{_place(problem['loc'])}: {_lowered(str(problem['msg']))}" for problem in problems[:5]]
    if len(problems) > 5:
        sentences.append(f"and {len(problems) - 5} more")
    return ApiError(422, "; ".join(sentences), "invalid_request", _place(problems[0]["loc"]) if problems else None)


def _place(location: Sequence[str | int]) -> str:
    """Return the place of a field, such as `messages.0.role`."""
    return ".".join(str(part) for part in location if part != "body") or "body"


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
