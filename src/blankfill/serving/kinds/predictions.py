"""Predictions of fine-tuned models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from blankfill.corpus.unknown import counting
from blankfill.errors import UserError
from blankfill.finetuning.predictor import AnyPredictor
from blankfill.finetuning.prepared import PreparedItem, finite, members_of, predict_prepared, prepare
from blankfill.serving.errors import ApiError
from blankfill.serving.inputs import aside, check_count, check_tokens, in_place, name_of
from blankfill.serving.served import ServedModel
from blankfill.tasks.adapter import Prediction
from blankfill.tasks.items import Item


class PredictionKind:
    """Predicts items that `finetuning.prepared.prepare` has made."""

    def __init__(self, predictor: AnyPredictor) -> None:
        self.predictor = predictor

    def size(self, item: PreparedItem) -> int:
        """Return the number of columns."""
        return item.size

    def compute(self, items: Sequence[PreparedItem]) -> list[Prediction | Exception]:
        """Predict the items together."""
        try:
            predictions = predict_prepared(self.predictor, items)
        except UserError as error:
            if len(items) == 1:
                return [error]
            return [result for item in items for result in self.compute([item])]
        diverged = ApiError(500, "the scores of the model are not finite numbers: it has diverged", "model_diverged")
        return [prediction if finite(prediction) else diverged for prediction in predictions]


def kind_of(served: ServedModel) -> PredictionKind:
    """Return the kind of a fine-tuned model, made on first use."""
    return served.part("predict", lambda served: PredictionKind(served.model.predictor))


async def read_items(
    served: ServedModel,
    given: Sequence[Any],
    items: Callable[[], Sequence[Item]],
    truncate: bool,
    allow_unknown: bool,
    param: str = "input",
) -> tuple[list[PreparedItem], int]:
    """Encode items, and check them against all limits; also returns the number of their tokens.

    given: what the items are made of. items: makes them. Raises ApiError and UserError.
    """
    check_count(len(given), served.settings, param)
    served.engine.check_room(len(given))
    predictor = served.model.predictor

    def prepared() -> list[PreparedItem]:
        made = []
        read = items()
        with counting("the texts", allow=allow_unknown, notes=False):
            for number, item in enumerate(read):
                try:
                    made.append(prepare(predictor, item))
                except UserError as error:
                    raise in_place(error, number, len(read), param) from error
        return made

    made = await aside(prepared, map(repr, given))
    tokens = check_tokens([item.size for item in made], served.settings, param)
    if not truncate:
        for number, item in enumerate(made):
            if item.cut:
                name = name_of(number, len(made), param)
                room = min(member.adapter.input_format.length for member in members_of(predictor))
                raise ApiError(
                    422,
                    f"{name}: the text is longer than the {room:,} tokens that the model reads with its special "
                    "tokens; shorten it, or give truncate: true to leave out its end", "text_too_long", name,
                )  # fmt: skip
    return made, tokens
