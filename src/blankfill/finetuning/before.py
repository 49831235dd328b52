"""The predictions of a model before its fine-tuning, the baseline of tasks that it may know already.

They are made once, before the first step, and kept in the run folder, so that a resumed run compares with the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.errors import UserError
from blankfill.system.files import write_file
from blankfill.system.reading import parse_json, read_text
from blankfill.tasks.adapter import Adapter, Prediction
from blankfill.tasks.items import Item

if TYPE_CHECKING:
    from blankfill.tasks.heads.models import AnswerModel

BEFORE = "before.jsonl"
"""The predictions for the dev set."""
BEFORE_TEST = "before_test.jsonl"
"""Those for the test set."""


def baseline_of(
    adapter: Adapter,
    train: Sequence[Item],
    items: Sequence[Item],
    file: Path,
    trained: bool,
    predict: Callable[[], Sequence[Prediction]],
) -> Sequence[Prediction]:
    """Return the predictions that a run is compared with.

    file: where the predictions of the model before its training are kept. trained: whether the model has had a step
    already. predict: makes the model's predictions. Raises UserError for a resumed run without the file.
    """
    if not adapter.from_start:
        return adapter.baseline_predictions(train, items)
    if not trained:
        predictions = predict()
        lines = [_line(item, prediction) for item, prediction in zip(items, predictions, strict=True)]
        write_file(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    try:
        lines = [parse_json(line, str(file)) for line in read_text(file).splitlines()]
        if len(lines) != len(items):
            raise ValueError(f"{len(lines)} lines for {len(items)} items")
        return [adapter.parse(line) for line in lines]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is damaged ({error}): it holds what the model said before its training; train again into another "
            "folder"
        ) from error


@contextmanager
def as_pretrained(model: AnswerModel) -> Iterator[None]:
    """Take the prefix off a model, which is random before the training and would be read as what the model knows."""
    encoder = model.encoder
    prefix, encoder.prefix_encoder = encoder.prefix_encoder, None
    try:
        yield
    finally:
        encoder.prefix_encoder = prefix


def _line(item: Item, prediction: Prediction) -> dict[str, Any]:
    return {"id": item.id, **prediction.record}
