"""From generated ids to pieces of text: whole words and characters, up to a text that ends it.

    words, stream = Detokenizer(tokenizer, before), Stream(stops=["\nUser:"])
    for token in tokens:
        piece = stream.push(words.push(token))   # often ""
        if stream.stopped:
            break
    piece = stream.push(words.flush()) + stream.end()

Not here: prompts (`prompt_reader`), the loop (`scheduler`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer

_IDEOGRAPHS = "\u2e80-\u9fff\uf900-\uffef\U00020000-\U0003ffff"
_BETWEEN = re.compile(rf"[\s{_IDEOGRAPHS}]")
_LONGEST_HELD = 80
_WINDOW = 128
SPACES = "".join(filter(str.isspace, map(chr, range(0x3001))))
"""All white space."""


class Stream:
    """A text in pieces, up to the first of some texts that end it.

    What later text can change is held back: the beginning of a text that would end it, and where the text is processed
    also what is in `changing` at its end. Which text ends it does not depend on the pieces: the one that is complete
    first, and of those the longest.
    """

    def __init__(
        self,
        stops: Sequence[str] = (),
        process: Callable[[str], str] | None = None,
        changing: str = "",
    ) -> None:
        """stops: the texts at which it ends, which do not belong to it. process: changes the text. changing: the
        characters that later text may change where they are the end of a processed text."""
        self.stops, self.process, self.changing = [stop for stop in stops if stop], process, changing
        self.stopped = False
        """Whether one of `stops` has ended the text."""
        self._longest = max(map(len, self.stops), default=0)
        self._raw = self._shown = ""

    @property
    def length(self) -> int:
        """Number of characters before they are processed, with what is held back."""
        return len(self._raw)

    @property
    def text(self) -> str:
        """The text so far, with what is held back."""
        return self._processed(self._raw)

    def _processed(self, raw: str) -> str:
        return self.process(raw) if self.process else raw

    def push(self, piece: str) -> str:
        """Add text; returns what is certain of it."""
        if not piece or self.stopped:
            return ""
        begin = max(0, len(self._raw) - self._longest + 1)
        self._raw += piece
        if self.stops and (at := self._stop(begin)) is not None:
            self._raw, self.stopped = self._raw[:at], True
        text = self.text
        certain = len(text.rstrip(self.changing)) if self.changing else len(text)
        if size := self._begun():
            certain = min(certain, len(self._processed(self._raw[:-size])))
        return self._more(text[:certain])

    def end(self) -> str:
        """Return the rest."""
        return self._more(self.text)

    def _stop(self, begin: int) -> int | None:
        """Return where the text that ends this one begins, at `begin` or later; None without one."""
        places = [(at + len(stop), at) for stop in self.stops if (at := self._raw.find(stop, begin)) >= 0]
        return min(places)[1] if places else None

    def _begun(self) -> int:
        """Return the number of characters at the end with which one of `stops` may begin."""
        if self.stopped:
            return 0
        for size in range(min(self._longest - 1, len(self._raw)), 0, -1):
            tail = self._raw[-size:]
            if any(stop.startswith(tail) for stop in self.stops):
                return size
        return 0

    def _more(self, text: str) -> str:
        if not text.startswith(self._shown) or len(text) < len(self._shown):
            return ""
        more, self._shown = text[len(self._shown) :], text
        return more


class Detokenizer:
    """Turns ids, one at a time, into text in pieces of whole words and characters.

    The text of a token depends on its neighbours (spaces, apostrophes, bytes of one character), so ids are decoded
    together with some ids before them, and the last, unfinished word is held back. When a later id changes the spaces
    of text that was returned already (a closing quotation mark can), the rest is located by counting the other
    characters, so that nothing is repeated or lost.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        """before: ids before the text, which decide about the space between."""
        self.tokenizer = tokenizer
        self._ids = list(before[-32:])
        self._out = tokenizer.decode(self._ids) if self._ids else ""

    def push(self, token: int) -> str:
        """Add an id; returns the text that is now certain, often empty."""
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids)
        certain = text[: _unfinished(text)]
        if len(text) - len(certain) > _LONGEST_HELD:
            certain = text.rstrip("\ufffd")
        piece = self._take(certain)
        if len(self._ids) > _WINDOW:
            self._ids = self._ids[-_WINDOW // 4 :]
            waiting = _inked(text) - _inked(self._out)
            text = self.tokenizer.decode(self._ids)
            self._out = text[: _after(text, max(0, _inked(text) - waiting))]
        return piece

    def flush(self) -> str:
        """Return the rest of the text."""
        return self._take(self.tokenizer.decode(self._ids))

    def _take(self, text: str) -> str:
        at = len(self._out) if text.startswith(self._out) else _after(text, _inked(self._out))
        if at >= len(text):
            return ""
        self._out = text
        return text[at:]


def _unfinished(text: str) -> int:
    """The index at which the last, unfinished word begins, and the white space before it."""
    at = len(text)
    while at and not _BETWEEN.match(text, at - 1):
        at -= 1
    return len(text[:at].rstrip())


def _inked(text: str) -> int:
    """Return the number of characters that are not white space."""
    return sum(not character.isspace() for character in text)


def _after(text: str, count: int) -> int:
    """Return the index just after `count` characters that are not white space."""
    for index, character in enumerate(text):
        if count == 0:
            return index
        count -= not character.isspace()
    return len(text)


def token_text(tokenizer: Tokenizer, before: Sequence[int], token: int) -> str:
    """Return the text that a token adds behind others; the name of a special token, and the number of one that the
    tokenizer does not have."""
    if token >= tokenizer.size:
        return f"[{token}]"
    tail = list(before[-8:])
    text = tokenizer.decode(tail) if tail else ""
    more = tokenizer.decode([*tail, token])
    added = more[len(text) :] if more.startswith(text) else tokenizer.decode([token])
    return added or tokenizer.token(token)
