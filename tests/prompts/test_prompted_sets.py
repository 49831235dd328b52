"""Prompted data sets: templates, tables, rows by number, and runs that read them."""

import json
from pathlib import Path

import pytest

from blankfill.cli.main import main
from blankfill.config.recipe import Recipe, load_recipe
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import ConfigError, UserError
from blankfill.objectives import T5, Bart, Bert, ChatGlm, Glm, Glm130b, Gpt, Objective
from blankfill.prompts import rows as rows_module
from blankfill.prompts.options import PromptOptions
from blankfill.prompts.rows import PromptedRows
from blankfill.prompts.sets import PromptedSet, marks_of, read_sets
from blankfill.prompts.templates import Prompted, PromptTemplate
from blankfill.system import sandbox
from conftest import same_examples
from generate_models import wordpiece

ROW = {"question": "what is it", "answer": "a cat", "label": 1}


def written(source: str, **row: object) -> Prompted | None:
    return PromptTemplate(source, "here", ["no", "yes"]).write({**ROW, **row}, "row 1")


def test_a_template_writes_a_text_and_its_answer() -> None:
    assert written("{{ question }}? ||| {{ answer }} ") == Prompted("what is it?", "a cat")
    assert written("{{ question }}? [MASK] it is. ||| {{ answer_choices[label] }}") == Prompted(
        "what is it? ", "yes", " it is."
    )
    assert written("{{ question }}: [MASK] ||| {{ answer }}") == Prompted("what is it: ", "a cat", "")
    assert written("{% if label == 0 %}{{ question }}{% endif %} ||| {{ answer }}") is None
    assert written("{{ question }} ||| {{ answer }}", answer=" ") is None


def test_the_signs_of_a_template_are_letters_in_a_cell() -> None:
    cell = "is a ||| b a [MASK] or {{ not }}"
    assert written("{{ question }} ||| {{ answer }}", question=cell) == Prompted(cell, "a cat")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{{ question }}", r"here: the sign \|\|\|, which separates the text and its answer, must be there once"),
        ("a ||| b ||| c", "must be there once"),
        ("[MASK] [MASK] ||| b", r"here: the text has several \[MASK\]"),
        ("a\n{{ question ||| b", "here, line 2: the template cannot be read"),
        ("{% if %} ||| b", "here, line 1: the template cannot be read"),
        ("{{ qestion }} ||| b", "here: 'qestion' is undefined in row 1; the columns are question, answer, label"),
        ("{{ 1 // 0 }} ||| b", r"here fails on row 1 \(ZeroDivisionError"),
        ("{% for k in [1, 2] %}{{ question }} [MASK] {% endfor %} ||| b", r"here writes several \[MASK\] on row 1"),
        ("{% for k in [1, 2] %}a ||| b{% endfor %}", r"here writes several \|\|\| on row 1"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }} ||| b", "here"),
    ],
)
def test_a_template_with_an_error_is_told_with_its_place(source: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        written(source)


def described(folder: Path, text: str, name: str = "prompts.yaml") -> PromptOptions:
    (folder / name).write_text(text, encoding="utf-8")
    return PromptOptions(files=(str(folder / name),))


@pytest.fixture
def options(tmp_path: Path) -> PromptOptions:
    """Two data sets, of 40 rows of JSON Lines and 5 of CSV."""
    lines = [json.dumps({"question": f"the cat {k % 7} sat", "answer": "the mat"}) for k in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "b.csv").write_text("left,right\n" + "the dog,sat on\n" * 5, encoding="utf-8")
    return described(
        tmp_path,
        "cats:\n  data: a.jsonl\n  templates:\n"
        '    - "{{ question }} ||| {{ answer }}"\n    - "{{ question }} [MASK] the cat ||| {{ answer }}"\n'
        "dogs:\n  data: b.csv\n  choices: [No, Yes]\n"
        "  templates: ['{{ left }} ||| {{ right }} {{ answer_choices[0] }}']\n",
    )


def test_sets_are_read_from_tables_beside_their_file(options: PromptOptions) -> None:
    cats, dogs = read_sets(options, 0)
    assert (cats.name, len(cats.rows), cats.total, len(cats.templates)) == ("cats", 40, 40, 2)
    assert dogs.write(0, 0) == Prompted("the dog", "sat on No")
    assert len(marks_of(options)) == 3


def test_a_cap_draws_rows_by_the_seed(options: PromptOptions) -> None:
    few = PromptOptions(files=options.files, max_rows=10)
    first, again, other = (read_sets(few, seed)[0] for seed in (0, 0, 1))
    assert len(first.rows) == 10 and first.total == 40
    places = [place for place, _ in first.rows]
    assert places == [place for place, _ in again.rows] != [place for place, _ in other.rows]
    seen = {place for seed in range(60) for place, _ in read_sets(few, seed)[0].rows}
    assert len(seen) == 40


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a", "is a list of names, each with `data`, a table, and `templates`"),
        ("", "is a list of names"),
        ("a:\n  tables: x", r"prompts.yaml: there is no option a.tables"),
        ("a:\n  data: x.csv", r"prompts.yaml: a.templates is missing"),
        ("a:\n  data: x.csv\n  templates: []", "a needs at least one template"),
        ("a:\n  data: x.csv\n  templates: ['{{ b }} ||| c']", "x.csv"),
        ("a:\n  data: x\n  templates: ['{{ b ||| c']", "prompts.yaml, a, template 1, line 1: the template cannot be"),
    ],
)
def test_a_file_of_prompted_sets_with_an_error(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises((UserError, ConfigError), match=sentence):
        read_sets(described(tmp_path, text), 0)


def test_a_name_twice_and_an_empty_table(tmp_path: Path, options: PromptOptions) -> None:
    (tmp_path / "none.csv").write_text("left,right\n", encoding="utf-8")
    empty = described(tmp_path, "x:\n  data: none.csv\n  templates: ['{{ left }} ||| a']", "x.yaml")
    with pytest.raises(UserError, match=r"none.csv"):
        read_sets(empty, 0)
    again = PromptOptions(files=(*options.files, *options.files))
    with pytest.raises(UserError, match="another file has a data set cats too"):
        read_sets(again, 0)


def rows_of(options: PromptOptions, objective: Objective, **more: int) -> PromptedRows:
    tokenizer: Tokenizer = wordpiece()
    return PromptedRows(read_sets(options, 0), objective, tokenizer, tokenizer.vocabulary(), 5, **more)


@pytest.mark.parametrize("objective", [ChatGlm(32), Glm130b(32), Glm(32, document=1.0)])
def test_every_example_once_a_pass_in_full_rows(options: PromptOptions, objective: Objective) -> None:
    rows = rows_of(options, objective)
    count = rows.rows_in_epoch(0)
    items = [item for row in range(count) for item in rows.encoded(row)]
    assert sorted(item.owner for item in items) == [0] * 40 + [1] * 5
    assert {item.template for item in items if item.owner == 0} == {0, 1}
    examples = [rows.row(row) for row in range(count)]
    assert all(sum(len(example) for example in row) <= 32 for row in examples)
    assert sum(len(example) for row in examples for example in row) > 0.75 * 32 * count
    again = rows_of(options, objective)
    assert same_examples(again.row(count + 3), rows.row(count + 3))
    assert same_examples(again.row(2), rows.row(2))
    later = [item for row in range(count, count + rows.rows_in_epoch(1)) for item in rows.encoded(row)]
    assert len(later) == 45 and [item.template for item in later] != [item.template for item in items]
    assert rows.summary()[1] == {
        "name": "dogs", "rows": 5, "of": 5, "templates": 1, "tokens": rows.summary()[1]["tokens"], "empty": 0,
        "too_long": 0,
    }  # fmt: skip
    assert rows.named(0)[0].startswith(("cats, template", "dogs, template 1"))


def test_examples_of_small_sets_are_written_once(options: PromptOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further passes, such as those before a row of a resumed run, write nothing; the rows stay the same."""
    calls: list[tuple[int, int]] = []
    real = PromptedSet.write

    def write(part: PromptedSet, row: int, template: int) -> Prompted | None:
        calls.append((row, template))
        return real(part, row, template)

    monkeypatch.setattr(PromptedSet, "write", write)
    objective, number = ChatGlm(length=32), 40
    late = rows_of(options, objective)
    row = sum(late.rows_in_epoch(k) for k in range(number))
    assert len(calls) <= sum(len(part.rows) * len(part.templates) for part in late.sets)
    monkeypatch.setattr(rows_module, "KEPT", 0)
    again = rows_of(options, objective)
    before = len(calls)
    assert again.locate(row) == late.locate(row) == (number, 0) and len(calls) > 10 * before
    assert all(same_examples(late.row(row + k), again.row(row + k)) for k in range(again.rows_in_epoch(number)))


def test_answers_are_targets_behind_gmask_or_in_the_mask(options: PromptOptions) -> None:
    rows = rows_of(options, ChatGlm(32))
    roles, end = rows.vocabulary.roles, rows.vocabulary["eop"]
    seen = set()
    for row in range(rows.rows_in_epoch(0)):
        for item, example in zip(rows.encoded(row), rows.row(row), strict=True):
            assert example.target_ids.tolist() == [*item.answer.tolist(), end]
            mask = roles["gmask" if item.after is None else "mask"]
            seen.add(mask)
            ids = example.input_ids.tolist()
            assert ids[: len(item.before) + 1] == [*item.before.tolist(), mask]
    assert len(seen) == 2


def test_a_long_text_keeps_what_is_near_its_answer(tmp_path: Path) -> None:
    long = " ".join(["the"] * 30)
    (tmp_path / "a.jsonl").write_text(json.dumps({"long": long, "end": "cat sat"}), encoding="utf-8")
    behind = described(tmp_path, "a:\n  data: a.jsonl\n  templates: ['{{ long }} {{ end }} ||| mat']")
    rows = rows_of(behind, ChatGlm(32), max_length=16)
    (item,), (example,) = rows.encoded(0), rows.row(0)
    assert len(example) == 16
    assert rows.tokenizer.decode(item.before[-2:].tolist()) == "cat sat"
    inside = described(tmp_path, "a:\n  data: a.jsonl\n  templates: ['{{ end }} [MASK] {{ long }} ||| mat']")
    (item,) = rows_of(inside, ChatGlm(32), max_length=16).encoded(0)
    assert len(item.before) == 2 and item.after is not None and len(item.after) == 11
    answer = described(tmp_path, "a:\n  data: a.jsonl\n  templates: ['{{ end }} ||| {{ long }}']")
    with pytest.raises(UserError, match="no example has a text and an answer that fit into 16 tokens"):
        rows_of(answer, ChatGlm(32), max_length=16)


@pytest.mark.parametrize("objective", [T5(32), Bart(32)])
def test_an_answer_that_is_too_long_is_left_out_whatever_its_text(tmp_path: Path, objective: Objective) -> None:
    lines = [json.dumps({"text": " ".join(["the"] * size)}) for size in (5, 60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = rows_of(described(tmp_path, "a:\n  data: a.jsonl\n  templates: ['{{ text }} ||| {{ text }}']"), objective)
    assert rows.summary()[0]["too_long"] == 1
    (example,) = rows.row(0)
    assert max(len(example), len(example.context or ())) <= 32


def test_objectives_that_cannot_answer_are_refused(options: PromptOptions) -> None:
    with pytest.raises(UserError, match="models of the objective bert write no answers"):
        rows_of(options, Bert(32))
    with pytest.raises(UserError, match="objective gpt write behind a text; put the answer at the end"):
        rows_of(options, Gpt(32))


TEXT = "the cat sat on the mat and the dog sat on the log . " * 40


def tiny(options: PromptOptions, **more: object) -> Recipe:
    changes = {
        "objective.length": 32, "objective.mask_length": 16, "model.hidden_size": 16, "model.num_layers": 1,
        "model.num_heads": 2, "model.ffn_size": 16, "corpus.vocab_size": 360, "train.batch_size": 4, "train.steps": 6,
        "train.eval_every": 3, "train.save_every": 3, "train.hidden_words": 0, "train.device": "cpu",
        "prompts.files": list(options.files), "prompts.share": 0.25,
    }  # fmt: skip
    return load_recipe("chatglm-nano", {**changes, **more})


def test_a_run_reads_them_and_resumes_to_the_bit(
    options: PromptOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    from blankfill.pretraining.run import pretrain, resume

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join([TEXT] * 6), encoding="utf-8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain([str(text)], tiny(options), whole)
    said = capsys.readouterr().err
    assert "prompted data sets: 25.0% of the rows" in said and "cats: 40 rows, 2 templates" in said
    pretrain([str(text)], tiny(options, **{"train.patience": 0}), parts, stop_after=0.0)
    resume(parts)
    first, second = (load_file(run / "checkpoints" / "step-6" / "model.safetensors") for run in (whole, parts))
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "Prompted data sets" in page and '<th scope="row">cats</th>' in page
    table = Path(options.files[0]).parent / "b.csv"
    table.write_text("left,right\nthe cat,sat on\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"b.csv has \d+ bytes and had"):
        resume(whole)


def test_show_names_the_data_set_of_a_row(
    options: PromptOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join([TEXT] * 6), encoding="utf-8")
    argv = ["show", str(text), "--recipe", "chatglm-nano", "--objective.length", "32", "--corpus.vocab-size", "360"]
    argv += ["--prompts.files", options.files[0], "--prompts.share", "0.25"]
    assert main([*argv, "--example", "3"]) == 0
    out = "".join(capsys.readouterr())
    assert "prompted examples:" in out and ("cats, template" in out or "dogs, template" in out)
    assert main([*argv, "--example", "4"]) == 0
    assert "prompted examples" not in "".join(capsys.readouterr())


def test_a_template_that_computes_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "STEPS", 10_000)
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
    template = PromptTemplate(f"{{{{ text }}}}{loop} ||| yes", "t.yaml, template a")
    with pytest.raises(UserError, match=r"^t\.yaml, template a fails on row 1 .SecurityError: it takes more"):
        template.write({"text": "a"}, "row 1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- data: a.csv", "a file of prompted data sets is a list of names"),
        ("qa: {data: none.csv, templates: ['{{ a }} ||| {{ b }}']}", "none.csv does not exist"),
        ("qa: {data: a.csv, templates: ['{{ a ||| {{ b }}']}", "qa, template 1"),
    ],
)
def test_data_sets_are_checked_before_the_text_is_prepared(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (tmp_path / "prompts.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 50, encoding="utf-8")
    assert main(["pretrain", str(tmp_path / "text.txt"), "--recipe", "chatglm-nano", "--prompts.files",
                 str(tmp_path / "prompts.yaml"), "--out", str(tmp_path / "run")]) == 2  # fmt: skip
    err = capsys.readouterr().err
    assert said in err and "reading" not in err and not (tmp_path / "run" / "corpus").exists()
