"""A sentence of the user as a training example of any objective: the functions behind `blankfill show --text`.

The sentence is one document, cut and framed as in training; the blanks are drawn by the seed and a number. Not here:
rows of a run (`show`), pictures (`report`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from blankfill.corpus.sentences import split_sentences
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_roles import ROLE_TOKENS
from blankfill.data.sampler import row_generator, words_and_units
from blankfill.errors import UserError, setting
from blankfill.families import FAMILIES
from blankfill.objectives import Objective
from blankfill.pretraining.data_setup import with_units
from blankfill.pretraining.show import ShownRow, further_columns
from blankfill.types import Document, Int32, Vocabulary

FEWEST = 3
"""Number of tokens of a text below which some objectives have nothing to hide."""
UNSPACED = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Hiragana}\p{Katakana}\p{Han}\p{Tibetan}]\p{M}*"
"""A character of a script without spaces between words, with its marks, as a regular expression of `tokenizers`."""


def show_text(
    text: str,
    objective: Objective,
    tokenizer: Tokenizer | None = None,
    *,
    seed: int = 0,
    example: int = 0,
    name: str = "",
    family: str = "",
    scheme: str = "",
) -> ShownRow:
    """Return a text as a training example.

    Args:
        text: One or more sentences.
        objective: The objective that hides some of it.
        tokenizer: The tokenizer; None makes one whose tokens are the words of the text (`word_tokenizer`).
        seed: Together with `example`, determines what is hidden.
        example: Number of the draw, from 0.
        name: Name of the recipe for the title; by default that of the objective.
        family: Family of the recipe's model, for the window of its local layers and its position scheme.
        scheme: Position scheme of a model of no family, as in `TransformerConfig`.

    Returns:
        The example, with methods that write it as text, as HTML and as a picture.

    Raises:
        UserError: The text is too short, or the objective needs words that the tokenizer does not mark.
    """
    tokenizer = (tokenizer or word_tokenizer(text)).with_roles(objective.roles, objective.sentinels())
    sentences = [part for line in text.splitlines() for part in split_sentences(line.strip()) if part.strip()]
    ids, lengths = tokenizer.encode_plain(sentences)
    if len(ids) < FEWEST:
        raise UserError(f"{setting('text')} has {len(ids)} tokens; give a sentence of {FEWEST} or more")
    if example < 0:
        raise UserError(f"{setting('example')} is {example}; the draws of blanks are numbered from 0")
    unigram = np.bincount(ids, minlength=tokenizer.size).astype(np.int64)
    notes = []
    try:
        vocabulary = with_units(tokenizer, objective, unigram)
    except UserError:
        kinds = objective.needs_units()
        if not kinds:
            raise
        weights: dict[str, Any] = dict.fromkeys(kinds, 0.0)
        objective = dataclasses.replace(objective, **weights)
        vocabulary = with_units(tokenizer, objective, unigram)
        notes.append(f"no {' and no '.join(kinds)} can be found in this text, so single words are hidden")
    if objective.needs_words() and vocabulary.word_start is None:
        raise UserError(
            f"objective `{objective.name}` hides whole words, and this tokenizer does not tell where they begin; use "
            f"another {setting('tokenizer')}, or leave it out"
        )
    starts = np.append(0, np.cumsum(lengths)).astype(np.int32)
    document = document_of(ids, starts, objective, vocabulary)
    if len(document) < len(ids):
        notes.append(
            f"the text has {len(ids)} tokens, and the first {len(document)} of them fit into a row; a longer row: "
            f"{setting('objective.length')}"
        )
    if unknown := int(unigram[vocabulary.roles["unk"]]) if "unk" in vocabulary.roles else 0:
        notes.append(f"{unknown} of {len(ids)} tokens are unknown to this tokenizer")
    examples = [objective.example(document, vocabulary, row_generator(seed, example))]
    if not len(examples[0].target_ids):
        notes.append(f"nothing is hidden in this draw; another one: {setting('example', example + 1)}")
    return ShownRow(
        title=f"{name or objective.name}, seed {seed}, draw {example}", epoch=0, place=0, rows=0, examples=examples,
        tokenizer=tokenizer, vocabulary=vocabulary, channels=objective.channels,
        window=int(FAMILIES[family].preset.get("window", 0)) if family else 0,
        scheme=str(FAMILIES[family].preset.get("position_scheme", "")) if family else scheme,
        further=further_columns(objective, examples, unigram), objective=objective.name,
        explanation=objective.explanation, notes=tuple(notes),
    )  # fmt: skip


def document_of(ids: Int32, starts: Int32, objective: Objective, vocabulary: Vocabulary) -> Document:
    """Return a text as an objective receives it, cut to the row. starts: int32[S+1], where sentences begin, and the
    end."""
    spec = objective.packing()
    room = max(1, spec.max_tokens - spec.before - spec.after)
    ids = ids[:room].astype(np.int32)
    starts = np.unique(np.append(starts[starts < len(ids)], len(ids))).astype(np.int32)
    words, units = words_and_units(ids, starts, vocabulary) if objective.reads_words() else (None, None)
    document = Document(ids, starts, words, units=units)
    if spec.unit == "pairs":
        inner = starts[1:-1]
        cut = [int(inner[np.abs(inner - len(ids) / 2).argmin()])] if len(inner) else []
        return dataclasses.replace(document, sentences=np.array([0, *cut, len(ids)], np.int32), label=0)
    if spec.merge_chunks:
        return dataclasses.replace(document, parts=np.array([0, len(ids)], np.int32))
    return document


def word_tokenizer(text: str) -> Tokenizer:
    """Return a tokenizer whose tokens are the words and punctuation marks of a text, unchanged; in scripts without
    spaces between words its characters."""
    import tokenizers
    from tokenizers import Regex, models, pre_tokenizers

    cut = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(UNSPACED), "isolated")]
    )
    words = dict.fromkeys(word for word, _ in cut.pre_tokenize_str(text))
    special = dict.fromkeys(tokens[0] for tokens in ROLE_TOKENS.values())
    tokens = [*special, *(word for word in words if word not in special)]
    model = models.WordPiece(
        {token: number for number, token in enumerate(tokens)}, unk_token="[UNK]", max_input_chars_per_word=10_000
    )
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = cut
    return Tokenizer(made)
