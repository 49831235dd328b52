"""A dialogue as the rows that a model learns to chat from: rounds, targets, and what sees what."""

import json
from pathlib import Path

import numpy as np
import pytest

from blankfill.chatting.messages import assistant, system, user
from blankfill.chatting.templates import ChatTemplate, built_in
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.objectives import OBJECTIVES, Mlm
from blankfill.pretraining.show import ShownRow
from blankfill.pretraining.show_chat import show_chat
from blankfill.report.picture import join_row
from blankfill.tasks.items import ChatItem
from small_tasks import model_folder

ROUNDS = (
    user("Who are you?"), assistant("A small model."), user("Where is the river?"), assistant("Behind the mill.")
)  # fmt: skip
DIALOGUE = ChatItem("0", ROUNDS)


def rounds_of(row: ShownRow) -> list[int]:
    (column,) = row.further
    assert column.name == "round" and len(column.values) == sum(map(len, row.examples))
    return column.values.tolist()


def asked_of(row: ShownRow) -> list[str]:
    return [row.tokenizer.decode(example.target_ids.tolist()) for example in row.examples]


def spelt(row: ShownRow, number: int) -> list[str]:
    """The tokens of a round."""
    ids = join_row(row.examples).input_ids.tolist()
    return [row.tokenizer.token(i) for i, of in zip(ids, rounds_of(row), strict=True) if of == number]


@pytest.mark.parametrize("name", ["chatglm", "glm-130b", "glm"])
@pytest.mark.parametrize("template", ["chatglm", "plain"])
def test_answers_are_asked_behind_their_rounds(name: str, template: str) -> None:
    row = show_chat(DIALOGUE, OBJECTIVES[name](), built_in(template))
    assert len(row.examples) == 2 and "all of which see each other" in row.explanation
    assert asked_of(row) == ["A small model.", "Behind the mill."]
    first, second = row.examples
    visible = join_row(row.examples).visible()
    assert not visible[: len(first), len(first) :].any() and not visible[len(first) :, : len(first)].any()
    context = int(second.target_index[0])
    assert second.rule.visible()[: context - 1, : context - 1].all()
    if name != "glm-130b":
        assert "pos 2" in row.strip()


def test_rounds_are_counted_from_one() -> None:
    row = show_chat(DIALOGUE, OBJECTIVES["chatglm"](), built_in("plain"))
    first = rounds_of(row)[: len(row.examples[0])]
    second = rounds_of(row)[len(row.examples[0]) :]
    assert set(first) == {1}
    assert second == sorted(second) and set(second) == {1, 2}
    assert [word for word in spelt(row, 2) if word in ("river", "model")] == ["river"]


def test_a_left_to_right_model_learns_all_answers_in_one_row() -> None:
    row = show_chat(DIALOGUE, OBJECTIVES["gpt"](), built_in("plain"))
    (example,) = row.examples
    assert "in one row" in row.explanation
    words = [row.tokenizer.token(i) for i in example.target_ids.tolist()]
    assert words == ["A", "small", "model", ".", "<|endoftext|>", "Behind", "the", "mill", ".", "<|endoftext|>"]
    assert spelt(row, 2)[:2] == ["User", ":"] and "Who" in spelt(row, 1)
    assert np.array_equal(example.rule.visible(), np.tri(len(example), dtype=bool))


def test_an_encoder_reads_the_rounds() -> None:
    row = show_chat(DIALOGUE, OBJECTIVES["t5"](), built_in("plain"))
    assert row.further == () and len(row.examples) == 2
    assert asked_of(row) == ["A small model.", "Behind the mill."]


def test_answers_that_are_not_learnt_keep_the_numbers_of_the_rounds() -> None:
    row = show_chat(ChatItem("0", ROUNDS, unasked=(1,)), OBJECTIVES["chatglm"](), built_in("plain"))
    assert asked_of(row) == ["Behind the mill."] and set(rounds_of(row)) == {1, 2}


def test_a_cut_prompt_has_no_rounds_but_that_of_its_answer() -> None:
    long = ChatItem("0", (user("one two three " * 12), *ROUNDS[1:]))
    row = show_chat(long, OBJECTIVES["gpt"](length=48), built_in("plain"))
    assert any("without the oldest rounds" in note for note in row.notes)
    last = rounds_of(row)[-len(row.examples[-1]) :]
    assert set(last) == {-1, 2}
    assert [k for k, of in enumerate(last) if of == 2] == row.examples[-1].target_index.tolist()


def test_a_template_that_rewrites_earlier_rounds_has_no_rounds_either() -> None:
    last_first = ChatTemplate("{% for m in messages | reverse %}{{ m.content }} {% endfor %}")
    row = show_chat(DIALOGUE, OBJECTIVES["chatglm"](), last_first)
    second = rounds_of(row)[len(row.examples[0]) :]
    assert set(second) == {-1, 2}
    assert [k for k, of in enumerate(second) if of == 2] == row.examples[1].target_index.tolist()


def test_the_message_of_the_system_belongs_to_the_first_round() -> None:
    row = show_chat(ChatItem("0", (system("Be brief."), *ROUNDS)), OBJECTIVES["chatglm"](), built_in("plain"))
    assert "brief" in spelt(row, 1) and "brief" not in spelt(row, 2)


def test_what_cannot_be_shown() -> None:
    with pytest.raises(UserError, match="does not write texts"):
        show_chat(DIALOGUE, Mlm(), built_in("plain"))
    with pytest.raises(UserError, match="has no answer that is learnt"):
        show_chat(ChatItem("7", ROUNDS[:1]), OBJECTIVES["chatglm"](), built_in("plain"))
    open_end = show_chat(ChatItem("0", ROUNDS[:3]), OBJECTIVES["chatglm"](), built_in("plain"))
    assert open_end.notes == ("the last message of the user has no answer, and nothing is learnt from it",)


def write_rounds(path: Path) -> Path:
    lines = [{"messages": [message.to_json() for message in ROUNDS]}, {"prompt": "Is it low?", "response": "Yes."}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_the_command_shows_a_dialogue_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, page = write_rounds(tmp_path / "rounds.jsonl"), tmp_path / "row.html"
    argv = ["show", "--chat", str(file), "--recipe", "glm-nano", "--template", "chatglm", "--html", str(page)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith("rounds.jsonl, dialogue 0, template chatglm\n") and "47 columns, 2 examples" in out
    assert "round 2" in page.read_text(encoding="utf-8")
    assert main([*argv[:-2], "--example", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [example["targets"][0]["token"] for example in values["examples"]] == ["Yes"]


def test_the_command_shows_a_dialogue_for_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_rounds(tmp_path / "rounds.jsonl")
    folder = model_folder(tmp_path, "gpt")
    assert main(["show", "--chat", str(file), "--model", str(folder)]) == 0
    assert "template plain" in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "message"), [
    (["--chat", "FILE", "--text", "Hello there."], "--text and --chat are two things to show"),
    (["--chat", "FILE", "--all"], "--all shows a sentence under every objective"),
    (["--template", "chatglm"], "--template is for a dialogue; give its file with --chat FILE"),
    (["--chat", "FILE", "--example", "2"], "--example is 2; FILE has the dialogues 0 to 1"),
    (["texts", "--chat", "FILE"], "--chat is shown instead of a text from files; leave out texts"),
    (["--chat", "FILE", "--template", "chat-glm"], "chat-glm: there is no such file, and no built-in chat template"),
    (["--chat", "FILE", "--recipe", "bert-nano"], "does not write texts"),
    (["--chat", "no.jsonl"], "no.jsonl does not exist"),
    (["--chat", "nosuch"], "nosuch does not exist; give a file of dialogues"),
])  # fmt: skip
def test_bad_requests_are_answered(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(write_rounds(tmp_path / "rounds.jsonl"))
    assert main(["show", *(file if word == "FILE" else word for word in argv)]) == 2
    assert message.replace("FILE", file, 1) in capsys.readouterr().err.replace("--chat FILE", f"--chat {file}")
