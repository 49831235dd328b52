"""One loader for all that a model does, and a model that several threads share."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import blankfill
from blankfill.errors import UserError
from blankfill.finetuning.predict import Predictor
from blankfill.generation.cancel import CancelledError
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import generate_many
from blankfill.inference import Model
from blankfill.model.single import compiled
from blankfill.model.transformer import build
from blankfill.tasks.items import TextItem
from generate_models import byte_level, loaded, random_model, wordpiece
from small_tasks import classes, model_folder, run

BYTES = byte_level(["the cat sat on the mat", "a dog ran", "one two three"] * 3, 300)


def model_of(name: str) -> Model:
    """A random model of a family, with a tokenizer."""
    tokenizer = BYTES if name == "gpt" else None
    return Model(loaded(name, random_model(name, 3, rows=BYTES.size if tokenizer else 40, sharp=2.0), tokenizer))


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """What calls return that begin together, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def call(k: int) -> None:
        barrier.wait()
        results[k] = calls[k]()

    threads = [threading.Thread(target=call, args=(k,)) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def calls_of(model: Model, writes: bool) -> list[Callable[[], Any]]:
    """Fills, texts and vectors that differ from one another."""
    texts = ["the [MASK] sat on the mat", "a dog [MASK]", "the cat [MASK] the [MASK]"]
    calls: list[Callable[[], Any]] = [lambda text=text: model.fill(text, 3).to_json() for text in texts]
    calls += [lambda k=k: model.embed(["the cat", "a dog ran"] * k).tolist() for k in (1, 2)]
    if writes:
        calls += [lambda seed=seed: "".join(model.generate("the cat", 12, seed=seed)) for seed in range(3)]
    return calls


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("name", ["bert", "xlnet", "gpt", "glm", "t5", "bart"])
def test_threads_get_the_answers_of_one_thread(name: str) -> None:
    writes = name not in ("bert", "xlnet")
    expected = [call() for call in calls_of(model_of(name), writes)]
    assert at_once(calls_of(model_of(name), writes)) == expected


@pytest.mark.usefixtures("eager_threads")
def test_threads_ask_a_model_that_trains_without_dropout() -> None:
    """Nobody changes the model's mode, so nobody finds it in the other one."""
    tokenizer = wordpiece()
    config = dataclasses.replace(random_model("glm", rows=40).config, dropout=0.5)
    expected = [call() for call in calls_of(Model(loaded("glm", build(config).eval(), tokenizer)), True)]
    model = build(config).train()
    shared = Model(loaded("glm", model, tokenizer))
    calls = [call for _ in range(2) for call in calls_of(shared, True)]
    assert at_once(calls) == expected * 2
    assert all(module.training for module in model.modules())


@pytest.mark.usefixtures("eager_threads")
def test_parts_are_made_once() -> None:
    model = model_of("bert")
    assert len(set(map(id, at_once([lambda: model.filler] * 8)))) == 1
    assert len(set(map(id, at_once([lambda: model.embedder("cls")] * 8)))) == 1
    assert model.embedder("mean") is not model.embedder("cls")


def test_writing_changes_no_later_answer(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "gpt")
    model = blankfill.load(folder)
    if not compiled(model.loaded.model):
        assert model.loaded.model.output_table.stride(0) == 1  # laid out before anybody asks
    weights = {name: (weight.data_ptr(), weight.stride()) for name, weight in model.loaded.model.named_parameters()}
    first = model.fill("the [MASK] ran").to_json(), model.embed(["the cat"])
    "".join(model.generate("the cat", 5))
    assert model.fill("the [MASK] ran").to_json() == first[0] and np.array_equal(model.embed(["the cat"]), first[1])
    after = {name: (weight.data_ptr(), weight.stride()) for name, weight in model.loaded.model.named_parameters()}
    assert after == weights
    plain = blankfill.load(folder, optimize=False)
    assert plain.loaded.model.output_table.is_contiguous()


def test_load_opens_what_the_folder_holds(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "bert")
    run("sst2", classes(tmp_path / "data"), folder, tmp_path / "run")
    pretrained, tuned = blankfill.load(folder), blankfill.load(tmp_path / "run")
    rows = ["the cat was fine", {"id": "b", "text": "the cat was poor"}]
    items = [TextItem("0", "the cat was fine"), TextItem("b", "the cat was poor")]
    expected = [prediction.record for prediction in Predictor(tmp_path / "run", "cpu", 1).predict(items)]
    assert tuned.predict(rows) == [{"id": item.id, **made} for item, made in zip(items, expected, strict=True)]
    assert at_once([lambda: tuned.predict(rows)] * 4) == [tuned.predict(rows)] * 4
    best = next((tmp_path / "run" / "checkpoints").iterdir())
    assert len(blankfill.load(best).predict(rows)) == 2
    assert pretrained.embed(["the cat"]).shape == (1, pretrained.embedder().width)
    with pytest.raises(UserError, match="not a fine-tuned model; train one"):
        pretrained.predict(rows)
    with pytest.raises(UserError, match="fine-tuned for sst2; use predict"):
        tuned.fill("the [MASK]")
    with pytest.raises(UserError, match="fine-tuned for sst2; use it with"):
        blankfill.load(best, head=False)
    with pytest.raises(UserError, match="not a fine-tuned model"):
        blankfill.load(folder, head=True)
    with pytest.raises(UserError, match="computes in float32; leave out dtype"):
        blankfill.load(tmp_path / "run", dtype=torch.bfloat16)
    assert blankfill.load(tmp_path / "run" / "best").predict(rows) == tuned.predict(rows)
    named = blankfill.load(folder, dtype="bf16")
    half = blankfill.load(folder, dtype=torch.bfloat16)
    assert named.loaded.model.token_embeddings.weight.dtype == torch.bfloat16
    assert {weight.dtype for weight in half.loaded.model.parameters()} == {torch.bfloat16}
    assert half.fill("the [MASK] ran").filled


def test_rows_in_python_are_texts_sequences_and_objects(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "bert")
    run("sst2", classes(tmp_path / "data"), folder, tmp_path / "run", epochs=1)
    tuned = blankfill.load(tmp_path / "run")
    assert (tuned.task.name, tuned.labels) == ("sst2", ("0", "1"))
    rows = ["the cat\tsat", ("the cat", "sat"), {"text": "the cat", "second": "sat"}, ["the cat", "sat"]]
    answers = [{**row, "id": ""} for row in tuned.predict(rows)]
    assert answers == [answers[0]] * 4
    assert blankfill.predict(tuned, rows).rows == tuned.predict(rows)
    with pytest.raises(UserError, match="item 0: 3 values; give an object with text, second"):
        tuned.predict([("a", "b", "c")])
    with pytest.raises(UserError, match="item 1: a row is a text, a sequence of texts or an object, not int"):
        tuned.predict(["a", 3])  # type: ignore[list-item]
    with pytest.raises(UserError, match="item 0: a value is no text, number or list"):
        tuned.predict([{"text": object()}])
    with pytest.raises(UserError, match="give a list of rows"):
        tuned.predict("the cat sat")
    with pytest.raises(UserError, match="item 0: there is no text"):
        tuned.predict([{"words": "the cat"}])
    with pytest.raises(UserError, match="not a fine-tuned model"):
        blankfill.load(folder).labels  # noqa: B018


def test_words_questions_and_choices_as_sequences(tmp_path: Path) -> None:
    from head_models import fine_tuned

    tagger = blankfill.load(fine_tuned(tmp_path / "tags", "bert", "conll"))
    assert (
        tagger.predict([["the", "cat"]]) == tagger.predict([{"words": ["the", "cat"]}]) == tagger.predict(["the cat"])
    )
    answers = blankfill.load(fine_tuned(tmp_path / "answers", "bert", "squad2"))
    given = {"question": "who", "context": "the cat ran paris"}
    assert answers.predict([tuple(given.values())]) == answers.predict([given])


def test_a_flag_ends_a_text() -> None:
    model, flag = model_of("gpt"), threading.Event()
    whole = "".join(model.generate("the cat", 20, seed=1))
    pieces = []
    for piece in model.generate("the cat", 20, cancel=flag, seed=1):
        pieces.append(piece)
        flag.set()
    assert 0 < len("".join(pieces)) < len(whole) and whole.startswith("".join(pieces))
    flags = iter([False] * 6 + [True] * 9)
    ready = model.loaded
    generations = generate_many(ready, ["the cat", "a dog"], 20, Sampling(seed=1), cancel=lambda: next(flags))
    assert [(len(generation.ids), generation.finish) for generation in generations] == [(6, "cancelled")] * 2
    assert [generation.finish for generation in model.generate_many(["the", "a"], 20, cancel=flag)] == ["cancelled"] * 2


@pytest.mark.parametrize("name", ["bert", "gpt", "glm", "t5", "bart"])
def test_a_flag_stops_a_fill(name: str) -> None:
    model, count = model_of(name), iter(range(1000))
    text = "the [MASK] sat on the [MASK]"
    expected = model.fill(text).to_json()
    with pytest.raises(CancelledError):
        model.fill(text, cancel=lambda: next(count) == 1)
    flag = threading.Event()
    assert model.fill(text, cancel=flag).to_json() == expected
    flag.set()
    with pytest.raises(CancelledError):
        model.fill(text, cancel=flag)
