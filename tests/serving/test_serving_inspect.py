"""What a model reads for a request: equal to the rows of the format, the decoder and the adapter that serve it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving_apps import client_of

from blankfill.inference import load
from blankfill.types import Example
from head_models import family_folder, fine_tuned
from written_models import write_model

PRETRAINED = ("bert", "gpt2", "glm", "modernbert")
TWO_STACKS = ("t5", "bart")
TEXT = "the old boat"
BLANKS = "the old [MASK] near the [MASK:2] sleeps"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    made = {family: write_model(base / family, family) for family in PRETRAINED}
    made |= {family: family_folder(base / family, family) for family in (*TWO_STACKS, "xlnet")}
    made |= {task: fine_tuned(base / task, "bert", task) for task in ("sst2", "conll", "squad2")}
    return made


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    with client_of(folders) as client:
        yield client


def inspected(client: TestClient, model: str, use: str, given: Any, **more: Any) -> list[dict[str, Any]]:
    """The rows of an answer."""
    answer = client.post("/v1/inspect", json={"model": model, "input": given, "use": use, **more})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def assert_is(row: dict[str, Any], example: Example) -> None:
    """Assert that a described row is an Example, its encoder side first."""
    sides = [example] if example.context is None else [example.context, example]
    columns = row["columns"]
    assert [column["id"] for column in columns] == np.concatenate([side.input_ids for side in sides]).tolist()
    positions = np.concatenate([side.positions for side in sides], 1)
    for number, name in enumerate(row["channels"]):
        assert [column["positions"][name] for column in columns] == positions[number].tolist()
    for name in ("rank", "horizon"):
        expected = np.concatenate([getattr(side.rule, name) for side in sides])
        assert [column[name] for column in columns] == expected.tolist()
    seen = np.array([[cell == "1" for cell in line] for line in row["sees"]])
    own = len(example)
    assert (seen[-own:, -own:] == example.rule.visible()).all()
    if example.context is not None:
        before = len(example.context)
        assert (seen[:before, :before] == example.context.rule.visible()).all()
        assert not seen[:before, before:].any()  # the encoder never sees the decoder
        assert seen[before:, :before].all()
        assert [column["side"] for column in columns] == ["encoder"] * before + ["decoder"] * own


def as_example(context: Any) -> Example:
    nothing = np.zeros(0, np.int32)
    return Example(context.input_ids, context.positions, context.rule, nothing, nothing, context=context.source)


@pytest.mark.parametrize("family", ["bert", "modernbert", "xlnet"])
def test_a_text_with_blanks_has_the_row_of_its_open_places(
    client: TestClient, folders: dict[str, Path], family: str
) -> None:
    (row,) = inspected(client, family, "fill", BLANKS)
    filler = load(folders[family]).filler
    blanked = filler.take_apart(BLANKS, 1, None, 0.0)
    mask = filler.vocabulary["mask"]
    text = [*blanked.runs[0], mask, *blanked.runs[1], mask, mask, *blanked.runs[2]]
    (example,) = filler.format.open_places(np.array([text], np.int32), [len(blanked.runs[0])])
    assert_is(row, example)
    assert [k for k, column in enumerate(row["columns"]) if column["predicts"]] == example.target_index.tolist()
    assert [column["id"] for column in row["columns"] if column["role"] == "blank"].count(mask) >= 3


@pytest.mark.parametrize("family", ["gpt2", "glm", *TWO_STACKS])
def test_a_model_that_writes_its_fills_reads_up_to_the_first_blank(
    client: TestClient, folders: dict[str, Path], family: str
) -> None:
    (row,) = inspected(client, family, "fill", "the [MASK] boat")
    filler = load(folders[family]).filler
    blanked = filler.take_apart("the [MASK] boat", 1, None, 0.0)
    context = filler.format.blank_input(blanked.runs, blanked.roles, ())
    assert_is(row, as_example(context))
    assert list(row["next"]["positions"].values()) == context.next_position.tolist()
    assert row["columns"][-1]["predicts"]


@pytest.mark.parametrize("family", ["gpt2", "glm", *TWO_STACKS])
def test_a_prompt_has_the_row_of_the_continuation(client: TestClient, folders: dict[str, Path], family: str) -> None:
    (row,) = inspected(client, family, "complete", TEXT)
    loaded = load(folders[family]).loaded
    assert_is(row, as_example(loaded.format.continuation(loaded.tokenizer.encode(TEXT))))


def test_a_conversation_is_read_as_the_chat_engine_lays_it_out(client: TestClient, folders: dict[str, Path]) -> None:
    messages = [{"role": "user", "content": TEXT}]
    (row,) = inspected(client, "gpt2", "chat", messages)
    from blankfill.chatting.messages import user

    assert_is(row, as_example(load(folders["gpt2"]).chat_engine().prompt([user(TEXT)]).row))
    assert inspected(client, "gpt2", "chat", TEXT) == [row]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_text_to_embed_has_the_frame_of_training(client: TestClient, folders: dict[str, Path], family: str) -> None:
    (row,) = inspected(client, family, "embed", TEXT)
    loaded = load(folders[family]).loaded
    assert_is(row, loaded.format.frame(loaded.tokenizer.encode(TEXT), encoder_only=True).example)


@pytest.mark.parametrize(
    ("task", "use", "given"),
    [
        ("sst2", "classify", "the cat sat"),
        ("conll", "tag", {"words": ["the", "cat", "sat"]}),
        ("squad2", "answer", {"question": "the cat", "context": "on the mat sat the dog"}),
    ],
)
def test_a_fine_tuned_model_reads_what_its_adapter_encodes(
    client: TestClient, folders: dict[str, Path], task: str, use: str, given: Any
) -> None:
    from blankfill.finetuning.rows import items_of, line_of

    predictor = load(folders[task]).predictor
    rows = iter([("input", line_of(predictor.task, given, "input"))])
    encoded = predictor.adapter.encode(list(items_of(predictor.task, rows))).encoded  # type: ignore[union-attr]
    described = inspected(client, task, use, given)
    examples = [example for item in encoded for example in item.examples]
    assert len(described) == len(examples)
    for row, example in zip(described, examples, strict=True):
        assert_is(row, example)
    predicts = [k for k, column in enumerate(described[0]["columns"]) if column["predicts"]]
    assert predicts == sorted(encoded[0].columns[0].tolist())


def test_a_model_with_local_layers_has_two_squares(client: TestClient, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "near", "modernbert", window=1)
    with client_of({"near": folder}) as near:
        (row,) = inspected(near, "near", "embed", TEXT)
    assert row["window"] == 1
    assert row["sees"][0] == "11111"
    assert row["near"] == ["11000", "11100", "01110", "00111", "00011"]


def test_roles_and_unknown_tokens_are_named(client: TestClient) -> None:
    (row,) = inspected(client, "bert", "fill", "the qqq [MASK]")
    assert [column["role"] for column in row["columns"]] == ["special", "text", "unknown", "blank", "special"]
    assert [column["token"] for column in row["columns"]] == ["[CLS]", "the", "[UNK]", "[MASK]", "[SEP]"]


@pytest.fixture(scope="module")
def long_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of models that read longer rows than are shown."""
    from dataclasses import replace

    import written_models
    from blankfill.objectives import Gpt, Mlm

    base = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        longer = {"roberta": replace(Mlm(24), length=300), "gpt2": Gpt(300)}
        patch.setattr(written_models, "OBJECTIVES", {**written_models.OBJECTIVES, **longer})
        made = {family: write_model(base / family, family) for family in longer}
    with client_of(made) as client:
        yield client


@pytest.mark.parametrize(("model", "use"), [("roberta", "embed"), ("gpt2", "complete")])
def test_a_row_that_is_too_long_is_refused_or_cut(long_client: TestClient, model: str, use: str) -> None:
    body = {"model": model, "input": "the boat " * 100, "use": use}
    answer = long_client.post("/v1/inspect", json=body)
    assert answer.status_code == 422
    assert "columns" in answer.json()["error"]["message"]
    (row,) = inspected(long_client, model, use, body["input"], truncate=True)
    assert row["truncated"]
    assert row["length"] > 200
    assert len(row["columns"]) == len(row["sees"]) == len(row["sees"][0]) == 128


def test_a_text_beyond_the_model_is_cut_only_when_asked_for(client: TestClient) -> None:
    text = "the boat " * 50
    refused = client.post("/v1/inspect", json={"model": "bert", "input": text, "use": "embed"})
    assert refused.status_code == 422
    assert "22" in refused.json()["error"]["message"]
    (row,) = inspected(client, "bert", "embed", text, truncate=True)
    assert len(row["columns"]) == 24


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "bert", "input": TEXT, "use": "complete"}, 400, "cannot complete"),
        ({"model": "bert", "input": TEXT, "use": "dance"}, 422, "use"),
        ({"model": "bert", "input": "", "use": "fill"}, 422, "empty"),
        ({"model": "bert", "input": TEXT, "use": "fill"}, 400, "has no blank"),
        ({"model": "bert", "input": [TEXT], "use": "fill"}, 422, "one text"),
        ({"model": "bert", "input": "the boat [MASK] " * 30, "use": "fill"}, 400, "shorten it"),
        ({"model": "bert", "input": "the boat " * 20_000, "use": "embed", "truncate": True}, 422, "characters"),
        ({"model": "gpt2", "input": [{"role": "cat", "content": "the"}], "use": "chat"}, 400, "role"),
        ({"model": "squad2", "input": "the cat", "use": "answer"}, 400, "question"),
        ({"model": "sst2", "input": "the cat " * 60, "use": "classify"}, 422, "too long"),
    ],
)
def test_a_mistake_is_one_sentence(client: TestClient, body: dict[str, Any], status: int, words: str) -> None:
    answer = client.post("/v1/inspect", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
