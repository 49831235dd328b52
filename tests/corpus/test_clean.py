"""Characters and paragraphs: each rule on a small text made for it, properties, and the real books."""

import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.corpus import clean
from blankfill.corpus.clean import characters, documents, paragraphs, record_paragraphs, wrap_width
from blankfill.corpus.decoding import read_text, whole_lines

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
data = pytest.mark.data
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the checkout")

PROSE = """\
The lamp had gone out some time before the ferry reached the quay, and
nobody on board had thought of lighting it again. A boy of twelve or so
was counting the ropes aloud; his mother told him to be quiet, for the
old man in the bow had fallen asleep with his hat over his eyes.

"We are early," said the pilot.

It was not quite true. The clock over the customs house, which anybody
could have seen from the deck, was showing a quarter to nine already.
"""


def wrapped(text: str) -> list[str]:
    return list(paragraphs([text]))


def test_characters_are_cleaned():
    assert characters("a\r\nb\rc\x0cd\u2028e\x85f") == "a\nb\nc\nd\ne\nf"
    assert characters("e\u0301") == "\u00e9"
    assert characters("a\u200bb\ufeffc\u00add\x00e\u202ef\x7f\ue4c2") == "abcdef"
    assert characters("نمی\u200cخواهم 👨\u200d👩") == "نمی\u200cخواهم 👨\u200d👩"
    assert characters("x\ufffdy") == "x\ufffdy"
    assert characters("\ud83d!") == "\ufffd!"
    assert characters("para\u2029graph") == "para\n\ngraph"
    assert characters("<strong>A title</strong><br>x <unk> 1 < 2 > 0") == "A title\nx <unk> 1 < 2 > 0"
    assert characters("```python\ntext\n```") == "\ntext\n"


@given(st.text())
def test_characters_give_clean_text(text: str):
    result = characters(text)
    assert unicodedata.is_normalized("NFC", result)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t" for character in result)
    result.encode("utf-8")


@given(st.lists(st.text(alphabet=st.sampled_from("ab .\n\u3000文。Ab-"), max_size=60), max_size=6))
def test_no_paragraph_is_empty_or_holds_a_line_end(texts: list[str]):
    pieces = list(whole_lines(iter(texts)))
    for paragraph in paragraphs(pieces):
        assert paragraph == " ".join(paragraph.split()) != ""


@given(st.lists(st.text(alphabet=st.sampled_from("abc .,文字。\nA"), max_size=80), max_size=8))
def test_nothing_but_white_space_and_ornaments_is_lost(texts: list[str]):
    whole = "".join(texts)
    letters_left = "".join("".join(paragraph.split()) for paragraph in paragraphs(whole_lines(iter(texts))))
    letters = [character for character in whole if character.isalnum()]
    assert [character for character in letters_left if character.isalnum()] == letters


def test_hard_wrapped_prose_is_joined():
    paragraphs = wrapped(PROSE)
    assert len(paragraphs) == 3
    assert paragraphs[0].startswith("The lamp had gone out") and paragraphs[0].endswith("over his eyes.")
    assert "quay, and nobody" in paragraphs[0]
    assert paragraphs[1] == '"We are early," said the pilot.'


def test_a_paragraph_a_line_stays_so():
    lines = [sentence.strip().capitalize() + "." for sentence in " ".join(PROSE.split()).split(".") if sentence.strip()]
    lines = [" ".join(lines[: 1 + k % 3]) for k in range(8)]
    assert wrap_width("\n".join(lines)) == 0
    assert wrapped("\n".join(lines)) == lines


def test_verse_and_word_lists_stay_apart():
    verse = [
        "The kettle sings upon the hob,", "The cat has closed her eyes,", "And slowly through the window pane",
        "The winter daylight dies.", "No letter came, no caller knocked,", "No footstep on the stair,",
        "And yet I laid a second cup", "Beside the empty chair.",
    ]  # fmt: skip
    assert wrapped("\n".join(verse)) == verse
    quatrain = ["窗外寒星三两点，", "案头残卷五更灯。", "归来莫问桃花信，", "满院苔痕认未能。"]
    assert wrapped("\n".join(quatrain)) == quatrain
    words = ["harbour\t12", "lantern\t9", "pilot\t7"]
    assert wrapped("\n".join(words)) == [word.replace("\t", " ") for word in words]


def test_verse_set_off_in_wrapped_prose_stays_apart_and_set_off_prose_is_joined():
    text = PROSE + "\n     The tide goes out, the tide comes in,\n     And no one counts the cost,\n     But he who\n\n"
    text += (
        "     dear sister, the roof wants mending\n     and the hens have stopped laying; come\n     when you can.\n"
    )
    paragraphs = wrapped(text)
    assert paragraphs[3:6] == ["The tide goes out, the tide comes in,", "And no one counts the cost,", "But he who"]
    assert paragraphs[6] == "dear sister, the roof wants mending and the hens have stopped laying; come when you can."


def test_short_lines_and_indents_end_paragraphs_in_wrapped_prose():
    text = (
        PROSE
        + "\nCHAPTER TWO\nThe Customs House\n\n"
        + PROSE.replace('\n\n"We', '\n   "We').replace("\n\nIt", "\n   It")
    )
    paragraphs = wrapped(text)
    assert paragraphs[3:5] == ["CHAPTER TWO", "The Customs House"]
    assert paragraphs[5:] == paragraphs[:3]


def test_list_items_begin_paragraphs_in_wrapped_prose():
    text = PROSE + "\n- a coil of rope long enough to reach the second mooring post, and\n  a hook;\n- a lantern.\n"
    assert wrapped(text)[3:] == [
        "- a coil of rope long enough to reach the second mooring post, and a hook;", "- a lantern.",
    ]  # fmt: skip


def test_hyphens_and_dashes_at_line_ends_join_without_a_space():
    text = PROSE + "\nThey had been talking for an hour about the old harbour-\nmaster, who was"
    text += " seldom sober, and his dog, which the pilot disliked--\nthough it never bit.\n"
    result = wrapped(text)[-1]
    assert "harbour-master" in result and "disliked--though" in result


def test_chinese_is_joined_without_spaces():
    first = "　　渡船靠岸的时候灯早已灭了，船上的人谁也没有想到要再点起来。一个十二三岁的男孩"
    text = f"{first}\n大声数着缆绳；他母亲叫他安静些，因为船头的老人把帽子盖在脸上，已经睡着了，“不\n要吵”。\n"
    text += "　　其实并不算早。海关楼上的大钟，谁在甲板上都看得见，已经指着八点三刻了，可是没有人抬\n"
    text += "头，每年都是这样，从上一个船长的那时候起就一直如此，而且听说一直要到2019\n年也还是这样。\n"
    paragraphs = wrapped(text)
    assert len(paragraphs) == 2
    assert (
        "男孩大声" in paragraphs[0]
        and "“不要吵”" in paragraphs[0]
        and paragraphs[1].endswith("一直要到2019年也还是这样。")
    )
    assert wrap_width(text) < 0


def test_chinese_with_a_paragraph_a_line_is_left_alone():
    lines = [
        "第一回　夜渡",
        "　　渡船靠岸的时候灯早已灭了，船上的人谁也没有想到要再点起来。",
        "　　“到了。”",
        "　　老人醒了，" * 9,
    ]
    assert wrapped("\n".join(lines)) == [
        "第一回 夜渡",
        lines[1].strip(),
        "“到了。”",
        lines[3].replace("　　", " ").strip(),
    ]


def test_ornaments_are_dropped_but_an_ellipsis_is_text():
    assert wrapped("one\n\n* * *\n\n=====\n\n……\n\ntwo\n") == ["one", "……", "two"]


def test_blank_lines_part_documents():
    results = [list(document) for document in documents(["one\ntwo\n\n", "three\n\n***\n\n", "four"])]
    assert results == [["one", "two"], ["three"], ["four"]]


def test_documents_that_are_not_exhausted_are_skipped_over(monkeypatch):
    monkeypatch.setattr(clean, "LONGEST_BLOCK", 10)
    results = [next(document) for document in documents(["a line of text\n", "another line\n", "\nsecond\n"])]
    assert results == ["a line of text", "second"]


def test_a_long_block_is_handed_on_in_parts_without_harm(monkeypatch):
    text = PROSE.replace("\n\n", "\n   ")
    expected = wrapped(text)
    monkeypatch.setattr(clean, "LONGEST_BLOCK", 300)
    assert list(paragraphs(line + "\n" for line in text.splitlines())) == expected


def test_a_record_of_one_line_is_one_paragraph():
    assert record_paragraphs("  two   words\t") == ["two words"]
    assert record_paragraphs(" \n ") == []
    assert record_paragraphs("first\n\nsecond\nthird") == ["first", "second", "third"]


START = "*** START OF THIS PROJECT GUTENBERG EBOOK THE FERRY ***\n"
END = "*** END OF THIS PROJECT GUTENBERG EBOOK THE FERRY ***\n"


def stripped(text: str) -> list[str]:
    return list(paragraphs([text], "gutenberg"))


def test_gutenberg_header_footer_and_credits_go():
    text = (
        f"Title: The Ferry\n\n{START}\n\nProduced by Somebody and\nothers\n\nTHE FERRY\n\nThe end came.\n\n{END}Licence"
    )
    assert stripped(text) == ["THE FERRY", "The end came."]
    assert "Title: The Ferry" in list(paragraphs([text]))


def test_gutenberg_variants():
    tight = START.replace("*** START OF THIS", "***START OF THE").replace(" ***", "***")
    assert stripped(f"x\n{tight}\nTranscribed from the first edition\n\nText.\n\n***END OF THE PROJECT GUTENBERG") == [
        "Text."
    ]
    two_lines = "*** START OF THE PROJECT GUTENBERG EBOOK THE FERRY\nAND OTHER TALES ***\n"
    assert stripped(f"x\n{two_lines}\nText.\n") == ["Text."]
    assert stripped(f"{START}\nText.\n\nEnd of Project Gutenberg's The Ferry, by Nobody\n\nmore\n") == ["Text."]
    assert stripped("x\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\nText.\n") == ["Text."]
    assert stripped(f"{START}\nOne.\n\n{END}\nx\n\n{START}\nTwo.\n\n{END}") == ["One.", "Two."]


def test_a_text_without_gutenberg_lines_stays_whole():
    assert stripped("The friend of Mr. Gutenberg came.\n\nProduced by hand.\n") == [
        "The friend of Mr. Gutenberg came.", "Produced by hand.",
    ]  # fmt: skip


def read(path: Path, strip: str = "none") -> list[str]:
    return list(paragraphs(whole_lines(read_text(str(path))), strip))


@data
@needs_data
def test_real_english_books_keep_every_word_and_lose_every_wrap():
    for path in sorted((DATA / "gutenberg_en").glob("*.txt")):
        text = path.read_text(encoding="utf-8-sig")
        split = read(path)
        squeezed = "".join(unicodedata.normalize("NFC", text).split())
        letters_left = "".join("".join(paragraph.split()) for paragraph in split)
        assert [character for character in letters_left if character.isalnum()] == [
            character for character in squeezed if character.isalnum()
        ], path.name
        body = read(path, "gutenberg")
        assert 0.9 < sum(map(len, body)) / sum(map(len, split)) < 1.0, path.name
        assert not any("GUTENBERG EBOOK" in paragraph or "www.gutenberg" in paragraph for paragraph in body), path.name
        # A wrap that was left shows as a paragraph in lower case after a paragraph without an end.
        broken = sum(
            after[0].islower() and before[-1].isalpha() and len(before) > 50 for before, after in pairwise(body)
        )
        assert broken <= 0.01 * len(body), path.name


@data
@needs_data
def test_real_chinese_books():
    essays = sorted((DATA / "zh_luxun").rglob("*.md"))
    results = [paragraph for path in essays for paragraph in read(path)]
    assert len(essays) == 36
    assert not any("```" in paragraph for paragraph in results)
    # No space was put between two Han characters by joining lines.
    assert sum(" " in paragraph for paragraph in results) < 0.02 * len(results)
    middle = [paragraph for paragraph in results if len(paragraph) > 40]
    assert sum(paragraph[-1] in "。？！”…：〕—－；" for paragraph in middle) > 0.97 * len(middle)
    chapter = read(sorted((DATA / "zh_chapters").rglob("text.txt"))[0])
    assert not any("strong" in paragraph for paragraph in chapter)
    novel = read(next((DATA / "zh_novels").glob("*.txt")))
    assert sum(paragraph.startswith("第") and "回 " in paragraph[:8] for paragraph in novel) == 120
