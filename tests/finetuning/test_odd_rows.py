"""Rows of wrong types and halves of characters, wherever text comes in: one sentence, or U+FFFD."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.rows import items_of
from blankfill.finetuning.run import finetune
from blankfill.generation.fill import Filler
from blankfill.tasks.datasets.registry import task_named
from generate_models import SPECIAL, wordpiece
from small_tasks import QUICK, WORDS, model_folder

HALF = "\ud83d"
ROWS: dict[str, dict[str, Any]] = {
    "classify": {"text": "a", "second": "b"},
    "choice": {"context": "a", "choices": ["b", "c"]},
    "tag": {"words": ["a", "b"]},
    "qa": {"question": "a", "context": "b"},
    "seq2seq": {"source": "a", "second": "b"},
    "boolq": {"question": "a", "passage": "b"},
    "copa": {"premise": "a", "choice1": "b", "choice2": "c", "question": "cause"},
    "wic": {"word": "a", "sentence1": "a b", "sentence2": "c a"},
    "wsc": {"text": "a b c", "span1": "a", "span2": "c"},
    "multirc": {"passage": "a", "question": "b", "answers": ["c", {"text": "d"}]},
    "record": {"passage": "a b", "entities": ["a"], "query": "@placeholder c"},
}
NESTED: dict[str, dict[str, Any]] = {
    "wsc": {"text": "a b c", "target": {"span1_text": "a", "span1_index": 0, "span2_text": "c", "span2_index": 2}},
    "multirc": {"passage": {"text": "a", "questions": [{"question": "b", "answers": [{"text": "c"}]}]}},
    "record": {"passage": {"text": "a", "entities": [{"start": 0, "end": 0}]}, "qas": [{"query": "@placeholder"}]},
}
WRONG = (None, True, 3, -1, 1e300, "", [], {}, [None], [[]], [3], {"text": 3}, {"a": {}}, "x" * 100)


def changed(value: Any) -> list[Any]:
    """The value with each of its parts, however deep, replaced by something else."""
    result: list[Any] = list(WRONG)
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            for other in changed(value[key]):
                again = copy.deepcopy(value)
                again[key] = other
                result.append(again)
    return result


@pytest.mark.parametrize("form", [ROWS, NESTED])
def test_rows_of_wrong_types_are_one_sentence(form: dict[str, dict[str, Any]]) -> None:
    for name, row in form.items():
        task = task_named(name)
        assert list(items_of(task, iter([("line 1", json.dumps(row))])))
        for wrong in changed(row):
            for line in (json.dumps(wrong), json.dumps({**row, "id": wrong}) if wrong in WRONG else "[]"):
                try:
                    list(items_of(task, iter([("line 1", line)])))
                except UserError as error:
                    assert str(error).startswith("line 1")
                except Exception as error:
                    raise AssertionError(f"{name}: {line}") from error


def test_choices_are_a_list_and_not_a_text() -> None:
    with pytest.raises(UserError, match="line 1: `choices`: a text where a list is expected"):
        list(items_of(task_named("choice"), iter([("line 1", '{"context": "a", "choices": "bc"}')])))


def test_halves_of_characters_are_read_as_the_replacement_character() -> None:
    tokenizer = wordpiece(SPECIAL, [*WORDS, "\ufffd"])
    whole, half = "the cat \ufffd sat", f"the cat {HALF} sat"
    assert tokenizer.encode(half) == tokenizer.encode(whole)
    assert tokenizer.encode_batch([half, "cat"]) == tokenizer.encode_batch([whole, "cat"])
    for actual, other in zip(tokenizer.encode_plain([half]), tokenizer.encode_plain([whole]), strict=True):
        assert np.array_equal(actual, other)
    for actual, other in zip(tokenizer.encode_places(half), tokenizer.encode_places(whole), strict=True):
        assert np.array_equal(actual, other)


def test_halves_of_characters_end_no_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_folder(tmp_path)
    rows = [{"text": f"the cat {HALF}", "label": f"good{HALF}"}, {"text": "the dog", "label": "poor"}] * 6
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    options = dataclasses.replace(QUICK, epochs=1)
    for name in ("rows.jsonl", "rows.json"):
        result = finetune(FinetuneConfig("classify", tmp_path / name, model, options), tmp_path / f"run-{name}")
        labels = json.loads((result.folder / "results.json").read_text(encoding="utf-8"))["labels"]
        assert sorted(labels) == ["good\ufffd", "poor"]
    out = tmp_path / "answers.jsonl"
    arguments = ["--model", str(tmp_path / "run-rows.json"), str(tmp_path / "rows.jsonl")]
    assert main(["predict", *arguments, "--out", str(out)]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == len(rows)
    (tmp_path / "text.txt").write_text(f"the {HALF} [MASK]\n", encoding="utf-8", errors="surrogatepass")
    assert main(["fill", "--model", str(model), "--file", str(tmp_path / "text.txt")]) == 2
    assert "line 1: byte 5 is not UTF-8" in capsys.readouterr().err
    assert main(["fill", "--model", str(model), f"the {HALF} [MASK]"]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
    assert Filler(load_model(model)).fill(f"the {HALF} [MASK]").text == "the \ufffd [MASK]"


def test_embedding_takes_halves_of_characters(tmp_path: Path) -> None:
    from blankfill.embedding.embed import Embedder

    embedder = Embedder(load_model(model_folder(tmp_path)), "mean", False)
    assert np.array_equal(embedder.vectors([f"the {HALF}"]).array, embedder.vectors(["the \ufffd"]).array)
