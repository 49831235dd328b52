"""Trains a tokenizer on a sample of sentences: the same text gives the same vocabulary, on every machine, every time.

WordPiece is trained here, because the library's trainer is not reproducible: it numbers the `##` characters in hash
order and breaks ties by number. Its vocabulary is that of byte-pair merges (Sennrich et al. 2016) over characters, with
`##` before tokens inside a word; the most frequent pair is merged first, of equally frequent pairs the pair whose parts
were known first. Words are counted before anything else, so time and memory depend on the distinct words, not on the
length of the text.

Byte-level BPE comes from the library (reproducible, as a test checks), Unigram from SentencePiece
(`tokenizer_train_unigram`).

All but the bilingual kind, which has the ids of ChatGLM-6B, give ids 0… to `SPECIAL_TOKENS`; all give exactly as many
tokens as requested, or a `UserError` that names the number that the text supports. Not here: sampling the text
(`prepare`).
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from blankfill.corpus.normalization import MOST_CHARACTERS, apply
from blankfill.corpus.scripts import LONG_WORD, Normalization, Writing, decide
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_chunks import bert_chunks
from blankfill.corpus.tokenizer_formats import byte_bpe, wordpiece
from blankfill.corpus.tokenizer_roles import SPECIAL_TOKENS
from blankfill.corpus.tokenizer_train_unigram import (
    ALPHABET_SHARE,
    too_large,
    too_small,
    train_bilingual,
    train_unigram,
)
from blankfill.errors import UserError, setting

if TYPE_CHECKING:
    import tokenizers

LARGEST_AUTOMATIC = 32_768
WISHED_COVER = 0.99
"""With `exact` off, a vocabulary is at least twice as large as the alphabet that spells this share of the text."""
DISTINCT_LIMIT = 4_000_000
"""Number of distinct chunks counted at once; above it the rarest are dropped, which does not affect any merge."""
Advance = Callable[[int], None]


def _silent(tokens: int) -> None:
    return


@dataclass(frozen=True)
class TokenizerConfig:
    """The kind and size of a tokenizer to train.

    vocab_size: number of tokens, special tokens included; 0 chooses by the amount of text (see `automatic_size`).
    exact: whether a text that supports fewer tokens is an error; if off, the vocabulary is as large as the text
    supports, and a WordPiece vocabulary at least as large as its most common characters need (Chinese has thousands).
    lowercase, strip_accents: None means by what the text is made of for WordPiece (`scripts.decide`), False for the
    others. max_chars: length at which the sample is cut.
    """

    kind: Literal["wordpiece", "bpe", "unigram", "bilingual"] = "wordpiece"
    vocab_size: int = 8192
    exact: bool = True
    lowercase: bool | None = None
    strip_accents: bool | None = None
    max_chars: int = 200_000_000

    def normalization(self, writing: Writing) -> Normalization:
        """Return how text is normalised. writing: what the text is made of, which decides for WordPiece."""
        if self.kind == "wordpiece":
            return decide(writing, self.lowercase, self.strip_accents)
        return Normalization(bool(self.lowercase), strip_accents=False)


def train_tokenizer(
    sentences: Iterable[str], config: TokenizerConfig, writing: Writing | None = None, advance: Advance = _silent
) -> Tokenizer:
    """Return a tokenizer of `config.kind` trained on `sentences`.

    writing: what the sentences are made of, where the caller has counted it. advance: is called with the number of new
    tokens, by WordPiece alone.

    Raises `UserError` when the text is empty, or the vocabulary is too small to hold the special tokens and an
    alphabet, or larger than the text supports, or when SentencePiece is required and not installed.
    """
    if config.vocab_size < 0:
        raise UserError(
            f"A vocabulary of {config.vocab_size} tokens cannot be: give {setting('vocab_size')} 0 or more."
        )
    sample = _Sample(sentences, config.max_chars)
    writing = writing or Writing.of(sample)
    normalization = config.normalization(writing)
    if config.kind == "wordpiece":
        trained = _train_wordpiece(sample, config, normalization, advance)
    elif config.kind == "bpe":
        trained = _train_bpe(sample, config, normalization.lowercase)
    else:
        train = train_bilingual if config.kind == "bilingual" else train_unigram
        size, exact = config.vocab_size or automatic_size(sample.characters), config.exact and config.vocab_size > 0
        trained = train(sample, size, exact, normalization.lowercase, writing.separates)
    return Tokenizer(trained)


def automatic_size(characters: int) -> int:
    """Return the vocabulary size for a text of `characters` characters: 8·√characters, a multiple of 64, at most
    32,768.

    The number of distinct words grows about like that root (Heaps' law), so each token stays frequent enough to learn:
    2,528 for 100 kB, 8,000 for 1 MB, 32,768 from 17 MB on.
    """
    return min(LARGEST_AUTOMATIC, max(512, int(8 * math.sqrt(characters)) // 64 * 64))


class _Sample:
    """The sentences up to `limit` characters; `characters` counts them. Raises UserError where there is no text."""

    def __init__(self, sentences: Iterable[str], limit: int) -> None:
        self._sentences: list[str] = []
        self.characters = 0
        for sentence in sentences:
            left = limit - self.characters
            if left <= 0:
                break
            cut = sentence[:left]
            self.characters += len(cut)
            self._sentences.append(cut)
        if not any(map(str.strip, self._sentences)):
            raise UserError("There is no text to train a tokenizer on: give files with text in them.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)


def _train_wordpiece(
    sample: _Sample, config: TokenizerConfig, normalization: Normalization, advance: Advance
) -> tokenizers.Tokenizer:
    words = count_words(sample, normalization)
    alphabet: Counter[str] = Counter()
    for word, count in words.items():
        for symbol in _symbols(word):
            alphabet[symbol] += count
    # The most frequent first; of equally frequent ones, the smaller code point.
    ranked = sorted(alphabet, key=lambda symbol: (-alphabet[symbol], symbol))
    required = _covering([alphabet[symbol] for symbol in ranked], 0.95)
    fixed = len(SPECIAL_TOKENS)
    size = config.vocab_size or max(automatic_size(sample.characters), fixed + 2 * required)
    if not config.exact:
        size = max(size, fixed + 2 * _covering([alphabet[symbol] for symbol in ranked], WISHED_COVER))
    if size <= fixed + required:
        raise too_small(size, fixed + required + 1)
    alphabet_size = max(required, int(ALPHABET_SHARE * (size - fixed)))
    tokens = merge_pairs(words, ranked[:alphabet_size], size - fixed, advance)
    tokens += ranked[alphabet_size : alphabet_size + size - fixed - len(tokens)]
    if len(tokens) < size - fixed and alphabet_size < len(ranked):
        # Words with rare characters allow further merges.
        tokens = merge_pairs(words, ranked, size - fixed)
    if len(tokens) < size - fixed and config.vocab_size and config.exact:
        raise too_large(size, fixed + len(tokens))
    vocab = {token: id for id, token in enumerate([*SPECIAL_TOKENS, *tokens])}
    return apply(wordpiece(vocab, lowercase=normalization.lowercase), normalization)


def count_words(sentences: Iterable[str], normalization: Normalization) -> Counter[str]:
    """Return how often each word occurs, as words are split by the normaliser and pre-tokenizer of WordPiece."""
    chunks: Counter[str] = Counter()
    for sentence in sentences:
        chunks.update(bert_chunks(sentence))
        if len(chunks) > DISTINCT_LIMIT:
            chunks = _drop_rarest(chunks, DISTINCT_LIMIT // 2)
    pipeline = apply(wordpiece({"[UNK]": 0}, lowercase=normalization.lowercase), normalization)
    longest = MOST_CHARACTERS if normalization.cut else LONG_WORD
    normalizer, splitter = pipeline.normalizer, pipeline.pre_tokenizer
    assert normalizer is not None
    assert splitter is not None
    # Chunks that occur equally often are normalised together: a call for each would cost more than the counting.
    by_count: defaultdict[int, list[str]] = defaultdict(list)
    for chunk, count in chunks.items():
        by_count[count].append(chunk)
    words: Counter[str] = Counter()
    for count, group in by_count.items():
        for start in range(0, len(group), 10_000):
            text = normalizer.normalize_str(" ".join(group[start : start + 10_000]))
            for word, _ in splitter.pre_tokenize_str(text):
                if len(word) <= longest:
                    words[word] += count
    return words


def _drop_rarest(counts: Counter[str], limit: int) -> Counter[str]:
    least = 1
    while len(counts) > limit:
        least += 1
        counts = Counter({chunk: count for chunk, count in counts.items() if count >= least})
    return counts


def _symbols(word: str) -> list[str]:
    return [word[0], *["##" + character for character in word[1:]]]


def _covering(counts: Sequence[int], share: float) -> int:
    """Return how many of the descending `counts` make up `share` of their sum."""
    left = share * sum(counts)
    for number, count in enumerate(counts, start=1):
        left -= count
        if left <= 0:
            return number
    return len(counts)


def merge_pairs(words: Counter[str], alphabet: Sequence[str], size: int, advance: Advance = _silent) -> list[str]:
    """Return `alphabet`, sorted, then the merges of byte-pair encoding in order, until there are `size` tokens.

    Returns fewer tokens when no further pair occurs twice. Words with characters outside `alphabet` are ignored.
    """
    tokens = sorted(alphabet)
    ids = {token: id for id, token in enumerate(tokens)}
    spelled: list[list[int]] = []
    weights: list[int] = []
    counts: defaultdict[int, int] = defaultdict(int)
    where: defaultdict[int, set[int]] = defaultdict(set)
    for word, weight in words.items():
        if len(word) < 2:
            continue
        spelling = [ids.get(symbol, -1) for symbol in _symbols(word)]
        if -1 in spelling:
            continue
        for first, second in pairwise(spelling):
            counts[first << 32 | second] += weight
            where[first << 32 | second].add(len(spelled))
        spelled.append(spelling)
        weights.append(weight)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap and len(tokens) < size:
        negative, pair = heapq.heappop(heap)
        count = counts.get(pair, 0)
        if count != -negative:
            # The count of a pair only falls while it is in the heap; a pair whose count rose was pushed again.
            if 0 < count < -negative:
                heapq.heappush(heap, (-count, pair))
            continue
        if count < 2:
            break
        first, second = pair >> 32, pair & 0xFFFFFFFF
        token = tokens[first] + tokens[second][2:]
        merged = ids.setdefault(token, len(tokens))
        if merged == len(tokens):
            tokens.append(token)
            advance(1)
        risen = set()
        for index in where.pop(pair):
            old, weight = spelled[index], weights[index]
            new: list[int] = []
            at, end = 0, len(old)
            while at < end:
                if at + 1 < end and old[at] == first and old[at + 1] == second:
                    if new:
                        counts[new[-1] << 32 | first] -= weight
                        left = new[-1] << 32 | merged
                        counts[left] += weight
                        where[left].add(index)
                        risen.add(left)
                    if at + 2 < end:
                        counts[second << 32 | old[at + 2]] -= weight
                        right = merged << 32 | old[at + 2]
                        counts[right] += weight
                        where[right].add(index)
                        risen.add(right)
                    new.append(merged)
                    at += 2
                else:
                    new.append(old[at])
                    at += 1
            spelled[index] = new
        del counts[pair]
        for pair in risen:
            if counts.get(pair, 0) > 0:
                heapq.heappush(heap, (-counts[pair], pair))
    return tokens


def _train_bpe(sample: _Sample, config: TokenizerConfig, lowercase: bool) -> tokenizers.Tokenizer:
    from tokenizers import pre_tokenizers, trainers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fixed = len(SPECIAL_TOKENS) + len(alphabet)
    if config.vocab_size and config.vocab_size <= fixed:
        raise too_small(config.vocab_size, fixed + 1)
    blank = byte_bpe({}, [], lowercase=lowercase)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size or LARGEST_AUTOMATIC,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    blank.train_from_iterator(_with_short_words(sample), trainer)
    vocab: dict[str, int] = blank.get_vocab(with_added_tokens=False)
    if len(vocab) < config.vocab_size and config.exact:
        raise too_large(config.vocab_size, len(vocab))
    size = config.vocab_size or min(len(vocab), max(automatic_size(sample.characters), fixed + 1))
    merges = []
    for first, second in json.loads(blank.to_str())["model"]["merges"]:
        if vocab[first + second] >= size:
            # Merges come in order of use, so the beginning of a large vocabulary is the small vocabulary.
            break
        merges.append((first, second))
    return byte_bpe({token: id for token, id in vocab.items() if id < size}, merges, lowercase=lowercase)


def _with_short_words(sentences: Iterable[str]) -> Iterator[str]:
    """Yield the sentences, cutting words and white space that are longer than _LONGEST_RUN.

    Training time grows with the square of the length of a word: a megabyte of one letter would take days.
    """
    for sentence in sentences:
        at = 0
        if len(sentence) > _LONGEST_RUN:
            for run in _RUN.finditer(sentence):
                if run.end() - run.start() == _LONGEST_RUN:
                    yield sentence[at : run.end()]
                    at = run.end()
        yield sentence[at:]


_LONGEST_RUN = 256
_RUN = re.compile(rf"\S{{1,{_LONGEST_RUN}}}+|\s{{1,{_LONGEST_RUN}}}+")
