"""Errors of the API: a status, one sentence, and a code that programs can test, in the shape that OpenAI's clients
read.

A `UserError` of the code below is a request's mistake (400 with its sentence); any other exception is ours (500, with
no traceback for the client).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from blankfill.errors import LONGEST_LINE

LONGEST_NAME = 100
"""Characters of the name of a field in a message; a request may have longer ones."""
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
        param = None if self.param is None else shown(self.param)
        return {"error": {"message": shown(self.message), "type": kind, "param": param, "code": self.code}}


def shown(text: str) -> str:
    """Return a text that an answer can have: without its middle when it is long, and without half characters."""
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE // 2]} … {text[-LONGEST_LINE // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def busy(message: str, retry_after: int = 1) -> ApiError:
    """Return the error of a request for which there is no room now."""
    return ApiError(429, message, "too_many_requests", retry_after=retry_after)


def too_large(message: str, param: str | None = None) -> ApiError:
    """Return the error of a request beyond a limit of size."""
    return ApiError(413, message, "request_too_large", param)


def unreadable(error: BaseException | None) -> ApiError:
    """Return the error of a body that cannot be read as JSON. error: what was raised, where it is known."""
    why = "it is not JSON"
    if isinstance(error, RecursionError):
        why = "it is nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        why = "it is not UTF-8"
    elif isinstance(error, ValueError) and "digit" in str(error):
        why = "it has a number of too many digits"
    return ApiError(400, f"the body cannot be read: {why}; send JSON in UTF-8", "invalid_json")


def invalid(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the error of a body that is not as the description says. problems: as pydantic lists them."""
    by_place: dict[str, list[str]] = {}  # a value of no known form has a problem for each form
    for problem in problems:
        sentences = by_place.setdefault(_place(problem["loc"]), [])
        if (sentence := _sentence(problem)) not in sentences:
            sentences.append(sentence)
    lines = [f"{place}: {', or '.join(sentences)}" for place, sentences in by_place.items()]
    shown_lines = lines[:5] + ([f"and {len(lines) - 5} more"] if len(lines) > 5 else [])
    return ApiError(422, "; ".join(shown_lines), "invalid_request", next(iter(by_place), None))


def _place(location: Sequence[str | int]) -> str:
    """Return the place of a field, such as `messages.0.role`, without the names of the forms that a value can have."""
    parts = [str(part) for part in location if part != "body" and not _FORM.fullmatch(str(part))]
    place = ".".join(parts) or "body"
    return place if len(place) <= LONGEST_NAME else f"{place[:LONGEST_NAME]}…"


def _sentence(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, and the remedy."""
    kind, values = str(problem["type"]), problem.get("ctx") or {}
    if kind == "missing" and list(problem["loc"]) == ["body"]:
        return "it is empty; send a JSON object"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**values)
    message = str(problem["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


_FORM = re.compile(r"str|int|(list|dict)\[.*\]", re.DOTALL)
"""A part of a place that pydantic adds for a form of a value; no field has such a name."""
_SENTENCES = {
    "missing": "it is missing; give it",
    "extra_forbidden": "there is no such field; leave it out",
    "string_type": "give a text",
    "bool_type": "give true or false",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "list_type": "give a list",
    "dict_type": "give an object",
    "model_type": "give an object",
    "model_attributes_type": "give a JSON object",
    "literal_error": "give {expected}",
    "greater_than_equal": "give at least {ge}",
    "greater_than": "give more than {gt}",
    "less_than_equal": "give at most {le}",
    "less_than": "give less than {lt}",
    "too_short": "give at least {min_length}",
    "too_long": "give at most {max_length}",
    "string_too_short": "give at least {min_length} characters",
    "string_too_long": "give at most {max_length} characters",
}
"""What is wrong with a value by pydantic's name for it: the remedy says it."""
