"""Cuts a paragraph of English, Chinese or both into sentences. No words, no tokens, no paragraphs: see `tokenizer`.

One regular expression finds every place that could end a sentence (a run of stops, then the closing quotes and
brackets that belong to it); a few rules then look at the text on either side. The two scripts differ in kind:

* A western stop ends a sentence only before white space and something that can begin one. A lower-case letter never
  does, which settles `"Stop!" he cried.`, `etc. and` and `5 p.m. in` at once, and a stop inside `json.dumps`, `3.14`
  or a URL has no space behind it. What remains hard is the full stop after an abbreviation: titles never end a
  sentence, references (`Fig.`, `No.`) do not before a number, and those that may (`Inc.`, `U.S.`, initials) do when
  the next word is one that usually opens a sentence (the idea of Punkt: Kiss and Strunk 2006).
* A Chinese stop usually ends a sentence, so the rules list the exceptions: before another mark or a dash,
  inside a 《title》, after a stammer (`我……我`), and between a quotation and its `他说。`. A sentence inside
  `他说：“……。……。”` is cut like any other: the closing quotation mark stays with the last one.

The sentences are slices of the paragraph without the white space around them, so joining them gives it back.
"""

from __future__ import annotations

import re

_STOPS = ".!?…。！？；．"
_CLOSING = "\"'_”’»)\\]}」』）】》〉"
_MARKS = ".,;:!?…，、。：；！？．)\\]}”’»」』）】》〉—–\\-=+*/|<>~～%&"
_CANDIDATE = re.compile(
    rf"[{_STOPS}](?<![{_STOPS}]{{2}})[{_STOPS}]*+"  # a whole run of stops, tried from its first stop only
    rf"((?:[{_CLOSING}]|\[\d{{1,3}}\])*+)"  # [12] is a reference of Wikipedia's
    rf"""(?:(\s++["'_“‘«(\[{{「『（【《〈¿¡]*+(?=[^\Wa-z_]|[^\w\s{_MARKS}])|(?=--["'_“]*+[A-Z]))"""
    rf"|(?<=[。！？；…!?.．{_CLOSING}])(?=[^\s{_MARKS}]))"
)
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
_NEXT_WORD = re.compile(r"""\s*["'_“‘«(\[{]*([^\W_]+)(\.?)""")
_SAID = (
    "said|says|cried|asked|replied|answered|exclaimed|shouted|whispered|returned|inquired|enquired|demanded|called|"
    "repeated|muttered|murmured|roared|screamed|continued|added|began|thought|remarked|interrupted|gasped|ejaculated"
)
_SPEAKER = re.compile(rf"\s+(?:I|(?:(?:Mr|Mrs|Ms|Dr)\.?\s|Miss\s)?[A-Z]\w+(?:\s[A-Z]\w+)?)\s(?:{_SAID})\b")
_HAN_DOT = re.compile(rf"(?<=[{_HAN}])[.．](?=[{_HAN}\s]|$)")
_HAN_SPEAKER = re.compile(rf"[{_HAN}]{{0,6}}[说說道问問答喊叫曰嚷][，。；！,]")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_ITEM = re.compile(r"\d{1,3}|[A-Za-z]|[ivxlcIVXLC]{1,5}")
_ROMAN = re.compile(r"[IVXLCDM]+|[ivxlcdm]+")


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TITLES = _words(
    "Mr Mrs Ms Messrs Mme Mlle Mlles Dr Drs Prof Profs Rev Hon Gen Col Capt Cpt Cmdr Lt Maj Sgt Cpl Pvt Adm Gov Sen "
    "Rep Pres Supt Insp Fr Msgr Bp Mt Ft vs cf viz e.g i.e eg ie al.s approx ca resp incl"
)
_BEFORE_NUMBERS = _words(
    "No Nos no nos Fig Figs fig figs Eq Eqs eq Vol Vols vol vols Ch Chap ch chap Sec Sect sec Art art Pt pt Tab Ex Op "
    "Ref Refs p pp P PP l ll n nn v vv para pl Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec c"
)
_MAYBE_LAST = _words(
    "St Ste Ave Blvd Rd Sq Inc Ltd Co Corp Bros Jr Sr Esq al Bart Dept Univ Assn Mass Penn Calif Conn Wash Va Md Mo "
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri Sat Sun ed eds trans tr est "
    "Ph.D Ed.D Litt.D"
)
_STARTERS = _words(
    "A After All Also Although An And Another As At Because Before Both But By Despite Did Do Does During Each Even "
    "Every For From Had Has Have He Hence Her Here His How However I If In Is It Its Many Meanwhile Most My No Nor Not "
    "Now Of On Once One Or Other Our Perhaps She Since So Some Still Such That The Their Then There These They This "
    "Those Though Through Thus To Under Until Upon Was We Were What When Where Which While Who Why With Yet You Your"
)
_DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_LONGEST_ABBREVIATION = 8
_WINDOW = 1000
"""Number of characters that a rule looks back, so that time is linear in the length of a paragraph without
sentences."""


def split_sentences(paragraph: str) -> list[str]:
    """Return the sentences of `paragraph`, in order, without the white space around them.

    Joined, they give the paragraph back up to white space. Text without a stop is one sentence; a paragraph of white
    space has none.
    """
    sentences = []
    start = 0
    dots: bool | None = None
    for candidate in _CANDIDATE.finditer(paragraph):
        end = candidate.end(1)
        if candidate.group(2) is not None:
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
    return sentences


def _ends_western(text: str, start: int, stop: int, end: int) -> bool:
    """Return whether the stops at `stop`, closed at `end` and followed by white space, end the sentence begun at
    `start`."""
    if text[stop] != "." or text[stop + 1] in _STOPS:
        if text[end - 1] in "\"'”’»" and text[stop] in "!?" and _SPEAKER.match(text, end):
            return False
        return not _inside_title(text, start, stop)
    begin = stop
    lowest = max(start, stop - _LONGEST_ABBREVIATION - 1)
    while begin > lowest and (text[begin - 1] == "." or text[begin - 1].isalnum()) and text[begin - 1] < "\u2e80":
        begin -= 1
    word = text[begin:stop]
    if len(word) > _LONGEST_ABBREVIATION:
        return True
    if word in _TITLES:
        return False
    if end - stop > 1:
        return True
    if begin - start < 8 and not text[start:begin].strip("\"'“‘([ \t\r\n*•") and _ITEM.fullmatch(word):
        return False
    if word in ("a.m", "p.m", "A.M", "P.M"):
        return _next_word(text, end)[0] not in _DAYS
    if word in _BEFORE_NUMBERS:
        following, _ = _next_word(text, end)
        if following[:1].isdigit() or _ROMAN.fullmatch(following):
            return False
        return word not in _MAYBE_LAST or following in _STARTERS
    initial = len(word) == 1 and word.isupper()
    if initial or word in _MAYBE_LAST or _DOTTED.fullmatch(word):
        following, dot = _next_word(text, end)
        if initial and word == "I":
            return not (len(following) == 1 and dot)
        return following in _STARTERS and not (len(following) == 1 and dot)
    return True


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
    if not any(mark in "。！？；" for mark in run):
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
