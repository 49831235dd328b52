"""Tagged words: the real files by their counts, entities and scores against seqeval, words as rows of tokens."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.tasks.datasets.conll import predicted_lines, read_conll
from blankfill.tasks.datasets.registry import TASKS
from blankfill.tasks.heads.word_alignment import tag_windows, word_pieces, word_tags
from blankfill.tasks.items import TaggedItem
from blankfill.tasks.metrics.entities import bio, entities, entity_scores, tag_metrics
from conftest import DATA

TAGS = ["O", *(f"{letter}-{kind}" for letter in "BI" for kind in ("PER", "LOC"))]


def letters() -> Tokenizer:
    """WordPiece with a token for each small letter, as a word's first piece and as a later one."""
    names = ["[UNK]", *"abcdefghij甲乙丙丁", *(f"##{letter}" for letter in "abcdefghij")]
    model = tokenizers.models.WordPiece({name: k for k, name in enumerate(names)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return Tokenizer(tokenizer)


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
@pytest.mark.parametrize(
    ("task", "split", "sentences", "tokens", "begins"),
    [
        ("wnut17", "train", 3394, 62730, 660 + 548 + 264 + 221 + 142 + 140),
        ("wnut17", "dev", 1009, 15733, 470 + 114 + 105 + 74 + 39 + 34),
        ("wnut17", "test", 1287, 23394, 429 + 165 + 150 + 142 + 127 + 66),
        ("weibo", "train", 1350, 73778, 766 + 574 + 205 + 183 + 56 + 51 + 42 + 8 + 10),
        ("weibo", "dev", 270, 14509, 208 + 90 + 47 + 26 + 6 + 6 + 5 + 1),
        ("weibo", "test", 270, 14842, None),
        ("wikigold", "train", 1841 - 145, 39152 - 145, None),
    ],
)
def test_real_files(task: str, split: str, sentences: int, tokens: int, begins: int | None) -> None:
    """begins: how many B- tags the file has, counted with other tools."""
    read = TASKS[task].read(DATA, split)
    items = read.tagged()
    assert len(items) == sentences
    assert sum(len(item.words) for item in items) == tokens
    assert read.labels == TASKS[task].labels
    gold = [item.tags or () for item in items]
    if begins is not None:
        assert sum(tag.startswith("B-") for row in gold for tag in row) == begins
    assert tag_metrics(["f1"], gold, gold) == {"f1": 1.0}
    if task == "weibo":
        assert max(len(word) for item in items for word in item.words) <= 2
    if task == "wikigold":
        assert len({item.document for item in items}) == 145


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(TAGS), min_size=1, max_size=8), min_size=1, max_size=4))
def test_scores_are_those_of_seqeval(gold: list[list[str]]) -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    draws = random.Random(str(gold))
    predicted = [[tag if draws.random() < 0.7 else draws.choice(TAGS) for tag in row] for row in gold]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {name: getattr(seqeval, f"{name}_score")(gold, predicted) for name in ("precision", "recall", "f1")}
        report = seqeval.classification_report(gold, predicted, output_dict=True, zero_division=0)
    assert tag_metrics(list(theirs), gold, predicted) == pytest.approx(theirs)
    for kind, score in entity_scores(gold, predicted).items():
        if kind != "all" and kind in report:
            assert (score.f1, score.support) == (pytest.approx(report[kind]["f1-score"]), report[kind]["support"])


@pytest.mark.parametrize(
    ("tags", "entities_expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("I-PER I-PER B-PER I-LOC", [("PER", 0, 2), ("PER", 2, 3), ("LOC", 3, 4)]),  # IOB1
        ("B-PER E-PER S-PER S-LOC B-LOC I-LOC E-LOC", [("PER", 0, 2), ("PER", 2, 3), ("LOC", 3, 4), ("LOC", 4, 7)]),
        ("B_PER M_PER E_PER O", [("PER", 0, 3)]),  # BMES
        ("U-PER B-LOC L-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),  # BILOU
        ("O O", []),
    ],
)
def test_every_scheme_says_the_same(tags: str, entities_expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == entities_expected
    assert entities(bio(tags.split())) == entities_expected


def test_a_table_by_hand() -> None:
    """PER: 1 of 2 found, 1 false; LOC: 1 of 1; ORG is only predicted."""
    gold = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC"]]
    predicted = [["B-PER", "O", "B-ORG", "B-PER"], ["B-LOC"]]
    table = entity_scores(gold, predicted)
    assert list(table) == ["LOC", "ORG", "PER", "all"]
    assert (table["PER"].precision, table["PER"].recall, table["PER"].f1) == (0.5, 0.5, 0.5)
    assert (table["ORG"].f1, table["ORG"].support, table["ORG"].predicted) == (0.0, 0, 1)
    assert (table["all"].precision, table["all"].recall) == (2 / 4, 2 / 3)
    assert tag_metrics(["accuracy"], gold, predicted) == {"accuracy": 3 / 5}
    with pytest.raises(UserError, match="Sentence 1 has 1 words and 2 predicted tags"):
        entity_scores(gold, [predicted[0], ["O", "O"]])
    with pytest.raises(UserError, match="tags for 1 sentences where 2"):
        entity_scores(gold, predicted[:1])


def test_invisible_lines_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    text = (
        "# id 4f domain=en\nAnna B-PER\n# O\n\u200b\n# id 50 O\n# text = The O\nBonn B-LOC\n\n# O\n! O\n\n# O\n\ufeff"
    )
    file.write_text(text, encoding="utf-8")
    split = TASKS["conll"].read(tmp_path)
    assert [(item.words, item.tags) for item in split.tagged()] == [
        (("Anna", "#"), ("B-PER", "O")),
        (("Bonn",), ("B-LOC",)),
        (("#", "!"), ("O", "O")),
        (("#",), ("O",)),
    ]
    changed = list(predicted_lines(file, [("O", "X"), ("O",), ("B-A", "I-A"), ("Y",)]))
    assert "\n".join(changed) == (
        "# id 4f domain=en\nAnna O\n# X\n\u200b\n# id 50 O\n# text = The O\nBonn O\n\n# B-A\n! I-A\n\n# Y\n\ufeff"
    )


def test_a_sentence_without_tags_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text("Anna B-PER\nran O\n\nStray\n\nBonn B-LOC\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.txt, line 4 has no tag for 'Stray', and only 2 of 3 sentences"):
        read_conll(file)


def test_columns_documents_and_words_alone(tmp_path: Path) -> None:
    file = tmp_path / "train.txt"
    file.write_text(
        "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nsays VBZ I-VP O\r\n\t\nno DT N O\n-DOCSTART- O\nBonn NNP I-NP I-LOC",
        encoding="utf-8", newline="",
    )  # fmt: skip
    split = TASKS["conll"].read(tmp_path)
    assert split.tagged() == [
        TaggedItem("0", ("EU", "says"), ("B-ORG", "O"), 0),
        TaggedItem("1", ("no",), ("O",), 0),
        TaggedItem("2", ("Bonn",), ("B-LOC",), 1),
    ]
    assert split.labels == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
    alone = tmp_path / "words"
    alone.write_text("a\nb\n\nc\n", encoding="utf-8")
    items = read_conll(alone, split.labels).tagged()
    assert [(item.words, item.tags, item.document) for item in items] == [
        (("a", "b"), None, None),
        (("c",), None, None),
    ]
    assert list(predicted_lines(alone, [("O", "B-LOC"), ("O",)])) == ["a\tO", "b\tB-LOC", "", "c\tO"]
    assert list(predicted_lines(file, [("O", "B-X"), ("B-Y",), ("O",)])) == [
        "-DOCSTART- -X- O O", "", "EU NNP I-NP O", "says VBZ I-VP B-X", "\t", "no DT N B-Y", "-DOCSTART- O",
        "Bonn NNP I-NP O",
    ]  # fmt: skip


def test_faulty_lines_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for text, message in [
        ("a O\nb\n", "line 2 has no tag for 'b'"),
        ("a O\nb PER\n", "line 2: 'PER' is not a tag"),
        ("a O\n\nb\n", "only 1 of 2 sentences have tags"),
        ("\n\n", "has no sentences"),
        ("a B-FOO\n", "has the tags B-FOO, I-FOO, which the training data do not have"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_conll(file, ("O", "B-PER", "I-PER"))


def test_words_stand_behind_a_space_where_there_are_spaces() -> None:
    model = tokenizers.models.BPE({"a": 0, "Ġa": 1, "Ġ": 2}, [("Ġ", "a")])
    spaced = tokenizers.Tokenizer(model)
    spaced.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert [ids.tolist() for ids in word_pieces(["a", "a"], Tokenizer(spaced))] == [[0], [1]]
    assert [ids.tolist() for ids in word_pieces(["a", "a"], Tokenizer(spaced), by_characters=True)] == [[0], [0]]
    assert word_pieces([], letters()) == []


def test_tags_are_asked_at_first_pieces_and_long_sentences_cut() -> None:
    tokenizer = letters()
    items = [TaggedItem("0", ("abc", "\u0000", "d", "ef")), TaggedItem("1", ("甲", "乙", "丙"))]
    windows = list(tag_windows(items, tokenizer, 4))
    names = [[tokenizer.token(id) for id in window.ids] for window in windows]
    assert names == [["a", "##b", "##c", "d"], ["e", "##f"], ["甲", "乙", "丙"]]
    assert [(window.item, window.word.tolist(), window.first.tolist()) for window in windows] == [
        (0, [0, 2], [0, 3]), (0, [3], [0]), (1, [0, 1, 2], [0, 1, 2]),
    ]  # fmt: skip
    tags = word_tags(items, windows, [["B-X", "I-X"], ["B-Y"], ["O", "O", "B-Z"]])
    assert tags == [("B-X", "O", "I-X", "B-Y"), ("O", "O", "B-Z")]
    with pytest.raises(UserError, match=r"The word 'abc' of sentence 0 has 3 tokens, and a row has room for 2"):
        list(tag_windows(items, tokenizer, 2))


def test_context_is_of_the_same_document_and_fills_the_row() -> None:
    words = ["aa", "bb", "cc", "dd"]
    items = [TaggedItem(str(k), (word, word), None, k // 3) for k, word in enumerate(words)]
    tokenizer = letters()
    rows = list(tag_windows(items, tokenizer, 9, context=True))
    spelled = ["".join(tokenizer.token(id).removeprefix("##") for id in row.ids) for row in rows]
    # 4 of a sentence's own, 5 free: 2 before and 3 behind, or what there is.
    assert spelled == ["aaaabbbbc", "aabbbbccc", "abbbbcccc", "dddd"]
    for row, word in zip(rows, words, strict=True):
        assert [tokenizer.token(row.ids[column]) for column in row.first] == [word[0], word[0]]
    plain = list(tag_windows(items, tokenizer, 9))
    assert all(len(row.ids) == 4 and np.array_equal(row.first, [0, 2]) for row in plain)
