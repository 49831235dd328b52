"""The i-th training row of a run, as a pure function of (seed, i).

There is no sampler state and no generator state: the draws of row i come from a Philox generator keyed by (seed, i),
and which text it holds comes from the epoch's plan (`data.plans`). So any row can be looked at again by its number, and
resuming at any step is arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator, Philox
from numpy.random.bit_generator import ISeedSequence

from blankfill.data.plans import FIRST, LAST, RANDOM_NEXT, Plan, make_plan
from blankfill.errors import UserError, setting
from blankfill.objectives import Objective
from blankfill.system.files import own_folder, whole_file, write_file
from blankfill.system.marks import changes, marks
from blankfill.system.reading import read_array, read_json
from blankfill.types import Bool, Document, Example, Vocabulary

if TYPE_CHECKING:
    from blankfill.corpus.indexed import IndexedCorpus

PLAN_VERSION = 1
WORTH_CACHING = 200_000
"""Number of chunks below which making a plan is faster than reading it."""
VALIDATION_SEED = 20_181_011
"""The seed of every validation set, whatever the run's own: the same texts are always masked the same way."""


class _Key(ISeedSequence):
    """Passes a key to Philox; `Philox(key=...)` would also gather unused entropy, at 10 µs a row."""

    def __init__(self, seed: int, row: int) -> None:
        self.words = np.array([seed, row], np.uint64)

    def generate_state(self, n_words: int, dtype: object = None) -> np.ndarray:
        return self.words


def row_generator(seed: int, row: int) -> Generator:
    """Return the generator of row number `row`: Philox with the key (seed, row)."""
    return Generator(Philox(_Key(seed, row)))  # type: ignore[arg-type]  # numpy's stub knows only SeedSequence itself


def plan_generator(seed: int, epoch: int, first: int = 0) -> Generator:
    """Return the generator of an epoch's plan: the same kind of key, a part of the counter that no row reaches."""
    return Generator(Philox(key=np.array([seed, epoch], np.uint64), counter=np.array([0, 0, first, 1], np.uint64)))


class Sampler:
    """Rows of Examples of an objective over a corpus, by number.

    cache: a folder for plans worth keeping (usually `plans` beside the token files), None to keep them in memory only.
    first: the number of its first row, when another sampler has the rows before it (a phase of shorter rows).
    """

    def __init__(
        self,
        corpus: IndexedCorpus,
        objective: Objective,
        vocabulary: Vocabulary,
        seed: int,
        cache: Path | None = None,
        first: int = 0,
    ) -> None:
        self.corpus = corpus
        self.objective = objective
        self.vocabulary = vocabulary
        self.seed = seed
        self.spec = objective.packing()
        self.cache = cache
        self.first = first
        self._reads_words = objective.reads_words()
        self._has_empty = bool((np.diff(corpus.sentence_starts) == 0).any())
        self._plans: dict[int, Plan] = {}
        settings = f"{PLAN_VERSION} {corpus.fingerprint} {self.spec} {seed}" + (f" {first}" if first else "")
        self._key = hashlib.sha256(settings.encode()).hexdigest()[:16]
        self._sizes = self._read_sizes()
        self._ends: list[int] = []
        if self.rows_in_epoch(0) == 0:
            raise UserError(
                f"{corpus.prefix}: no text is long enough for an example of `{objective.name}`; "
                f"add text or lower {setting('objective.length')}"
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_plans": {}}

    def rows_in_epoch(self, epoch: int) -> int:
        """Return the number of rows of epoch number `epoch`."""
        while len(self._sizes) <= epoch:
            self._sizes.append(len(self.plan(len(self._sizes))))
            if len(self._sizes) % 16 == 1:
                self._write_sizes()
        return self._sizes[epoch]

    def locate(self, row: int) -> tuple[int, int]:
        """Return the epoch of a row of the run, and its place in it."""
        row -= self.first
        while not self._ends or self._ends[-1] <= row:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self.rows_in_epoch(len(self._ends)))
        epoch = bisect_right(self._ends, row)
        return epoch, row - (self._ends[epoch - 1] if epoch else 0)

    def documents(self, row: int) -> list[Document]:
        """Return the Documents of a row, as its objective receives them."""
        epoch, place = self.locate(row)
        chunks = self.plan(epoch).row(place)
        if self.spec.unit == "pairs":
            return [self._pair(*chunk) for chunk in chunks.tolist()]
        if self.spec.merge_chunks:
            return [self._joined(chunks.tolist())]
        return [self._piece(begin, end, flags) for begin, end, _, _, flags in chunks.tolist()]

    def row(self, row: int) -> list[Example]:
        """Return the Examples of row number `row` of the run; they share one row of a batch."""
        rng = row_generator(self.seed, row)
        return [self.objective.example(document, self.vocabulary, rng) for document in self.documents(row)]

    def plan(self, epoch: int) -> Plan:
        """Return the plan of an epoch; the last two used are kept in memory, large ones on disk too."""
        if epoch not in self._plans:
            if len(self._plans) >= 2:
                del self._plans[min(self._plans, key=lambda held: abs(held - epoch) * -1)]
            self._plans[epoch] = self._load(epoch) or self._make(epoch)
        return self._plans[epoch]

    def _make(self, epoch: int) -> Plan:
        plan = make_plan(self.corpus, self.spec, plan_generator(self.seed, epoch, self.first))
        if self.cache is not None and len(plan.chunks) >= WORTH_CACHING:
            try:
                own_folder(self.cache)
                for name in ("chunks", "rows", "order"):
                    with whole_file(self._path(epoch, name)) as file:
                        np.save(file, getattr(plan, name))
                names = [self._path(epoch, name).name for name in ("chunks", "rows", "order")]
                write_file(self._path(epoch, "marks"), json.dumps(marks(self.cache, names)))
            except (OSError, UserError):
                return plan
        return plan

    def _load(self, epoch: int) -> Plan | None:
        if self.cache is None or not self._path(epoch, "order").exists():
            return None
        try:
            noted = read_json(self._path(epoch, "marks"))
            if not noted or changes(noted, marks(self.cache, noted)):
                return None
            chunks, rows, order = (
                np.asarray(read_array(self._path(epoch, name), "i", 2 if name == "chunks" else 1, mapped=True))
                for name in ("chunks", "rows", "order")
            )
        except UserError:
            return None
        plan = Plan(chunks, rows, order)
        return plan if plan.fits(len(self.corpus.tokens)) else None

    def _path(self, epoch: int, name: str) -> Path:
        assert self.cache is not None
        return self.cache / f"{self._key}-{epoch}-{name}{'' if name == 'marks' else '.npy'}"

    def _read_sizes(self) -> list[int]:
        if self.cache is None:
            return []
        try:
            sizes = read_json(self.cache / f"{self._key}.json", list)
        except UserError:
            return []
        return sizes if all(type(size) is int and 0 < size < 2**48 for size in sizes) else []

    def _write_sizes(self) -> None:
        if self.cache is None:
            return
        try:
            own_folder(self.cache)
            write_file(self.cache / f"{self._key}.json", json.dumps(self._sizes))
        except UserError:
            return

    def _ids(self, begin: int, end: int) -> np.ndarray:
        ids = np.asarray(self.corpus.tokens)[begin:end].astype(np.int32)
        # A negative id is a very large one when its bits are read without a sign.
        if len(ids) and int(ids.view(np.uint32).max()) >= self.vocabulary.size:
            wrong = int(ids.max()) if ids.min() >= 0 else int(ids.min())
            raise UserError(
                f"{self.corpus.prefix}.bin holds token id {wrong} near token {begin}, but the tokenizer has "
                f"only {self.vocabulary.size}; the token files and the tokenizer do not belong together"
            )
        return ids

    def _sentences(self, begin: int, end: int) -> np.ndarray:
        """Return where sentences start in [begin, end), counted from `begin`, the first of them; then the length."""
        starts = self.corpus.sentence_starts
        low = int(starts.searchsorted(begin, side="right"))
        high = max(low, int(starts.searchsorted(end, side="left")))
        sentences = np.empty(high - low + 2, np.int32)
        sentences[0], sentences[-1] = 0, end - begin
        sentences[1:-1] = starts[low:high] - begin
        return np.unique(sentences) if self._has_empty else sentences

    def _words(self, ids: np.ndarray, sentences: np.ndarray) -> tuple[Bool | None, Bool | None]:
        """Return `words_and_units`; None for both when the objective does not need them."""
        return words_and_units(ids, sentences, self.vocabulary) if self._reads_words else (None, None)

    def _piece(self, begin: int, end: int, flags: int) -> Document:
        ids = self._ids(begin, end)
        sentences = self._sentences(begin, end)
        words, units = self._words(ids, sentences)
        return Document(
            ids, sentences, words, first=bool(flags & FIRST), last=bool(flags & LAST), units=units
        )  # fmt: skip

    def _joined(self, chunks: list[list[int]]) -> Document:
        single = [self._piece(begin, end, flags) for begin, end, _, _, flags in chunks]
        parts = np.cumsum([0] + [len(document) for document in single]).astype(np.int32)
        ids = np.concatenate([document.ids for document in single])
        shifted = [document.sentences[:-1] + part for document, part in zip(single, parts[:-1], strict=True)]
        sentences = np.unique(np.concatenate([*shifted, parts[-1:]])).astype(np.int32)
        words = [document.words for document in single if document.words is not None]
        units = [document.units for document in single if document.units is not None]
        return Document(
            ids,
            sentences,
            np.concatenate(words) if words else None,
            first=single[0].first,
            last=single[-1].last,
            parts=parts,
            units=np.concatenate(units, axis=1) if units else None,
        )

    def _pair(self, begin: int, end: int, begin_b: int, end_b: int, flags: int) -> Document:
        ids = np.concatenate([self._ids(begin, end), self._ids(begin_b, end_b)])
        runs = np.unique(np.array([0, end - begin, len(ids)], np.int32))  # a lone sentence has no second part
        words = units = None
        if self._reads_words:
            inside = [self._sentences(begin, end)]
            if end_b > begin_b:
                inside = [inside[0][:-1], self._sentences(begin_b, end_b) + (end - begin)]
            words, units = self._words(ids, np.concatenate(inside))
        return Document(ids, runs, words, label=int(bool(flags & RANDOM_NEXT)), units=units)


def words_and_units(ids: np.ndarray, sentences: np.ndarray, vocabulary: Vocabulary) -> tuple[Bool | None, Bool | None]:
    """Return where words begin in a text, bool[N], and larger units if the vocabulary finds them, bool[K, N]; None
    where the tokenizer does not show them.

    sentences: where sentences start, then the length.
    """
    if vocabulary.word_start is None:
        return None, None
    words = vocabulary.word_start[ids]
    if len(words):
        words[sentences[:-1]] = True
    if vocabulary.units is None:
        return words, None
    starts = vocabulary.units(ids, words, sentences)
    return starts[0], starts[1:] if len(starts) > 1 else None
