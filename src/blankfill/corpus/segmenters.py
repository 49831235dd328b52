"""Cuts text of scripts without spaces into words: Chinese by rjieba; Japanese, Thai, Lao, Khmer, Burmese by ICU.

ICU (the library of the Unicode Consortium, here in the package icu4py) has a dictionary or a small model of each of
these languages. Without it, Japanese is cut where the kind of its characters changes, and the others where the
tokenizer begins a word. Which of these a run uses is part of its inputs (`Segmenter.source`), so a resumed run never
cuts other words.

Han characters are Japanese in a text with much kana, and Chinese otherwise. Not here: tokens, and what is masked
(`words`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
KANA = re.compile(r"[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]+")
SCRIPTS = {
    "Japanese": (re.compile(rf"(?:{CHINESE.pattern}|{KANA.pattern}|[々〆〇])+"), "ja"),
    "Thai": (re.compile(r"[\u0e00-\u0e7f]+"), "th"),
    "Lao": (re.compile(r"[\u0e80-\u0eff]+"), "lo"),
    "Khmer": (re.compile(r"[\u1780-\u17ff]+"), "km"),
    "Burmese": (re.compile(r"[\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f]+"), "my"),
}
"""Scripts without spaces besides Chinese: the characters of a token of the script, and ICU's name of the language."""
# Kanji and katakana begin a word behind hiragana, and hiragana behind katakana; okurigana stays with its kanji.
_CHANGE = re.compile(
    r"(?<=[\u3040-\u309f])(?=[^\u3040-\u309fー])|(?<=[\u30a0-\u30ff])(?=[^\u30a0-\u30ff])|(?<=[^\u30a0-\u30ffー])(?=[\u30a1-\u30fa])"
)


@dataclass(frozen=True)
class Segmenter:
    """Cuts the text of one script into words. by: "tokenizer" leaves the words of the tokenizer. Picklable."""

    script: str
    by: Literal["rjieba", "icu", "characters", "tokenizer"]
    locale: str = ""

    def __call__(self, text: str) -> Sequence[str]:
        """Return the words of a text, which joined give the text."""
        if self.by == "rjieba":
            import rjieba

            words: list[str] = rjieba.cut(text)
            return words
        if self.by == "icu":
            from icu4py.breakers import WordBreaker

            return list(WordBreaker(text, self.locale))
        return _CHANGE.split(text) if self.by == "characters" else [text]

    @property
    def source(self) -> str:
        """Return what the words depend on: the library with its version, or the rule."""
        if self.by == "rjieba":
            return f"rjieba {_version('rjieba')}"
        if self.by == "icu":
            from icu4py import icu_version

            return f"icu4py, ICU {icu_version}"
        return {"characters": "changes of characters", "tokenizer": "the tokenizer"}[self.by]


def segmenter(script: str, has_icu: bool) -> Segmenter:
    """Return what cuts a script of `SCRIPTS` into words."""
    if has_icu:
        return Segmenter(script, "icu", SCRIPTS[script][1])
    return Segmenter(script, "characters" if script == "Japanese" else "tokenizer")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
