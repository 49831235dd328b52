"""The text that two models are compared on: rows with targets, as the objective makes them, and sentences.

A run has its own validation text, and its rows are those of its validations: the same text with the same blanks. Text
that is given is prepared with the model's tokenizer, and its rows are made in the same way. Without text, rows are of
tokens drawn at random: they serve for times, and for the divergence of two models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter, token_dtype
from blankfill.data.batching import collate
from blankfill.data.sampler import VALIDATION_SEED, Sampler
from blankfill.errors import Problem, UserError, setting
from blankfill.types import Batch, Bool, Example, Int32

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.objectives import Objective

TARGETS = 1024
"""Targets of a batch, from which on it gets no further row: their scores are in memory at once."""
WORDS = 64
"""Tokens of a sentence that is embedded, at most."""
DRAWN = 4096
"""Tokens of a text that is drawn at random."""


@dataclass(frozen=True)
class MeasuredText:
    """Rows and sentences of a text. source: what the text is, for a reader. is_text: whether it is text that somebody
    wrote. rows: the Examples of each row. sentences: texts to embed. pad: id of padding."""

    source: str
    is_text: bool
    rows: Sequence[Sequence[Example]]
    sentences: Sequence[str]
    pad: int

    def batches(self) -> list[tuple[Batch, torch.Tensor]]:
        """Return the rows in batches, each with the number of the row of each target, int64[M]."""
        made: list[tuple[Batch, torch.Tensor]] = []
        group: list[int] = []
        for k in range(len(self.rows)):
            group.append(k)
            size = sum(len(example.target_ids) for number in group for example in self.rows[number])
            if size + size // len(group) > TARGETS or k == len(self.rows) - 1:
                counts = [sum(len(example.target_ids) for example in self.rows[number]) for number in group]
                units = torch.repeat_interleave(torch.tensor(group), torch.tensor(counts))
                if len(units):
                    made.append((collate([self.rows[number] for number in group], self.pad), units))
                group = []
        return made


def text_of(loaded: Loaded, path: Path, given: Sequence[Path], count: int, work: Path) -> tuple[MeasuredText, str]:
    """Return the text to measure a model on, and a sentence about text that is missing, "" for none.

    path: of the model. given: files of text, in place of the run's own. count: largest number of rows and of sentences.
    work: folder for temporary files. Raises UserError for text that cannot be read.
    """
    missing = ""
    if given:
        corpus, unigram = _prepared(loaded, given, work)
        return _measured(loaded, corpus, unigram, count, f"the text of {', '.join(map(str, given))}", True)
    try:
        own = _of_run(path)
    except UserError as error:
        own, missing = None, error.template
    if own is not None:
        return _measured(loaded, *own, count, "the validation text of the run", True)
    why = missing or f"{path} has no validation text of its own"
    corpus = _drawn(loaded, work)
    drawn, _ = _measured(loaded, corpus, None, count, "tokens drawn at random", False)
    return drawn, Problem(f"the loss on text, since {why.rstrip('.')}; give text with {setting('text', 'FILE')}")


def run_folder_of(path: Path) -> Path:
    """Return the run folder that a checkpoint belongs to, or the path itself."""
    return path.parent.parent if path.parent.name == "checkpoints" else path


def _of_run(path: Path) -> tuple[IndexedCorpus, np.ndarray | None] | None:
    from blankfill.pretraining.data_setup import counts_of
    from blankfill.runs.folder import CORPUS, corpus_of

    run = run_folder_of(path)
    if not (run / CORPUS).exists():
        return None
    folder = corpus_of(run)
    valid = folder / "valid"
    if not valid.with_suffix(".idx").exists():
        return None
    corpus = IndexedCorpus(valid)
    return (corpus, counts_of(folder / "unigram.npy")) if len(corpus) else None


def _prepared(loaded: Loaded, given: Sequence[Path], work: Path) -> tuple[IndexedCorpus, np.ndarray]:
    from blankfill.corpus.options import PrepareConfig
    from blankfill.corpus.prepare import prepare
    from blankfill.corpus.unknown import TooManyUnknownError
    from blankfill.pretraining.data_setup import counts_of

    for path in given:
        if not path.exists():
            raise UserError(f"{setting('text', path)}: there is no such file or folder")
    loaded.tokenizer.save(work)
    file = str((work / "tokenizer.json").absolute())
    options = PrepareConfig(tokenizer=file, vocab_size=0, validation=0.0, workers=1)
    try:
        prepare([str(path) for path in given], work / "text", options)
    except TooManyUnknownError as error:
        raise UserError(f"{error.without_remedy}; or give other text with {setting('text')}") from error
    return IndexedCorpus(work / "text" / "train"), counts_of(work / "text" / "unigram.npy")


def _drawn(loaded: Loaded, work: Path) -> IndexedCorpus:
    """Write documents of ordinary tokens that are drawn at random."""
    tokenizer = loaded.tokenizer
    rng = np.random.Generator(np.random.Philox(key=[0, tokenizer.size]))
    ordinary = np.array([k for k in range(tokenizer.size) if k not in loaded.vocabulary.special], np.int64)
    with IndexedWriter(work / "drawn", token_dtype(tokenizer.size), synced=False) as writer:
        for _ in range(16):
            writer.add_document(rng.choice(ordinary, DRAWN), [16] * (DRAWN // 16))
    return IndexedCorpus(work / "drawn")


def _measured(
    loaded: Loaded, corpus: IndexedCorpus, unigram: np.ndarray | None, count: int, source: str, is_text: bool
) -> tuple[MeasuredText, str]:
    vocabulary, missing = loaded.vocabulary, ""
    rows: list[list[Example]] = []
    if loaded.model.config.lm_head or loaded.model.config.generator_size:
        try:
            rows = _rows(loaded, corpus, unigram, count)
        except UserError as error:  # such as text that is too short, or in which an objective finds no words
            missing = Problem(f"the loss on text: {error.template}")
    starts = corpus.sentence_starts
    pieces = [
        (begin, min(begin + WORDS, starts[k + 1]))
        for k in _spread(len(starts) - 1, 4 * count)
        for begin in range(starts[k], starts[k + 1], WORDS)
    ]
    sentences = []
    for k in _spread(len(pieces), 2 * count):
        ids = corpus.tokens[slice(*pieces[k])]
        if len(ids) > 2 and (text := loaded.tokenizer.decode(ids.tolist()).strip()):
            sentences.append(text)
    pad = vocabulary.roles.get("pad", 0)
    return MeasuredText(source, is_text, rows, [sentences[k] for k in _spread(len(sentences), count)], pad), missing


def _rows(loaded: Loaded, corpus: IndexedCorpus, unigram: np.ndarray | None, count: int) -> list[list[Example]]:
    """Return rows as a validation of the model's objective has them. Raises UserError where it can make none."""
    objective, vocabulary = loaded.objective.for_validation(), loaded.vocabulary
    if objective.needs_words() and vocabulary.word_start is None:
        raise UserError(f"{loaded.path}: the objective masks whole words, and the tokenizer does not show them")
    if unigram is not None and vocabulary.units is None:
        vocabulary = dataclasses.replace(vocabulary, units=units_of(loaded, objective, unigram))
    sampler = Sampler(corpus, objective, vocabulary, VALIDATION_SEED)
    return [sampler.row(k) for k in _spread(sampler.rows_in_epoch(0), count)]


def units_of(loaded: Loaded, objective: Objective, unigram: np.ndarray) -> Callable[[Int32, Bool, Int32], Bool] | None:
    """Return how the units of a text are found that an objective masks whole (ERNIE): phrases and entities, and words
    alone in a text that has no Chinese and no list to find them by. unigram: how often each token is in the text."""
    from blankfill.pretraining.data_setup import with_units

    try:
        return with_units(loaded.tokenizer, objective, unigram).units
    except UserError:
        return _words_alone


def _words_alone(ids: Int32, words: Bool, sentences: Int32) -> Bool:
    """Return words, phrases and entities where every phrase and entity is one word, bool[3, N]."""
    return np.stack([words] * 3)


def _spread(available: int, count: int) -> list[int]:
    """Return some numbers below `available`, evenly spaced."""
    if not available:
        return []
    chosen: list[int] = np.unique(np.linspace(0, available - 1, min(count, available)).astype(int)).tolist()
    return chosen
