"""Guesses the encoding of words that are not UTF-8, among the encodings of old text files.

The library charset-normalizer proposes encodings, and the characters that each makes of the words decide: letters are
plausible, signs within words, capitals within words and words of two scripts are not. Of Latin script, whose encodings
differ in a few letters, the commonest encoding that is plausible is taken before the library is used. Not here:
whether a guess decodes a whole file (`encodings`).
"""

from __future__ import annotations

import re
import unicodedata

_FEWEST = 4
"""Non-ASCII bytes below which no guess but the commonest is made."""
_CANDIDATES = [
    "gb18030", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1251", "koi8_r", "koi8_u", "cp866", "iso8859_5",
    "mac_cyrillic", "cp1250", "iso8859_2", "cp1252", "cp1253", "iso8859_7", "cp1254", "cp1255", "cp1256", "iso8859_6",
    "cp1257", "cp874",
]  # fmt: skip
"""Encodings of old text files, as Python names them."""
_USUAL_NAMES = {
    "big5hkscs": "big5", "cp932": "shift_jis", "cp949": "euc_kr", "koi8_r": "koi8-r", "koi8_u": "koi8-u",
    "iso8859_5": "iso8859-5", "iso8859_2": "iso8859-2", "iso8859_7": "iso8859-7", "iso8859_6": "iso8859-6",
    "mac_cyrillic": "mac-cyrillic",
}  # fmt: skip
_INSIDE_WORD = re.compile(r"(?<=[^\W\d_])[^\w\s\x00-\x7f’‘“”–—…·•‑\u3000-\u303f\uff00-\uffef](?=[^\W\d_])")
_CASE_IN_WORD = re.compile(r"(?<=[^\W\d_A-Z])(?:[À-ÖØ-Þ]|[Α-Ω]|[Ѐ-Я])(?=[^\W\d_]|\W)")
_SCRIPTS_IN_WORD = re.compile(
    "[A-Za-z][\u0370-\u0e7f\uff61-\uff9f]|[\u0370-\u0e7f\uff61-\uff9f][A-Za-z]|[a-z][\u3400-\ud7ff](?=[a-z])"
)
_TONES = re.compile("[aeiouyăâêôơưAEIOUYĂÂÊÔƠƯ][\u0300\u0301\u0303\u0309\u0323]")
_KANA = re.compile("[\u3041-\u30ff]")
_SIGN = re.compile(
    "[^\\w\\s\x00-\x7f’‘“”–—…·•‑«»„、。，！？：；（）《》「」『』・ー\u0300-\u036f\u0e31-\u0e4e،؛؟\u064b-\u0652¿¡]"
)
_RARE = re.compile("[\x80-\x9f\ue000-\uf8ff\u2500-\u259f\ufffdðÐýÝþÞ]")


def guesses(sample: bytes) -> list[str]:
    """Return the encodings in which `sample`, words that are not UTF-8, is plausible text; the likeliest first."""
    if not sample or sample.isascii():
        return []
    if _share(_TONES, sample, "cp1258") > 0.2:
        return ["cp1258"]
    if _is_latin(sample) and is_plausible(sample, "cp1252"):
        return ["cp1252"]
    if sum(byte > 0x7F for byte in sample) < _FEWEST:
        return []
    # A damaged byte spoils the whole sample for the library, but seldom its beginning too.
    half = len(sample) // 2
    for part in (sample, sample[:half], sample[: half - 1]):
        if codecs := _plausible_guesses(part):
            break
    return [_USUAL_NAMES.get(codec, codec) if _same(sample, codec) else codec for codec in codecs]


def _plausible_guesses(sample: bytes) -> list[str]:
    # Chinese text has no kana, but the library takes some Japanese text for Chinese.
    codecs = [
        codec for codec in ("cp932", "euc_jp") if _share(_KANA, sample, codec) > 0.2 and is_plausible(sample, codec)
    ]
    if codecs:
        return codecs
    from charset_normalizer import from_bytes

    matches = from_bytes(sample, cp_isolation=_CANDIDATES, preemptive_behaviour=False)
    codecs = [match.encoding for match in matches if is_plausible(sample, match.encoding)]
    return sorted(codecs, key=lambda codec: (round(_share(_SIGN, sample, codec), 2), codec == "mac_cyrillic"))


def _same(sample: bytes, codec: str) -> bool:
    """Return whether the usual name of an encoding reads `sample` as its extended form does."""
    usual = _USUAL_NAMES.get(codec, codec)
    return sample.decode(usual, "replace") == sample.decode(codec, "replace")


def _share(pattern: re.Pattern[str], sample: bytes, codec: str) -> float:
    """Return the share of non-ASCII characters that belong to a pattern."""
    text = sample.decode(codec, "replace")
    return len(pattern.findall(text)) / max(1, len(re.findall("[^\x00-\x7f]", text)))


def _is_latin(sample: bytes) -> bool:
    """Return whether the words have few non-ASCII letters each, as those of Latin script have."""
    words = [word for word in re.findall(rb"[A-Za-z\x80-\xff]{3,}", sample) if not word.isascii()]
    dense = sum(len(re.findall(rb"[\x80-\xff]", word)) > 0.6 * len(word) for word in words)
    return dense * 2 <= len(words)


def is_plausible(sample: bytes, codec: str) -> bool:
    """Return whether the characters that a codec makes of a sample stand where such characters stand."""
    text = sample.decode(codec, "replace")
    foreign = [character for character in text if character > "\x7f"]
    odd = sum(unicodedata.category(character) in ("Cn", "Co", "Cc") for character in foreign)
    odd += sum(unicodedata.category(sign)[0] != "M" for sign in _INSIDE_WORD.findall(text))
    odd += sum(len(pattern.findall(text)) for pattern in (_CASE_IN_WORD, _SCRIPTS_IN_WORD, _RARE))
    return odd <= 0.06 * len(foreign)
