"""Filling blanks, with any family."""

from __future__ import annotations

import threading
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from blankfill.corpus.unknown import counting
from blankfill.errors import UserError
from blankfill.generation.fill import BlankedText
from blankfill.serving.abilities import Ability
from blankfill.serving.answers import rows_of
from blankfill.serving.inputs import Texts, aside, check_count, check_tokens, in_place, name_of
from blankfill.serving.kinds.fill import FillKind
from blankfill.serving.schemas import Body, ModelName
from blankfill.serving.state import State

router = APIRouter(prefix="/v1", tags=["blanks"])


class FillRequest(Body):
    """Texts whose blanks are filled."""

    model: ModelName = None
    input: Texts
    top_k: Annotated[int, Field(ge=1, le=1000, description="Number of candidates for each blank.")] = 5
    lengths: Annotated[
        str | None, Field(description="Numbers of tokens that a blank may have, such as 2 or 1-3.", max_length=32)
    ] = None
    length_penalty: Annotated[
        float, Field(ge=0, le=100, description="Above 0, longer fills of GLM, T5 and BART rank higher.")
    ] = 0.0
    allow_unknown: Annotated[bool, Field(description="Also texts that are mostly unknown to the tokenizer.")] = False


@router.post("/fill", response_model=None)
async def fill(body: FillRequest, state: State) -> Response:
    """Fill the blanks of texts, written [MASK], ____ or [MASK:3]."""
    served = state.models.named(body.model, Ability.FILL)
    texts = body.input
    check_count(len(texts), served.settings)
    served.engine.check_room(len(texts))
    kind = served.part("fill", lambda served: FillKind(served.model.filler))
    cancel = threading.Event()

    def prepared() -> list[BlankedText]:
        made = []
        with counting("the texts", allow=body.allow_unknown, notes=False):
            for number, text in enumerate(texts):
                try:
                    made.append(kind.filler.prepare(text, body.top_k, body.lengths, body.length_penalty, cancel))
                except UserError as error:
                    raise in_place(error, number, len(texts)) from error
                kind.check(made[-1], name_of(number, len(texts)))
        return made

    items = await aside(prepared, texts)
    tokens = check_tokens(list(map(kind.tokens, items)), served.settings)
    try:
        results = await served.engine.compute(kind, items)
    finally:
        cancel.set()  # what is still computed is for nobody
    return rows_of(served, [result.to_json() for result in results], tokens)
