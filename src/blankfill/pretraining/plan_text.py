"""The text of a planned run: a prepared corpus as it is, or random rows in place of text that is not prepared yet.

Not here: estimates (`planning`), and how they make a plan (`pretraining.plan`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blankfill.config.recipe import Recipe
from blankfill.corpus.folder import is_prepared
from blankfill.errors import UserError

if TYPE_CHECKING:
    from blankfill.data.sampler import Sampler
    from blankfill.pretraining.teacher import Teacher
    from blankfill.types import Vocabulary

BYTES_PER_TOKEN = 4
"""Bytes of a token of text that is not prepared yet; prepared English and Chinese had 3 to 5."""


@dataclass(frozen=True)
class PlannedText:
    """The text of a planned run.

    description: for the user. samplers: one for each phase. counts: int64[V], occurrences of each id. tokens: of the
    training text, None without text. exact: whether the tokens were counted, and not estimated from sizes of files.
    rows: in an epoch, None when unknown. valid_rows: of the validation set, None when unknown. disk: bytes of the token
    files.
    """

    description: str
    samplers: list[Sampler]
    vocabulary: Vocabulary
    counts: np.ndarray | None = None
    tokens: int | None = None
    exact: bool = False
    rows: int | None = None
    valid_rows: int | None = None
    disk: int = 0


def open_text(paths: Sequence[str | Path], recipe: Recipe, work: Path, teacher: Teacher | None = None) -> PlannedText:
    """Open a prepared corpus, or make random rows for text of the same size in the folder `work`."""
    from blankfill.pretraining import data_setup

    if len(paths) == 1 and is_prepared(Path(paths[0])):
        own = teacher.tokenizer if teacher else None
        corpus = data_setup.open_corpus(paths, recipe, work, own, (own,) if own else ())
        phases = data_setup.phases(corpus, recipe)
        valid, size = phases[-1].valid, len(corpus.train.tokens)
        return PlannedText(
            f"{corpus.folder}: {size:,} training tokens, vocabulary {corpus.vocabulary.size:,}",
            [phase.new for phase in phases], corpus.vocabulary, corpus.unigram, size, True,
            phases[-1].train.rows_in_epoch(0), valid.rows_in_epoch(0) if valid is not None else 0,
            sum(path.stat().st_size for path in corpus.folder.glob("*.bin")),
        )  # fmt: skip
    bytes_of_text = source_bytes(paths, recipe) if paths else None
    vocabulary = teacher.loaded.vocabulary if teacher else expected_vocabulary(recipe, bytes_of_text)
    samplers = random_rows(recipe, vocabulary, work)
    if bytes_of_text is None:
        return PlannedText(f"no text; random rows, vocabulary {vocabulary.size:,}", samplers, vocabulary)
    tokens = bytes_of_text // BYTES_PER_TOKEN
    return PlannedText(
        f"{bytes_of_text:,} bytes of text, not prepared yet; very roughly {tokens:,} tokens (at {BYTES_PER_TOKEN} "
        f"bytes each), vocabulary {vocabulary.size:,}",
        samplers, vocabulary, tokens=tokens, disk=tokens * (2 if vocabulary.size < 1 << 16 else 4),
    )  # fmt: skip


def source_bytes(paths: Sequence[str | Path], recipe: Recipe) -> int:
    """Return the size of the text at these paths, as far as it is known without reading it."""
    from blankfill.corpus.inputs import EXPANSION
    from blankfill.corpus.sources import HEAD_BYTES, SourceOptions, discover

    if "-" in paths:
        raise UserError("plan cannot read standard input; give files, or a folder made by `blankfill prepare`")
    corpus = recipe.corpus
    options = SourceOptions(documents=corpus.documents, strip=corpus.strip, **vars(corpus.table_options()))
    sources = discover([str(path) for path in paths], options, most_bytes=HEAD_BYTES)
    return int(sum(source.size * (EXPANSION if source.compression else 1) for source in sources))


def expected_vocabulary(recipe: Recipe, size: int | None) -> Vocabulary:
    """Return the vocabulary of a run: that of the recipe's tokenizer, or a made-up one of the size in the recipe.

    size: bytes of the text, from which the size of the vocabulary follows where the recipe says none.
    """
    from blankfill.corpus.options import KINDS
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.corpus.tokenizer_train import LARGEST_AUTOMATIC, automatic_size
    from blankfill.types import ROLES, Vocabulary

    if recipe.corpus.tokenizer not in KINDS:
        tokenizer = Tokenizer.load(Path(recipe.corpus.tokenizer))
        return tokenizer.with_roles(recipe.objective.roles, recipe.objective.sentinels()).vocabulary()
    wanted = recipe.corpus.vocab_size or (LARGEST_AUTOMATIC if size is None else automatic_size(size))
    count = max(wanted, 2 * len(ROLES))
    roles = {role: number for number, role in enumerate(ROLES)}
    total = count + recipe.objective.sentinels()
    sentinels = tuple(reversed(range(count, total)))
    special = frozenset([*roles.values(), *sentinels])
    return Vocabulary(total, roles, special, np.ones(total, np.bool_), sentinels=sentinels)


def random_rows(recipe: Recipe, vocabulary: Vocabulary, folder: Path) -> list[Sampler]:
    """Return rows of random text: documents of 100 to 1,500 tokens in sentences of 5 to 45, drawn uniformly."""
    from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter
    from blankfill.data.sampler import Sampler
    from blankfill.planning.estimate import SAMPLED_ROWS

    options, objective = recipe.train, recipe.objective
    rng = np.random.default_rng(recipe.seed)
    ordinary = np.setdiff1d(np.arange(vocabulary.size), list(vocabulary.special))
    with IndexedWriter(folder / "train", np.uint16 if vocabulary.size < 1 << 16 else np.int32) as writer:
        written = 0
        while written < 2 * SAMPLED_ROWS * objective.length:
            sentences = rng.integers(5, 46, int(rng.integers(4, 60))).tolist()
            writer.add_document(rng.choice(ordinary, sum(sentences)), sentences)
            written += sum(sentences)
    corpus = IndexedCorpus(folder / "train")
    lengths = [options.phase1_length, objective.length] if options.long_from else [objective.length]
    return [Sampler(corpus, dataclasses.replace(objective, length=n), vocabulary, recipe.seed) for n in lengths]
