"""Cuts text into parts whose ids a tokenizer may cache, so that encoding a corpus costs look-ups instead of searches.

`tokenizers` encodes every word of a corpus again. `Tokenizer.encode_plain` caches the ids of *chunks*, which no step of
the pipeline can join:

* BERT: what lies between two spaces or Chinese characters (its normaliser puts spaces around those, and a space
  survives every later step), also where marks are kept and runs are cut (`normalization`);
* GPT-2: a word with the one space before it, where all white space is single spaces;
* T5: what lies between spaces, where no character could join with a space, as a combining mark could;
* ChatGLM: what lies between two ▁ after the steps of `tokenizer_bilingual`, which are taken there.

A new chunk of plain letters and marks is put together from its *pieces*, most of which are known. Whatever does not fit
these conditions is encoded whole. Tests compare the outcome with the library's on arbitrary Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from blankfill.corpus.normalization import is_cut, keeps_marks
from blankfill.corpus.scripts import LONG_WORD
from blankfill.corpus.tokenizer_bilingual import Rules

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_BERT_CHUNK = re.compile(rf"[{_HAN}]|[^ {_HAN}]+")
_BERT_SIMPLE = re.compile(r"[!-~‘’“”–—…]+")
_BERT_PIECE = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]")
_GPT2_PIECE = re.compile(r"'(?:[stmd]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^ A-Za-z0-9]+| ")
_PLAIN = re.compile(r"[ -~¡-ɏ‐-‟…]*")
"""Characters that no normaliser joins with the space before them, as it could a combining mark."""


class Chunking(NamedTuple):
    """How `encode_plain` cuts a text for one kind of tokenizer."""

    chunks: Callable[[str], list[str] | None]
    """Text → the chunks that may be encoded separately, or None when the text must be encoded whole."""
    pieces: Callable[[str], list[str]]
    """A chunk → the pieces that may be encoded separately."""
    spelling: Callable[[str], str | None]
    """A piece → its spelling for the model, or None when the whole pipeline must run (which costs five times as
    much)."""
    rules: Rules | None = None
    """The steps before the model, where they are taken outside `tokenizers`."""


def chunking_of(spec: dict[str, Any]) -> Chunking:
    """Return how to cut text for a tokenizer. spec: its tokenizer.json (the vocabulary may be left out)."""
    model, normalizer, splitter = spec["model"], spec["normalizer"], spec["pre_tokenizer"]
    steps = steps_of(splitter, "pretokenizers")
    rules = steps_of(normalizer, "normalizers")
    types = [step["type"] for step in steps]
    names = [rule["type"] for rule in rules]
    if around := Rules.of(spec):
        return Chunking(around.chunks, _one, _as_it_is, around)
    if any(not token["special"] for token in spec["added_tokens"]):
        return Chunking(_whole, _one, _ask)
    bert = next((rule for rule in rules if rule["type"] == "BertNormalizer"), None)
    words = types == ["BertPreTokenizer"] or (types == ["BertPreTokenizer", "Split"] and is_cut(steps))
    if bert and words and (names == ["BertNormalizer"] or keeps_marks(rules)) and model["type"] == "WordPiece":
        by_character = bert_chunks if bert["handle_chinese_chars"] else _bert_chunks_by_space
        return Chunking(by_character, _bert_pieces, _bert_lower if bert["lowercase"] else _bert_as_it_is)
    if model["type"] == "BPE" and types == ["ByteLevel"] and steps[0].get("use_regex", True):
        if names not in ([], ["Lowercase"]):
            return Chunking(_whole, _one, _ask)
        if steps[0]["add_prefix_space"]:
            return Chunking(_gpt2_chunks, _one, _ask)
        return Chunking(_gpt2_chunks, _gpt2_pieces, _gpt2_lower if names else _gpt2_as_it_is)
    if types == ["WhitespaceSplit", "Metaspace"] and steps[1]["prepend_scheme"] == "always":
        harmless = all(
            rule["type"] in ("Precompiled", "Lowercase", "NFKC", "NFC", "Strip")
            or (rule["type"] == "Replace" and rule["pattern"] == {"Regex": " {2,}"} and rule["content"] == " ")
            for rule in rules
        )
        return Chunking(_t5_chunks if harmless else _whole, _one, _ask)
    return Chunking(_whole, _one, _ask)


def steps_of(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer, pre-tokenizer or decoder, whether it is a single step or a sequence."""
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


def _whole(text: str) -> None:
    return None


def _one(chunk: str) -> list[str]:
    return [chunk]


def _ask(piece: str) -> None:
    return None


def _as_it_is(piece: str) -> str:
    return piece


def bert_chunks(text: str) -> list[str]:
    """Return the pieces of text that BERT's normaliser and pre-tokenizer treat independently; see the top of this
    file."""
    if "\n" in text:
        text = text.replace("\n", " ")
    return text.split(" ") if text.isascii() else _BERT_CHUNK.findall(text)


def _bert_chunks_by_space(text: str) -> list[str]:
    return text.replace("\n", " ").split(" ")


def _bert_pieces(chunk: str) -> list[str]:
    return _BERT_PIECE.findall(chunk) if _BERT_SIMPLE.fullmatch(chunk) else [chunk]


def _bert_lower(piece: str) -> str | None:
    return piece.lower() if piece.isascii() and piece.isalnum() and len(piece) <= LONG_WORD else None


def _bert_as_it_is(piece: str) -> str | None:
    return piece if piece.isascii() and piece.isalnum() and len(piece) <= LONG_WORD else None


def _gpt2_chunks(text: str) -> list[str] | None:
    # `prepare` puts the space or the line end between two sentences before the second.
    lead = text[:1] if text.startswith((" ", "\n")) else ""
    body = text[len(lead) :]
    words = body.split()
    # Long chunks (Chinese has no spaces) seldom occur again.
    if 12 * len(words) < len(text) or " ".join(words) != body:
        return None
    chunks = body.replace(" ", "\n ").split("\n")
    chunks[0] = lead + chunks[0]
    return chunks


def _gpt2_pieces(chunk: str) -> list[str]:
    return _GPT2_PIECE.findall(chunk) if chunk.isascii() and chunk.isprintable() else [chunk]


def _gpt2_as_it_is(piece: str) -> str | None:
    # GPT-2 writes a space as Ġ and visible ASCII as itself.
    return piece.replace(" ", "Ġ") if piece.isascii() and piece.isprintable() else None


def _gpt2_lower(piece: str) -> str | None:
    return _gpt2_as_it_is(piece.lower())


def _t5_chunks(text: str) -> list[str] | None:
    return text.split(" ") if _PLAIN.fullmatch(text) else None
