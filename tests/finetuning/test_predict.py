"""`predict` as a function: rows, items and splits in, predictions and their scores out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blankfill.errors import UserError
from blankfill.finetuning.predict import predict
from blankfill.finetuning.predictor import open_predictor
from blankfill.tasks.items import TextItem
from blankfill.tasks.run_files import RESULTS
from small_tasks import classes, model_folder, run, sentences


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    run("sst2", classes(folder / "data"), model_folder(folder), folder / "run", epochs=2)
    return folder


def test_a_row_is_a_text_a_mapping_or_an_item(tuned: Path) -> None:
    texts = [text for text, _ in sentences(6, 5)]
    predictions = predict(tuned / "run", texts, device="cpu", threads=1)
    opened = open_predictor(tuned / "run", "cpu", 1)
    assert len(predictions) == 6 and [item.id for item in predictions.items] == list("012345")
    assert predict(opened, [{"text": text} for text in texts]).rows == predictions.rows
    items = [TextItem(str(k), text) for k, text in enumerate(texts)]
    assert predict(opened, items).rows == predictions.rows and predict(opened, iter(items)).values == predictions.values
    assert [prediction.value for prediction in predictions] == predictions.values and predictions[
        -1
    ].record == predictions[5].record
    assert all(
        row["label"] in ("0", "1") and sum(row["probabilities"].values()) == pytest.approx(1)
        for row in predictions.rows
    )
    assert len(predict(opened, [])) == 0


def test_a_split_is_predicted_and_scored_as_the_run_did(tuned: Path) -> None:
    predictions = predict(str(tuned / "run"), data=str(tuned / "data"), split="dev", device="cpu", threads=1)
    results = json.loads((tuned / "run" / RESULTS).read_text(encoding="utf-8"))
    assert len(predictions) == 40 and predictions.metrics() == pytest.approx(results["metrics"])


def test_what_cannot_be_predicted_is_refused(tuned: Path) -> None:
    opened = open_predictor(tuned / "run", "cpu", 1)
    for given in ({}, {"items": ["a"], "data": tuned / "data"}):
        with pytest.raises(UserError, match="give either items, or data"):
            predict(opened, **given)
    with pytest.raises(UserError, match="task goes with data"):
        predict(opened, ["a"], task="cola")
    with pytest.raises(UserError, match="item 1: the line is empty"):
        predict(opened, ["a", " "])
    with pytest.raises(UserError, match="item 0: there is no text"):
        predict(opened, [{"words": ["a"]}])
    with pytest.raises(UserError, match="no such file or folder"):
        predict(tuned / "none", ["a"])
    with pytest.raises(UserError, match="have no label: a test set can be predicted but not scored"):
        predict(opened, ["the cat sat"]).metrics()
