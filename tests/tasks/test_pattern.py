"""Patterns: the shipped ones fit their tasks, PET's parts in order, the written text, a message for every mistake."""

import json
from pathlib import Path

import pytest

from blankfill.errors import ConfigError, UserError
from blankfill.tasks.cloze.items import unbroken
from blankfill.tasks.cloze.pattern import SAME, Pattern, item_fields, numbered, pattern_text, read_patterns, shipped
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.items import ChoiceItem, TextItem
from blankfill.tasks.options import FinetuneOptions
from conftest import DATA, VECTORS

GOOD = "verbalizers: {a: Yes, b: [no, never]}\npatterns: ['{first}? [MASK].']\n"


def own(text: str, labels: tuple[str, ...] | None = ("a", "b")) -> list[Pattern]:
    return read_patterns(text, "own.yaml", labels)


def told(pattern: Pattern, **fields: str) -> str:
    return "".join(f"{p.text}[MASK]" if p.kind == "mask" else p.text for p in unbroken(pattern.pieces(fields)))


@pytest.mark.parametrize("name", [*shipped(), *SAME])
def test_shipped_patterns_have_words_for_every_label(name: str) -> None:
    task = TASKS.get(name, TASKS["classify"])
    labels = ("1", "2", "3", "4") if name == "agnews" else task.labels
    patterns = read_patterns(*pattern_text(name, ""), None if task.kind == "choice" else labels)
    assert patterns
    for pattern in patterns:
        assert list(pattern.words) == ([] if task.kind == "choice" else list(labels))
        assert bool(pattern.answer) == (task.kind == "choice")
    assert len({(pattern.parts, str(pattern.words)) for pattern in patterns}) == len(patterns)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
@pytest.mark.parametrize(
    ("name", "folder", "split"),
    [(name, "superglue", "dev") for name in ("boolq", "cb", "copa", "multirc", "sg-rte", "wsc")]
    + [(name, "superglue_fewglue", "train") for name in ("boolq", "multirc", "record", "sg-rte")]
    + [("rte", "glue", "dev"), ("sst2", "glue", "dev"), ("cola", "glue", "dev"), ("wnli", "glue", "dev")]
    + [("chnsenticorp", "", "dev"), ("tnews", "fewclue", "dev"), ("cluewsc", "fewclue", "dev"), ("afqmc", "", "dev")],
)
def test_shipped_patterns_find_their_texts_in_the_data(name: str, folder: str, split: str) -> None:
    task = TASKS[name]
    items = task.read(DATA / folder, split).items[:50]
    for pattern in read_patterns(*pattern_text("", name), None if task.kind == "choice" else task.labels):
        for item in items:
            assert isinstance(item, TextItem | ChoiceItem)
            pieces = pattern.pieces(item_fields(item))
            assert sum(piece.kind == "mask" for piece in pieces) == 1
            assert any(piece.kind == "field" for piece in pieces)
            if isinstance(item, ChoiceItem):
                more = {"choice": item.choices[0], "name": (item.names or item.choices)[0]}
                assert pattern.filler({**item_fields(item), **more})


@pytest.mark.skipif(not VECTORS.exists(), reason="the worked cases lie beside the project and are absent")
def test_the_patterns_of_ags_news_are_those_of_pet() -> None:
    case = json.loads(VECTORS.read_text(encoding="utf-8"))["pet_agnews_patterns"]
    given = case["given"]
    patterns = read_patterns(*pattern_text("agnews", ""), list(given["verbalizer"]))
    assert len(patterns) == len(case["expect"])
    for number, parts in case["expect"].items():
        pattern = patterns[int(number)]
        pieces = pattern.pieces({"first": given["text_a"], "second": given["text_b"]})
        assert ["[MASK]" if piece.kind == "mask" else piece.text.strip() for piece in pieces] == parts
        assert {label: word for label, (word,) in pattern.words.items()} == given["verbalizer"]


def test_what_is_written_of_a_text() -> None:
    [pattern] = own(
        "verbalizers: {a: x, b: y}\nvalues: {how: {c: because}}\npatterns: ['\"{a:bare,lower}\", {how} [MASK]!']"
    )
    assert told(pattern, a="The End. ", how="c") == '"the End", because [MASK]!'
    assert told(pattern, a="I", how="other") == '"i", other [MASK]!'
    pieces = pattern.pieces({"a": "The End.", "how": "c"})
    assert [(p.kind, p.text) for p in pieces] == [
        ("text", '"'), ("field", "the End"), ("text", '",'), ("field", " because"), ("mask", " "), ("text", "!"),
    ]  # fmt: skip


def test_a_break_becomes_a_space_where_a_model_knows_no_segments() -> None:
    [pattern] = own("verbalizers: {a: x, b: y}\npatterns: ['{first:whole}? || [MASK], {second}']")
    assert told(pattern, first="So", second="it is") == "So? [MASK], it is"
    assert [p.kind for p in pattern.pieces({"first": "So", "second": "it is"})] == [
        "text", "text", "break", "mask", "text", "field",
    ]  # fmt: skip


def test_yes_and_no_are_words() -> None:
    [pattern] = own(GOOD)
    assert pattern.words == {"a": ("Yes",), "b": ("no", "never")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patterns: []", "own.yaml: there is no list of patterns"),
        ("- a\n- b", "own.yaml: it holds no `patterns:`"),
        ("patterns: [", "own.yaml, line 1: not valid YAML"),
        (GOOD + "verbalisers: {}", "own.yaml: verbalisers is not known; there are patterns"),
        (GOOD.replace("[MASK]", "gap"), r"own.yaml, pattern 0: it has 0 blanks; write \[MASK\] once"),
        (GOOD.replace("[MASK]", "[MASK] [MASK]"), "pattern 0: it has 2 blanks"),
        (GOOD.replace("?", "|| ||"), r"pattern 0: it has 2 times \|\|"),
        (
            GOOD.replace("{first}", "{first:short}"),
            "{first:short} has the unknown change short; known changes: bare, lower, whole",
        ),
        (GOOD.replace("a: Yes", "c: Yes"), "pattern 0: there is no label c; the labels are a, b"),
        (GOOD.replace("a: Yes, ", ""), "pattern 0: verbalizers gives no word for the label a"),
        (GOOD.replace("never", "Yes"), "pattern 0: a and b have the same word Yes"),
        (
            GOOD.replace("- ", "").replace("['", "[{other: '").replace("']", "'}]"),
            "pattern 0: not a text, nor a mapping",
        ),
    ],
)
def test_mistakes_are_told(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        own(text)


def test_all_mistakes_at_once_and_those_of_choices() -> None:
    with pytest.raises(ConfigError) as error:
        own("verbalizers: {a: x, b: x}\npatterns: ['{first}', '[MASK] {first:no}']")
    assert len(error.value.problems) == 4
    with pytest.raises(ConfigError, match="the items have choices of their own"):
        own(GOOD, None)


def test_a_missing_text_a_missing_pattern_and_missing_patterns(tmp_path: Path) -> None:
    [pattern] = own(GOOD)
    with pytest.raises(UserError, match=r"own.yaml, pattern 0 uses {first}, but the items have context"):
        pattern.pieces({"context": "x"})
    with pytest.raises(UserError, match=r"pattern=3: own.yaml are numbered 0 to 0; or give all"):
        numbered([pattern], "3", "own.yaml")
    with pytest.raises(UserError, match="there are no patterns for classify; write some"):
        pattern_text("", "classify")
    with pytest.raises(UserError, match="no such file, and not one of afqmc, agnews"):
        pattern_text(str(tmp_path / "none.yaml"), "classify")


def test_options_that_do_not_go_together() -> None:
    assert FinetuneOptions(method="cloze", pattern="all", mlm_weight=1e-4, unlabelled="x.csv").problems() == []
    assert len(FinetuneOptions(pattern="1", patterns="x.yaml", mlm_weight=0.1).problems()) == 3
    assert "pattern is x" in FinetuneOptions(method="cloze", pattern="x").problems()[0]
    assert "mlm_weight as well" in FinetuneOptions(method="cloze", unlabelled="x").problems()[0]
    assert "class_weights is for method=head" in FinetuneOptions(method="cloze", class_weights="balanced").problems()[0]
