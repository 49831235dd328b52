"""Where words begin in a vocabulary's tokens, and words put back together as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

WIDE = "\u2e80-\u2fdf\u3000-\u9fff\uf900-\ufaff\uff01-\uff65"
"""Characters that are written without spaces between words, for a class of a regular expression."""

_JOINS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"(?<=[{WIDE}]) | (?=[{WIDE}])"), ""),
    (re.compile(r"(?<=\d) ([.,:]) (?=\d)"), r"\1"),
    (re.compile(r"(?<=[^\W_]) (['’]) (?=(?:s|t|m|d|ll|re|ve)(?![A-Za-z]))", re.IGNORECASE), r"\1"),
    (re.compile(r"(?<=\w) ([-/]) (?=\w)"), r"\1"),
    (re.compile(r"(?<=\.) (?=\.)|(?<=-) (?=-)"), ""),
    (re.compile(r'" ([^"]*?) "'), r'"\1"'),
    (re.compile(r" (?=[.,;:!?%)\]}”’…])"), ""),
    (re.compile(r"(?<=[(\[{“‘$£€#]) "), ""),
)


def gpt2_bytes(token: str) -> bytes:
    """The bytes that a token of byte-level BPE stands for; b"" for a special token."""
    table = _gpt2_table()
    return bytes(table[character] for character in token) if all(c in table for c in token) else b""


@cache
def _gpt2_table() -> dict[str, int]:
    """GPT-2's way to write each byte as a visible character."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def begins_word(token: bytes) -> bool:
    """Whether a piece of running text begins a word: with white space, a punctuation mark or a Chinese character.

    A piece cut inside a character counts as Chinese by its lead byte (E3 to E9 hold the CJK blocks).
    """
    first = token[:1]
    if not first:
        return False
    if first < b"\x80":
        return not first.isalnum()
    character = token.decode("utf-8", "ignore")[:1]
    whole = character != "" and token.startswith(character.encode())
    if whole:
        return "\u2e80" <= character <= "\u9fff" or not character.isalnum()
    return b"\xe3" <= first <= b"\xe9"


def join_words(words: Sequence[str]) -> str:
    """Words and marks, as BERT's pre-tokenizer parts them, put back as people write them (as far as can be told)."""
    text = " ".join(words)
    for pattern, replacement in _JOINS:
        text = pattern.sub(replacement, text)
    return text
