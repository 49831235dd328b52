"""Filling blanks, with any family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from blankfill.errors import UserError
from blankfill.generation.blanks import FillResult
from blankfill.inference import Model
from blankfill.serving.abilities import Ability
from blankfill.serving.schemas import Body, ModelName, Texts, listed
from blankfill.serving.state import State

router = APIRouter(prefix="/v1", tags=["blanks"])


class FillRequest(Body):
    """A text with blanks, or several."""

    model: ModelName = None
    input: Texts
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    lengths: str | None = None
    length_penalty: Annotated[float, Field(ge=0, le=100)] = 0.0
    allow_unknown: bool = False


@dataclass(frozen=True)
class FillItem:
    """A text to fill, with its options."""

    text: str
    options: tuple[tuple[str, Any], ...]


class FillKind:
    """Fills the blanks of texts with one model."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def size(self, item: FillItem) -> int:
        """Return about the number of tokens."""
        return len(item.text)

    def compute(self, items: Sequence[FillItem]) -> list[FillResult | Exception]:
        """Fill each text."""
        results: list[FillResult | Exception] = []
        for item in items:
            try:
                results.append(self.model.fill(item.text, **dict(item.options)))
            except UserError as error:
                results.append(error)
        return results


@router.post("/fill")
async def fill(body: FillRequest, state: State) -> dict[str, Any]:
    """Fill the blanks of a text, written [MASK], ____ or [MASK:3]."""
    served = state.models.named(body.model, Ability.FILL)
    texts = listed(body.input, state.settings)
    options = (
        ("top_k", body.top_k), ("lengths", body.lengths), ("length_penalty", body.length_penalty),
        ("allow_unknown", body.allow_unknown),
    )  # fmt: skip
    kind = served.part("fill", lambda served: FillKind(served.model))
    results = await served.engine.compute(kind, [FillItem(text, options) for text in texts])
    data = [{"index": index, **result.to_json()} for index, result in enumerate(results)]
    return {"object": "list", "model": served.name, "data": data}
