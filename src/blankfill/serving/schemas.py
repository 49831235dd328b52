"""What the bodies of requests have in common: unknown fields are errors, and lists of texts have a limit."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from blankfill.serving.errors import ApiError, too_large
from blankfill.serving.settings import ServeSettings
from blankfill.system.reading import LONE_SURROGATE


class Body(BaseModel):
    """The body of a request. A field that is not in the description is an error, and so is a value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class WholeBody(Body):
    """A body whose texts have no half of a surrogate pair anywhere: JSON can write one, and no answer can have it."""

    @model_validator(mode="before")
    @classmethod
    def _check_characters(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, dict) else ():
            left = [name, value]
            while left:
                part = left.pop()
                if isinstance(part, dict):
                    left += [*part, *part.values()]
                elif isinstance(part, list):
                    left += part
                elif isinstance(part, str) and not part.isascii() and LONE_SURROGATE.search(part):
                    raise PydanticCustomError(
                        "text", "{name} has half of a surrogate pair, which is no character; leave it out",
                        {"name": name[:100].encode("utf-8", "backslashreplace").decode()},
                    )  # fmt: skip
        return given


ModelName = Annotated[str | None, Field(description="Name of the model; the first one that can do this, if left out.")]
Texts = Annotated[str | list[str], Field(description="A text, or a list of texts.")]


def listed(texts: str | list[str], settings: ServeSettings, param: str = "input") -> list[str]:
    """Return the texts of a request as a list. Raises ApiError: 413 for too many, 422 for none."""
    result = [texts] if isinstance(texts, str) else texts
    if not result:
        raise ApiError(422, f"{param}: the list is empty; give at least one text", "invalid_request", param)
    if len(result) > settings.max_texts:
        raise too_large(
            f"{param}: {len(result):,} texts, and a request may have {settings.max_texts:,}; send several requests",
            param,
        )
    return result
