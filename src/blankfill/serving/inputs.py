"""Texts of requests: checked, encoded once, and counted against the limits before any work is done.

Short texts are encoded in the event loop, where it takes less time than a change of threads; long ones in threads of
their own, so that a text of a megabyte does not hold up other requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from blankfill.errors import UserError
from blankfill.serving.errors import ApiError, too_large
from blankfill.serving.settings import ServeSettings
from blankfill.system.reading import LONE_SURROGATE

T = TypeVar("T")

SHORT = 8192
"""Characters up to which texts are encoded in the event loop, and numbers up to which vectors are written there."""
TEXT = {"type": "string", "minLength": 1}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


def check_text(value: Any, what: str) -> str:
    """Return a text. Raises PydanticCustomError for anything else, an empty text, and half of a surrogate pair.

    what: names the value in a sentence.
    """
    if type(value) is not str:
        raise PydanticCustomError("text", "{what} is {kind}; give a text", {"what": what, "kind": kind_of(value)})
    if not any(map(str.isprintable, value.strip())):
        raise PydanticCustomError("text", "{what} is empty; give a text with words", {"what": what})
    if not value.isascii() and LONE_SURROGATE.search(value):
        raise PydanticCustomError(
            "text", "{what} has half of a surrogate pair, which is no character; leave it out", {"what": what}
        )
    return value


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _texts(value: Any) -> list[str]:
    if type(value) is not list:
        return [check_text(value, "the value" if type(value) is not str else "the text")]
    if not value:
        raise PydanticCustomError("texts", "the list is empty; give at least one text")
    return [check_text(text, f"value {number}") for number, text in enumerate(value)]


def _texts_or_ids(value: Any) -> list[str] | list[list[int]]:
    if type(value) is list and value and (type(value[0]) is int or type(value[0]) is list):
        rows = [value] if type(value[0]) is int else value
        for number, row in enumerate(rows):
            if type(row) is not list:
                raise PydanticCustomError(
                    "ids", "value {number} is {kind} among lists of token ids; give all texts alike",
                    {"number": number, "kind": kind_of(row)},
                )  # fmt: skip
            if not row:
                raise PydanticCustomError("ids", "value {number} has no token; leave it out", {"number": number})
            if not all(type(id) is int for id in row):
                bad = next(id for id in row if type(id) is not int)
                raise PydanticCustomError("ids", "{kind} among token ids; give numbers", {"kind": kind_of(bad)})
        return rows
    return _texts(value)


Texts = Annotated[
    list[str],
    PlainValidator(_texts),
    WithJsonSchema(
        {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1}], "description": "A text, or a list of texts."}
    ),
]
"""A text or a list of texts, as a list; a mistake is one sentence."""
TextsOrIds = Annotated[
    list[str] | list[list[int]],
    PlainValidator(_texts_or_ids),
    WithJsonSchema(
        {
            "anyOf": [
                TEXT, {"type": "array", "items": TEXT, "minItems": 1}, IDS,
                {"type": "array", "items": IDS, "minItems": 1},
            ],
            "description": "A text, a list of texts, the token ids of a text, or a list of those.",
        }
    ),
]  # fmt: skip
"""Texts or lists of token ids, as OpenAI takes them."""


def check_count(count: int, settings: ServeSettings, param: str = "input") -> None:
    """Raise ApiError (413) for more texts than a request may have."""
    if count > settings.max_texts:
        raise too_large(
            f"{param}: {count:,} texts, and a request may have {settings.max_texts:,}; send several requests", param
        )


def check_tokens(sizes: Sequence[int], settings: ServeSettings, param: str = "input") -> int:
    """Return the number of tokens of all texts. Raises ApiError (413) for more than a request may have."""
    total = sum(sizes)
    if total > settings.max_tokens:
        raise too_large(
            f"{param}: {total:,} tokens, and a request may have {settings.max_tokens:,}; send several requests", param
        )
    return total


def name_of(number: int, count: int, param: str = "input") -> str:
    """Return how a sentence names a text, such as `input.3`; the only text of a request is `input`."""
    return param if count == 1 else f"{param}.{number}"


def check_room(sizes: Sequence[int], room: int, param: str = "input") -> None:
    """Raise ApiError (422) that names the first text with more tokens than the model reads."""
    for number, size in enumerate(sizes):
        if size > room:
            name = name_of(number, len(sizes), param)
            raise ApiError(
                422,
                f"{name}: the text has {size:,} tokens, and the model reads {room:,}; shorten it, or give "
                "truncate: true to leave out its end", "text_too_long", name,
            )  # fmt: skip


def no_token(number: int, count: int, param: str = "input") -> ApiError:
    """Return the error of a text in which the tokenizer finds no token."""
    name = name_of(number, count, param)
    return ApiError(422, f"{name}: the tokenizer finds no token in the text; leave it out", "invalid_request", name)


def in_place(error: UserError, number: int, count: int, param: str = "input") -> UserError:
    """Return the error of a text with the name of the text before it, where a request has several."""
    return error if count == 1 else UserError(f"{name_of(number, count, param)}: {error.template}")


async def aside(work: Callable[[], T], texts: Iterable[Sized]) -> T:
    """Return what a function makes of texts, ids or vectors: at once for short ones, else in another thread."""
    if sum(map(len, texts)) <= SHORT:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_pool(), work)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, "texts")
