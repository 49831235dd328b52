"""Blanks that ask for impossible numbers of tokens, and how their lengths are written."""

import pytest

from blankfill.cli.pretrain import seconds
from blankfill.errors import UserError
from blankfill.generation.blanks import MOST_TOKENS, find_blanks, parse_lengths


@pytest.mark.parametrize("digits", ["1000001", "9" * 4299, "9" * 5000, "9" * 100_000])
def test_a_blank_of_more_tokens_than_any_model_holds_is_refused(digits: str) -> None:
    for written in (f"[MASK:{digits}]", f"<mask:{digits}>", f"[gMASK:{digits}]"):
        with pytest.raises(UserError, match="has too many tokens; give at most 1,000,000") as caught:
            find_blanks(f"a {written} b")
        assert len(str(caught.value)) < 200
    for lengths in (digits, f"1-{digits}", f"{digits}-{digits}"):
        with pytest.raises(UserError, match="lengths has too many tokens"):
            parse_lengths(lengths)


def test_lengths_up_to_the_most_are_read() -> None:
    zeros = "0" * 5000
    assert [blank.length for blank in find_blanks(f"[MASK:3] <mask:{MOST_TOKENS}> [mask:{zeros}7] ___")] == [
        3, MOST_TOKENS, 7, None,
    ]  # fmt: skip
    assert parse_lengths(" 2 ") == (2, 2) and parse_lengths(f"1 - {zeros}{MOST_TOKENS}") == (1, MOST_TOKENS)
    with pytest.raises(UserError, match="has a length of 0 tokens"):
        find_blanks(f"[MASK:{zeros}]")
    with pytest.raises(UserError, match='lengths is "3-2"'):
        parse_lengths("3-2")


def test_a_time_longer_than_any_run_is_refused() -> None:
    assert seconds("1h30m") == 5400.0 and seconds("100d") == 8.64e6
    for text in ("99999999999999", "9" * 400, "1e", "40000d"):
        with pytest.raises(UserError, match="stop_after="):
            seconds(text)
