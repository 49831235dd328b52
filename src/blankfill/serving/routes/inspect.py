"""What a model reads for a request: tokens, positions, and who sees whom."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import Field

from blankfill.serving.abilities import Ability
from blankfill.serving.errors import ApiError
from blankfill.serving.kinds.inspect import InspectItem, InspectKind
from blankfill.serving.schemas import ModelName, WholeBody
from blankfill.serving.state import State

router = APIRouter(prefix="/v1", tags=["models"])

Use = Literal["fill", "complete", "chat", "embed", "classify", "tag", "answer"]


class InspectRequest(WholeBody):
    """An input of another endpoint, and its use there."""

    model: ModelName = None
    input: Annotated[
        str | dict[str, Any] | list[Any],
        Field(description="A text; for chat also a list of messages; for a task also an object with its fields."),
    ]
    use: Annotated[Use, Field(description="What the model would be used for.")]
    truncate: Annotated[bool, Field(description="Show the beginning of a row that is too long.")] = False


@router.post("/inspect")
async def inspect(body: InspectRequest, state: State) -> dict[str, Any]:
    """Show the rows that the model reads for an input: for each column its token, positions, segment, rank and horizon;
    `sees` has a line for each column, with 1 for each column that it sees."""
    served = state.models.named(body.model, Ability(body.use))
    if not body.input:
        raise ApiError(422, "input: it is empty; give a text", "invalid_request", "input")
    kind = served.part("inspect", lambda served: InspectKind(served.model))
    (rows,) = await served.engine.compute(kind, [InspectItem(Ability(body.use), body.input, body.truncate)])
    tokens = sum(row["length"] for row in rows)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": served.name, "use": body.use, "data": rows, "usage": usage}
