"""Sentence splitting: worked examples in both languages, the joining property, and pysbd as an independent oracle."""

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus.sentences import split_sentences

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize(
    "marked",
    [
        # `|` marks where a sentence ends.
        "The door was open.| Nobody came!| Why not?| We waited.",
        '"Stop!" he cried.| "Why?" she asked.| "I see," said Anna.| "Good."',
        '"Stop!" I cried.| "What is it?" Mr. Brown asked.| "Nothing!"| The dog barked.',
        "Mr. and Mrs. Hill met Dr. Wu on Main St. near the bank.| They left.",
        "Prof. Lee lives on Oak St.| He walks.| St. Ives is far.",
        "A book by J. K. Rowling, e.g. the first, i.e. No. 1 of Vol. 2, pp. 3 to 9.| See Fig. 4.| Done.",
        "The U.S. Army left the U.S.| It came back at 5 p.m. in the rain.| At 6 p.m.| Lights went out.",
        "Come at 5 p.m. Monday.| She has a Ph.D. in law.| He has a Ph.D.| The other has none.",
        "Pears, apples etc. are fruit.| He works for Foo Inc.| The firm is small.| Martin King Jr. spoke.",
        "It costs 3.50 or 1,000.00 in all.| In 1990.| Then 5 men came.",
        "Well... perhaps.| Well...| He left.| Oh… yes.| Oh…| No.",
        "1. Wash the rice.| 2. Boil it.| IV. The Return.| It ends.| Alas!|--How sad.",
        "Use json.dumps from foo.py, or see https://example.org/a.b?c=d.e today.| It works.",
        "He said no.| Then he left.| It is I.| Really.| I. M. Pei built it.",
        "Vitamin C.| The rest.| Plan B. Smith wrote it.",
        "(It was late.)| [Nobody knew.]| It was cold.[12]| The end.",
        "On Jan. 5 it froze.| It thawed in Feb.| The rain came on Sat. 3 or Sun. 4.",
        "Élan vital.| Être ou ne pas être.| Übung!",
        "The _Beagle._| _Next_ to us it lay.",
        "no stop at all, however long it may be",
    ],
)  # fmt: skip
def test_english(marked: str) -> None:
    assert split_sentences(marked.replace("|", "")) == [part.strip() for part in marked.split("|")]


@pytest.mark.parametrize(
    "marked",
    [
        "门开着。|没有人来！|为什么？|我们等着；|天黑了。",
        "他说：“我来了。|你走吧。”|她笑了。",
        "“好！”他说。|“什么？”——他问道。|“走吧。”|门关了。",
        "“你好！”，他说。|“谁？！”|没有人。",
        "我……我不知道……|算了。|人们说，……也好。|买了鸡、鸭……等。",
        "他去了——很远的地方。|《你好！明天》是一本书。|（她没去。）|【完。】|『好。』|「是。」|天亮了。",
        "价格是3.5元。|第1.2节见http://a.cn/b.c。|约翰.史密斯来了。",
        "你好!|我来了.|你走吧.|几点了?|三点.",
        "你好．|我来了．|三点了．",
        '他说："你好。|走吧。"|然后走了。|她说:"好。"|天黑了。',
        "他问：“去吗？\"|她说：“去。”",
        "英国的G. G. Chisholm写了书。|Python 3.11 很好。|I like it.| 好的。",
        "第一行\n第二行。|\n第三行",
    ],
)  # fmt: skip
def test_chinese_and_mixed(marked: str) -> None:
    assert split_sentences(marked.replace("|", "")) == [part.strip() for part in marked.split("|")]


def test_white_space_has_no_sentences() -> None:
    assert split_sentences("") == []
    assert split_sentences(" \n\t ") == []


def test_a_long_text_without_stops_is_one_sentence() -> None:
    text = "word " * 20_000
    assert split_sentences(text) == [text.strip()]


PIECES = " \n.!?…。！？；．\"'“”‘’」』）】》()[]A aB1我你《。"


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(PIECES))))
def test_joining_gives_the_paragraph_back(paragraph: str) -> None:
    sentences = split_sentences(paragraph)
    assert bare("".join(sentences)) == bare(paragraph)
    assert all(sentence == sentence.strip() != "" for sentence in sentences)


@pytest.mark.parametrize("unit", [".", ". ", "A. ", '"! ', "我.", "…", "！（", '。"', "《！", ".]", "p.m. "])
def test_time_is_linear_whatever_the_text(unit: str) -> None:
    start = time.process_time()
    split_sentences(unit * 50_000)
    # Quadratic work on 50,000 stops takes minutes; linear work takes well under a second.
    assert time.process_time() - start < 5


def english_paragraphs(per_book: int) -> list[str]:
    folder = DATA / "gutenberg_en"
    if not folder.is_dir():
        pytest.skip("the Gutenberg books are not beside this checkout")
    draw = random.Random(1)
    chosen = []
    for book in sorted(folder.glob("*.txt")):
        text = book.read_text(encoding="utf-8-sig")
        paragraphs = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
        chosen += draw.sample([block for block in paragraphs if 200 < len(block) < 1500], per_book)
    return chosen


def ends(sentences: list[str]) -> set[int]:
    """Where the sentences end, in characters that are not white space."""
    result, length = set(), 0
    for sentence in sentences:
        length += len(bare(sentence))
        result.add(length)
    return result


@pytest.mark.data
def test_agrees_with_pysbd_on_real_prose() -> None:
    import pysbd

    oracle = pysbd.Segmenter(language="en", clean=False)
    both = ours_only = theirs_only = 0
    for paragraph in english_paragraphs(per_book=20):
        if re.search(r"""["“”‘(]|(?<!\w)'|'(?!\w)|\.\.|\[\d""", paragraph):
            continue  # pysbd never cuts inside quotation marks or brackets, which we do; and it shreds tables
        ours, theirs = ends(split_sentences(paragraph)), ends(oracle.segment(paragraph))
        both += len(ours & theirs)
        ours_only += len(ours - theirs)
        theirs_only += len(theirs - ours)
    assert both > 300
    # Measured: 0.95, and a look at the rest shows pysbd wrong more often (it takes "me." for Maine, "clock." for one).
    assert 2 * both / (2 * both + ours_only + theirs_only) > 0.93


@pytest.mark.data
def test_real_prose_is_split_fast() -> None:
    paragraphs = english_paragraphs(per_book=60) * 8
    size = sum(map(len, paragraphs))
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        for paragraph in paragraphs:
            split_sentences(paragraph)
        best = min(best, time.process_time() - start)
    # 34 MB/s measured on an idle core against 15 promised; a third of the promise, so that a busy machine passes.
    assert size / best > 5e6
