"""The share of unknown tokens of a text, and the stop above 5%: a model that reads mostly [UNK] learns nothing.

`with counting(...)` counts what every tokenizer encodes inside the block, in this thread: `Tokenizer` reports the ids
of each text to `counted`. A few of the texts with unknown tokens are kept, from which the most frequent unknown
characters are found when a sentence needs them. Byte-level tokenizers, and those with byte fallback, have no unknown
tokens.

The rule: above MOST of at least ENOUGH tokens the command stops. Fewer tokens, such as one sentence with an emoji, only
give a notice, unless more than half of them are unknown.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from blankfill.corpus.scripts import named, script_of
from blankfill.errors import UserError, setting
from blankfill.system.console import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from blankfill.corpus.tokenizer import Tokenizer

MOST = 0.05
"""Share of unknown tokens above which a command stops."""
ENOUGH = 100
"""Number of tokens from which that share counts."""
MOST_OF_FEW = 0.5
"""Share of fewer tokens above which a command stops."""
SAMPLE = 1000
"""Number of tokens after which a command that streams its input decides."""
KEPT_TEXTS, KEPT_CHARACTERS = 200, 2000
SHOWN = 5
"""Number of characters that a sentence names."""


class TooManyUnknownError(UserError):
    """A text has too many unknown tokens. without_remedy: the message without its last remedy, for callers without
    that setting."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{sentence}; {setting('allow_unknown', True)} continues all the same")
        self.without_remedy = sentence


class UnknownCount:
    """Counts the tokens of texts and the unknown ones among them.

    what: names the texts in a sentence. streams: decide after SAMPLE tokens, within the call that encodes them.
    """

    def __init__(
        self, what: str = "the text", *, allow: bool = False, streams: bool = False, report: bool = False,
        advice: str = "", notes: bool = True,
    ) -> None:  # fmt: skip
        """allow: give a notice instead of an error. report: show the share at the end, whatever it is. advice: what
        helps; without it, what the unknown characters suggest. notes: whether notices are shown."""
        self.what, self.allow, self.streams, self.report, self.advice = what, allow, streams, report, advice
        self.notes = notes
        self.tokens = self.unknown = 0
        self.texts: list[str] = []
        self._tokenizer: Tokenizer | None = None
        self._decided = self._noted = False

    @property
    def share(self) -> float:
        """Share of unknown tokens."""
        return self.unknown / max(1, self.tokens)

    @property
    def words(self) -> str:
        """The share as words, such as "0.30% of 1,200 tokens are unknown"."""
        return f"{self.share:.2%} of {self.tokens:,} tokens are unknown"

    def add(self, tokenizer: Tokenizer, texts: Sequence[str], tokens: Sequence[int], unknown: Sequence[int]) -> None:
        """Count texts. tokens and unknown: of each text. Raises UserError when streamed texts have too many."""
        self._tokenizer = tokenizer
        self.tokens += sum(tokens)
        if more := sum(unknown):
            self.unknown += more
            room = KEPT_TEXTS - len(self.texts)
            if room > 0:
                concerned = (text for text, count in zip(texts, unknown, strict=False) if count)
                self.texts += [text[:KEPT_CHARACTERS] for text, _ in zip(concerned, range(room), strict=False)]
        if self.streams and self.tokens >= SAMPLE:
            self.decide()

    @property
    def too_many(self) -> bool:
        """Whether the share is so large that a command stops."""
        return self.share > (MOST if self.tokens >= ENOUGH else MOST_OF_FEW)

    def decide(self) -> None:
        """Stop with a UserError where the share is too large and not allowed; only the first call decides."""
        if self._decided:
            return
        self._decided = True
        if self.too_many and not self.allow:
            raise TooManyUnknownError(self.sentence())
        if self.notes and self.unknown and (self.too_many or self.tokens < ENOUGH):
            self._noted = True
            say(f"Note: {self.sentence()}")

    def finish(self) -> None:
        """Decide about texts that were too few to decide before, and report the share of all."""
        self.decide()
        if not self.notes or self._noted or not self.tokens:
            return
        if self._tokenizer is None or self._tokenizer.unknown is None:
            return
        if self.too_many:
            say(f"Note: {self.sentence()}")
        elif self.report:
            say(f"{self.what[0].upper()}{self.what[1:]}: {self.words}.")

    def sentence(self) -> str:
        """Return the share, the characters that are unknown most often, and what would help."""
        characters = self.characters()
        shown = ", ".join(named(character) for character, _ in characters.most_common(SHOWN))
        often = f", most often {shown}" if shown else ""
        if not shown and (words := self._pieces()):
            often = f", such as the word {words[0][:40]}, which its pieces do not spell"
        more = self.advice or ("" if self._tokenizer is None else remedy(self._tokenizer, characters))
        share = f"{self.share:.1%} of the {self.tokens:,} tokens" if self.tokens > 1 else "The only token"
        verb = "are" if self.tokens > 1 else "is"
        return f"{share} of {self.what} {verb} unknown to the tokenizer{often}" + (f": {more}" if more else "")

    def characters(self) -> Counter[str]:
        """Return how often each unknown character occurs in the texts that were kept."""
        counts: Counter[str] = Counter()
        for piece in self._pieces():
            counts.update(piece)
        tokenizer = self._tokenizer
        if tokenizer is None:
            return counts
        with uncounted():
            return Counter({c: count for c, count in counts.items() if not _knows(tokenizer, c)})

    def _pieces(self) -> list[str]:
        """Return the unknown parts of the texts that were kept."""
        if self._tokenizer is None:
            return []
        with uncounted():
            return [piece for text in self.texts for piece in _unknown_pieces(self._tokenizer, text)]


def remedy(tokenizer: Tokenizer, characters: Mapping[str, int]) -> str:
    """Return what would help against these unknown characters of a tokenizer, "" for no characters."""
    total = sum(characters.values())
    if not total:
        return ""
    with uncounted():
        case = sum(n for c, n in characters.items() if c != c.lower() and _knows(tokenizer, c.lower()))
        upper = sum(n for c, n in characters.items() if c != c.upper() and _knows(tokenizer, c.upper()))
        bases = {c: unicodedata.normalize("NFD", c)[0] for c in characters}
        accents = sum(n for c, n in characters.items() if c != bases[c] and _knows(tokenizer, bases[c]))
    if case > total / 2:
        return "the vocabulary has only small letters, so set do_lower_case to true in tokenizer_config.json"
    if upper > total / 2:
        return "the vocabulary has only capital letters, so give the text in capitals"
    if accents > total / 2:
        return "the vocabulary has no accents, so set strip_accents to true in tokenizer_config.json"
    scripts = Counter[str]()
    for character, count in characters.items():
        scripts[script_of(character)] += count
    name, count = scripts.most_common(1)[0]
    if name and count > total / 2:
        return (
            f"use a model or a tokenizer for text in {name} script, or add words with `blankfill pretrain --from MODEL "
            "--add-tokens FILE`"
        )
    return "use another model or tokenizer, or add words with `blankfill pretrain --from MODEL --add-tokens FILE`"


_ACTIVE: ContextVar[UnknownCount | None] = ContextVar("unknown count", default=None)


@contextmanager
def counting(what: str = "the text", **options: Any) -> Iterator[UnknownCount]:
    """Count the tokens that are encoded in the block; at its end, decide about them. options: those of
    `UnknownCount`."""
    count = UnknownCount(what, **options)
    token = _ACTIVE.set(count)
    try:
        yield count
    finally:
        _ACTIVE.reset(token)
    count.finish()


@contextmanager
def uncounted() -> Iterator[None]:
    """Encode without counting in the block, for texts of the program's own."""
    token = _ACTIVE.set(None)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def counted(
    tokenizer: Tokenizer, texts: Sequence[str], ids: Sequence[Sequence[int]], unknown: int | None,
    special: frozenset[int] = frozenset(),
) -> None:  # fmt: skip
    """Report encoded texts to the count that is active, if any. unknown: id of the unknown token, None where text
    cannot give it. special: ids that do not count, such as masks."""
    count = _ACTIVE.get()
    if count is not None:
        lengths = [len(row) if not special else sum(id not in special for id in row) for row in ids]
        count.add(tokenizer, texts, lengths, [0] * len(ids) if unknown is None else [row.count(unknown) for row in ids])


def counted_array(
    tokenizer: Tokenizer, texts: Sequence[str], ids: NDArray[np.int32], lengths: NDArray[np.int32], unknown: int | None
) -> None:
    """Report encoded texts whose ids are in one array, as `counted` does."""
    count = _ACTIVE.get()
    if count is None:
        return
    import numpy as np

    each = [0] * len(lengths)
    if unknown is not None and (places := np.flatnonzero(ids == unknown)).size:
        owners = np.searchsorted(np.cumsum(lengths), places, "right")
        each = np.bincount(owners, minlength=len(lengths)).tolist()
    count.add(tokenizer, texts, lengths.tolist(), each)


def check_counts(tokenizer: Tokenizer, counts: NDArray[np.int64], what: str, allow: bool) -> None:
    """Decide about a text by how often each id occurs in it, int64[V]. Raises UserError where too many tokens are
    unknown and that is not allowed."""
    if tokenizer.unknown is None or tokenizer.unknown >= len(counts):
        return
    count = UnknownCount(what, allow=allow, report=True, advice="use a model whose vocabulary suits the text")
    count.add(tokenizer, (), [int(counts.sum())], [int(counts[tokenizer.unknown])])
    count.finish()


def _unknown_pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """Return the parts of a text that become unknown tokens."""
    text = tokenizer.without_special(text)
    ids, places = tokenizer.encode_places(text)
    unknown = tokenizer.unknown
    return [text[begin:end] for id, (begin, end) in zip(ids.tolist(), places.tolist(), strict=True) if id == unknown]


def _knows(tokenizer: Tokenizer, character: str) -> bool:
    ids = tokenizer.encode_plain([character])[0].tolist()
    return tokenizer.unknown not in ids
