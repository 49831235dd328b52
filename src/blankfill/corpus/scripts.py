"""Scripts of characters, and what a sample of text says about how it must be normalised and cut into words.

Lower-casing and stripping accents, which English BERT does, change words in most languages, so both are decided by
what the text is made of (`Writing.of`, `decide`). Not here: the tokenizer that carries the decision
(`tokenizer_formats.wordpiece`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

UNSPACED_NAMES = ("Thai", "Lao", "Khmer", "Myanmar", "Hiragana", "Katakana")
"""Scripts written without spaces whose words have several characters (Tibetan marks syllables; Han is cut by
character)."""
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u3040-\u30ff\u31f0-\u31ff\ua9e0-\ua9fe\uaa60-\uaa7f"
"""Characters of those scripts, for a character class of a regular expression."""
JOINERS = "\u200c\u200d"
"""ZWNJ and ZWJ, which spell Persian, scripts of India, and emoji of several parts."""
SELECTORS = "\ufe00-\ufe0f"
"""Variation selectors, which choose the form of an emoji."""
MARKED_SHARE = 0.005
"""Share of Latin letters with accents above which a language needs them: English has 0.02%, German 2%, Vietnamese
25%."""
DOTLESS_SHARE = 0.001
"""Share of Latin letters that are ı or İ above which lower-casing would change words, as it turns I into i."""
LONG_WORD = 100
"""Length in characters above which WordPiece takes a word for unknown."""
LONG_SHARE = 0.001
"""Share of the text in words of more than LONG_WORD characters, or of the letters in scripts without spaces, above
which such runs are cut."""
UNSPACED_SHARE = 0.3
"""Share of such text above which Unigram is recommended."""

_WORD = re.compile(r"[^\s\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
"""Runs that WordPiece takes for words; Chinese characters are words of their own."""
_KEPT = re.compile(f"[{JOINERS}{SELECTORS}]")
_TWO_WORDS = frozenset(("OLD", "NEW", "TAI", "LINEAR"))
_NAMES = {"CJK": "Han", "KANGXI": "Han", "IDEOGRAPHIC": "Han"}


@lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str:
    """Return the script of a letter or of one of its marks, such as "Latin" or "Thai"; "" for other characters."""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    words = unicodedata.name(character, "").split()
    if not words or words[0] in ("COMBINING", "VARIATION", "MODIFIER"):
        return ""
    words = [word for word in words if word not in ("FULLWIDTH", "HALFWIDTH")] or words
    first = words[0].split("-")[0]
    name = " ".join(words[:2]) if first in _TWO_WORDS else first
    return _NAMES.get(name, name.title())


def named(character: str) -> str:
    """Return a character with its script, for a sentence: `的 (Han)`, `😀 (symbol)`, or its code point where it cannot
    be seen."""
    kind = unicodedata.category(character)
    shown = character if kind[0] in "LNPS" else f"U+{ord(character):04X}"
    kinds = {"N": "digit", "P": "punctuation", "S": "symbol"}
    what = script_of(character) or kinds.get(kind[0], "mark" if kind[0] == "M" else "control")
    return f"{shown} ({what})"


@dataclass(frozen=True)
class Writing:
    """Counts over a sample of text.

    letters: letters by script. marked: letters with accents or other marks, by script, without counting marks of
    syllables (vowel signs). example: a word for each script that has such letters or signs.
    """

    letters: Counter[str] = field(default_factory=Counter)
    marked: Counter[str] = field(default_factory=Counter)
    dotless: int = 0
    characters: int = 0
    long: int = 0
    """Characters in words of more than LONG_WORD characters."""
    joins: bool = False
    """Whether the text has ZWJ, ZWNJ or variation selectors."""
    separates: bool = False
    """Whether the text has ZWNJ, which SentencePiece's usual rules turn into a space."""

    @classmethod
    def of(cls, sentences: Iterable[str]) -> Writing:
        """Count the characters of sentences."""
        counts: Counter[str] = Counter()
        plain = characters = long = 0
        for sentence in sentences:
            characters += len(sentence)
            if len(sentence) > LONG_WORD:
                long += sum(len(word) for word in _WORD.findall(sentence) if len(word) > LONG_WORD)
            if sentence.isascii():
                plain += len(sentence) - sentence.count(" ")
            else:
                counts.update(sentence)
        letters, marked = Counter({"Latin": plain} if plain else {}), Counter[str]()
        dotless = 0
        for character, count in counts.items():
            script = script_of(character)
            if not script:
                if unicodedata.combining(character):
                    marked[""] += count
                continue
            if unicodedata.category(character)[0] == "L":
                letters[script] += count
            parts = unicodedata.normalize("NFD", character)
            if any(unicodedata.category(part) == "Mn" for part in parts) or script == "Hangul":
                marked[script] += count
            if character in "ıİ":
                dotless += count
        joins = any(_KEPT.match(character) for character in counts)
        return cls(letters, marked, dotless, characters, long, joins, JOINERS[0] in counts)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the letters by script, the most frequent first."""
        total = max(1, self.letters.total())
        return {name: count / total for name, count in self.letters.most_common()}

    @property
    def unspaced(self) -> float:
        """Share of the letters in scripts that are written without spaces; Han, which is cut by character, is not
        among them."""
        return sum(share for name, share in self.shares.items() if name in UNSPACED_NAMES)

    @property
    def long_share(self) -> float:
        """Share of the characters in words of more than LONG_WORD characters."""
        return self.long / max(1, self.characters)

    @property
    def latin_marks(self) -> float:
        """Share of the Latin letters with accents."""
        return self.marked["Latin"] / max(1, self.letters["Latin"])


@dataclass(frozen=True)
class Normalization:
    """How a WordPiece vocabulary normalises text and cuts it into words.

    lowercase: whether text is lower-cased. strip_accents: whether accents of Latin letters are removed. marks: whether
    all other marks, the forms of NFC and joiners stay; without it, text is normalised exactly as by BERT's
    `BertNormalizer`. cut: whether runs of scripts without spaces, and very long words, are cut.
    """

    lowercase: bool = True
    strip_accents: bool = True
    marks: bool = False
    cut: bool = False
    reasons: tuple[str, ...] = ()
    """Explanations of decisions that differ from BERT's."""

    @property
    def words(self) -> str:
        """The decision in words."""
        case = "text is lower-cased" if self.lowercase else "case is kept"
        accents = "accents of Latin letters are removed" if self.strip_accents else "accents are kept"
        own = [reason for reason in self.reasons if not reason.startswith((case, accents))]
        given = [next((r for r in self.reasons if r.startswith(part)), part) for part in (case, accents)]
        return "; ".join([*given, *own])


def decide(writing: Writing, lowercase: bool | None = None, strip_accents: bool | None = None) -> Normalization:
    """Return the normalisation that keeps the words of a text apart.

    Args:
        writing: what the text is made of.
        lowercase: whether to lower-case text; None decides: yes, except where the text has ı, as Turkish.
        strip_accents: whether to remove accents of Latin letters; None decides: where text is lower-cased and few of
            its letters have one.
    """
    reasons = []
    share = writing.dotless / max(1, writing.letters["Latin"])
    if lowercase is None:
        lowercase = share <= DOTLESS_SHARE
        if not lowercase:
            reasons.append("case is kept, since the text distinguishes ı from i")
    few = writing.latin_marks < MARKED_SHARE
    if strip_accents is None:
        strip_accents = lowercase and few
        if lowercase and not few:
            reasons.append(f"accents are kept, since {writing.latin_marks:.1%} of the Latin letters have one")
    others = [name for name, count in writing.marked.items() if count and name != "Latin"]
    if others and strip_accents:
        scripts = [name for name in writing.shares if name in others]
        if scripts:
            reasons.append(f"marks of {_listed(scripts)} are kept, since they are parts of words")
    accents = bool(writing.marked["Latin"]) and not strip_accents
    cut = writing.unspaced > LONG_SHARE or writing.long_share > LONG_SHARE
    if cut and writing.unspaced > LONG_SHARE:
        names = [name for name in writing.shares if name in UNSPACED_NAMES]
        reasons.append(f"runs of {_listed(names)} are cut into pieces, since no spaces separate words")
    if cut and writing.long_share > LONG_SHARE >= writing.unspaced:
        reasons.append(f"words of more than {LONG_WORD} characters ({writing.long_share:.1%} of the text) are cut")
    marks = bool(others) or accents or writing.joins or cut
    return Normalization(lowercase, strip_accents, marks, cut, tuple(reasons))


def advice(writing: Writing) -> str:
    """Return why Unigram suits a text better than WordPiece, "" where WordPiece is as good."""
    if writing.unspaced > UNSPACED_SHARE:
        names = [name for name, share in writing.shares.items() if name in UNSPACED_NAMES and share > LONG_SHARE]
        return f"{writing.unspaced:.0%} of the letters are {_listed(names)}, which has no spaces between words"
    if writing.long_share > UNSPACED_SHARE:
        return f"{writing.long_share:.0%} of the text are words of more than {LONG_WORD} characters"
    return ""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")
