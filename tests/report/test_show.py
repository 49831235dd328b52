"""`blankfill show` from text to picture: it shows the row that a run trains on."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from blankfill.cli.main import main
from blankfill.cli.show import blocks_fit
from blankfill.config.recipe import load_recipe
from blankfill.data.sampler import Sampler
from blankfill.errors import UserError
from blankfill.objectives import T5
from blankfill.pretraining import data_setup
from blankfill.pretraining.show import show, speller
from blankfill.report.picture import example_text

SMALL = ["--corpus.vocab-size", "0", "--corpus.workers", "1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of our own sentences."""
    folder = tmp_path_factory.mktemp("show")
    text = folder / "birds.txt"
    lines = [f"On day {k} we counted {k * 37 % 101} geese. They flew to lake number {k % 7}." for k in range(300)]
    text.write_text("\n\n".join(lines), encoding="utf-8")
    out = folder / "prepared"
    arguments = ["show", str(text), "--out", str(out), "--objective.length", "32", *SMALL]
    assert main(arguments) == 0
    return out


def test_the_row_shown_is_the_row_of_the_sampler(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("glm-nano", {"objective.length": 32, "seed": 5})
    opened = data_setup.open_corpus([str(corpus)], recipe, corpus)
    sampler = Sampler(opened.train, recipe.objective, opened.vocabulary, 5)
    examples = sampler.row(11)
    assert main(["show", str(corpus), "--objective.length", "32", "--seed", "5", "--example", "11"]) == 0
    head, size, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith(f"seed 5, row 11 (epoch 0, 12 of {sampler.rows_in_epoch(0):,} rows)")
    assert size.startswith(f"{sum(map(len, examples))} columns, {len(examples)} example")
    shown = [line.split()[1] for line in lines if line.strip()[:1].isdigit()][: sum(map(len, examples))]
    ids = [i for example in examples for i in example.input_ids.tolist()]
    assert shown == [opened.tokenizer.token(i) for i in ids]


def test_the_function_returns_the_row_that_the_command_prints(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # the usual width of `ShownRow.text`
    recipe = load_recipe("glm-nano", {"objective.length": 32, "seed": 5})
    row = show(recipe, [corpus], example=11)
    assert (row.epoch, row.place, row.title) == (0, 11, "glm-nano, seed 5, row 11")
    assert main(["show", str(corpus), "--objective.length", "32", "--seed", "5", "--example", "11"]) == 0
    assert capsys.readouterr().out == f"{row.heading}\n{row.text()}\n"
    assert row.text(plain=True) == row.text().translate(str.maketrans("·█▌│─┼", "01+|-+"))
    assert row.png(tmp_path / "row.png") == "" and (tmp_path / "row.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="example is 99999999; a run of this recipe has the rows 0 to "):
        show(recipe, [corpus], example=99999999)


def test_a_corpus_prepared_before_gets_the_sentinels_of_a_recipe(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(load_recipe("gpt-nano"), objective=T5(length=32))
    opened = data_setup.open_corpus([str(corpus)], recipe, corpus)
    assert "has no token for 100 sentinels; added at the end of the vocabulary" in capsys.readouterr().err
    assert opened.vocabulary.size == len(opened.unigram) + 100
    assert opened.tokenizer.token(opened.vocabulary.size - 1) == "<extra_id_0>"
    (rows,) = data_setup.phases(opened, recipe)
    text = example_text(rows.new.row(3), opened.tokenizer.token)
    assert text.startswith("encoder 32 columns, decoder ")
    assert text.count("<extra_id_0>") == 3  # read by the encoder, predicted, and read by the decoder


def test_a_picture_is_drawn(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = tmp_path / "row.png"
    arguments = ["show", str(corpus), "--recipe", "bert-nano", "--objective.length", "32", "--png", str(png)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"drawn to {png}" in out
    assert "next_sentence = " in out
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["t5-small", "bart-base"])
def test_both_stacks_are_shown(name: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = tmp_path / "row.png"
    assert main(["show", str(corpus), "--recipe", name, "--objective.length", "24", "--png", str(png)]) == 0
    out = capsys.readouterr().out
    assert "\nencoder " in out and " columns, decoder " in out
    assert "which sees the encoder left of the bar" in out
    assert png.read_bytes().startswith(b"\x89PNG")


def test_characters_without_a_font_are_told(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from blankfill.report import drawing

    monkeypatch.setattr(drawing, "example_png", lambda *args, **options: "鹭飞")
    arguments = ["show", str(corpus), "--objective.length", "32", "--png", str(tmp_path / "row.png")]
    assert main(arguments) == 0
    assert "no font here has 鹭飞, so those tokens are drawn as their numbers" in capsys.readouterr().err


SIZE = ["--train.steps", "2", "--train.batch-size", "32"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--example", "-1", *SIZE], "--example is -1; a run of this recipe has the rows 0 to 63"),
        (["--example", "64", *SIZE], "--example is 64; a run of this recipe has the rows 0 to 63"),
        (["--png", "row.jpg"], "--png row.jpg does not end in .png; only PNG files are drawn"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", *arguments]) == 2
    assert capsys.readouterr().err == f"blankfill: {message}\n"


def test_byte_level_tokens_are_spelled_as_text() -> None:
    strings = {0: "Ġthe", 1: "ä¸Ń", 2: "ä¸", 3: "Ċ"}
    texts = {0: " the", 1: "中", 2: "\ufffd", 3: "\n"}
    tokenizer = SimpleNamespace(
        id={"Ġ": 9}.get, token=strings.__getitem__, decode=lambda ids, skip_special: texts[ids[0]]
    )
    spell = speller(tokenizer)  # type: ignore[arg-type]
    assert [spell(i) for i in range(4)] == ["␣the", "中", "ä¸", "\n"]


def test_other_tokens_are_spelled_as_the_vocabulary_has_them() -> None:
    tokenizer = SimpleNamespace(id={}.get, token={0: "##ing"}.__getitem__)
    assert speller(tokenizer)(0) == "##ing"  # type: ignore[arg-type]


@pytest.mark.parametrize(("encoding", "fits"), [("utf-8", True), ("gbk", True), ("ascii", False), ("latin-1", False)])
def test_block_characters_are_used_where_the_terminal_has_them(
    encoding: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", SimpleNamespace(encoding=encoding))
    assert blocks_fit() is fits
