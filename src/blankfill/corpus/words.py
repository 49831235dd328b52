"""Finds where words, phrases and entities begin in rows of token ids, for objectives that mask them whole.

Where people write spaces, the tokenizer marks the beginnings of words. Words of Chinese, Japanese, Thai, Lao, Khmer and
Burmese are found by `segmenters` in the text of each run of tokens of the script. Phrases and entities are groups of
words: those of the user's own lists, matched as runs of tokens, and for entities also consecutive words with capitals
(ERNIE, Sun et al. 2019). Nothing here is random, so the units of a row are always the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.segmenters import CHINESE, KANA, SCRIPTS, Segmenter, segmenter
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError, setting
from blankfill.system.console import say
from blankfill.system.environment import has_module
from blankfill.system.reading import LARGE, read_text
from blankfill.types import Bool, Int32

HAS_CHINESE = re.compile(rf"{CHINESE.pattern}|[\udce4-\udce9]")
"""Chinese characters, and lead bytes of characters that a token holds in part (E4 to E9 lead most Chinese
characters)."""
LITTLE = 0.01
"""Share of the tokens of a script below which a text counts as having none."""
MUCH_KANA = 0.2
"""Share of kana among kana and Chinese characters from which a text is Japanese."""

Span = tuple[int, int]
Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class Lexicon:
    """Listed words as runs of token ids. lengths: lengths of the words by their first id, longest first."""

    entries: frozenset[tuple[int, ...]]
    lengths: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, words: Sequence[str], tokenizer: Tokenizer) -> Lexicon:
        """Return the words that consist of several known tokens; a word that is one token is whole already."""
        ids, sizes = tokenizer.encode_plain(words)
        cuts = [0, *accumulate(sizes.tolist())]
        unknown = tokenizer.vocabulary().roles.get("unk", -1)
        runs = (tuple(ids[begin:end].tolist()) for begin, end in pairwise(cuts) if end - begin > 1)
        entries = frozenset(run for run in runs if unknown not in run)
        lengths: dict[int, set[int]] = {}
        for run in entries:
            lengths.setdefault(run[0], set()).add(len(run))
        return cls(entries, {first: tuple(sorted(ends, reverse=True)) for first, ends in lengths.items()})

    def spans(self, ids: Int32, begins: Bool) -> Iterator[Span]:
        """Yield the spans of listed words, from the left, the longest first; spans begin and end with words of the
        text."""
        row, edge, at = ids.tolist(), [*begins.tolist(), True], 0
        while at < len(row):
            end = next(
                (at + n for n in self.lengths.get(row[at], ()) if edge[at] and at + n <= len(row)
                 and edge[at + n] and tuple(row[at : at + n]) in self.entries), 0
            )  # fmt: skip
            if end:
                yield at, end
            at = end or at + 1


@dataclass(frozen=True)
class Units:
    """Finds where units begin; see `types.Vocabulary.units`. Picklable, for loader workers.

    texts: the text of each id. scripts: int8[V], the segmenter of each token, counted from 1; 0: the tokenizer finds
    its words. capital: bool[V]. nested: give words by the tokenizer, phrases and entities, 3 rows; otherwise words
    alone, 1 row, with those of the segmenters joined.
    """

    texts: Sequence[str]
    scripts: Int8
    segmenters: tuple[Segmenter, ...] = ()
    nested: bool = False
    phrases: Lexicon | None = None
    entities: Lexicon | None = None
    capital: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __call__(self, ids: Int32, begins: Bool, starts: Int32) -> Bool:
        """Return where units begin, bool[K, N]. ids: int32[N]. begins: bool[N], word starts by the tokenizer. starts:
        of sentences."""
        words = self._segmented(ids, begins, starts)
        if not self.nested:
            return words[None]
        phrases = words if self.phrases is None else joined(words, self.phrases.spans(ids, begins))
        entities = phrases if self.entities is None else joined(phrases, self.entities.spans(ids, begins))
        if len(self.capital):
            entities = joined(entities, self._capitals(ids, begins, starts))
        return np.stack([begins, phrases, entities])

    def _segmented(self, ids: Int32, begins: Bool, starts: Int32) -> Bool:
        """Return word starts with the words of segmenters joined."""
        scripts = self.scripts[ids]
        if not scripts.any():
            return begins
        inner = (scripts[1:] == scripts[:-1]) & (scripts[1:] > 0)
        first = scripts > 0
        first[1:] &= ~inner
        first[starts[starts < len(ids)]] |= scripts[starts[starts < len(ids)]] > 0
        words = begins.copy()
        for begin in np.flatnonzero(first).tolist():
            end = begin + 1
            while end < len(ids) and scripts[end] == scripts[begin] and not first[end]:
                end += 1
            parts = [self.texts[k] for k in ids[begin:end].tolist()]
            pieces = self.segmenters[scripts[begin] - 1]("".join(parts))
            edges = {0, *accumulate(map(len, pieces))}
            words[begin:end] = [place in edges for place in (0, *accumulate(map(len, parts[:-1])))]
        return words

    @property
    def sources(self) -> dict[str, str]:
        """Return what the words of each script depend on, by script."""
        return {part.script: part.source for part in self.segmenters}

    def _capitals(self, ids: Int32, begins: Bool, starts: Int32) -> Iterator[Span]:
        """Yield runs of two and more words with a capital; the first word of a sentence always has one."""
        places = np.flatnonzero(begins)
        marked = self.capital[ids[places]] & ~np.isin(places, starts)
        edges = [*places.tolist(), len(ids)]
        at = 0
        while at < len(places):
            end = at
            while end < len(places) and marked[end]:
                end += 1
            if end - at > 1:
                yield edges[at], edges[end]
            at = max(end, at + 1)


def joined(begins: Bool, spans: Iterator[Span]) -> Bool:
    """Return where units begin once each of these spans is one unit."""
    begins = begins.copy()
    for begin, end in spans:
        begins[begin + 1 : end] = False
        begins[begin] = True
        if end < len(begins):
            begins[end] = True
    return begins


def word_units(tokenizer: Tokenizer, counts: np.ndarray) -> Units | None:
    """Return a finder of whole words; None where the tokenizer suffices, since the text has spaces between words.

    counts: int64[V], how often each id occurs in the text. Raises UserError where Chinese words cannot be found.
    """
    texts = tokenizer.texts()
    scripts, segmenters = segmented_scripts(texts, counts)
    if not segmenters:
        return None
    chinese = any(part.by == "rjieba" for part in segmenters)
    if chinese and share(scripts == 1, counts) < LITTLE:
        raise UserError(
            "the tokenizer keeps Chinese characters in parts or together with other text, so that whole Chinese words "
            "cannot be found; use a wordpiece, unigram or bilingual tokenizer, or turn "
            f"{setting('objective.whole_word')} off"
        )
    if chinese:
        check_segmenter("whole Chinese words are found")
    say_what_is_missing(segmenters)
    return Units(texts, scripts, segmenters)


def segmented_scripts(texts: Sequence[str], counts: np.ndarray) -> tuple[Int8, tuple[Segmenter, ...]]:
    """Return the segmenter of each token, counted from 1, int8[V], and the segmenters that a text needs.

    counts: int64[V], how often each id occurs in the text.
    """
    wide = [(k, text) for k, text in enumerate(texts) if text and max(text) >= "\u0e00"]

    def tokens(pattern: re.Pattern[str]) -> Bool:
        whole = np.zeros(len(texts), np.bool_)
        whole[[k for k, text in wide if pattern.fullmatch(text)]] = True
        return whole

    kana, han = tokens(KANA), tokens(CHINESE)
    kana_share = share(kana, counts)
    japanese = kana_share >= LITTLE and kana_share >= MUCH_KANA * (kana_share + share(han, counts))
    scripts = np.zeros(len(texts), np.int8)
    segmenters: list[Segmenter] = []
    if not japanese and chinese_share(texts, counts) >= LITTLE:
        segmenters.append(Segmenter("Chinese", "rjieba"))
        scripts[han] = 1
    for script, (pattern, _) in SCRIPTS.items():
        whole = tokens(pattern)
        if japanese if script == "Japanese" else share(whole, counts) >= LITTLE:
            segmenters.append(segmenter(script, has_module("icu4py")))
            if segmenters[-1].by != "tokenizer":
                scripts[whole] = len(segmenters)
    return scripts, tuple(segmenters)


def say_what_is_missing(segmenters: Sequence[Segmenter]) -> None:
    """Print which scripts are cut without ICU."""
    for part in segmenters:
        if part.by in ("characters", "tokenizer"):
            say(
                f"whole words of {part.script} are found by icu4py, which is not installed (pip install "
                f"'blankfill[words]'); without it, they are cut by {part.source}"
            )


def phrase_units(tokenizer: Tokenizer, counts: np.ndarray, phrases: str, entities: str, masked: Sequence[str]) -> Units:
    """Return a finder of phrases and entities. phrases and entities: paths of lists, with commas; masked: which of the
    two an objective masks. Raises UserError where there is no way to find them.
    """
    if not tokenizer.is_wordpiece:
        raise UserError(
            "objective `ernie` finds phrases and entities in word pieces; use a wordpiece tokenizer, or set "
            f"{setting('objective.phrase')} and {setting('objective.entity')} to 0"
        )
    texts = tokenizer.texts()
    scripts, segmenters = segmented_scripts(texts, counts)
    capital = np.array([text[:1].isupper() for text in texts], np.bool_)
    capital[sorted(tokenizer.vocabulary().special)] = False
    sources = {
        "phrase": bool(scripts.any()) or bool(phrases),
        "entity": bool(entities) or bool((capital[: len(counts)] & (counts > 0)[: len(capital)]).any()),
    }
    for name, where in (("phrase", "objective.phrases"), ("entity", "objective.entities")):
        if name in masked and not sources[name]:
            why = "no Chinese" if name == "phrase" else "no capital letters"
            raise UserError(
                f"{setting(f'objective.{name}')} is above 0, but this text, as its tokenizer reads it, has {why} and "
                f"there is no list to find them by; name one with {setting(where)}, or give "
                f"{setting(f'objective.{name}', 0)}"
            )
    if any(part.by == "rjieba" for part in segmenters):
        check_segmenter("Chinese phrases are found")
    say_what_is_missing(segmenters)
    return Units(
        texts,
        scripts,
        segmenters,
        nested=True,
        phrases=lexicon(phrases, tokenizer, "objective.phrases"),
        entities=lexicon(entities, tokenizer, "objective.entities"),
        capital=capital,
    )


def check_segmenter(what: str) -> None:
    """Raise UserError when rjieba is not installed."""
    if not has_module("rjieba"):
        raise UserError(
            f"{what} by rjieba, which is not installed: pip install 'blankfill[zh]', or turn "
            f"{setting('objective.whole_word')} off (of ernie: set {setting('objective.phrase')} and "
            f"{setting('objective.entity')} to 0)"
        )


def share(tokens: Bool, counts: np.ndarray) -> float:
    """Return the share of a text's tokens that are among `tokens`, bool[V]. counts: int64[V]."""
    size = min(len(counts), len(tokens))
    return float(counts[:size][tokens[:size]].sum() / max(1, counts.sum()))


def chinese_share(texts: Sequence[str], counts: np.ndarray) -> float:
    """Return the share of a text's tokens that hold Chinese characters, or the beginning of one."""
    return share(np.array([HAS_CHINESE.search(text) is not None for text in texts], np.bool_), counts)


def lexicon(paths: str, tokenizer: Tokenizer, option: str) -> Lexicon | None:
    """Return the words of lists: one on each line, without the text after a tab. None for no list; UserError if
    empty."""
    if not paths:
        return None
    words: list[str] = []
    for name in paths.split(","):
        try:
            lines = read_text(Path(name.strip()), LARGE).splitlines()
        except UserError as error:
            raise UserError(
                f"{option}: {error}; give UTF-8 files with a word on each line, with commas between them"
            ) from error
        words += [word for line in lines if (word := line.partition("\t")[0].strip())]
    result = Lexicon.of(words, tokenizer)
    if not result.entries:
        raise UserError(
            f"{option}: of the {len(words)} words in {paths} none is made of several tokens that the tokenizer knows; "
            "give a list in the language of the text"
        )
    return result
