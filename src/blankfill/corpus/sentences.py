"""Cuts a paragraph of any language into sentences. No words, no tokens, no paragraphs: see `tokenizer`.

One regular expression finds every place that could end a sentence (a run of stops, then the closing quotes and brackets
that belong to it); a few rules then look at the text on either side. The scripts differ in kind:

* A western stop ends a sentence only before white space and something that can begin one. A lower-case letter never
  does, which settles `"Stop!" he cried.`, `etc. and` and `5 p.m. in` at once, and a stop inside `json.dumps`, `3.14`
  or a URL has no space behind it. What remains hard is the full stop after an abbreviation: titles never end a
  sentence, references (`Fig.`, `No.`) do not before a number, and those that may (`Inc.`, `U.S.`, initials) do when
  the next word is one that usually opens a sentence (the idea of Punkt: Kiss and Strunk 2006). `abbreviations` has
  these words by language. In German, Polish, Turkish and others a full stop makes a number ordinal (`3. Oktober`).
* A Chinese stop usually ends a sentence, so the rules list the exceptions: before another mark or a dash,
  inside a 《title》, after a stammer (`我……我`), and between a quotation and its `他说。`. A sentence inside
  `他说：“……。……。”` is cut like any other: the closing quotation mark stays with the last one. Japanese is cut by the
  same rules; the particle behind a quotation (`「行こう。」と言った`) belongs to its sentence, and so does
  Korean `라고`.
* The stops of other scripts (danda, Urdu, Ethiopic, Khmer, Burmese, Tibetan full stops, the Arabic question mark)
  always end a sentence. The Burmese `၊` is a comma.
* Thai and Lao have no stop but spaces, which separate sentences and clauses alike. A space is an end where neither side
  is very short, a number, or joined to the other side by a conjunction.

The sentences are slices of the paragraph without the white space around them, so joining them gives it back.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from blankfill.corpus.abbreviations import (
    ANY_STARTERS,
    FINAL,
    FIRST_PARTS,
    LAST,
    LETTERS,
    NEVER,
    PAIRS,
    SHARED,
    STARTERS,
    rules_of,
    words,
)

_FULL = "؟۔।॥፧፨።។៕။།༎։‼⁇⁈⁉｡܀܁܂"
"""Stops that always end a sentence."""
_STOPS = f".!?…。！？；．{_FULL}"
_CLOSING = "\"'_”’»›)\\]}」』）】》〉"
_MARKS = ".,;:!?…，、。：；！？．)\\]}”’»」』）】》〉—–\\-=+*/|<>~～%&،؛፣፤፥፦៖၊"
_OPENING = "\"'_“‘«(\\[{「『（【《〈¿¡„‚»‹›"


def _candidates(stops: str, closing: str = "", opening: str = "") -> re.Pattern[str]:
    return re.compile(
        rf"[{stops}](?<![{stops}]{{2}})[{stops}]*+"  # a whole run of stops, tried from its first stop only
        rf"((?:[{_CLOSING}]|\[\d{{1,3}}\]{closing})*+)"  # [12] is a reference of Wikipedia's
        rf"""(?:(\s++{opening}[{_OPENING}]*+(?=[^\Wa-z_]|[^\w\s{_MARKS}])|(?=--["'_“]*+[A-Z]))"""
        rf"|(?<=[。！？；…!?.．{_FULL}{_CLOSING}])(?=[^\s{_MARKS}]))"
    )


_ENDS = r"\s|$|[,;:—–.)]"
_CLOSING_ELSEWHERE = rf"|[“«](?={_ENDS})|\s»(?={_ENDS})"
"""German closes with “ and «, French puts spaces inside « »."""
_OPENING_ELSEWHERE = r"(?:«\s)?+"
_ASCII_CANDIDATE = _candidates(".!?")
_CANDIDATE = _candidates(_STOPS)
_QUOTING_CANDIDATE = _candidates(_STOPS, _CLOSING_ELSEWHERE, _OPENING_ELSEWHERE)
_GREEK_CANDIDATE = _candidates(f"{_STOPS};", _CLOSING_ELSEWHERE, _OPENING_ELSEWHERE)
_GREEK = re.compile(r"\W*[\u0370-\u03ff\u1f00-\u1fff]")
_SPACES_ALONE = re.compile(r"[\u0e00-\u0eff]{2}")
"""Thai or Lao."""
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
_ALWAYS = f"。！？；{_FULL}"
_NEXT_WORD = re.compile(r"""\s*(?:«\s)?["'_“‘«(\[{„‚»‹¿¡]*([^\W_]+)(\.?)""")
_SAID = (
    "said|says|cried|asked|replied|answered|exclaimed|shouted|whispered|returned|inquired|enquired|demanded|called|"
    "repeated|muttered|murmured|roared|screamed|continued|added|began|thought|remarked|interrupted|gasped|ejaculated"
)
_SPEAKER = re.compile(rf"\s+(?:I|(?:(?:Mr|Mrs|Ms|Dr)\.?\s|Miss\s)?[A-Z]\w+(?:\s[A-Z]\w+)?)\s(?:{_SAID})\b")
_HAN_DOT = re.compile(rf"(?<=[{_HAN}])[.．](?=[{_HAN}\s]|$)")
_HAN_SPEAKER = re.compile(rf"[{_HAN}]{{0,6}}[说說道问問答喊叫曰嚷][，。；！,]")
_JAPANESE_PARTICLE = re.compile(
    "と(?!ころ|にかく|うとう|ても|もだち|もに|き)|って|など|という|を|が(?!、)|の(?!ち)|は(?!い|じ|な)|に(?!ほ)|も(?!し|う)"
    "|で(?!も|は|す)|から"
)
_KOREAN_PARTICLE = re.compile(r"\s*(?:이?라고|하고|이?라며|이?라는|이?라면서|하며|이?란\s|이?라니|고\s)")
_PART = re.compile(r"\s([^\W\d_]{1,3})\.")
_SHORT_PARTS = re.compile(r"(?<![^\W_])(?:[^\W\d_]{1,3}\.\s){1,3}$")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_ITEM = re.compile(r"\d{1,3}|[A-Za-z]|[ivxlcIVXLC]{1,5}")
_ROMAN = re.compile(r"[IVXLCDM]+|[ivxlcdm]+")


_TITLES = words(
    "Mr Mrs Ms Messrs Mme Mlle Mlles Dr Drs Prof Profs Rev Hon Gen Col Capt Cpt Cmdr Lt Maj Sgt Cpl Pvt Adm Gov Sen "
    "Rep Pres Supt Insp Fr Msgr Bp Mt Ft vs cf viz e.g i.e eg ie al.s approx ca resp incl"
)
_BEFORE_NUMBERS = words(
    "No Nos no nos Fig Figs fig figs Eq Eqs eq Vol Vols vol vols Ch Chap ch chap Sec Sect sec Art art Pt pt Tab Ex Op "
    "Ref Refs p pp P PP l ll n nn v vv para pl Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec c"
)
_MAYBE_LAST = words(
    "St Ste Ave Blvd Rd Sq Inc Ltd Co Corp Bros Jr Sr Esq al Bart Dept Univ Assn Mass Penn Calif Conn Wash Va Md Mo "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri Sat Sun ed eds trans tr est "
    "Ph.D Ed.D Litt.D"
)
_KNOWN = (
    _TITLES
    | _BEFORE_NUMBERS
    | _MAYBE_LAST
    | NEVER
    | LAST
    | LETTERS
    | SHARED
    | FIRST_PARTS
    | {word.capitalize() for word in NEVER}
)
_DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_LONGEST_ABBREVIATION = 8
_WINDOW = 1000
"""Number of characters that a rule looks back, so that time is linear in the length of a paragraph without
sentences."""
_CONJUNCTION = re.compile(
    "และ|หรือ|แต่|ที่|ซึ่ง|โดย|เพื่อ|ของ|ใน|กับ|เป็น|คือ|ได้แก่|เช่น|ว่า|จาก|ให้|อัน|ตาม|ถึง|เพราะ|รวม|ตลอดจน|จึง|ก็|ทำให้|อีกทั้ง|พร้อม|ด้วย|แก่|แห่ง|ต่อ"
    "|ไม่ว่า|ๆ|ฯ|ณ|แล้ว|ครับ|ค่ะ|คะ|นะ|ແລະ|ຫຼື|ຫລື|ແຕ່|ທີ່|ເຊິ່ງ|ຊຶ່ງ|ໂດຍ|ເພື່ອ|ຂອງ|ໃນ|ກັບ|ຈາກ|ວ່າ|ຈຶ່ງ|ໆ"
)
"""Thai and Lao words that continue a sentence behind a space: and, or, but, that, by, of, in …"""
_UNFINISHED = re.compile(
    "(?:และ|หรือ|แต่|ที่|ซึ่ง|โดย|เพื่อ|ของ|ใน|กับ|คือ|ได้แก่|เช่น|ว่า|จาก|นาย|นาง|นางสาว|แห่ง|ณ|ถ้า|ด้วย|ແລະ|ຫຼື|ຂອງ|ໃນ|ວ່າ|ທີ່|ແມ່ນ)$"
)
"""Thai and Lao words that end no sentence before a space."""
_THAI_OR_LAO = re.compile("[ก-๎ກ-ໆ]")
_CLAUSE = 12
"""Number of characters of the shortest sentence between spaces."""
_HEAD = 64
"""Number of characters that tell the script of a paragraph."""


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of `paragraph`, in order, without the white space around them.

    Joined, they give the paragraph back up to white space. Text without a stop is one sentence; a paragraph of white
    space has none.
    """
    sentences = []
    start = 0
    dots: bool | None = None
    plain = paragraph.isascii()
    pattern = _ASCII_CANDIDATE if plain else _candidates_of(paragraph)
    for candidate in pattern.finditer(paragraph):
        end = candidate.end(1)
        if candidate.group(2) is not None:
            if not plain and _continues(paragraph, end, candidate.end()):
                continue
            if not _ends_western(paragraph, start, candidate.start(), end):
                continue
        else:
            if dots is None and paragraph[candidate.start()] in ".．":
                # A dot between Chinese characters is a full stop only where the text writes its full stops so;
                # elsewhere it is the dot of a foreign name.
                dots = len(_HAN_DOT.findall(paragraph)) > paragraph.count("。")
            end = _end_of_chinese(paragraph, start, candidate.start(), end, bool(dots))
            if end < 0:
                continue
        sentence = paragraph[start:end].strip()
        if sentence:
            sentences.append(sentence)
        start = end
    rest = paragraph[start:].strip()
    if rest:
        sentences.append(rest)
    if not plain and " " in paragraph and _SPACES_ALONE.search(paragraph, 0, _HEAD):
        return [part for sentence in sentences for part in cut_at_spaces(sentence)]
    return sentences


def _candidates_of(paragraph: str) -> re.Pattern[str]:
    if _GREEK.match(paragraph):
        return _GREEK_CANDIDATE
    return _QUOTING_CANDIDATE if "»" in paragraph or "„" in paragraph else _CANDIDATE


def _continues(text: str, end: int, begin: int) -> bool:
    """Return whether the sentence that stops before `end` continues at `begin`: in lower case, or with the particle of
    Korean behind a quotation."""
    following = text[begin]
    if following.islower():
        return not "\u10d0" <= following <= "\u10ff"  # Georgian writes no capitals
    return (
        "\uac00" <= following <= "\ud7a3" and text[end - 1] in "\"'”’」』" and bool(_KOREAN_PARTICLE.match(text, end))
    )


def _ends_western(text: str, start: int, stop: int, end: int) -> bool:
    """Return whether the stops at `stop`, closed at `end` and followed by white space, end the sentence begun at
    `start`."""
    if text[stop] != "." or text[stop + 1] in _STOPS:
        if text[end - 1] in "\"'”’»" and text[stop] in "!?" and _SPEAKER.match(text, end):
            return False
        return not _inside_title(text, start, stop)
    lowest = stop - _LONGEST_ABBREVIATION - 1
    lowest = lowest if lowest > start else start
    begin = text.rfind(" ", lowest, stop) + 1 or lowest
    word = text[begin:stop]
    if not (word.isalnum() and word.isascii()):
        begin = _word_begin(text, lowest, stop)
        word = text[begin:stop]
    if len(word) > _LONGEST_ABBREVIATION:
        return not (word.endswith("str") and _next_word(text, end)[0].isdigit())  # Bahnhofstr. 5
    if len(word) > 3 and word not in _KNOWN and word.isalpha() and not word.isupper() and begin - start >= 8:
        return True
    if word in _TITLES or word in NEVER or word[:1].lower() + word[1:] in NEVER:
        return False
    if word in FIRST_PARTS and (part := _PART.match(text, end)) and (word, part.group(1)) in PAIRS:
        return False
    if end - stop > 1:
        return True
    if begin - start < 8 and not text[start:begin].strip("\"'“‘([ \t\r\n*•") and _ITEM.fullmatch(word):
        return False
    if word in ("a.m", "p.m", "A.M", "P.M"):
        return _next_word(text, end)[0] not in _DAYS
    if text[begin - 1 : begin] == " " and text[begin - 2 : begin - 1] == "." and len(word) < 4:
        parts = _SHORT_PARTS.search(text, max(start, begin - 16), begin)
        whole = "".join(parts.group().split()) + word if parts else word
        if whole in NEVER or whole in FINAL:
            return whole in FINAL
        if whole in LAST:
            word = whole
    initial = len(word) == 1 and word.isupper()
    if initial and word != "I" and _next_word(text, end)[0] not in ANY_STARTERS:
        return False
    number = (word.isdigit() and len(word) < 3) or (word.isupper() and _ROMAN.fullmatch(word))
    if number and rules_of(text).ordinals:
        return _next_word(text, end)[0] in rules_of(text).starters
    if word in SHARED:
        rules = rules_of(text)
        if word in rules.never or word in rules.last:
            return word in rules.last and _next_word(text, end)[0] in rules.starters
    if word in _BEFORE_NUMBERS:
        following, _ = _next_word(text, end)
        if following[:1].isdigit() or _ROMAN.fullmatch(following):
            return False
        return word not in _MAYBE_LAST or following in STARTERS
    if initial or word in _MAYBE_LAST or word in LAST or _DOTTED.fullmatch(word):
        following, dot = _next_word(text, end)
        if initial and word == "I":
            return not (len(following) == 1 and dot)
        return following in ANY_STARTERS and following in rules_of(text).starters and not (len(following) == 1 and dot)
    if not word.isascii():
        return _ends_other(text, begin, stop, word)
    return True


def _word_begin(text: str, lowest: int, stop: int) -> int:
    """Return where the word before `stop` begins, `lowest` for a word that begins there or before it."""
    begin = stop
    while begin > lowest and (text[begin - 1] == "." or text[begin - 1].isalnum() or _is_sign(text[begin - 1])):
        if text[begin - 1] >= "\u2e80":
            break
        begin -= 1
    return begin


def _ends_other(text: str, begin: int, stop: int, word: str) -> bool:
    """Return whether a full stop ends a sentence behind a word of Greek, Cyrillic, Arabic or Indic letters."""
    if _is_indic(word[0]):
        return word not in LETTERS or "।" not in text
    # A single letter is an abbreviation: of a title (`د.`), or behind a number of a unit (`5 м.`).
    if len(word) > 1 or not "\u0370" <= word < "\u0700":
        return True
    return text[max(0, begin - 2) : begin].strip()[-1:].isdigit()


def _is_indic(character: str) -> bool:
    """Return whether this is a letter or vowel sign of an Indic script, whose signs Python takes for no letters."""
    return "\u0900" <= character < "\u0e00" and character not in _FULL


def _is_sign(character: str) -> bool:
    """Return whether this belongs to a word although Python may take it for no letter: Indic letters and signs, and the
    vowel signs and points of all other scripts."""
    return _is_indic(character) or unicodedata.category(character) in ("Mn", "Mc")


def _next_word(text: str, end: int) -> tuple[str, str]:
    """Return the word behind `end` and the full stop glued to it, if any."""
    match = _NEXT_WORD.match(text, end)
    return (match.group(1), match.group(2)) if match else ("", "")


def _inside_title(text: str, start: int, stop: int) -> bool:
    """Return whether `stop` lies between 《 and 》: a mark of a title, such as that of a film, ends nothing."""
    opened = text.rfind("《", max(start, stop - _WINDOW), stop)
    return opened >= 0 and text.find("》", opened, stop) < 0 and text.find("》", stop, stop + 40) >= 0


def _end_of_chinese(text: str, start: int, stop: int, end: int, dots: bool) -> int:
    """Return the end of the sentence with stops at `stop`, followed by more text without white space; -1 if it does not
    end.

    dots: whether a dot between Chinese characters is a full stop.
    """
    marks = end
    while text[marks - 1] not in _STOPS:
        marks -= 1
    run = text[stop:marks]
    before, after = text[stop - 1 : stop], text[end]
    if not any(mark in _ALWAYS for mark in run):
        if not (_is_wide(before) and _is_wide(after)):
            return -1
        if run[0] == "…" or len(run) > 1:
            stammer = stop - start < 4
            if stammer or before in "，、：「『“‘（" or (marks == end and after == "等"):
                return -1
        elif run in ".．" and not dots:
            return -1
    closing = text[marks:end]
    straight = closing.find('"')
    if straight >= 0 and not _is_quoting(text[max(0, marks - _WINDOW) : marks]):
        end = marks + straight
        closing = closing[:straight]
    if closing and closing[-1] in "”’」』\"'" and _HAN_SPEAKER.match(text, end):
        return -1
    if closing and closing[-1] in "」』”）" and _JAPANESE_PARTICLE.match(text, end):
        return -1
    return -1 if _inside_title(text, start, stop) else end


def _is_quoting(before: str) -> bool:
    """Return whether a straight quotation mark after `before` closes a quotation, opened by a straight or a curved
    mark."""
    if before.rfind("“") > max(before.rfind("”"), before.rfind('"')):
        return True
    return before.count('"') % 2 == 1


def _is_wide(character: str) -> bool:
    """Return whether this is a Chinese character or a mark of Chinese typesetting."""
    return "\u2e80" <= character <= "\u9fff" or "\uff00" <= character <= "\uffee" or character in "“”‘’"


def cut_at_spaces(text: str) -> list[str]:
    """Return the sentences of a text of Thai or Lao, whose sentences and clauses are separated by spaces."""
    parts = text.split()
    sentences: list[str] = []
    begin = at = opened = quotes = 0
    for left, right in pairwise(parts):
        at = text.index(left, at) + len(left)
        opened = max(0, opened + left.count("(") + left.count("“") - left.count(")") - left.count("”"))
        quotes += left.count('"')
        if (
            min(at - begin, len(right)) >= _CLAUSE
            and not opened
            and quotes % 2 == 0
            and _THAI_OR_LAO.match(left[-1])
            and _THAI_OR_LAO.match(right)
            and not _CONJUNCTION.match(right)
            and not _UNFINISHED.search(left[-12:])
        ):
            sentences.append(text[begin:at].strip())
            begin = at
    return [*sentences, text[begin:].strip()]
