"""Trains Unigram vocabularies (Kudo 2018) with SentencePiece: T5's kind, and that of ChatGLM-6B and GLM-130B.

The same text gives the same vocabulary, whatever the machine. Not here: the other kinds (`tokenizer_train`).
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tokenizer_bilingual import FIRST, KEPT, LAST, SPECIAL, bilingual, rewritten
from blankfill.corpus.tokenizer_roles import SPECIAL_TOKENS
from blankfill.corpus.tokenizer_sentencepiece import parse_sentencepiece, unigram
from blankfill.errors import UserError, setting

if TYPE_CHECKING:
    import tokenizers

ALPHABET_SHARE = 0.5
"""Share of the vocabulary that single characters may take."""
_LONGEST_LINE = 4096


def too_small(size: int, least: int) -> UserError:
    """Return the error for a vocabulary that does not hold its alphabet."""
    return UserError(
        f"A vocabulary of {size} tokens is too small: the special tokens and the alphabet alone take {least - 1}; "
        f"give {setting('vocab_size', least)} or more, or 0 to let the text decide."
    )


def too_large(size: int, supported: int) -> UserError:
    """Return the error for a vocabulary that a text does not fill."""
    return UserError(
        f"The text supports a vocabulary of {supported} tokens, not {size}: give {setting('vocab_size', supported)}, "
        "or 0 to let the text decide, or more text."
    )


def train_unigram(
    sentences: Iterable[str], size: int, exact: bool, lowercase: bool, separates: bool
) -> tokenizers.Tokenizer:
    """Return T5's kind of tokenizer.

    size: number of tokens, special ones included. exact: whether a text that supports fewer, or whose characters need
    more, is an error; otherwise the size follows the text. lowercase:
    lower-case the text. separates: whether the text has ZWNJ.
    """
    pad, unk, cls, sep, *others = SPECIAL_TOKENS
    options = {
        "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "pad_piece": pad, "unk_piece": unk, "bos_piece": cls,
        "eos_piece": sep, "control_symbols": others, "split_digits": False,
    }  # fmt: skip
    lines = [line for sentence in sentences for line in _lines(" ".join(sentence.replace("\0", " ").split()))]
    data = _trained(lines, size, exact, len(SPECIAL_TOKENS) + 256, 0.9995, _rules(lowercase, separates), options)
    pieces, _, charsmap, _ = parse_sentencepiece(data)
    return unigram([(piece, score) for piece, score, _ in pieces], unk_id=1, byte_fallback=True, charsmap=charsmap)


def train_bilingual(
    sentences: Iterable[str], size: int, exact: bool, lowercase: bool, separates: bool
) -> tokenizers.Tokenizer:
    """Return the kind of ChatGLM-6B and GLM-130B, with their settings and order of ids: digits alone, characters that
    make up 0.9999 of the text as pieces and others as bytes, pieces for new lines, tabs and runs of blanks.

    The arguments are those of `train_unigram`. A small vocabulary has fewer single characters as pieces.
    """
    unk, bos, eos, pad, _ = FIRST
    options = {
        "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3, "unk_piece": unk, "bos_piece": bos, "eos_piece": eos,
        "pad_piece": pad, "control_symbols": list(SPECIAL), "user_defined_symbols": list(KEPT), "split_digits": True,
    }  # fmt: skip
    lines = [line for sentence in sentences for line in _lines(rewritten(sentence.replace("\0", " ")))]
    data = _trained(lines, size, exact, len(FIRST) + len(LAST), 0.9999, _rules(lowercase, separates), options)
    pieces, _, charsmap, _ = parse_sentencepiece(data)
    scores = {piece: score for piece, score, _ in pieces}
    fixed = {*FIRST, *LAST}
    learned = [piece for piece, _, _ in pieces if piece not in fixed]
    ordered = [(piece, scores[piece]) for piece in (*FIRST, *learned, *LAST)]
    return bilingual(ordered, charsmap=charsmap, special=[*FIRST[1:4], *SPECIAL])


def _rules(lowercase: bool, separates: bool) -> str:
    """Return the name of SentencePiece's normalisation. The rules of "nmt" turn ZWNJ, which Persian and scripts of
    India are spelt with, into a space."""
    return "nmt_" * (not separates) + "nfkc" + "_cf" * lowercase


def _trained(
    lines: list[str], size: int, exact: bool, fixed: int, cover: float, rules: str, options: dict[str, Any]
) -> bytes:
    """Return a model of SentencePiece.

    fixed: tokens that no text decides. cover: share of the text that single characters spell where they take no more
    than ALPHABET_SHARE of the rest. rules: of normalisation.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            "Training a Unigram tokenizer needs SentencePiece: run `pip install 'blankfill[sp]'`, "
            "or choose wordpiece or bpe."
        ) from error
    characters: Counter[str] = Counter()
    for line in lines:
        characters.update(line)
    if size <= fixed:
        raise too_small(size, fixed + 1)
    ranked = sorted(characters.values(), reverse=True)
    coverage = sum(ranked[: int(ALPHABET_SHARE * (size - fixed))]) / sum(ranked)

    def train(vocab_size: int) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type="unigram", vocab_size=vocab_size,
            byte_fallback=True, character_coverage=max(0.98, min(cover, coverage)), normalization_rule_name=rules,
            max_sentence_length=8 * _LONGEST_LINE, minloglevel=2,
            # Sums are taken per thread, so the result depends on the number of threads.
            num_threads=2, **options,
        )  # fmt: skip
        return model.getvalue()

    wanted = size
    while True:
        try:
            return train(size)
        except (RuntimeError, OSError) as error:
            message = str(error)
            if limit := re.search(r"Vocabulary size too high.*<= (\d+)", message):
                if exact or int(limit[1]) >= size:
                    raise too_large(wanted, int(limit[1])) from error
                size = int(limit[1])
            elif limit := re.search(r"smaller than required_chars\D+(\d+) vs (\d+)", message):
                least = int(limit[2]) + 1
                if exact or size > wanted:
                    raise too_small(wanted, least) from error
                size = max(least, 2 * least - fixed)  # as many pieces of several characters as of one
            else:
                sentence = f"SentencePiece cannot train on this text ({message.strip()}): give more text."
                raise UserError(sentence) from error


def _lines(text: str) -> Iterator[str]:
    """Yield a text, without line feeds or NUL, as lines that SentencePiece accepts: it leaves out long ones."""
    for start in range(0, len(text), _LONGEST_LINE):
        yield text[start : start + _LONGEST_LINE]
