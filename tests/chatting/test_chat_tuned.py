"""Chat with fine-tuned models: prompts are laid out as in their training, so that answers are those of `predict`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from blankfill.chatting.messages import Message, assistant, user
from blankfill.errors import UserError
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.predict import predict
from blankfill.finetuning.run import finetune
from blankfill.inference import chat, load
from blankfill.tasks.options import FinetuneOptions
from small_tasks import QUICK, classes, model_folder, write_lines, writing_model

NOUNS = ["red", "big", "cat", "dog", "mat"]
OPTIONS = FinetuneOptions(
    allow_unknown=True, lr=5e-3, batch_size=16, epochs=2, threads=1, precision="fp32", device="cpu", max_length=40,
    max_target_length=6, eval_every=1000, weight_decay=0.0,
)  # fmt: skip


def dialogues(count: int, seed: int) -> list[list[Message]]:
    """Two words are answered the other way round, twice."""
    rows = np.random.default_rng(seed).choice(NOUNS, (count, 4)).tolist()
    return [[user(f"{a} {b}"), assistant(f"{b} {a}"), user(f"{c} {d}"), assistant(f"{d} {c}")] for a, b, c, d in rows]


def tuned(folder: Path, name: str, **options: object) -> tuple[Path, Path]:
    """A model and what it became by learning dialogues."""
    data, model, out = folder / "data", writing_model(folder, name), folder / "run"
    for split, count in (("train", 96), ("dev", 8)):
        rows = [{"messages": [message.to_json() for message in talk]} for talk in dialogues(count, len(split))]
        write_lines(data / f"{split}.jsonl", rows)
    finetune(FinetuneConfig("chat", data, model, dataclasses.replace(OPTIONS, **options)), out)  # type: ignore[arg-type]
    return model, out


@pytest.mark.parametrize("name", ["gpt", "glm"])
def test_a_model_of_dialogues_answers_as_predict(name: str, tmp_path: Path) -> None:
    _, out = tuned(tmp_path, name)
    talks = [talk[:-1] for talk in dialogues(6, 9)]
    expected = predict(
        out, [{"messages": [message.to_json() for message in talk]} for talk in talks], allow_unknown=True
    )
    engine = load(out).chat_engine(temperature=0, max_new_tokens=6)
    assert engine.template.name == "plain" and engine.speaker.tuned and engine.stop == ""
    replies = engine.answer_many(talks)
    assert [reply.text for reply in replies] == [str(row["text"]) for row in expected.rows]
    assert any(reply.text for reply in replies)
    long = [message for talk in dialogues(20, 4) for message in talk][:-1]
    (reply,) = engine.answer_many([long])
    assert 0 < reply.dropped < len(long) // 2 and reply.prompt_tokens <= 41  # with <sop>
    with pytest.raises(UserError, match=r"does not fit into the model: the text has \d+ tokens"):
        engine.answer([user("the cat " * 30)])


def test_an_adapter_chats_as_its_run(tmp_path: Path) -> None:
    model, out = tuned(tmp_path, "glm", lora_rank=2)
    question = [message.to_json() for message in dialogues(1, 5)[0][:-1]]
    replies = [
        opened.chat(question, temperature=0, max_new_tokens=6)
        for opened in (
            load(out), load(model, adapter=out / "adapter"), load(model, dtype=torch.float32, adapter=out / "adapter")
        )
    ]  # fmt: skip
    assert replies[0] == replies[1] == replies[2]
    half = load(model, dtype=torch.bfloat16, adapter=out)
    speaker = half.chat_engine().speaker
    assert speaker.tuned and speaker.model.token_embeddings.weight.dtype == torch.bfloat16
    assert half.chat(question, temperature=0, max_new_tokens=6).messages[:3] == replies[0].messages[:3]
    with pytest.raises(UserError, match="not a fine-tuned model"):
        half.predict(["red cat"])
    assert replies[0].messages[:3] == tuple(dialogues(1, 5)[0][:-1])


def test_a_writer_of_targets_reads_the_last_message_alone(tmp_path: Path) -> None:
    data, model, out = tmp_path / "data", writing_model(tmp_path, "glm"), tmp_path / "run"
    for split, count in (("train", 64), ("dev", 8)):
        rows = [{"source": talk[0].content, "target": talk[1].content} for talk in dialogues(count, 3)]
        write_lines(data / f"{split}.jsonl", rows)
    finetune(FinetuneConfig("seq2seq", data, model, OPTIONS), out)
    opened = load(out)
    expected = predict(opened, [{"source": "red cat"}]).rows[0]["text"]
    talk = [user("big dog"), assistant("dog big"), user("red cat")]
    reply = opened.chat(talk, temperature=0, max_new_tokens=6)
    assert reply.text == expected
    assert opened.chat_engine().template.name == "bare"
    assert "".join(chat(opened, "red cat", stream=True, temperature=0, max_new_tokens=6)) == expected


def test_a_classifier_does_not_chat(tmp_path: Path) -> None:
    data, out = classes(tmp_path / "data"), tmp_path / "run"
    finetune(FinetuneConfig("sst2", data, model_folder(tmp_path), dataclasses.replace(QUICK, epochs=1)), out)
    with pytest.raises(UserError, match=r"^this model was fine-tuned for sst2, which is not writing; use"):
        load(out).chat("the cat")
