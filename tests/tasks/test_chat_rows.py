"""Rows of dialogues: what is learnt, what is seen, what is cut, and that training and answering read the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from blankfill.chatting.messages import Message
from blankfill.chatting.templates import ChatTemplate, built_in
from blankfill.errors import UserError
from blankfill.families import weight_names
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.model.transformer import Transformer
from blankfill.objectives import OBJECTIVES
from blankfill.tasks.batching import ANSWER, EvaluationBatches, pack
from blankfill.tasks.chat.model import ChatModel
from blankfill.tasks.chat.rows import ChatRows, ChatWriting
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import ChatItem
from blankfill.tasks.text.seq2seq import encoded_item
from blankfill.types import Example, Vocabulary
from generate_models import SPECIAL, WORDS, objective_of, random_model, wordpiece

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "chatglm"
TOKENIZER = wordpiece(words=[*WORDS, "[PSEUDO]"])
ROLES = TOKENIZER.vocabulary().roles
SHORT = ChatTemplate(
    "{% for m in messages %}{{ {'user': 'the ', 'assistant': 'on ', 'system': ''}[m.role] + m.content + ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}on{% endif %}"
)
"""A template of the words that the tokenizer knows: `the QUESTION on ANSWER the …`."""


def dialogue(*texts: str, system: str = "", unasked: tuple[int, ...] = (), line: int = 1) -> ChatItem:
    roles = ["user", "assistant"] * len(texts)
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=False)]  # type: ignore[arg-type]
    begin = [Message("system", system)] if system else []
    return ChatItem("0", (*begin, *messages), unasked, line=line)


def maker(name: str, length: int = 0, longest: int = 8, template: ChatTemplate = SHORT, **more: Any) -> ChatRows:
    objective = OBJECTIVES[name](48) if name == "chatglm" else objective_of(name)
    writing = ChatWriting(InputFormat(objective.format(TOKENIZER.vocabulary()), length), longest)
    return ChatRows(writing, TOKENIZER, template, **more)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def answers_of(rows: list[Example]) -> list[str]:
    return [TOKENIZER.decode(row.target_ids.tolist()) for row in rows]


TWO = dialogue("red cat", "dog ran", "big mat", "sat")


def test_a_left_to_right_model_learns_a_dialogue_in_one_row() -> None:
    (row,) = maker("gpt").rows(TWO, learn=True)
    eos = ROLES["eos"]
    assert row.input_ids.tolist() == [eos, *ids("the red cat on dog ran the big mat on sat")]
    assert row.target_index.tolist() == [4, 5, 6, 10, 11]
    assert row.target_ids.tolist() == [*ids("dog ran"), eos, *ids("sat"), eos]
    assert np.array_equal(row.rule.visible(), np.tri(12, dtype=bool))


def test_a_model_with_a_prefix_learns_each_round_apart() -> None:
    first, second = maker("glm").rows(TWO, learn=True)
    cls, gmask, sop, eop = (ROLES[name] for name in ("cls", "gmask", "sop", "eop"))
    assert first.input_ids.tolist() == [cls, *ids("the red cat on"), gmask, sop, *ids("dog ran")]
    assert first.target_ids.tolist() == [*ids("dog ran"), eop]
    assert second.input_ids.tolist() == [cls, *ids("the red cat on dog ran the big mat on"), gmask, sop, *ids("sat")]
    assert second.target_ids.tolist() == [*ids("sat"), eop]


def test_rows_of_chatglm_are_as_released() -> None:
    """`prompt [gMASK] <sop> answer <eop>`, learnt from <sop> on (THUDM/ChatGLM-6B ptuning/main.py)."""
    item = dialogue("red cat", "dog ran")
    (row,) = maker("chatglm", template=built_in("chatglm")).rows(item, learn=True)
    gmask, sop, eop = (ROLES[name] for name in ("gmask", "sop", "eop"))
    assert row.input_ids.tolist() == [*ids("red cat"), gmask, sop, *ids("dog ran")]
    assert row.target_ids.tolist() == [sop, *ids("dog ran"), eop]
    assert row.target_index.tolist() == [2, 3, 4, 5]
    (row,) = maker("chatglm", template=built_in("chatglm"), learn_start=False).rows(item, learn=True)
    assert row.target_ids.tolist() == [*ids("dog ran"), eop] and row.target_index.tolist() == [3, 4, 5]
    (row,) = maker("chatglm", template=built_in("chatglm"), longest=1, prompt_limit=1).rows(item, learn=True)
    assert row.input_ids.tolist() == [*ids("red"), gmask, sop] and row.target_ids.tolist() == [sop, *ids("dog")]


@pytest.mark.parametrize("name", ["gpt", "glm", "unilm", "unilm2", "t5", "bart", "chatglm"])
def test_answering_reads_what_training_has_read(name: str) -> None:
    """The input of the decoder before an answer is the row of training up to its first target."""
    rows = maker(name)
    item = dialogue("red cat", "dog ran", "big mat", "sat", system="the cat")
    context = rows.context(item.messages[:-1])
    row = rows.rows(item)[-1]
    begun = len(context.input_ids)
    assert row.input_ids[:begun].tolist() == context.input_ids.tolist()
    assert np.array_equal(row.positions[:, :begun], context.positions)
    assert np.array_equal(row.rule.visible()[:begun, :begun], context.rule.visible())
    if row.context is not None and context.source is not None:
        assert row.context.input_ids.tolist() == context.source.input_ids.tolist()


@pytest.mark.parametrize("name", ["gpt", "glm", "unilm2", "bart"])
def test_rounds_in_one_row_do_not_leak(name: str) -> None:
    """Another text in a packed round changes no score of the other rounds, to the bit."""
    model = ChatModel(random_model(name)).eval()
    rows = maker(name)
    others = [dialogue("cat", "ran"), dialogue("the mat", "big")]

    def scores(first: ChatItem) -> tuple[torch.Tensor, torch.Tensor, int]:
        items = [encoded_item(row) for item in (first, *others) for row in rows.rows(item)]
        packed = pack(items, ROLES["pad"])
        assert len(packed.batch.input_ids) == 1  # all in one row
        own = len(rows.rows(first))
        return model.nats(packed.batch), packed.items, own

    before, owner, own = scores(dialogue("red cat", "dog ran"))
    after, _, _ = scores(dialogue("sat on", "un mat"))
    assert torch.equal(before[owner >= own], after[owner >= own])
    assert not torch.equal(before[owner < own], after[owner < own])


def test_a_later_round_changes_no_score_of_an_earlier_one_in_its_row() -> None:
    model, rows = ChatModel(random_model("gpt")).eval(), maker("gpt")

    def first(last: str) -> torch.Tensor:
        (row,) = rows.rows(dialogue("red cat", "dog ran", last, "sat"))
        return model.nats(pack([encoded_item(row)], ROLES["pad"]).batch)[:3]

    assert torch.equal(first("big mat"), first("on on"))


def test_a_joined_dialogue_has_the_scores_of_its_rounds_apart() -> None:
    model, rows = ChatModel(random_model("gpt")).eval(), maker("gpt")
    (joined,) = rows.rows(TWO)
    apart = [dialogue("red cat", "dog ran"), ChatItem("1", TWO.messages, unasked=(1,))]
    items = [encoded_item(row) for item in apart for row in rows.rows(item)]
    nats = [model.nats(packed.batch) for packed in EvaluationBatches(items, ROLES["pad"], 1)]
    whole = model.nats(pack([encoded_item(joined)], ROLES["pad"]).batch)
    assert torch.allclose(torch.sort(torch.cat(nats)).values, torch.sort(whole).values, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt", "glm", "chatglm"])
def test_unasked_answers_are_read_and_not_learnt(name: str) -> None:
    rows = maker(name, learn_start=False)
    item = dialogue("red cat", "dog ran", "big mat", "sat", "un", "play", unasked=(1, 5))
    assert answers_of(rows.rows(item, learn=True)) == ["sat"]
    assert ids("dog ran")[0] in rows.rows(item)[0].input_ids
    assert rows.rows(dialogue("red cat", "dog ran", unasked=(1,))) == []


@pytest.mark.parametrize("name", ["gpt", "glm", "chatglm"])
def test_every_answer_is_learnt_once_when_the_dialogue_is_too_long(name: str) -> None:
    texts = ["red cat", "dog ran", "big mat", "sat", "the cat sat", "ran on", "red", "big dog"]
    rows = maker(name, length=14, learn_start=False)
    made = rows.rows(dialogue(*texts, system="un"), learn=True)
    assert " ".join(answers_of(made)) == "dog ran sat ran on big dog"
    room = 14 if name != "glm" else 14 + 4  # the answer has positions of its own
    assert all(len(row) <= room for row in made) and len(made) > 1
    assert rows.cuts.history > 0 and rows.cuts.message == 0 and rows.cuts.answer == []
    assert all(ids("un")[0] in row.input_ids for row in made)  # the system stays
    assert any("without the oldest rounds" in remark for remark in rows.remarks())


def test_what_is_too_long_is_cut_and_counted() -> None:
    rows = maker("glm", length=8)
    (row,) = rows.rows(dialogue("red cat dog mat big", "sat", system="the mat ran"), learn=True)
    assert TOKENIZER.decode(row.input_ids[1:7].tolist()) == "the red cat dog mat on"  # of 8, 2 are special
    assert (rows.cuts.history, rows.cuts.system, rows.cuts.message) == (0, 1, 1)
    (row,) = rows.rows(dialogue("red cat", "sat", system="the mat ran sat"), learn=True)
    assert "mat" not in TOKENIZER.decode(row.input_ids.tolist()) and rows.cuts.system == 2
    long = maker("gpt", longest=2)
    item = dialogue("red", "cat dog mat", "big", "sat", line=7)
    (row,) = long.rows(item, learn=True)
    assert row.target_ids.tolist() == [*ids("cat dog"), *ids("sat"), ROLES["eos"]]  # the first without an end
    assert long.cuts.answer == [7] and "(line or record 7 of the training data)" in long.remarks()[0]
    with pytest.raises(UserError, match="the chat template alone takes more than the 1 tokens"):
        maker("glm", prompt_limit=1).rows(dialogue("red", "cat"))


def test_the_end_of_an_answer_is_the_token_that_the_template_writes() -> None:
    closed = ChatTemplate(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}[SEP]{% endif %} {% endfor %}"
    )
    rows = maker("gpt", template=closed)
    assert rows.writing.end == ROLES["sep"] == SPECIAL.index("[SEP]")
    (row,) = rows.rows(dialogue("red", "cat", "dog", "mat"))
    assert row.target_ids.tolist() == [*ids("cat"), ROLES["sep"], *ids("mat"), ROLES["sep"]]
    assert maker("glm").writing.end == ROLES["eop"]


def test_prompts_that_begin_otherwise_get_rows_of_their_own() -> None:
    """ChatGLM's first round is the bare question, and later prompts begin with [Round 0]: no row can hold both."""
    rows = maker("gpt", template=built_in("chatglm"))
    first, second = rows.rows(TWO, learn=True)
    assert first.input_ids.tolist() == [ROLES["eos"], *ids("red cat"), *ids("dog ran")]
    assert answers_of([first, second]) == ["dog ran", "sat"]


def test_nats_are_those_of_the_loss() -> None:
    model, rows = ChatModel(random_model("glm")).eval(), maker("glm")
    batch = pack([encoded_item(row) for row in rows.rows(TWO)], ROLES["pad"]).batch
    with torch.no_grad():
        assert torch.allclose(model.nats(batch).sum(), model(batch)[ANSWER], atol=1e-4)


@pytest.mark.data
@pytest.mark.skipif(not GOLDEN.exists(), reason="the reference outputs lie beside the project and are absent")
def test_packed_rows_of_chatglm_have_the_loss_of_the_original_code() -> None:
    """The rows of ChatGLM-6B's fine-tuning script, here packed into one row: its loss, the mean over all targets."""
    reference, weights = (load_file(GOLDEN / f"{name}.safetensors") for name in ("reference", "weights"))
    weights = {name: weight for name, weight in weights.items() if "prefix_encoder" not in name}
    values = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))["config"]
    names = weight_names()["chatglm"]
    form = CheckpointFormat(names, names.read({**values, "tie_word_embeddings": False}, weights.keys()))
    model = Transformer(form.config).eval()
    model.load_state_dict(form.table.to_ours(weights, "the file"))
    layout = OBJECTIVES["chatglm"](48).format(Vocabulary(320, {"mask": 300, "gmask": 301, "sop": 304, "eop": 305}))
    rows = []
    for ids in reference["train.input_ids"].tolist():
        prompt, answer = ids[: ids.index(301)], ids[ids.index(304) + 1 : ids.index(305)]
        writing = ChatWriting(InputFormat(layout), 20)
        rows.append(writing.learnt(writing.source(prompt), answer))
    batch = pack(rows, 3).batch
    with torch.no_grad():
        loss = ChatModel(model)(batch)[ANSWER] / len(batch.labels[ANSWER][1])
    assert len(batch.input_ids) == 1
    torch.testing.assert_close(loss, reference["train.loss"][0], atol=1e-4, rtol=0)
