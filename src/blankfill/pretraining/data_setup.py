"""The data of a run: an opened corpus, its rows by phase, the validation rows, and the unigram baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blankfill.config.recipe import Recipe
from blankfill.corpus.folder import is_prepared
from blankfill.corpus.identity import prepared_marks
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.unknown import check_counts
from blankfill.corpus.words import Units, phrase_units, word_units
from blankfill.data.interleave import Interleaved, Share
from blankfill.data.sampler import VALIDATION_SEED, Sampler
from blankfill.errors import ConfigError, UserError, setting, within
from blankfill.objectives import Objective
from blankfill.planning.estimate import micro_rows
from blankfill.prompts.rows import PromptedRows
from blankfill.prompts.sets import read_sets
from blankfill.system.console import say
from blankfill.system.marks import Mark
from blankfill.system.reading import read_array
from blankfill.types import Vocabulary

if TYPE_CHECKING:
    from blankfill.types import Batch

BASELINE_ROWS = 512


@dataclass(frozen=True)
class Corpus:
    """An opened corpus: token files, tokenizer with the roles that an objective needs, unigram counts."""

    folder: Path
    train: IndexedCorpus
    valid: IndexedCorpus | None
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    unigram: np.ndarray
    marks: Mapping[str, Mark] = field(default_factory=dict)
    """Marks of the corpus files, by name."""


def prepared_in(paths: Sequence[str | Path], work: Path) -> Path:
    """Return the folder with the token files of these paths: the prepared folder if they name one, else `work`."""
    return Path(paths[0]) if len(paths) == 1 and is_prepared(Path(paths[0])) else work


def open_corpus(
    paths: Sequence[str | Path],
    recipe: Recipe,
    work: Path,
    tokenizer: Tokenizer | None = None,
    accepted: Sequence[Tokenizer] = (),
) -> Corpus:
    """Open a prepared folder, or prepare text (by default the embedded `python-docs`) in `work` and open it.

    tokenizer: the tokenizer of a model that is trained further, which is saved beside `work`; None: that of the corpus.
    accepted: tokenizers that a prepared folder may have been made with; UserError for any other, and for a folder that
    was changed since it was prepared.
    """
    folder = prepared_in(paths, work)
    if folder is work:
        options = recipe.corpus
        if tokenizer is not None:
            tokenizer.save(work.parent)
            file = str((work.parent / "tokenizer.json").absolute())
            options = dataclasses.replace(options, tokenizer=file, vocab_size=0, lowercase=None, strip_accents=None)
        try:
            report = prepare([str(path) for path in paths] or ["python-docs"], work, options)
        except UserError as error:
            raise in_recipe_terms(error) from error
        if not report.reused:
            dataclasses.replace(report, notices=tuple(map(in_section, report.notices))).say_sources()
    marks = prepared_marks(folder)
    if (
        folder is not work
        and accepted
        and not any(Tokenizer.load(folder).reads_like(candidate) for candidate in accepted)
    ):
        raise UserError(
            f"{folder} was prepared with another tokenizer than the model's (new words count too); give the text "
            f"itself, or prepare it again with {setting('tokenizer')} and the model's folder"
        )
    unigram = counts_of(folder / "unigram.npy")
    if tokenizer is not None:
        try:
            check_counts(tokenizer, unigram, f"the text in {folder}", recipe.corpus.allow_unknown)
        except UserError as error:
            raise in_recipe_terms(error) from error
    tokenizer = tokenizer or Tokenizer.load(folder)
    needed = recipe.objective.roles, recipe.objective.sentinels()
    if lacking := tokenizer.vocabulary().missing(*needed):
        say(f"the tokenizer has no token for {', '.join(lacking)}; added at the end of the vocabulary")
        tokenizer = tokenizer.with_roles(*needed)
    valid = folder / "valid"
    return Corpus(
        folder,
        IndexedCorpus(folder / "train"),
        IndexedCorpus(valid) if valid.with_suffix(".idx").exists() else None,
        tokenizer,
        with_units(tokenizer, recipe.objective, unigram),
        unigram,
        marks,
    )


def counts_of(path: Path) -> np.ndarray:
    """Read the number of occurrences of each id in a prepared text, int64[V]. Raises UserError for a damaged file."""
    counts = read_array(path, "iu", 1).astype(np.int64)
    if not len(counts) or counts.min() < 0 or not 0 < float(counts.sum(dtype=np.float64)) < 2**63:
        raise UserError(f"{path} is damaged: it does not count the tokens of a text; prepare the text again")
    return counts


def with_units(tokenizer: Tokenizer, objective: Objective, unigram: np.ndarray) -> Vocabulary:
    """Return a tokenizer's vocabulary with the functions that find the words and larger units that an objective masks
    whole.

    unigram: int64[V], number of occurrences of each id in the text. Raises UserError when units cannot be found.
    """
    vocabulary = tokenizer.vocabulary()
    units: Units | None = None
    if kinds := objective.needs_units():
        units = phrase_units(tokenizer, unigram, *objective.unit_files(), kinds)
    elif objective.needs_words() and objective.segments_words and vocabulary.word_start is not None:
        units = word_units(tokenizer, unigram)
    return vocabulary if units is None else dataclasses.replace(vocabulary, units=units)


def in_recipe_terms(error: UserError) -> UserError:
    """Return an error of `prepare` with a recipe's names of its settings: `vocab_size` → `corpus.vocab_size`."""
    if isinstance(error, ConfigError):
        return ConfigError(list(map(in_section, error.problems)))
    return UserError(in_section(error.sentence))


def in_section(sentence: str) -> str:
    """Return a sentence of `prepare` with a recipe's names of its settings."""
    return within("corpus", sentence, [field.name for field in dataclasses.fields(PrepareConfig)])


@dataclass(frozen=True)
class Rows:
    """The rows of one phase of a run. start: first step of the phase; the validation rows are the same in every run."""

    start: int
    train: Sampler | Interleaved
    valid: Sampler | None
    micro: int
    prompted: PromptedRows | None = None
    """The rows of prompted data sets among those of `train`."""

    @property
    def new(self) -> Sampler:
        """Return the rows of the new text, without replayed rows of the old text and those of prompted data sets."""
        rows = self.train
        while isinstance(rows, Interleaved):
            rows = rows.new
        return rows

    def source(self, row: int) -> tuple[Sampler | PromptedRows, int]:
        """Return the rows of the text, or those of prompted data sets, and the number there of a row of the run."""
        if self.prompted is None or not isinstance(self.train, Interleaved):
            return self.new, row
        share = self.train.share
        if share.is_old(row):
            return self.prompted, share.old_before(row)
        return self.new, share.new_before(row)


def phases(corpus: Corpus, recipe: Recipe, old: Corpus | None = None, ratio: float = 0.0) -> list[Rows]:
    """Return the rows of a run by phase: of one length, or shorter ones first (train.phase1_length).

    old: a corpus to replay; ratio: its share of the training rows.
    """
    options, objective = recipe.train, recipe.objective
    if objective.needs_words() and corpus.vocabulary.word_start is None:
        raise UserError(
            f"objective `{objective.name}` masks whole words, which needs a tokenizer that tells where they begin, and "
            f"the one of {corpus.folder} does not; use a wordpiece, bpe, unigram or bilingual tokenizer"
            + (f" or turn {setting('objective.whole_word')} off" if hasattr(objective, "whole_word") else "")
        )
    lengths = [(0, objective.length)]
    if options.long_from:
        lengths = [(0, options.phase1_length), (options.long_from, objective.length)]
    parts = []
    sets = read_sets(recipe.prompts, recipe.seed) if recipe.prompts.share else []
    among = Share(recipe.prompts.share if sets else 0.0)
    for start, length in lengths:
        of_length = dataclasses.replace(objective, length=length)
        cache, begin = corpus.folder / "plans", options.row_schedule.first(start)
        first = among.new_before(begin)
        train: Sampler | Interleaved
        if old is not None and ratio:
            share = Share(ratio)
            new = Sampler(corpus.train, of_length, corpus.vocabulary, recipe.seed, cache, share.new_before(first))
            replayed = Sampler(
                old.train, of_length, corpus.vocabulary, old_seed(recipe.seed), old.folder / "plans",
                share.old_before(first),
            )  # fmt: skip
            train = Interleaved(new, replayed, share, first)
        else:
            train = Sampler(corpus.train, of_length, corpus.vocabulary, recipe.seed, cache, first)
        prompted = None
        if sets:
            prompted = PromptedRows(
                sets, of_length, corpus.tokenizer, corpus.vocabulary, prompt_seed(recipe.seed),
                recipe.prompts.max_length, among.old_before(begin),
            )  # fmt: skip
            train = Interleaved(train, prompted, among, begin)
        valid = None
        if corpus.valid is not None and len(corpus.valid):
            valid = Sampler(corpus.valid, of_length.for_validation(), corpus.vocabulary, VALIDATION_SEED, cache)
        parts.append(Rows(start, train, valid, micro_rows(options, length, objective.length), prompted))
    return parts


def old_seed(seed: int) -> int:
    """Return the seed of replayed rows, which differs so that row k of the old text has other masks than row k of the
    new."""
    return (seed + 2**31) % 2**32


def prompt_seed(seed: int) -> int:
    """Return the seed of the passes over prompted data sets, which differs from those of the text."""
    return (seed + 2**30) % 2**32


def old_validation(old: Corpus, recipe: Recipe, micro: int) -> list[Batch]:
    """Return fixed rows of old text, of full length: from its validation part, else from the text itself, with a
    message."""
    text = old.valid
    if text is None or not len(text):
        say(f"{old.folder}: the old text has no validation part, so its loss is measured on the text that is replayed")
        text = old.train
    valid = Sampler(text, recipe.objective.for_validation(), old.vocabulary, VALIDATION_SEED, old.folder / "plans")
    return validation_batches(valid, recipe.train.eval_rows, micro)


def validation_batches(valid: Sampler | None, rows: int, micro: int) -> list[Batch]:
    """Return the fixed validation rows, spread over the whole validation set, in batches."""
    from blankfill.data.batching import collate

    if valid is None:
        return []
    available = valid.rows_in_epoch(0)
    chosen = np.unique(np.linspace(0, available - 1, min(rows, available)).astype(int)).tolist()
    pad = valid.vocabulary["pad"]
    return [collate([valid.row(i) for i in chosen[k : k + micro]], pad) for k in range(0, len(chosen), micro)]


def target_baseline(corpus: Corpus, train: Sampler, validation: list[Batch]) -> float:
    """Return the unigram baseline of a run, in nats per target."""
    from blankfill.training.baseline import unigram_baseline

    some = np.unique(np.linspace(0, train.rows_in_epoch(0) - 1, BASELINE_ROWS).astype(int)).tolist()
    answers = (example.target_ids for i in some for example in train.row(train.first + i))
    return unigram_baseline(corpus.unigram, answers, (b.target_ids.numpy() for b in validation), corpus.vocabulary)
