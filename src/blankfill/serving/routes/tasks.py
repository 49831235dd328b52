"""Predictions of fine-tuned models: classes, scores and choices, tags of words, answers to questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from blankfill.serving.abilities import Ability
from blankfill.serving.answers import answer, usage
from blankfill.serving.errors import too_large
from blankfill.serving.explaining import contributions, without_words, words_of
from blankfill.serving.kinds.predictions import kind_of, read_items
from blankfill.serving.schemas import Body, ModelName
from blankfill.serving.served import ServedModel
from blankfill.serving.state import State
from blankfill.serving.task_rows import Rows, TaskRow, items_of_rows, shown
from blankfill.tasks.adapter import Prediction
from blankfill.tasks.items import Item

router = APIRouter(prefix="/v1", tags=["tasks"])
Truncate = Annotated[bool, Field(description="Leave out the end of texts that are too long.")]
AllowUnknown = Annotated[bool, Field(description="Also texts that are mostly unknown to the tokenizer.")]


class TaskRequest(Body):
    """What a fine-tuned model predicts."""

    model: ModelName = None
    input: Rows
    truncate: Truncate = False
    allow_unknown: AllowUnknown = False


class ClassifyRequest(TaskRequest):
    """Texts or choices whose class or score is predicted."""

    explain: Annotated[
        bool, Field(description="Also how much each word contributes, for texts of at most 200 words.")
    ] = False


@router.post("/classify", response_model=None)
async def classify(body: ClassifyRequest, state: State) -> Response:
    """Predict the class, the classes, the score or the choice of each item."""
    served = state.models.named(body.model, Ability.CLASSIFY)
    return await _predicted(served, body, explain=body.explain)


@router.post("/tag", response_model=None)
async def tag(body: TaskRequest, state: State) -> Response:
    """Predict a tag for each word, and the entities of these tags."""
    return await _predicted(state.models.named(body.model, Ability.TAG), body)


@router.post("/answer", response_model=None)
async def answer_question(body: TaskRequest, state: State) -> Response:
    """Answer each question by a part of its context."""
    return await _predicted(state.models.named(body.model, Ability.ANSWER), body)


async def _predicted(served: ServedModel, body: TaskRequest, explain: bool = False) -> Response:
    kind = kind_of(served)
    rows: list[TaskRow] = []

    def items() -> Sequence[Item]:
        rows.extend(items_of_rows(served.model.predictor, body.input, "input"))
        return [row.item for row in rows]

    prepared, tokens = await read_items(served, body.input, items, body.truncate, body.allow_unknown)
    contributed = [words_of(row.item, row.number, len(body.input)) if explain else [] for row in rows]
    if (computed := len(rows) + sum(map(len, contributed))) > served.settings.max_texts:
        raise too_large(
            f"input: {computed:,} texts with each word left out, and a request may have "
            f"{served.settings.max_texts:,}; send several requests", "input",
        )  # fmt: skip
    words = [without_words(row.item, own) for row, own in zip(rows, contributed, strict=True)]
    flat = [word.item for left_out in words for word in left_out]
    if flat:  # all texts that are computed are counted and checked
        more, more_tokens = await read_items(served, flat, lambda: flat, True, True)
        tokens += more_tokens
        prepared = [*prepared, *more]
        if tokens > served.settings.max_tokens:
            raise too_large(
                f"input: {tokens:,} tokens with each word left out, and a request may have "
                f"{served.settings.max_tokens:,}; send several requests", "input",
            )  # fmt: skip
    predictions: list[Prediction] = await served.engine.compute(kind, prepared)
    data: list[dict[str, Any]] = []
    rest = iter(predictions[len(rows) :])
    for row, prediction, encoded, left_out in zip(rows, predictions, prepared, words, strict=False):
        data.append({"index": row.number, **shown(row, prediction)})
        if explain:
            data[-1]["contributions"] = contributions(left_out, prediction, [next(rest) for _ in left_out])
        if encoded.cut:
            data[-1]["truncated"] = True
    return answer({"object": "list", "model": served.name, "data": data, "usage": usage(tokens)})
