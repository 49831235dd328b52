"""A sentence of the user as an example of every objective: on the terminal, as JSON, and as a page to explore."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.cli.main import main
from blankfill.cli.show import every_objective
from blankfill.config.recipe import load_recipe
from blankfill.objectives import OBJECTIVES, Glm, Mlm
from blankfill.pretraining.show_text import FEWEST, show_text, word_tokenizer
from blankfill.report.picture import join_row
from blankfill.report.strip import strip_text
from small_tasks import model_folder

TEXT = "The river was low that summer, and the boys walked across. Nobody had seen it so low before."
NO_TOKENIZER = "no tokenizer is given, so the words of the sentence are its tokens"


def data_of(page: str) -> Any:
    text = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    return json.loads(text)


@pytest.mark.parametrize("text", [TEXT, "One two three.", "Wait for me!", "春天来了，花都开了。孩子们在河边放风筝。"])
def test_every_objective_shows_a_text(text: str) -> None:
    recipe = load_recipe("glm-nano")
    rows = [show_text(text, each.objective, name=each.name) for each in every_objective(recipe, with_length=False)]
    assert [row.objective for row in rows] == list(OBJECTIVES)
    for row in rows:
        assert row.explanation == OBJECTIVES[row.objective].explanation and row.explanation.endswith(".")
        hidden = sum(len(example.target_ids) for example in row.examples)
        assert hidden > 0 or any(note.startswith("nothing is hidden in this draw") for note in row.notes)
        assert hidden > 0 or text != TEXT
        assert row.strip(80).count("token") or row.strip(80).count("decoder")
    gpt = rows[list(OBJECTIVES).index("gpt")]
    assert gpt.tokenizer.decode(gpt.examples[0].target_ids.tolist()) == text


def test_what_is_hidden_is_what_stood_there() -> None:
    row = show_text(TEXT, Mlm(length=64, random_share=0.0, mask_share=1.0, mask_ratio=0.3), seed=3, example=2)
    (example,) = row.examples
    whole = example.input_ids.copy()
    assert set(whole[example.target_index]) == {row.vocabulary["mask"]}
    whole[example.target_index] = example.target_ids
    assert row.tokenizer.decode(whole.tolist()) == TEXT
    again = show_text(TEXT, Mlm(length=64, random_share=0.0, mask_share=1.0, mask_ratio=0.3), seed=3, example=2)
    assert np.array_equal(again.examples[0].input_ids, example.input_ids)
    others = [show_text(TEXT, Mlm(length=64, mask_ratio=0.3), seed=3, example=k).examples[0] for k in range(5)]
    assert len({tuple(other.target_index.tolist()) for other in others}) > 1


def test_a_long_text_is_cut_to_the_row_and_this_is_said() -> None:
    row = show_text(" ".join([TEXT] * 5), Glm(length=32))
    assert row.notes[0].startswith("the text has 105 tokens, and the first 30 of them fit into a row")
    assert row.heading == "glm, seed 0, draw 0"


def test_words_are_the_tokens_where_no_tokenizer_is_given() -> None:
    tokenizer = word_tokenizer("Don't cry, Anna! 我爱你 สวัสดี [MASK]")
    ids = tokenizer.encode_plain(["Don't cry, Anna! 我爱你 สวัสดี"])[0].tolist()
    tokens = [tokenizer.token(number) for number in ids]
    assert tokens[:7] == ["Don", "'", "t", "cry", ",", "Anna", "!"]
    assert tokens[7:10] == ["我", "爱", "你"] and "".join(tokens[10:]) == "สวัสดี" and len(tokens) > 12
    assert tokenizer.vocabulary().roles["mask"] not in ids


def test_the_strip_has_targets_and_positions_below_the_tokens() -> None:
    row = show_text(TEXT, Glm(length=64), seed=1)
    text = strip_text(row.examples, row.tokenizer.token, row.channels, 60)
    assert max(map(len, text.splitlines())) <= 60
    heads = [line.split(" ")[0] for line in text.splitlines() if line]
    assert heads.count("token") == heads.count("pos") / 2 > 1
    words = " ".join(line.removeprefix("token") for line in text.splitlines() if line.startswith("token")).split()
    assert words == [row.tokenizer.token(number) for number in row.examples[0].input_ids.tolist()]
    encoder = show_text(TEXT, OBJECTIVES["t5"](length=64)).strip(200)
    assert [line.split(" ")[0] for line in encoder.splitlines() if line] == [
        "encoder", "pos", "decoder", "target", "pos",
    ]  # fmt: skip


def test_all_objectives_are_printed_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "all.html"
    assert main(["show", "--text", TEXT, "--recipe", "all", "--html", str(page), "--width", "100"]) == 0
    out, err = capsys.readouterr()
    assert NO_TOKENIZER in err
    assert re.findall(r"^([a-z0-9-]+): [A-Z]", out, re.MULTILINE) == list(OBJECTIVES)
    assert f"the page, for a browser: {page}" in out
    assert re.findall(r'<section id="([a-z0-9-]+)">', page.read_text(encoding="utf-8")) == list(OBJECTIVES)
    assert main(["show", "--text", TEXT, "--all", "--objective.length", "16", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [row["objective"] for row in values["rows"]] == list(OBJECTIVES)
    assert max(len(row["examples"][0]["tokens"]) for row in values["rows"] if row["objective"] == "bert") <= 16


def test_the_page_says_who_sees_whom(tmp_path: Path) -> None:
    row = show_text(TEXT, Glm(length=64), seed=1)
    row.html(tmp_path / "glm.html")
    page = (tmp_path / "glm.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    visible = join_row(row.examples).visible()
    (values,) = data_of(page)["rows"]
    assert np.array_equal(np.array([list(map(int, line)) for line in values["sees"]], bool), visible)
    buttons = re.findall(r'<button type="button" class="([^"]*)" data-k="(\d+)" tabindex="(-?\d)"', page)
    assert [int(number) for _, number, _ in buttons] == list(range(len(visible)))
    assert [tab for _, _, tab in buttons] == ["0"] + ["-1"] * (len(buttons) - 1)
    blanks = [int(number) for kind, number, _ in buttons if "blank" in kind.split()]
    expected = [k for k, i in enumerate(row.examples[0].input_ids.tolist()) if i in row.blanks]
    assert blanks == expected and expected
    assert page.index('class="tokens"') < page.index('class="square"')


def test_a_text_cannot_break_the_page(tmp_path: Path) -> None:
    row = show_text('</script><b>x</b> & <img src=x> "quoted" {{data}} and more.', OBJECTIVES["gpt"](length=64))
    row.html(tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "<img" not in page and "<b>x" not in page


def test_a_row_of_a_run_is_a_page_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(f"On day {k} we counted {k * 37 % 101} geese." for k in range(200)), encoding="utf-8")
    page = tmp_path / "row.html"
    small = ["--corpus.vocab-size", "0", "--corpus.workers", "1", "--objective.length", "32"]
    assert main(["show", str(text), "--recipe", "modernbert-nano", "--html", str(page), *small]) == 0
    assert f"the page, for a browser: {page}" in capsys.readouterr().out
    (row,) = data_of(page.read_text(encoding="utf-8"))["rows"]
    assert len(row["near"]) == len(row["sees"])
    assert sum(line.count("1") for line in row["near"]) <= sum(line.count("1") for line in row["sees"])


def test_the_tokens_are_those_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_folder(tmp_path)
    model = str(next((tmp_path / "made").iterdir()))
    assert main(["show", "--text", "the cat sat on the dog", "--model", model, "--json"]) == 0
    values, err = capsys.readouterr()
    assert NO_TOKENIZER not in err
    assert json.loads(values)["title"].startswith(f"{Path(model).name}, seed 0")
    assert main(["show", "--text", "the cat sat on the dog", "--tokenizer", model, "--recipe", "gpt-nano"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("gpt-nano, seed 0, draw 0\nNothing is hidden") and NO_TOKENIZER not in err
    assert main(["show", "--text", "the cat", "--model", model, "--objective.length", "16"]) == 2
    assert "--objective.length changes a recipe, and the objective is that of --model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--all"], "--all is for a sentence of yours; give it with --text SENTENCE"),
        (["--recipe", "all"], "--all is for a sentence of yours; give it with --text SENTENCE"),
        (["--recipe=all", "--text", " "], "--all is for a sentence of yours; give it with --text SENTENCE"),
        (["--tokenizer", "x"], "--tokenizer is for a sentence of yours; give it with --text SENTENCE"),
        (["--text", "a b c", "texts"], "--text is shown instead of a text from files; leave out texts"),
        (["--text", "a"], f"--text has 1 tokens; give a sentence of {FEWEST} or more"),
        (["--text", "a b c d", "--example", "-1"], "--example is -1; the draws of blanks are numbered from 0"),
        (["--text", "a b c d", "--html", "x.txt"], "--html x.txt does not end in .html; only HTML files are written"),
        (["--text", "a b c d", "--all", "--png", "x.png"],
         "--png draws one example; for every objective write a page: --html"),
        (["--text", "a b c d", "--all", "--train.steps", "3"],
         "--train.steps belongs to one recipe, and --all shows every objective; only --objective.length can be "
         "changed for all of them"),
        (["--text", "a b c d", "--all", "--recipe", "gpt-nano"],
         "--recipe gpt-nano is one recipe, and --all shows every one"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"blankfill: {message}"
