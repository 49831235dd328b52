"""Texts to be written: real files by their counts, made-up ones, ROUGE and BLEU by hand, WikiText made natural."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.errors import UserError
from blankfill.tasks.datasets.generation import natural, read_wikitext
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.items import GenerationItem, LanguageItem, Split
from blankfill.tasks.metrics.generation import text_metrics, text_scores, without_spaces
from blankfill.tasks.metrics.scoring import score
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.text.seq2seq_adapter import Write
from conftest import DATA


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
@pytest.mark.parametrize(
    ("task", "split", "rows"),
    [
        ("scitldr", "train", 1992), ("scitldr", "dev", 619), ("csl-title", "dev", 1000), ("csl-title", "test", 1000),
        ("squad-questions", "dev", 10570), ("lambada", "test", 5153),
    ],
)  # fmt: skip
def test_real_files_have_their_rows(task: str, split: str, rows: int) -> None:
    read = TASKS[task].read(DATA, split)
    assert len(read) == rows
    assert not read.problems
    assert all(item.source and item.targets and all(item.targets) for item in read.generations())


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
def test_wikitext_has_its_published_words_and_articles() -> None:
    """245,569 words and 60 articles (arXiv 1609.07843, table 1)."""
    items = TASKS["wikitext2"].read(DATA, "test").languages()
    assert len(items) == 60
    assert sum(item.words for item in items) == 245569
    assert items[0].text.startswith("= Robert <unk> =\nRobert <unk> is an English film, television and theatre actor.")
    assert not any("@-@" in item.text or " , " in item.text for item in items)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            "a guest @-@ starring role , in 1 @,@ 000 or 2 @.@ 5 % of them",
            "a guest-starring role, in 1,000 or 2.5% of them",
        ),
        (
            "the episode \" Teddy 's Story \" ; he did n't ( 1933 USD ) .",
            "the episode \"Teddy's Story\"; he did n't (1933 USD).",
        ),
        ('a " b " and " c . " d', 'a "b" and "c." d'),
        ("they 're $ 3 million ; the parents ' house", "they're $3 million; the parents ' house"),
    ],
)
def test_words_are_put_back_as_people_write_them(words: str, text: str) -> None:
    assert natural(words) == text


def test_wikitext_is_cut_at_first_headings(tmp_path: Path) -> None:
    """A line's end counts as a word; a formula between lines is no heading."""
    file = tmp_path / "wiki.test.tokens"
    file.write_text(" \n = A = \n \n b c \n = 1 = \n \n = = D = = \n \n = E = \n \n f \n", encoding="utf-8")
    assert TASKS["wikitext2"].read(tmp_path, "test").languages() == [
        LanguageItem("0", "= A =\nb c\n= 1 =\n= = D = =", 8 + 3 + 2 + 3 + 5),
        LanguageItem("1", "= E =\nf", 3 + 3 + 1),
    ]
    file.write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match="has no text"):
        read_wikitext(file)


def test_forms_of_files(tmp_path: Path) -> None:
    rows = [{"paper_id": "p", "source": ["One.", "Two. "], "target": ["a", " b"]}, {"paper_id": "q", "source": ["x"]}]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    items = TASKS["scitldr"].read(tmp_path, "dev").generations()
    assert items == [GenerationItem("p", "One. Two.", ("a", "b")), GenerationItem("q", "x", ())]
    (tmp_path / "dev.tsv").write_text('to title\t摘要"\t题\n', encoding="utf-8")
    assert TASKS["csl-title"].read(tmp_path, "dev").generations() == [GenerationItem("0", '摘要"', ("题",))]
    (tmp_path / "dev.tsv").write_text("摘要\t题\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1 does not have the form: to title, a tab"):
        TASKS["csl-title"].read(tmp_path, "dev")
    lambada = tmp_path / "lambada_test.jsonl"
    lambada.write_text('{"text": "He said.\\n\\n\\"I know, Ann"}\n', encoding="utf-8")
    split = TASKS["lambada"].read(tmp_path, "test")
    assert split.generations() == [GenerationItem("0", 'He said.\n\n"I know,', ("Ann",))]
    assert score(TASKS["lambada"], split, [" Ann"]) == {"accuracy": 1.0}
    assert score(TASKS["lambada"], split, ["Bob"]) == {"accuracy": 0.0}
    lambada.write_text('{"text": "word"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1 has no text of two words or more"):
        TASKS["lambada"].read(tmp_path, "test")
    questions = [
        {"id": "a", "question": "Where?", "answers": [{"text": "Pisa", "answer_start": 0}]},
        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    document = {"data": [{"paragraphs": [{"context": "Pisa leans.", "qas": questions}]}]}
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(document), encoding="utf-8")
    items = TASKS["squad-questions"].read(tmp_path, "dev").generations()
    assert items == [GenerationItem("a", "Pisa leans.", ("Where?",), "Pisa")]


def test_rouge_and_bleu_by_hand() -> None:
    """4 of 5 and 6 words are shared, 2 of 4 and 5 pairs, and the longest common subsequence is 4."""
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    written, target = "the cat sat on mats", "the cat lay on the mats"
    metrics = text_metrics(["rouge1", "rouge2", "rougeL"], [[target]], [written])
    assert metrics == pytest.approx({"rouge1": 8 / 11, "rouge2": 2 / 9, "rougeL": 8 / 11})
    # The nearest of two targets counts, also where texts have not equally many.
    assert text_metrics(["rouge1"], [["dog", written], [target]], [written, written])["rouge1"] == pytest.approx(
        (1 + 8 / 11) / 2
    )
    assert text_metrics(["bleu"], [["dog", written], [written]], [written, written])["bleu"] == pytest.approx(1.0)
    # Precisions 4/5, 1/4, and sacrebleu's smoothed 1/6 and 1/8 where nothing is shared; length penalty exp(1 - 6/5).
    expected = (4 / 5 * 1 / 4 * 1 / 6 * 1 / 8) ** 0.25 * 2.718281828 ** (1 - 6 / 5)
    assert text_metrics(["bleu"], [[target]], [written])["bleu"] == pytest.approx(expected, rel=1e-4)


def test_chinese_is_counted_by_characters() -> None:
    pytest.importorskip("rouge_score")
    pytest.importorskip("sacrebleu")
    metrics = text_metrics(["rouge1", "rougeL"], [["基于BERT的方法"]], ["方法基于BERT"], by_characters=True)
    # 方 法 基 于 bert against 基 于 bert 的 方 法: 5 shared, 3 in order.
    assert metrics == pytest.approx({"rouge1": 10 / 11, "rougeL": 6 / 11})
    assert text_metrics(["rouge1"], [["基于方法"]], ["方法"], by_characters=False)["rouge1"] == 0.0
    assert text_metrics(["bleu"], [["我们提出方法"]], ["我们提出方法"], by_characters=True)["bleu"] == pytest.approx(
        1.0
    )


def test_what_cannot_be_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="1 texts for 2 targets"):
        text_metrics(["bleu"], [["a"], ["b"]], ["a"])
    split = Split([GenerationItem("0", "a", ("b",)), GenerationItem("1", "a")])
    with pytest.raises(UserError, match="1 of 2 rows have no target"):
        score(TASKS["scitldr"], split, ["b", "b"])
    real = builtins.__import__

    def without(name: str, *args: Any, **fields: Any) -> Any:
        if name.startswith(("rouge_score", "sacrebleu")):
            raise ImportError(name)
        return real(name, *args, **fields)

    import importlib

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UserError, match=r"ROUGE needs the rouge-score package: pip install 'blankfill\[metrics\]'"):
        text_metrics(["rouge1"], [["a"]], ["a"])
    with pytest.raises(UserError, match="BLEU needs the sacrebleu package"):
        text_metrics(["bleu"], [["a"]], ["a"])


def test_texts_are_scored_one_by_one() -> None:
    """The mean over texts is the metric; of several targets the nearest counts."""
    targets, written = [("a b c", "x"), ("d e",)], ["a b", "d"]
    each = text_scores("rougeL", targets, written)
    assert each == pytest.approx([0.8, 2 / 3])
    assert text_metrics(["rougeL"], targets, written)["rougeL"] == pytest.approx(sum(each) / 2)


def test_chinese_targets_are_counted_by_characters_in_own_tables() -> None:
    assert without_spaces([("一种新的设计方法 SOS",)]) and not without_spaces([("a design of 方法",)])
    split = Split([GenerationItem("0", "原文", ("一种方法",))])
    metrics = score(TASKS["seq2seq"], split, ["一种"])
    assert metrics["rouge1"] == pytest.approx(2 / 3)  # all of 2 characters are right, 2 of 4 are found


def test_the_plainest_text_is_the_first_sentence() -> None:
    """Where a second text is given, the first sentence that holds it."""
    writer = Write(TASKS["scitldr"], (), FinetuneOptions())
    items = [
        GenerationItem("0", "We show it. It works."),
        GenerationItem("1", "Paris is large. Rome is old. Rome is far.", (), "Rome"),
        GenerationItem("2", "提出了一种方法。结果很好。"),
    ]
    assert [prediction.value for prediction in writer.baseline_predictions([], items)] == [
        "We show it.",
        "Rome is old.",
        "提出了一种方法。",
    ]
