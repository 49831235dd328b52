"""Dialogues of every form of data sets, rows that are left out, and files that are refused, line by line."""

import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.chatting.messages import Message
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, UserError
from blankfill.tasks.datasets.chat import chat_task, read_dialogues
from blankfill.tasks.datasets.held_out import hold_out
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.items import ChatItem, Split
from conftest import DATA

SHARED = DATA / "chat"


def read(tmp_path: Path, rows: list[Any], *columns: str, name: str = "train.jsonl") -> Split:
    file = tmp_path / name
    if name.endswith(".json"):
        file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_dialogues(file, (), TableOptions(columns=columns))


def said(item: ChatItem) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in item.messages]


TEA = [("user", "What is tea?"), ("assistant", "A drink.")]
ROWS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "openai": (
        {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": " What is tea? "},
                      {"role": "assistant", "content": "A drink."}]},
        [("system", "Be short."), *TEA],
    ),
    "parts": (
        {"messages": [{"role": "user",
                       "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "tea?"}]},
                      {"role": "assistant", "content": [{"type": "text", "value": "A drink."}], "loss_weight": 1.0}]},
        TEA,
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "What is tea?"}, {"from": "gpt", "value": "A drink."}]}, TEA,
    ),
    "sgd": (
        {"turns": [{"speaker": "USER", "utterance": "What is tea?"}, {"speaker": "SYSTEM", "utterance": "A drink."}]},
        TEA,
    ),
    "kdconv": ({"messages": [{"message": "What is tea?"}, {"message": "A drink.", "attrs": []}]}, TEA),
    "chatglm": ({"content": "What is tea?", "summary": "A drink."}, TEA),
    "history": (
        {"prompt": "And now?", "response": "Still one.", "history": [["What is tea?", "A drink."]]},
        [*TEA, ("user", "And now?"), ("assistant", "Still one.")],
    ),
    "alpaca": (
        {"instruction": "Say what it is.", "input": "Tea", "output": "A drink.", "system": "Be short."},
        [("system", "Be short."), ("user", "Say what it is.\nTea"), ("assistant", "A drink.")],
    ),
    "alpaca without input": ({"instruction": "What is tea?", "input": "", "output": "A drink."}, TEA),
    "strings": ({"dialog": ["What is tea?", "A drink."]}, TEA),
    "numbers": ({"prompt": 2, "response": 4}, [("user", "2"), ("assistant", "4")]),
}  # fmt: skip


@pytest.mark.parametrize("name", [*ROWS])
def test_a_row_of_every_form_becomes_messages(name: str, tmp_path: Path) -> None:
    row, messages = ROWS[name]
    # a JSON file of one record that is a list of texts is a column of them
    for file in ("train.jsonl", *(["train.json"] if name != "strings" else [])):
        (item,) = read(tmp_path, [row], name=file).chats()
        assert said(item) == messages and item.line == 1 and item.unasked == ()


def test_an_instruction_has_a_dialogue_for_each_instance(tmp_path: Path) -> None:
    row = {"id": "seed", "instruction": "Name a drink.", "instances": [{"input": "hot", "output": "Tea"},
                                                                       {"input": "", "output": "Milk"}]}  # fmt: skip
    first, second = read(tmp_path, [row]).chats()
    assert said(first) == [("user", "Name a drink.\nhot"), ("assistant", "Tea")]
    assert said(second) == [("user", "Name a drink."), ("assistant", "Milk")]
    assert (first.id, second.id) == ("seed", "seed.1")


def test_parquet_and_csv_hold_dialogues_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = ROWS["openai"][0]["messages"]
    pq.write_table(pa.table({"messages": [messages], "kind": ["x"]}), tmp_path / "train.parquet")
    (item,) = read_dialogues(tmp_path / "train.parquet").chats()
    assert said(item) == ROWS["openai"][1]
    (tmp_path / "train.csv").write_text('prompt,response\n"What is tea?",A drink.\n', encoding="utf-8")
    (item,) = read_dialogues(tmp_path / "train.csv").chats()
    assert said(item) == TEA
    cell = json.dumps(messages).replace('"', '""')
    (tmp_path / "lists.csv").write_text(f'messages\n"{cell}"\n', encoding="utf-8")
    (item,) = read_dialogues(tmp_path / "lists.csv").chats()
    assert said(item) == ROWS["openai"][1]


def test_columns_are_named_by_roles(tmp_path: Path) -> None:
    (item,) = read(tmp_path, [{"q": "What is tea?", "a": "A drink.", "b": "no"}], "prompt=q", "response=a").chats()
    assert said(item) == TEA
    row = {"body": {"talk": [{"who": "human", "what": "What is tea?"}, {"who": "gpt", "what": "A drink."}]}}
    split = read(tmp_path, [row], "messages=body.talk", "role=who", "content=what")
    assert said(split.chats()[0]) == TEA
    assert [(choice.role, choice.field, choice.by) for choice in split.columns] == [("messages", "body.talk", "option")]
    (item,) = read(tmp_path, [{"id": "7", "n": "eight", "prompt": "a", "response": "b"}], "id=n").chats()
    assert item.id == "eight"
    with pytest.raises(ConfigError, match="no role 'label' here"):
        chat_task(TableOptions(columns=("label=a",)))
    with pytest.raises(ConfigError, match="no role 'words' here"):
        read(tmp_path, [ROWS["openai"][0]], "words=a")


def test_calls_of_tools_and_weights_are_told(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Cook"},
            {"from": "function_call", "value": '{"name": "search"}'},
            {"from": "observation", "value": '{"found": 1}'},
            {"from": "gpt", "value": "Soup"},
        ],
        "tools": '[{"name": "search"}]',
    }
    split = read(tmp_path, [row])
    assert said(split.chats()[0]) == [
        ("system", '[{"name": "search"}]'), ("user", "Cook"), ("assistant", '{"name": "search"}'),
        ("user", '{"found": 1}'), ("assistant", "Soup"),
    ]  # fmt: skip
    problems = " ".join(split.problems)
    assert (
        "1 calls of tools are read as written by the assistant, 1 results of tools as messages of the user" in problems
    )
    assert "1 dialogues describe tools" in problems and not split.losses()
    calls = {"messages": [{"role": "user", "content": "Cook"},
                          {"role": "assistant", "content": None, "tool_calls": [{"name": "search"}]},
                          {"role": "tool", "content": "1"},
                          {"role": "assistant", "content": "Soup", "weight": 0}]}  # fmt: skip
    split = read(tmp_path, [calls])
    assert split.chats()[0].messages[1] == Message("assistant", '[{"name": "search"}]')
    assert split.chats()[0].unasked == (3,)
    assert any("1 answers have the weight 0" in problem for problem in split.problems)


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    def row(*messages: tuple[str, str]) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": content} for role, content in messages]}

    good = row(*TEA)
    bad = {
        "has an empty answer": row(("user", "a"), ("assistant", " ")),
        "has an empty message of the user": row(("user", ""), ("assistant", "b")),
        "has two messages of the user in a row, so the first has no answer": row(
            ("user", "a"), ("user", "b"), ("assistant", "c")
        ),
        "has two answers in a row": row(("user", "a"), ("assistant", "b"), ("assistant", "c")),
        "begins with an answer, to which there is no message of the user": row(("system", "s"), ("assistant", "b")),
        "has a message of the system that is not the first one": row(
            ("user", "a"), ("system", "s"), ("assistant", "b")
        ),
        "has no message of the user": row(("system", "s")),
        "has no messages in 'messages'": {"messages": []},
    }
    split = read(tmp_path, [good, *bad.values()])
    assert len(split) == 1
    for line, why in enumerate(bad, 2):
        assert f"{tmp_path / 'train.jsonl'}: 1 of 9 rows left out: each {why} (line {line})." in split.losses()
    with pytest.raises(UserError, match="every row has an empty answer: is this the right file"):
        read(tmp_path, [bad["has an empty answer"]])


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": [{"role": "narrator", "content": "x"}]},
         "line 1, message 1 has the role 'narrator', which is not known; the roles are system, user and assistant"),
        ({"messages": [{"role": "user", "content": "x"}, {"content": "y"}]},
         "line 1, message 2 has no role, and others have one"),
        ({"messages": [{"role": "user", "content": 3.5}, 7]}, "line 1, message 2 is a number, not an object"),
        ({"messages": [{"role": "user"}]}, "line 1, message 1 has no content, but role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
         "line 1, message 1 has a part of the type 'image_url'; a dialogue here is text alone"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]},
         "line 1, message 1 has an object where a text is wanted"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "loss_weight": 0.5}]},
         "has the loss_weight 0.5; a message is learnt from"),
        ({"prompt": "x", "response": "y", "history": "z"}, "line 1 has a string in 'history' where a list of"),
        ({"prompt": "x", "response": {"a": "y"}}, "has an object where a text is wanted"),
        ({"instruction": "x", "instances": ["y"]}, "line 1 has an instance that is no object"),
        ({"title": "x", "body": "y"}, "line 1 is no dialogue of a known form: it has title, body"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_known_is_refused_with_its_line(row: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, [row])
    assert str(tmp_path / "train.jsonl") in str(caught.value) and sentence in str(caught.value)


def test_named_columns_that_are_absent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 1 has no 'q'; it has prompt, response"):
        read(tmp_path, [{"prompt": "x", "response": "y"}], "prompt=q")
    with pytest.raises(UserError, match="line 1 has a string in 'prompt' where a list of messages is wanted"):
        read(tmp_path, [{"prompt": "x", "response": "y"}], "messages=prompt")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError):
        read_dialogues(tmp_path / "empty.jsonl")


def test_open_dialogues_and_slots_are_told(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "I am {{name}}."},
                      {"role": "user", "content": "b"}]},
        {"turns": ["First question", "Second question"]},
    ]  # fmt: skip
    split = read(tmp_path, rows)
    first, second = split.chats()
    assert first.open and second.later == ("Second question",)
    problems = " ".join(split.problems)
    assert "2 dialogues end with a message of the user" in problems and "(line 1, 2)" in problems
    assert "1 dialogues have a slot such as {{name}} in an answer" in problems
    with pytest.raises(UserError, match="every row has answers without the messages that they answer"):
        read(tmp_path, [{"choices": [{"turns": ["x"]}]}])


def test_dialogues_with_the_same_questions_are_held_out_together(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{k % 5}", "response": f"a{k}"} for k in range(40)]
    left, held = hold_out(read(tmp_path, rows), 0.2)
    questions = [{item.messages[0].content for item in part.chats()} for part in (left, held)]
    assert not questions[0] & questions[1] and len(held) == 8
    assert task_named("chat").kind == "chat"


@pytest.mark.data
@pytest.mark.skipif(not SHARED.exists(), reason="the data sets are not beside the checkout")
def test_real_files_are_read_or_refused_in_a_sentence() -> None:
    counts = {
        "advertisegen/dev.json": 1070, "belle/zh_seed_tasks.json": 175, "chatglm_improve/data_sample.jsonl": 100,
        "kdconv_music/dev.json": 150, "llama_factory/alpaca_en_demo.json": 999,
        "llama_factory/alpaca_zh_demo.json": 1000, "llama_factory/glaive_toolcall_en_demo.json": 300,
        "llama_factory/identity.json": 91,
        "llama_factory/v1_sft_demo.jsonl": 500, "mt_bench/question.jsonl": 80,
        "openai_messages/toy_chat_fine_tuning.jsonl": 4, "self_instruct/seed_tasks.jsonl": 175,
        "sgd/dialogues_007.json": 68, "sharegpt_form/dummy_conversation.json": 500,
    }  # fmt: skip
    for name, count in counts.items():
        assert len(read_dialogues(SHARED / name)) == count, name
    toy = read_dialogues(SHARED / "openai_messages/toy_chat_fine_tuning.jsonl")
    assert "1 of 5 rows left out" in toy.losses()[0] and "(line 4)" in toy.losses()[0]
    with pytest.raises(UserError, match="answers without the messages that they answer"):
        read_dialogues(SHARED / "mt_bench/reference_answer_gpt-4.jsonl")
