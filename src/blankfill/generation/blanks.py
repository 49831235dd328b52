"""Blanks in a text: how they are written, what may stand in them, and what a fill looks like. No model here.

A blank is written `[MASK]`, `[BLANK]`, `<mask>`, `<extra_id_0>` (as T5 does, whatever the number), as three or more
underscores, or as the tokenizer's own mask token; `[sMASK]` and `[gMASK]` are GLM's sentence and document blanks;
`[MASK:3]` asks for exactly three tokens.
Capitals do not matter.

Words: people expect words in blanks, so the first token of a fill must begin a word wherever the blank stands apart
from what is before it: after a space, a mark, a Chinese character, or nothing. Where the blank follows letters directly
(`un[MASK]`) anything may stand, ranked by probability.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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
"""Tokens that one blank may be asked to have."""
HOW = "write one as [MASK], [BLANK], <mask> or ____, or [MASK:3] for exactly three tokens"


@dataclass(frozen=True)
class Blank:
    """A blank in a text: as written, its half-open range of characters, its role, and how many tokens it asks for."""

    written: str
    start: int
    end: int
    role: str = "mask"
    length: int | None = None


@dataclass(frozen=True)
class Candidate:
    """One way to fill a blank.

    text: as it stands in the sentence. probability: see `FillResult.probabilities`. score: what candidates are ranked
    by, a log-probability (the mean over the tokens where several lengths were tried).
    """

    text: str
    ids: tuple[int, ...]
    probability: float
    score: float


@dataclass(frozen=True)
class FillResult:
    """A text with its blanks filled.

    blanks and candidates correspond; candidates come best first, and the first ones are those in `filled`. A blank's
    candidates are conditional on the blanks that were filled before it. probabilities: "model" when a candidate's is
    the model's own for its tokens (and its end, where the family writes one), "candidates" when it is the share among
    the candidates found.
    """

    text: str
    filled: str
    blanks: tuple[Blank, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    probabilities: str
    objective: str

    def marked(self, left: str = "«", right: str = "»") -> str:
        """The filled text with a mark before and after each fill."""
        return assemble(self.text, self.blanks, [left + fills[0].text + right for fills in self.candidates])

    def to_json(self) -> dict[str, Any]:
        """The result as plain values for `json.dumps`."""
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
    """The blanks of a text, from left to right; UserError for one of length 0 or of more than any model holds.

    mask: how else one may be written.
    """
    blanks = []
    pattern = re.compile(f"{_BLANK.pattern}|{re.escape(mask)}", re.I) if mask else _BLANK
    for match in pattern.finditer(text):
        name = (match["name"] or "mask").lower()
        digits = match["length"] or match["length_2"]
        length = None if digits is None else _tokens(digits)
        if length == 0:
            raise UserError(f"the blank {match[0]} asks for no tokens; give at least 1, as in [MASK:1]")
        if digits is not None and length is None:
            raise UserError(f"the blank {match[0][:40]}… asks for too many tokens; give at most {MOST_TOKENS:,}")
        role = name if name in ("gmask", "smask") else "mask"
        blanks.append(Blank(match[0], match.start(), match.end(), role, length))
    return blanks


def parse_lengths(lengths: str) -> tuple[int, int]:
    """`"2"` → (2, 2), `"1-3"` → (1, 3): the fewest and most tokens of a fill."""
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", lengths)
    least, most = (_tokens(match[1]), _tokens(match[2] or match[1])) if match else (0, 0)
    if least is None or most is None:
        raise UserError(f"lengths asks for too many tokens; give at most {MOST_TOKENS:,}")
    if not 1 <= least <= most:
        raise UserError(f'lengths is "{lengths}"; give a number of tokens such as 2 or a range such as 1-3')
    return least, most


def _tokens(digits: str) -> int | None:
    """A number of tokens, None for one above what any model holds; Python reads no more than 4,300 digits."""
    plain = digits.lstrip("0") or "0"
    return int(plain) if len(plain) < len(str(MOST_TOKENS)) or plain == str(MOST_TOKENS) else None


def assemble(text: str, blanks: Sequence[Blank], fills: Sequence[str]) -> str:
    """The text with each blank replaced."""
    parts, last = [], 0
    for blank, fill in zip(blanks, fills, strict=True):
        parts += [text[last : blank.start], fill]
        last = blank.end
    return "".join(parts) + text[last:]


def is_ideograph(character: str) -> bool:
    """Whether a character is of a script written without spaces: Chinese, kana, and their marks."""
    return "\u2e80" <= character <= "\u9fff" or "\uf900" <= character <= "\uffef" or character >= "\U00020000"


class Words:
    """What a tokenizer's tokens are as words: where a word may begin, and how ids read inside a sentence."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, rows: int, blank: int | None = None) -> None:
        """rows: of the model's word table, which may be longer than the vocabulary. blank: the token that stands for
        one in what is encoded; None where none does."""
        self.tokenizer = tokenizer
        written = tokenizer.token(blank) if blank is not None else ""
        self.takes_space = not written or tokenizer.encode(f"a {written}") == tokenizer.encode(f"a{written}")
        """Whether the space before a blank is no token of its own, and belongs to what fills it."""
        self.begins: Bool = np.ones(rows, np.bool_)
        if vocabulary.word_start is not None:
            self.begins[: vocabulary.size] = vocabulary.word_start
        self.spaced = any(tokenizer.token(token).startswith(_SPACE_MARKS) for token in tokenizer.encode("a b"))
        """Whether tokens carry the space before them (GPT-2, SentencePiece), rather than a mark of continuation."""

    def may_begin(self, before: str) -> Bool | None:
        """Which ids may be the first of a fill that follows this text, bool[rows]; None when all may."""
        stripped = before.rstrip()
        after_space = stripped != before
        if self.spaced:
            if not self.takes_space:
                return None
            return self.begins if after_space and stripped and not is_ideograph(stripped[-1]) else None
        attached = bool(stripped) and not after_space and stripped[-1].isalnum() and not is_ideograph(stripped[-1])
        return None if attached else self.begins

    def before_blank(self, text: str) -> str:
        """Text as it is encoded before a blank: without its last spaces where the next token carries them."""
        return text.rstrip(" ") if self.spaced and self.takes_space else text

    def read(self, ids: Sequence[int], before: str) -> str:
        """The text of a fill that follows `before`."""
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
    """How the tokenizer writes its mask; "" where it has none."""
    mask = vocabulary.roles.get("mask")
    return "" if mask is None else tokenizer.token(mask)


def blank_token(objective: Objective, vocabulary: Vocabulary) -> int | None:
    """The token that stands for blanks in a text that is encoded: the mask, of a T5 the first sentinel; None where
    there is none."""
    sentinels, mask = vocabulary.sentinels, vocabulary.roles.get("mask")
    return sentinels[0] if sentinels and (mask is None or objective.blank_is_sentinel) else mask
