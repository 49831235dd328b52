"""Answers: what a model writes behind a prompt, rounds that are left out, ends, and scores that are no numbers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from blankfill.chatting.engine import Chat, answer_stream, speaker_of
from blankfill.chatting.messages import Message, assistant, system, user
from blankfill.chatting.options import ChatOptions
from blankfill.chatting.templates import ChatTemplate, built_in
from blankfill.checkpoint.load import Loaded
from blankfill.errors import ConfigError, UserError
from blankfill.families import FAMILIES
from blankfill.generation.sampling import SampledRow, Sampling
from blankfill.generation.scheduler import Scheduler, Update
from blankfill.generation.text_stream import Stream
from blankfill.generation.write import generate_many
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import build
from blankfill.objectives import OBJECTIVES
from blankfill.objectives.gpt import gpt_input
from generate_models import SIZES, byte_level, forced_model, loaded, random_model, wordpiece

GREEDY = Sampling(temperature=0)
NAMES = ["gpt", "glm", "unilm", "t5", "bart", "chatglm", "glm-130b"]


def chatglm(name: str) -> Loaded:
    objective, tokenizer = OBJECTIVES[name](48), wordpiece()
    config = TransformerConfig(
        vocab_size=40, position_sizes=objective.position_sizes(), **{**FAMILIES[name].preset, **SIZES}
    )
    model = build(config, 3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return Loaded(model, tokenizer, tokenizer.vocabulary(), objective, Path("run"))


def of_objective(name: str) -> Loaded:
    return chatglm(name) if "glm" in name and name != "glm" else loaded(name, random_model(name, 3))


def chat_of(model: Loaded, template: str | ChatTemplate = "bare", **options: object) -> Chat:
    chosen = built_in(template) if isinstance(template, str) else template
    settings: dict[str, object] = {"sampling": GREEDY, "max_new_tokens": 12, **options}
    return Chat(speaker_of(model), chosen, ChatOptions(**settings))  # type: ignore[arg-type]


def talk(rounds: int, words: str = "the cat sat on the red mat .") -> list[Message]:
    said = [message for _ in range(rounds) for message in (user(words), assistant(words))]
    return [*said, user("the dog ran .")]


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_is_the_continuation_of_the_prompt(name: str) -> None:
    model = of_objective(name)
    prompts = ["the cat sat on", "big dog ."]
    written = generate_many(model, prompts, 12, GREEDY)
    for prompt, expected in zip(prompts, written, strict=True):
        answering = chat_of(model).answer([user(prompt)])
        pieces = list(answering)
        reply = answering.reply
        assert (reply.text, reply.tokens) == (expected.text.strip(), len(expected.ids))
        assert "".join(pieces) == reply.text
        assert reply.finish == expected.finish
        said = (assistant(reply.text),) if reply.text else ()
        assert reply.messages == (user(prompt), *said)
        assert reply.prompt_tokens == answering.prompt.row.columns


def test_a_batch_answers_as_alone_and_numbers_draw_differently() -> None:
    chat = chat_of(of_objective("gpt"), sampling=Sampling(seed=5))
    questions = [[user(text)] for text in ("the cat", "the cat", "the dog ran .", "red mat on the big dog")]
    together = chat.answer_many(questions)
    alone = []
    for question in questions:
        answering = chat.answer(question)
        list(answering)
        alone.append(answering.reply)
    assert together == alone
    texts = set()
    for number in range(4):
        answering = chat.answer(questions[0], number=number)
        list(answering)
        texts.add(answering.reply.text)
    assert len(texts) > 1 and together[0].text in texts


def test_the_oldest_rounds_are_left_out_until_a_quarter_of_the_context_is_free() -> None:
    chat = chat_of(of_objective("gpt"), "plain", max_new_tokens=0)
    messages = [system("play ."), *talk(6)]
    prompt = chat.prompt(messages)
    tokenizer = chat.speaker.tokenizer

    def length(dropped: int) -> int:
        rest = [messages[0], *messages[1 + 2 * dropped :]]
        return 1 + len(built_in("plain").prompt_ids(rest, tokenizer))  # <|endoftext|> begins the row

    # 48 positions; the last token of an answer is not read
    fits = [48 + 1 - length(dropped) >= 12 for dropped in range(7)]
    assert fits.index(True) == prompt.dropped > 0
    assert len(prompt.row) == length(prompt.dropped)
    assert prompt.messages[0] == messages[0] and prompt.messages[-1] == messages[-1]
    reply = chat.answer_many([messages])[0]
    assert reply.dropped == prompt.dropped
    assert reply.messages[: len(messages)] == tuple(messages)


def test_a_short_conversation_is_read_whole() -> None:
    assert chat_of(of_objective("gpt"), "plain", max_new_tokens=0).prompt(talk(1)).dropped == 0


def test_the_length_of_a_conversation_with_its_answer_may_be_limited() -> None:
    model = of_objective("chatglm")
    chat = chat_of(model, "chatglm", max_new_tokens=0, max_length=30)
    prompt = chat.prompt(talk(4))
    assert prompt.dropped > 0
    assert 30 >= len(prompt.row) + prompt.most > len(prompt.row) + 30 // 4 - 1
    reply = chat.answer_many([[user("the cat")]])[0]
    assert reply.finish in ("end", "length") and reply.prompt_tokens + reply.tokens <= 30
    with pytest.raises(UserError, match=r"has 10 tokens with those around it, so that max_length=5 leaves no room"):
        chat_of(model, max_length=5).answer([user("the cat sat on the red mat .")])


@pytest.mark.parametrize("name", ["gpt", "chatglm", "glm"])
def test_a_message_longer_than_the_context_is_one_sentence(name: str) -> None:
    chat = chat_of(of_objective(name))
    with pytest.raises(UserError, match=r"^the message does not fit into the model: the text has \d+ tokens.*shorten"):
        chat.answer([user("the cat " * 40)])
    with pytest.raises(UserError, match=r"^the message with that of the system does not fit into the model"):
        chat.answer([system("the cat " * 40), user("red")])


def forced(answers: dict[int, dict[int, float]], **options: object) -> tuple[Chat, Loaded]:
    """A chat with a GPT that writes what is forced behind the prompt `a`; the prompt has two columns."""
    tokenizer = byte_level(["a b User:"])
    model = forced_model("gpt", 0, answers, tokenizer.size)
    model_of = loaded("gpt", model, tokenizer)
    return chat_of(model_of, **options), model_of  # type: ignore[arg-type]


def ids(text: str, tokenizer_text: str = "a b User:") -> list[int]:
    return byte_level([tokenizer_text]).encode(text)


def test_an_answer_ends_where_the_next_question_would_begin() -> None:
    plain = "plain"
    tokenizer = byte_level(["a b User:"])
    begin = 1 + len(built_in(plain).prompt_ids([user("a")], tokenizer))
    written = tokenizer.encode("  b b\nUser:\nHi")
    answers = {begin - 1 + k: {token: 20.0} for k, token in enumerate(written)}
    chat, _ = forced(answers, template=plain, max_new_tokens=40)
    assert chat.stop == "\nUser:"
    answering = chat.answer([user("a")])
    pieces = list(answering)
    assert "".join(pieces) == "b b" and answering.reply.text == "b b"
    assert answering.reply.finish == "end"


def test_an_answer_ends_at_the_token_of_the_template() -> None:
    tokenizer = byte_level(["a b"])
    end = tokenizer.id("[PAD]")
    assert end is not None
    template = ChatTemplate("{% for m in messages %}{{ m.content }}[PAD]{% endfor %}")
    written = [*tokenizer.encode("b"), end]
    answers = {2 + k: {token: 20.0} for k, token in enumerate(written)}
    chat = chat_of(loaded("gpt", forced_model("gpt", 0, answers, tokenizer.size), tokenizer), template)
    reply = chat.answer_many([[user("a")]])[0]
    assert (reply.text, reply.finish, chat.stop) == ("b", "end", "")


def test_a_begin_token_of_the_template_is_not_doubled() -> None:
    tokenizer = byte_level(["a b"])
    model = loaded("gpt", random_model("gpt", rows=tokenizer.size), tokenizer)
    eos = tokenizer.vocabulary()["eos"]
    begins = [
        chat_of(model, ChatTemplate(source)).prompt([user("a")]).row.input_ids.tolist()[:3].count(eos)
        for source in ("{{ messages[0].content }}", "<|endoftext|>{{ messages[0].content }}")
    ]
    assert begins == [1, 1]


def test_scores_that_are_not_finite_end_an_answer_with_a_sentence() -> None:
    tokenizer = byte_level(["a b User:"])
    word = tokenizer.encode(" b")[0]
    chat, model = forced({k: {word: 20.0} for k in range(1, 8)}, max_new_tokens=8)
    with torch.no_grad():
        model.model.positions[0].weight[4] = float("nan")
    answering = chat.answer([user("a")])
    pieces = []
    with pytest.raises(UserError, match=r"^run: the model's scores are not finite numbers after 3 tokens .*dtype=fp32"):
        for piece in answering:
            pieces.append(piece)
    assert answering.reply.finish == "cancelled"
    assert "b b b".startswith("".join(pieces)) and pieces


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_such_scores_leaves_the_others_alone(bad: float) -> None:
    model = random_model("gpt", 1)

    def run(broken: bool) -> dict[int, list[Update]]:
        scheduler = Scheduler(model, 3, finite=True)
        nothing_V = torch.zeros(40, dtype=torch.bool)
        rows = [scheduler.join(gpt_input([k + 11], 48), SampledRow(GREEDY, [], nothing_V), 5) for k in range(3)]
        step, updates = scheduler._slots.step, {row: [] for row in rows}  # type: ignore[var-annotated]

        def damaged(ids: torch.Tensor) -> torch.Tensor:
            scores = step(ids).clone()
            if broken and len(ids) == 3:
                scores[1, 3] = bad
            return scores

        scheduler._slots.step = damaged  # type: ignore[method-assign]
        while scheduler.busy:
            for row, update in scheduler.step().items():
                updates[row].append(update)
        return updates

    whole, damaged = run(False), run(True)
    assert damaged[0] == whole[0] and damaged[2] == whole[2]
    assert damaged[1] == [whole[1][0], Update(None, "not finite")]


def test_a_flag_ends_an_answer_where_it_is() -> None:
    flag = threading.Event()
    chat = chat_of(of_objective("unilm"), max_new_tokens=30)
    answering = chat.answer([user("the cat sat")], flag)
    for _ in answering:
        flag.set()
    reply = answering.reply
    assert reply.finish == "cancelled" and 0 < reply.tokens < 30
    whole = chat.answer_many([[user("the cat sat")]])[0]
    assert whole.text.startswith(reply.text)


def test_models_that_do_not_write_are_refused() -> None:
    with pytest.raises(UserError, match=r"^run: a model of the objective bert does not write; chat with a model"):
        speaker_of(loaded("bert", random_model("bert")))
    without = loaded("gpt", random_model("gpt"), wordpiece(["[PAD]", "[UNK]"]))
    without.vocabulary.roles.pop("eos")  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="has no token for eos, which an answer needs"):
        speaker_of(without)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_new_tokens is -1"):
        chat_of(of_objective("gpt"), max_new_tokens=-1)


def test_text_that_the_tokenizer_does_not_know_is_refused() -> None:
    chat = chat_of(of_objective("gpt"))
    with pytest.raises(UserError, match="unknown"):
        chat.answer([user("xyzzy plugh frobozz")])
    chat.allow_unknown = True
    chat.answer([user("xyzzy plugh frobozz")])


def pushed(stream: Stream, pieces: Sequence[str]) -> list[str]:
    return [*(stream.push(piece) for piece in pieces), stream.end()]


def test_pieces_have_no_white_space_around_the_whole() -> None:
    assert pushed(answer_stream(), ["  ", " a", " b \n", "\n", "c\n "]) == ["", "a", " b", "", " \n\nc", ""]


def test_pieces_hold_back_what_may_be_the_end() -> None:
    assert pushed(answer_stream(["\nUser:"]), ["a\nUs", "e a", "\n", "User", ": b"]) == ["a", "\nUse a", "", "", "", ""]
    stream = answer_stream(["user:"])
    assert pushed(stream, ["a use", "r: x"]) == ["a", "", ""]
    assert stream.stopped and stream.text == "a"
