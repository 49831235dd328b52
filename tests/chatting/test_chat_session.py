"""A conversation in progress: its commands, what is kept of an answer, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blankfill.chatting.engine import Chat, speaker_of
from blankfill.chatting.messages import assistant, system, user
from blankfill.chatting.options import ChatOptions
from blankfill.chatting.saved import read_dialogues, write_dialogue
from blankfill.chatting.session import HELP, EndedError, Session, is_command, message_in
from blankfill.chatting.templates import built_in
from blankfill.errors import UserError
from blankfill.generation.sampling import Sampling
from generate_models import forced_model, loaded, random_model, wordpiece

TALK = [system("Be kind."), user("the cat"), assistant("the dog")]


def session(template: str = "plain", tokens: int = 4, **more: object) -> Session:
    chat = Chat(
        speaker_of(loaded("gpt", random_model("gpt", 3))), built_in(template),
        ChatOptions(tokens, sampling=Sampling(temperature=0)), **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return Session(chat)


def answered(session: Session, text: str) -> str:
    answering = session.ask(text)
    sentence = session.left_out(answering)
    for _ in answering:
        pass
    session.keep(answering)
    return sentence


def test_a_conversation_grows_by_rounds_and_is_taken_back() -> None:
    talk = session()
    answered(talk, "the cat sat")
    answered(talk, "the dog ran")
    assert [message.role for message in talk.messages] == ["user", "assistant"] * 2
    assert talk.command("/undo") == "taken back: the dog ran"
    assert talk.messages[0] == user("the cat sat") and len(talk.messages) == 2
    assert talk.command("/clear") == "cleared: 1 round"
    assert talk.command("/undo") == "there is no round to take back"
    assert talk.messages == []


def test_the_message_of_the_system_stays_and_is_removed() -> None:
    talk = session()
    assert talk.command("/system") == "there is no message of the system"
    assert talk.command("/system  play on ") == "the message of the system is set"
    answered(talk, "the cat")
    assert talk.messages[0] == system("play on")
    talk.command("/clear")
    assert talk.messages == [system("play on")]
    assert talk.command("/system") == "the message of the system is removed"
    assert talk.messages == []


def test_each_answer_is_another_draw_of_the_seed() -> None:
    talk = session(tokens=12)
    talk.chat.options = ChatOptions(12, sampling=Sampling(seed=1))
    texts = []
    for _ in range(4):
        answering = talk.ask("the cat")
        list(answering)
        texts.append(answering.reply.text)
    assert len(set(texts)) > 1


def test_an_empty_answer_is_not_kept() -> None:
    tokenizer = wordpiece()
    end = tokenizer.vocabulary()["eos"]
    model = loaded("gpt", forced_model("gpt", 0, {k: {end: 20.0} for k in range(48)}, tokenizer.size), tokenizer)
    talk = Session(Chat(speaker_of(model), built_in("bare"), ChatOptions(4)))
    answered(talk, "the cat")
    assert talk.messages == []


def test_an_interrupted_answer_stays_as_far_as_it_was_written() -> None:
    talk = session(tokens=30)
    answering = talk.ask("the cat")
    iterator = iter(answering)
    first = next(iterator)
    del iterator
    reply = talk.keep(answering)
    assert reply.finish == "cancelled" and reply.text.startswith(first.strip()) and len(talk.messages) == 2


def test_rounds_that_do_not_fit_are_said_once_for_each_number() -> None:
    talk = session(tokens=0)
    said = [answered(talk, "the cat sat on the red mat . the big dog ran .") for _ in range(4)]
    assert said[0] == "" and any("oldest round" in sentence for sentence in said)
    assert len([sentence for sentence in said if sentence]) == len({sentence for sentence in said if sentence})
    assert len(talk.messages) == 8, "they are still in the conversation"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/nosuch", "there is no command /nosuch; /help lists them, and // begins a message that starts with a slash"),
        ("/clear all", "/clear takes no text; leave out 'all'"),
        ("/save", "/save needs the name of a file, such as /save talk.json"),
        ("/load", "/load needs the name of a file, such as /load talk.json"),
        ("/save x.json", "there is nothing to save yet"),
        ("/load nosuch.json", "nosuch.json does not exist"),
    ],
)
def test_commands_that_cannot_be_carried_out(line: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        session().command(line)
    assert str(raised.value) == sentence


def test_help_names_every_command() -> None:
    talk = session()
    assert talk.command("/help").splitlines() == [f"{usage}: {purpose}" for usage, purpose in HELP.items()]
    for usage in HELP:
        try:
            talk.command(usage.split()[0])
        except EndedError:
            assert usage == "/exit"
        except UserError as error:
            assert "there is no command" not in str(error)


def test_lines_that_are_commands() -> None:
    assert is_command("/x") and is_command("  /x") and not is_command("//x") and not is_command("a /x")
    assert message_in(" //etc/hosts ") == "/etc/hosts" and message_in(" a ") == "a"


def test_saved_conversations_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    talk = session()
    talk.command("/system 请简短回答。")
    answered(talk, "the cat")
    assert talk.command("/save talk.json") == "saved: 1 round in talk.json"
    assert json.loads(Path("talk.json").read_text(encoding="utf-8")) == {
        "messages": [message.to_json() for message in talk.messages]
    }
    answered(talk, "the dog")
    assert talk.command("/save talk.json") == "saved: 2 rounds in talk.json", "its own file is written again"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    talk.command("/save ~/talk.json")
    assert (tmp_path / "home" / "talk.json").read_bytes() == (tmp_path / "talk.json").read_bytes()
    assert session().command("/load ~/talk.json") == "loaded: 2 rounds"
    other = session()
    assert other.command("/load talk.json") == "loaded: 2 rounds"
    assert other.messages == talk.messages
    Path("other.json").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"^other\.json exists; give another name$"):
        other.command("/save other.json")
    with pytest.raises(UserError, match=r"nowhere.*cannot be written .*give another file"):
        other.command("/save nowhere/talk.json")


def test_what_is_saved_is_learnt_from(tmp_path: Path) -> None:
    from blankfill.tasks.datasets.chat import read_dialogues as for_training

    write_dialogue(tmp_path / "talk.jsonl", TALK)
    write_dialogue(tmp_path / "talk.json", TALK)
    for name in ("talk.jsonl", "talk.json"):
        (item,) = for_training(tmp_path / name).items
        assert list(item.messages) == TALK  # type: ignore[attr-defined]


def test_an_open_question_is_left_out_on_loading(tmp_path: Path) -> None:
    write_dialogue(tmp_path / "talk.json", [*TALK, user("and?")])
    talk = session()
    note = "loaded: 1 round; its last message has no answer and is left out"
    assert talk.command(f"/load {tmp_path / 'talk.json'}") == note
    assert talk.messages == TALK
    write_dialogue(tmp_path / "rounds.json", [user("a"), user("b"), assistant("c")])
    with pytest.raises(UserError, match=r"rounds\.json, message 2: a message of the user follows one of the user"):
        talk.command(f"/load {tmp_path / 'rounds.json'}")
    assert talk.messages == TALK, "nothing is lost"


FORMS = {
    "object": ("d.json", {"messages": [message.to_json() for message in TALK]}, 1),
    "messages": ("d.json", [message.to_json() for message in TALK], 1),
    "list of objects": ("d.json", [{"messages": [message.to_json() for message in TALK]}] * 2, 2),
    "list of lists": ("d.json", [[message.to_json() for message in TALK]] * 3, 3),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_files(form: str, tmp_path: Path) -> None:
    name, value, count = FORMS[form]
    path = tmp_path / name
    for indent in (None, 2):
        path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
        assert [messages for _, messages in read_dialogues(path)] == [TALK] * count
    lines = tmp_path / "d.jsonl"
    lines.write_text((json.dumps(value if count == 1 else value[0]) + "\n\n") * 2, encoding="utf-8")
    assert [where for where, _ in read_dialogues(lines)] == [f"{lines}, line 1", f"{lines}, line 3"]
    lines.rename(tmp_path / "lines.json")
    assert len(read_dialogues(tmp_path / "lines.json")) == 2, "JSON Lines under another name"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "d.json: there is no conversation"),
        ("[]", "d.json: there is no conversation"),
        ("{", "d.json: not JSON"),
        ('{"a": 1}', "d.json: not a list of messages"),
        ('[{"role": "user", "content": "a"}, 3]', "d.json, conversation 1: not a list of messages"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "d.json, message 1 has the role 'tool'"),
        ('{"messages": []}\n{"messages": [\n', "d.json, line 2: not JSON"),
    ],
)
def test_files_without_conversations(text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        read_dialogues(Path("d.json"))
    assert str(raised.value).startswith(sentence)


def test_several_conversations_cannot_be_continued_at_once(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    line = json.dumps({"messages": [message.to_json() for message in TALK]}) + "\n"
    path.write_text(line * 2, encoding="utf-8")
    with pytest.raises(UserError, match="has 2 conversations; give a file with one"):
        session().command(f"/load {path}")
