"""The commands fill and generate: plain and JSON output, where text comes from, and errors."""

import dataclasses
import io
import json
from pathlib import Path

import pytest

import blankfill.checkpoint.load
from blankfill.checkpoint.load import Loaded
from blankfill.cli import fill, generate
from blankfill.cli.main import main
from blankfill.cli.result import render
from blankfill.errors import UserError
from blankfill.system.console import settings_as_flags
from generate_models import forced_model, loaded, wordpiece

TOKENIZER = wordpiece()


def word(token: str) -> int:
    id = TOKENIZER.id(token)
    assert id is not None
    return id


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    ready = loaded("bert", forced_model("bert", 0, {2: {word("cat"): 9.0, word("猫"): 8.0}}, 30))
    monkeypatch.setattr(blankfill.checkpoint.load, "load_model", lambda path, device, dtype: ready)
    return ready


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    wanted = {1: {word("cat"): 9.0}, 2: {word("sat"): 9.0}, 3: {word("<|endoftext|>"): 9.0}}
    ready = loaded("gpt", forced_model("gpt", 0, wanted, 30))
    monkeypatch.setattr(blankfill.checkpoint.load, "load_model", lambda path, device, dtype: ready)
    return ready


def test_fill_shows_the_sentence_and_the_candidates(masked: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(fill.main(["--model", "run", "--top", "2", "the [MASK] sat", "The [MASK]."])) == 0
    first, second = capsys.readouterr().out.split("\n\n")
    lines = first.splitlines()
    assert lines[:2] == ["the «cat» sat", "[MASK]"]
    assert lines[2].split() == ["fill", "probability", "score"]
    assert lines[3].split()[:2] == ["1", "«cat»"] and lines[3].split()[2].endswith("%")
    assert lines[4].split()[:2] == ["2", "«猫»"]
    assert second.startswith("The «cat».")


def test_fill_gives_one_json_object_on_a_line(
    masked: Loaded, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("the ____ sat\n\nthe <mask> ran\n", encoding="utf-8-sig")
    stdin = io.TextIOWrapper(io.BytesIO("the [MASK] 在\r\n".encode()), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["fill", "--model", "run", "--json", "--file", str(lines), "-"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["filled"] for result in results] == ["the cat 在", "the cat sat", "the cat ran"]
    assert results[1]["blanks"][0]["blank"] == "____" and results[1]["blanks"][0]["start"] == 4
    top = results[0]["blanks"][0]["candidates"]
    assert [c["text"] for c in top[:2]] == ["cat", "猫"] and top[0]["ids"] == [word("cat")]
    assert 0 < top[1]["probability"] < top[0]["probability"] < 1 and results[0]["probabilities"] == "model"


def test_fill_names_the_line_of_a_mistake(masked: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("the [MASK]\nno blank\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"lines.txt, line 2: the text has no blank"):
        render(fill.main(["--model", "run", "--file", str(lines)]))
    lines.write_bytes(b"the [MASK] \xff\n")
    with pytest.raises(UserError, match="line 1: byte 12 is not UTF-8"):
        render(fill.main(["--model", "run", "--file", str(lines)]))
    with pytest.raises(UserError, match="cannot be read"):
        render(fill.main(["--model", "run", "--file", str(tmp_path / "none.txt")]))
    with pytest.raises(UserError, match="nothing to fill"):
        render(fill.main(["--model", "run"]))
    with pytest.raises(UserError, match=r"^the text has no blank"):
        render(fill.main(["--model", "run", "none"]))
    monkeypatch.setattr("sys.stdin", io.StringIO("none\n"))
    with pytest.raises(UserError, match="standard input, line 1"):
        render(fill.main(["--model", "run", "-"]))


def test_generate_streams_the_prompt_and_what_follows(writing: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    assert render(generate.main(["--model", "run", "--prompt", "the", "--temperature", "0"])) == 0
    assert capsys.readouterr().out == "the cat sat\n"


def test_generate_gives_samples_and_json(writing: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--model", "run", "--prompt", "the", "--temperature", "0", "--num", "2"]
    assert render(generate.main(common)) == 0
    assert capsys.readouterr().out == "--- 1 ---\nthe cat sat\n--- 2 ---\nthe cat sat\n"
    assert main(["generate", *common, "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert results == [{"prompt": "the", "text": " cat sat", "whole": "the cat sat", "tokens": 2, "finish": "end"}] * 2


def test_generate_says_that_the_positions_are_used_up(writing: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    with settings_as_flags():
        assert render(generate.main(["--model", "run", "--prompt", "cat " * 45, "--temperature", "0"])) == 0
    assert "model's 48 positions; --slide" in capsys.readouterr().err


def test_generate_refuses_values_out_of_range(writing: Loaded) -> None:
    with pytest.raises(UserError, match="num is 0"):
        render(generate.main(["--model", "run", "--num", "0"]))
    with pytest.raises(UserError, match="temperature is -1"):
        render(generate.main(["--model", "run", "--temperature", "-1"]))


def test_the_lists_of_options_are_frozen() -> None:
    names = [field.name for field in dataclasses.fields(fill.FillArguments)]
    assert names == [
        "encoding", "delimiter", "sheet", "columns",
        "text", "model", "adapter", "file", "allow_unknown", "top", "lengths", "length_penalty", "dtype",
        "device", "threads",
    ]  # fmt: skip
    names = [field.name for field in dataclasses.fields(generate.GenerateArguments)]
    assert names == [
        "model", "adapter", "prompt", "allow_unknown", "add_bos", "max_new_tokens", "temperature", "top_k", "top_p",
        "repetition_penalty",
        "no_repeat_ngram", "slide", "num", "seed", "dtype", "device", "threads",
    ]  # fmt: skip


def test_a_text_that_is_mostly_unknown_stops(
    masked: Loaded, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^75\.0% of the 4 tokens of the sentence are unknown .* text in Greek script"):
        render(fill.main(["--model", "run", "αβ γδ the εζ [MASK]"]))
    lines = tmp_path / "lines.txt"
    lines.write_text("the [MASK] sat\nαβ [MASK]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"lines\.txt, line 2: The only token of the sentence is unknown"):
        render(fill.main(["--model", "run", "--file", str(lines)]))
    assert capsys.readouterr().out.startswith("the «cat» sat")
    assert render(fill.main(["--model", "run", "--allow-unknown", "αβ [MASK]"])) == 0
    captured = capsys.readouterr()
    assert "is unknown" in captured.err and "[MASK]" in captured.out
    assert render(fill.main(["--model", "run", "the [MASK] sat 😀"])) == 0
    assert "Note: 33.3% of the 3 tokens of the sentence" in capsys.readouterr().err


def test_a_prompt_that_is_mostly_unknown_stops(writing: Loaded, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^100\.0% of the 2 tokens of the prompt are unknown"):
        render(generate.main(["--model", "run", "--prompt", "αβ γδ", "--max-new-tokens", "2"]))
    assert (
        render(generate.main(["--model", "run", "--prompt", "αβ γδ", "--max-new-tokens", "2", "--allow-unknown"])) == 0
    )
    assert capsys.readouterr().out.startswith("αβ γδ")


def test_fill_reads_the_text_of_a_table(masked: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,text,note\n1,the ____ sat,a\n2,,b\n3,the [MASK] 在,c\n", encoding="utf-8")
    assert main(["fill", "--model", "run", "--json", "--file", str(table)]) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["filled"] for line in said.out.splitlines()] == ["the cat sat", "the cat 在"]
    assert "t.csv: CSV, ','; text 'text'" in said.err
    with pytest.raises(UserError, match="line 2: the text has no blank"):
        render(fill.main(["--model", "run", "--file", str(table), "--columns", "note"]))
    with pytest.raises(UserError, match="has no column 'body'; its columns are id, text, note"):
        render(fill.main(["--model", "run", "--file", str(table), "--columns", "body"]))
    with pytest.raises(UserError, match="options of tables go with"):
        fill.main(["--model", "run", "the [MASK]", "--columns", "body"])
