"""How a model's tokenizer cuts texts, and texts of ids."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.unknown import uncounted
from blankfill.finetuning.prepared import members_of
from blankfill.serving.abilities import Ability
from blankfill.serving.answers import answer, rows_of
from blankfill.serving.errors import ApiError
from blankfill.serving.inputs import Texts, aside, check_count, check_tokens
from blankfill.serving.schemas import Body, ModelName
from blankfill.serving.served import ServedModel
from blankfill.serving.state import State
from blankfill.types import Int32

router = APIRouter(tags=["tokens"])


class TokenizeRequest(Body):
    """Texts that are cut into tokens."""

    model: ModelName = None
    input: Texts
    special: Annotated[
        bool, Field(description="Also the special tokens that the model reads around a text, such as [CLS].")
    ] = False


class DetokenizeRequest(Body):
    """Ids of tokens."""

    model: ModelName = None
    ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(description="Ids of tokens.")]
    special: Annotated[bool, Field(description="Also write out special tokens.")] = False


@router.post("/tokenize", response_model=None)
async def tokenize(body: TokenizeRequest, state: State) -> Response:
    """Cut texts into tokens; each has its range of characters in the text. Special tokens written out in a text, such
    as [MASK], are recognised."""
    served = state.models.named(body.model, Ability.TOKENIZE)
    check_count(len(body.input), served.settings)
    tokenizer = tokenizer_of(served)
    frame = frame_of(served) if body.special else ((), ())
    more = sum(map(len, frame))

    def cut() -> tuple[list[dict[str, Any]], int]:
        with uncounted():
            read = [tokenizer.encode_places(text, marks=True) for text in body.input]
        tokens = check_tokens([len(ids) + more for ids, _ in read], served.settings)  # before they are described
        return [_described(tokenizer, *own, frame) for own in read], tokens

    rows, tokens = await aside(cut, body.input)
    return rows_of(served, rows, tokens)


@router.post("/detokenize", response_model=None)
async def detokenize(body: DetokenizeRequest, state: State) -> Response:
    """Return the text of ids."""
    served = state.models.named(body.model, Ability.TOKENIZE)
    check_tokens([len(body.ids)], served.settings, "ids")
    tokenizer = tokenizer_of(served)
    for place, id in enumerate(body.ids):
        if id >= tokenizer.size:
            raise ApiError(
                422, f"ids.{place}: the id {id} is not in the vocabulary of {tokenizer.size:,} tokens; give ids of "
                "this model", "invalid_request", f"ids.{place}",
            )  # fmt: skip
    text = await aside(lambda: tokenizer.decode(body.ids, skip_special=not body.special), [body.ids])
    return answer({"model": served.name, "text": text})


def tokenizer_of(served: ServedModel) -> Tokenizer:
    """Return the tokenizer of a model."""
    model = served.model
    if model.is_pretrained:
        return model.loaded.tokenizer
    return members_of(model.predictor)[0].adapter.tokenizer


def frame_of(served: ServedModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens that the model reads before and after a text."""
    model = served.model
    if model.is_pretrained:
        format = model.loaded.format
    else:
        format = members_of(model.predictor)[0].adapter.input_format.format
    return tuple(format.before.tolist()), tuple(format.after.tolist())


def _described(
    tokenizer: Tokenizer, ids: Int32, places: Int32, frame: tuple[tuple[int, ...], tuple[int, ...]]
) -> dict[str, Any]:
    tokens: list[dict[str, Any]] = [
        {"id": id, "text": tokenizer.token(id), "start": start, "end": end}
        for id, (start, end) in zip(ids.tolist(), places.tolist(), strict=True)
    ]
    before, after = (
        [{"id": id, "text": tokenizer.token(id), "start": None, "end": None} for id in side] for side in frame
    )
    tokens = [*before, *tokens, *after]
    return {"ids": [token["id"] for token in tokens], "tokens": tokens, "count": len(tokens)}
