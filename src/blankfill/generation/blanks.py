"""Blanks in a text: how a user writes them, which tokens fit into them, and the result of filling. Without a model.

A blank is written `[MASK]`, `[BLANK]`, `<mask>`, `<extra_id_0>` (as T5 does, whatever the number), as three or more
underscores, or as the tokenizer's own mask token; `[sMASK]` and `[gMASK]` are GLM's sentence and document blanks;
`[MASK:3]` is a blank of exactly three tokens. Upper and lower case are equivalent.

Words: users expect words in blanks, so the first token of a fill must begin a word when the blank follows a space, a
punctuation mark, a Chinese character, or nothing. When the blank follows letters directly (`un[MASK]`), any token may
come first, ranked by probability.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from blankfill.corpus.unknown import uncounted
from blankfill.errors import UserError
from blankfill.types import Bool, Vocabulary

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.objectives import Objective

_BLANK = re.compile(
    r"\[(?P<name>mask|blank|gmask|smask)(?::(?P<length>\d+))?\]|<mask(?::(?P<length_2>\d+))?>|<extra_id_\d+>|_{3,}",
    re.I,
)
_SPACE_MARKS = ("Ġ", "▁")
MOST_TOKENS = 1_000_000
"""Largest number of tokens of a blank."""
HOW = "write one as [MASK], [BLANK], <mask> or ____, or [MASK:3] for exactly three tokens"


@dataclass(frozen=True)
class Blank:
    """A blank in a text: its spelling, its half-open range of characters, its role, and its number of tokens if
    given."""

    written: str
    start: int
    end: int
    role: str = "mask"
    length: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A possible fill of a blank.

    text: the fill as it reads in the sentence. probability: see `FillResult.probabilities`. score: the log-probability
    by which candidates are ranked (the mean over the tokens when several lengths were tried).
    """

    text: str
    ids: tuple[int, ...]
    probability: float
    score: float


@dataclass(frozen=True)
class FillResult:
    """A text with its blanks filled.

    blanks and candidates correspond; candidates are sorted, and the first ones are those in `filled`. The candidates of
    a blank are conditional on the blanks that were filled before it. probabilities: "model" when they are the model's
    own for the tokens (and the end, for families that generate one), "candidates" when they are shares among the
    candidates.
    """

    text: str
    filled: str
    blanks: tuple[Blank, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    probabilities: str
    objective: str

    def marked(self, left: str = "«", right: str = "»") -> str:
        """Return the filled text with marks around each fill."""
        return assemble(self.text, self.blanks, [left + fills[0].text + right for fills in self.candidates])

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values for `json.dumps`."""
        blanks = [
            {
                "blank": blank.written, "start": blank.start, "end": blank.end,
                "candidates": [
                    {"text": c.text, "ids": list(c.ids), "probability": c.probability, "score": c.score} for c in fills
                ],
            }
            for blank, fills in zip(self.blanks, self.candidates, strict=True)
        ]  # fmt: skip
        return {
            "text": self.text, "filled": self.filled, "objective": self.objective,
            "probabilities": self.probabilities, "blanks": blanks,
        }  # fmt: skip


def find_blanks(text: str, mask: str = "") -> list[Blank]:
    """Find the blanks of a text, from left to right; UserError for a blank of 0 tokens or of more than any model holds.

    mask: one more spelling of a blank.
    """
    blanks = []
    for match in _pattern(mask).finditer(text):
        name = (match["name"] or "mask").lower()
        digits = match["length"] or match["length_2"]
        length = None if digits is None else _tokens(digits)
        if length == 0:
            raise UserError(f"the blank {match[0]} has a length of 0 tokens; give at least 1, as in [MASK:1]")
        if digits is not None and length is None:
            raise UserError(f"the blank {match[0][:40]}… has too many tokens; give at most {MOST_TOKENS:,}")
        role = name if name in ("gmask", "smask") else "mask"
        blanks.append(Blank(match[0], match.start(), match.end(), role, length))
    return blanks


@cache
def _pattern(mask: str) -> re.Pattern[str]:
    """Return the pattern of blanks. mask: one more spelling, or ""."""
    return re.compile(f"{_BLANK.pattern}|{re.escape(mask)}", re.I) if mask else _BLANK


def parse_lengths(lengths: str) -> tuple[int, int]:
    """Parse the range of a fill's number of tokens: `"2"` → (2, 2), `"1-3"` → (1, 3)."""
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", lengths)
    least, most = (_tokens(match[1]), _tokens(match[2] or match[1])) if match else (0, 0)
    if least is None or most is None:
        raise UserError(f"lengths has too many tokens; give at most {MOST_TOKENS:,}")
    if not 1 <= least <= most:
        raise UserError(f'lengths is "{lengths}"; give a number of tokens such as 2 or a range such as 1-3')
    return least, most


def _tokens(digits: str) -> int | None:
    """Parse a number of tokens; None above any model's limit, since Python reads at most 4,300 digits."""
    plain = digits.lstrip("0") or "0"
    return int(plain) if len(plain) < len(str(MOST_TOKENS)) or plain == str(MOST_TOKENS) else None


def assemble(text: str, blanks: Sequence[Blank], fills: Sequence[str]) -> str:
    """Replace each blank of a text by its fill."""
    parts, last = [], 0
    for blank, fill in zip(blanks, fills, strict=True):
        parts += [text[last : blank.start], fill]
        last = blank.end
    return "".join(parts) + text[last:]


def is_ideograph(character: str) -> bool:
    """Return whether a character is of a script written without spaces: Chinese, kana, and their marks."""
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\uffef" or character >= "\U00020000"


class Words:
    """The words of a tokenizer: where a word may begin, and how ids read inside a sentence."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, rows: int, blank: int | None = None) -> None:
        """rows: rows of the model's token embeddings, at least as many as tokens. blank: id of the token that
        represents a blank when text is encoded; None without one."""
        self.tokenizer = tokenizer
        written = tokenizer.token(blank) if blank is not None else ""
        with uncounted():
            self.takes_space = not written or tokenizer.encode(f"a {written}") == tokenizer.encode(f"a{written}")
            pair = tokenizer.encode("a b")
        """Whether the space before a blank is part of the fill, and not a token of its own."""
        self.begins: Bool = np.ones(rows, np.bool_)
        if vocabulary.word_start is not None:
            self.begins[: vocabulary.size] = vocabulary.word_start
        self.spaced = any(tokenizer.token(token).startswith(_SPACE_MARKS) for token in pair)
        """Whether tokens include the space before them (GPT-2, SentencePiece) instead of a continuation mark."""

    def may_begin(self, before: str) -> Bool | None:
        """Return the ids that may begin a fill after this text, bool[rows]; None when all may."""
        stripped = before.rstrip()
        after_space = stripped != before
        if self.spaced:
            if not self.takes_space:
                return None
            return self.begins if after_space and stripped and not is_ideograph(stripped[-1]) else None
        attached = bool(stripped) and not after_space and stripped[-1].isalnum() and not is_ideograph(stripped[-1])
        return None if attached else self.begins

    def before_blank(self, text: str) -> str:
        """Return the text to encode before a blank: without its last spaces where the next token includes them."""
        return text.rstrip(" ") if self.spaced and self.takes_space else text

    def read(self, ids: Sequence[int], before: str) -> str:
        """Return the text of a fill that follows `before`."""
        if not ids:
            return ""
        text = self.tokenizer.decode(list(ids))
        first = self.tokenizer.token(ids[0])
        if not self.spaced:
            return text.removeprefix("##") if first.startswith("##") else text
        text = text.lstrip(" ")
        apart = not before or before[-1].isspace()
        return text if apart or not first.startswith(_SPACE_MARKS) else f" {text}"


def own_mask(tokenizer: Tokenizer, vocabulary: Vocabulary) -> str:
    """Return the tokenizer's spelling of its mask; "" without one."""
    mask = vocabulary.roles.get("mask")
    return "" if mask is None else tokenizer.token(mask)


def blank_token(objective: Objective, vocabulary: Vocabulary) -> int | None:
    """Return the token that represents blanks when a text is encoded: the mask, or T5's first sentinel; None without
    one."""
    sentinels, mask = vocabulary.sentinels, vocabulary.roles.get("mask")
    return sentinels[0] if sentinels and (mask is None or objective.blank_is_sentinel) else mask
