"""The normaliser and pre-tokenizer of a WordPiece vocabulary that keeps the marks of all scripts.

BERT's own `BertNormalizer` serves where text has nothing to lose by it (`scripts.decide`). Otherwise text is brought
into NFC without control characters, accents of Latin letters are removed where that was decided, and case is folded.
Runs of scripts without spaces are cut after LONGEST_RUN syllables (letters with their marks), other words after
LONG_WORD characters, since WordPiece compares every part of a word with its vocabulary and takes a long one for
unknown. All steps are those of `tokenizers`, so that transformers opens the same tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

from blankfill.corpus.scripts import JOINERS, LONG_WORD, UNSPACED, Normalization

if TYPE_CHECKING:
    import tokenizers

LONGEST_RUN = 32
"""Syllables after which a run of a script without spaces is cut."""
MOST_CHARACTERS = 256
"""Characters of a word at most where runs are cut: room for LONGEST_RUN syllables with all their marks."""
_JUNK = (
    r"[\x{00}-\x{08}\x{0b}\x{0c}\x{0e}-\x{1f}\x{7f}-\x{84}\x{86}-\x{9f}\x{ad}\x{61c}\x{180e}\x{200b}\x{200e}\x{200f}"
    r"\x{202a}-\x{202e}\x{2060}-\x{2064}\x{2066}-\x{206f}\x{e000}-\x{f8ff}\x{feff}\x{fff9}-\x{fffb}]"
)
"""What `clean.characters` removes from the text of a corpus, for the library's regular expressions."""
ACCENT = r"(?<=\p{Latin})[\p{Mn}&&[^\x{FE00}-\x{FE0F}]]+"
_RUN = rf"(?:[{UNSPACED}&&[^\p{{M}}]][\p{{M}}{JOINERS}]*){{1,{LONGEST_RUN}}}|[^{UNSPACED}]{{1,{LONG_WORD}}}"
_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")


def apply(tokenizer: tokenizers.Tokenizer, normalization: Normalization) -> tokenizers.Tokenizer:
    """Give a tokenizer made by `tokenizer_formats.wordpiece` the steps of a normalisation; returns the tokenizer."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    if not normalization.marks:
        tokenizer.normalizer = normalizers.BertNormalizer(
            lowercase=normalization.lowercase,
            strip_accents=None
            if normalization.strip_accents == normalization.lowercase
            else normalization.strip_accents,
        )
        return tokenizer
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(_JUNK), "")]
    if normalization.strip_accents:
        steps += [normalizers.NFD(), normalizers.Replace(Regex(ACCENT), "")]
    fold = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=normalization.lowercase)
    # Lower-casing gives decomposed letters (İ), and NFC letters that are to be set apart (CJK compatibility).
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.NFC(), fold, normalizers.NFC()])
    if normalization.cut:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(_RUN), "isolated")]
        )
        model: Any = tokenizer.model
        model.max_input_chars_per_word = MOST_CHARACTERS
    return tokenizer


def is_cut(pre_tokenizer_steps: list[dict[str, Any]]) -> bool:
    """Return whether these steps of a tokenizer.json cut runs as `apply` makes them."""
    return any(step.get("pattern") == {"Regex": _RUN} for step in pre_tokenizer_steps)


def keeps_marks(normalizer_steps: list[dict[str, Any]]) -> bool:
    """Return whether these steps of a tokenizer.json are those of `apply` for text with marks."""
    names = [step["type"] for step in normalizer_steps]
    own = {"pattern": {"Regex": _JUNK}, "content": ""}.items() <= (normalizer_steps or [{}])[0].items()
    return own and names[-3:] == ["NFC", "BertNormalizer", "NFC"]


def runs_on(word: str, follower: str) -> bool:
    """Return whether a decoded word was cut at its end by length alone, so that the word after it continues it."""
    if len(word) < LONGEST_RUN:
        return False
    unspaced = bool(_UNSPACED_LETTER.match(word))
    if unspaced != bool(_UNSPACED_LETTER.match(follower)):
        return False
    if not unspaced:
        return len(word) == LONG_WORD and follower[:1].isalnum()
    return (
        sum(unicodedata.category(character)[0] != "M" for character in word if character not in JOINERS) == LONGEST_RUN
    )
