"""Finds where words begin in the tokens of a vocabulary, and joins words as people write them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from blankfill.corpus.scripts import UNSPACED

WIDE = "\u2e80-\u2fdf\u3000-\u9fff\uf900-\ufaff\uff01-\uff65"
"""Characters of scripts without spaces between words, for a character class of a regular expression."""

_SYLLABLE = re.compile(f"(?![\u30a0-\u30ff\u31f0-\u31ff])[{UNSPACED}]")

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
    """Return the bytes that a token of byte-level BPE stands for; b"" for a special token."""
    table = _gpt2_table()
    return bytes(table[character] for character in token) if all(c in table for c in token) else b""


@cache
def _gpt2_table() -> dict[str, int]:
    """Return GPT-2's table from visible characters to bytes."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def begins_word(token: bytes) -> bool:
    """Return whether a piece of running text begins a word: with white space, a punctuation mark or a Chinese
    character.

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
        return "\u2e80" <= character <= "\u9fff" or not character.isalnum() or begins_syllable(character)
    return b"\xe3" <= first <= b"\xe9"


def token_begins_word(token: str, kind: str, prefix: str) -> bool:
    """Return whether a token begins a word. kind: how the vocabulary writes its tokens (wordpiece, bytes,
    metaspace, …). prefix: the mark of WordPiece tokens that continue a word."""
    if kind == "wordpiece":
        return not token.startswith(prefix) or begins_syllable(token[len(prefix) :])
    if kind == "bytes":
        return begins_word(gpt2_bytes(token))
    if kind == "metaspace":
        return begins_word(_metaspace_bytes(token, " "))
    return True


def begins_syllable(text: str) -> bool:
    """Return whether a piece from the middle of a run begins with a letter of a script without spaces, other than
    katakana, whose runs are words. Such a piece counts as a word, since it is the closest to one that a vocabulary
    knows."""
    first = text[:1]
    return bool(_SYLLABLE.match(first)) and unicodedata.category(first) == "Lo"


def text_of(token: str, kind: str, prefix: str) -> str:
    """Return the text of a token, without the marks of words; see `token_begins_word`. Parts of characters are written
    as `surrogateescape` writes them."""
    if kind == "bytes":
        return gpt2_bytes(token).decode("utf-8", "surrogateescape").strip()
    if kind == "metaspace":
        return _metaspace_bytes(token, "").decode("utf-8", "surrogateescape")
    return token.removeprefix(prefix) if kind == "wordpiece" else token


def _metaspace_bytes(token: str, mark: str) -> bytes:
    """Return the bytes of a SentencePiece token, `mark` where it has ▁; <0xE4> is a single byte."""
    byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
    return bytes.fromhex(byte[1]) if byte else token.replace("▁", mark).encode()


def join_words(words: Sequence[str]) -> str:
    """Join words and marks that BERT's pre-tokenizer separated, as people write them (as far as possible)."""
    text = " ".join(words)
    if " " not in text:  # without which no pattern matches
        return text
    for pattern, replacement in _JOINS:
        text = pattern.sub(replacement, text)
    return text
