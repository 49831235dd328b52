"""Texts that end a text: cut exactly, whatever the pieces are, and held back while one may begin."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from blankfill.generation.text_stream import SPACES, Detokenizer, Stream, _unfinished, token_text
from generate_models import byte_level

BYTES = byte_level(["the cat sat on the mat", "猫在垫子上，狗在跑。"] * 3, 300)


def cut(text: str, stops: list[str]) -> str:
    """The text before the stop that is complete first, found letter by letter."""
    for end in range(1, len(text) + 1):
        if begins := [end - len(stop) for stop in stops if text[:end].endswith(stop)]:
            return text[: min(begins)]
    return text


ALPHABET = st.text("ab。猫", max_size=12)


@given(st.lists(ALPHABET, max_size=6), st.lists(ALPHABET.filter(bool), max_size=4))
def test_the_text_does_not_depend_on_its_pieces(pieces: list[str], stops: list[str]) -> None:
    stream = Stream(stops)
    shown = ""
    expected = cut("".join(pieces), stops)
    for piece in pieces:
        shown += stream.push(piece)
        assert expected.startswith(shown)  # nothing is shown that a stop takes away
    assert shown + stream.end() == expected == stream.text
    assert stream.stopped == (expected != "".join(pieces)) and stream.length == len(expected)


def test_what_may_begin_a_stop_is_held_back() -> None:
    stream = Stream(["\n\n", "用户："])
    assert [stream.push(piece) for piece in ("a\n", "b\n用", "户", "在", "用户", "：x", "y")] == [
        "a", "\nb\n", "", "用户在", "", "", "",
    ]  # fmt: skip
    assert (stream.end(), stream.text, stream.stopped) == ("", "a\nb\n用户在", True)


def test_a_stop_of_several_tokens_in_chinese_ends_the_text() -> None:
    words, stream = Detokenizer(BYTES), Stream(["上，狗"])
    shown, tokens = "", BYTES.encode("猫在垫子上，狗在跑。")
    for used, token in enumerate(tokens, 1):  # noqa: B007
        shown += stream.push(words.push(token))
        if stream.stopped:
            break
    assert shown == "猫在垫子" and used < len(tokens)


def test_the_text_of_a_token_depends_on_those_before_it() -> None:
    ids = BYTES.encode("the cat 猫")
    assert "".join(token_text(BYTES, ids[:k], id) for k, id in enumerate(ids)).startswith("the cat ")
    assert token_text(BYTES, [], BYTES.id("<|endoftext|>") or 0) == "<|endoftext|>"
    assert token_text(BYTES, ids, BYTES.size) == f"[{BYTES.size}]"  # a row of padding in the table of tokens


@given(st.text("ab  \n\u3000猫。", max_size=20))
def test_the_last_word_and_the_space_before_it_are_held_back(text: str) -> None:
    word = re.search(r"\s*[^\s\u2e80-\u9fff\uf900-\uffef\U00020000-\U0003ffff]*\Z", text)
    assert word is not None and _unfinished(text) == word.start()


def test_white_space_is_that_of_patterns() -> None:
    assert set(SPACES) == {character for character in map(chr, range(0x11000)) if re.match(r"\s", character)}
