"""A tokenizer of ours as llama.cpp reads it from a GGUF file.

llama.cpp has its own code for each kind of tokenizer, and knows those of GPT-2 (byte-level BPE) and BERT (WordPiece).
Every token is in the file with a type. A WordPiece vocabulary is written with a mark before the tokens that begin a
word instead of `##` before those that do not. What the code there has no setting for is an error, or a note where only
rare text is read otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blankfill.corpus.normalization import ACCENT, is_cut, keeps_marks
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_chunks import steps_of
from blankfill.errors import UserError
from blankfill.types import Vocabulary

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of tokens: of text, special, added, and none that text can give."""
BEGINS = "\u2581"
"""Mark before the tokens that begin a word."""
INSIDE = "##"
PREFIX = "tokenizer.ggml."
ROLE_KEYS = {
    "unk": "unknown_token_id", "sep": "seperator_token_id", "pad": "padding_token_id", "cls": "cls_token_id",
    "mask": "mask_token_id",
}  # fmt: skip
"""Keys of special tokens, one of them as the format spells it."""


@dataclass(frozen=True)
class Frame:
    """The special tokens around a text. first, last: ids; None for none. end: the id that ends a text."""

    first: int | None = None
    last: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class GgufTokenizer:
    """The values of a tokenizer by key, and sentences on text that llama.cpp reads otherwise."""

    values: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())


def tokenizer_values(
    tokenizer: Tokenizer, vocabulary: Vocabulary, rows: int, frame: Frame, causal: bool, where: object
) -> GgufTokenizer:
    """Return a tokenizer as llama.cpp reads it.

    rows: of the model's word table, which may be more than there are tokens. frame: the special tokens around a text.
    causal: whether the model continues texts. where: the model, for sentences.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    spec = json.loads(tokenizer.files()["tokenizer.json"])
    kind = spec["model"]["type"]
    if kind == "BPE":
        values, notes = _byte_bpe(spec, where)
    elif kind == "WordPiece" and not causal:
        values, notes = _wordpiece(spec, where)
    elif kind == "WordPiece":
        raise UserError(
            f"{where} cannot be written as GGUF: llama.cpp puts [SEP] behind every prompt of a WordPiece tokenizer, so "
            "the model would continue a closed text; train it with a tokenizer of the kind bpe"
        )
    else:
        raise UserError(
            f"{where} cannot be written as GGUF: its tokenizer is of the kind {kind}, and byte-level BPE and WordPiece "
            "can be written"
        )
    names, types = _tokens(tokenizer, spec, rows)
    if kind == "WordPiece":
        names = [_marked(name, id, type) for id, (name, type) in enumerate(zip(names, types, strict=True))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where} cannot be written as GGUF: two of its tokens would be {twice!r} there")
    values |= {"tokens": names, "token_type": types, **_special(vocabulary, frame)}
    return GgufTokenizer({PREFIX + name: value for name, value in values.items()}, (*notes, *_added_notes(spec)))


def _tokens(tokenizer: Tokenizer, spec: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Return the names of the tokens by id, and their types. Rows of the table without a token get a name of their
    own."""
    named = {id: name for name, id in spec["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in spec["added_tokens"]}
    special = {id: name for name, id in tokenizer.special_tokens.items()}
    known = {*named.values(), *added.values()}
    names, types = [], []
    for id in range(max(rows, tokenizer.size)):
        name = special.get(id, added.get(id, named.get(id)))
        if name is None:
            name = f"[PAD{id}]"
            while name in known:
                name = f"[{name}]"
        names.append(name)
        unknown = id not in special and id not in added and id not in named
        types.append(CONTROL if id in special else USER_DEFINED if id in added else UNUSED if unknown else NORMAL)
    return names, types


def _marked(name: str, id: int, type: int) -> str:
    """Return the name of a token of WordPiece with the mark of llama.cpp."""
    if type != NORMAL:
        return name
    if not name.startswith(INSIDE) or name == INSIDE:
        return BEGINS + name
    # a token that is the mark itself would be taken for the beginning of every word
    return name[len(INSIDE) :] if name != INSIDE + BEGINS else f"[no word {id}]"


def _special(vocabulary: Vocabulary, frame: Frame) -> dict[str, Any]:
    """Return the ids of special tokens by key, and which of them llama.cpp adds to a text."""
    values: dict[str, Any] = {
        key: vocabulary.roles[role] for role, key in ROLE_KEYS.items() if role in vocabulary.roles
    }
    begin = frame.first if frame.first is not None else frame.end
    end = frame.last if frame.last is not None else frame.end
    if begin is not None:
        values["bos_token_id"] = begin
    if end is not None:
        values["eos_token_id"] = end
    if frame.last is not None:
        values["seperator_token_id"] = frame.last
    return values | {"add_bos_token": frame.first is not None, "add_eos_token": frame.last is not None}


def _byte_bpe(spec: Mapping[str, Any], where: object) -> tuple[dict[str, Any], list[str]]:
    model, notes = spec["model"], []
    refused = [name for name in ("ignore_merges", "byte_fallback", "unk_token", "continuing_subword_prefix",
                                 "end_of_word_suffix") if model.get(name)]  # fmt: skip
    before = steps_of(spec["pre_tokenizer"], "pretokenizers")
    plain = [step["type"] for step in before] == ["ByteLevel"] and before[0].get("use_regex", True)
    if refused or not plain or before[0].get("add_prefix_space"):
        setting = refused[0] if refused else "rules that cut a text" if not plain else "add_prefix_space"
        raise UserError(
            f"{where} cannot be written as GGUF: its BPE tokenizer is not of GPT-2's kind ({setting}), and that is the "
            "one that can be written"
        )
    for step in steps_of(spec["normalizer"], "normalizers"):
        if step["type"] != "NFC":
            raise UserError(
                f"{where} cannot be written as GGUF: its tokenizer changes text ({step['type']}) before it cuts it, "
                "and llama.cpp's BPE does not"
            )
        notes.append("llama.cpp does not bring text into NFC, as this tokenizer does: bring it into NFC yourself")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"model": "gpt2", "pre": "gpt-2", "merges": merges}, notes


def _wordpiece(spec: Mapping[str, Any], where: object) -> tuple[dict[str, Any], list[str]]:
    model, notes = spec["model"], []
    steps = steps_of(spec["normalizer"], "normalizers")
    before = steps_of(spec["pre_tokenizer"], "pretokenizers")
    fold = [step for step in steps if step["type"] == "BertNormalizer"]
    own = keeps_marks(steps)
    cut = is_cut(before)
    usual = model.get("continuing_subword_prefix", INSIDE) == INSIDE and before[:1] and len(fold) == 1
    usual = usual and before[0]["type"] == "BertPreTokenizer" and (len(before) == 1 or cut)
    if not usual or not (own or len(steps) == 1) or not fold[0].get("handle_chinese_chars", True):
        raise UserError(
            f"{where} cannot be written as GGUF: its WordPiece tokenizer cleans or cuts text otherwise than BERT's, "
            "and llama.cpp has BERT's alone"
        )
    lowercase = bool(fold[0]["lowercase"])
    strip = lowercase if fold[0].get("strip_accents") is None else bool(fold[0]["strip_accents"])
    if own:
        strip = any(step.get("pattern") == {"Regex": ACCENT} for step in steps)
        notes.append(
            "this tokenizer brings text into NFC"
            + (", takes accents off Latin letters alone" if strip else "")
            + (" and cuts long words of scripts without spaces" if cut else "")
            + "; llama.cpp does not, so it reads such text otherwise"
        )
    if not lowercase:
        notes.append("older versions of llama.cpp do not know this setting and lower-case all text")
    values = {"model": "bert", "pre": "default", "normalizer.lowercase": lowercase, "normalizer.strip_accents": strip}
    return values, notes


def _added_notes(spec: Mapping[str, Any]) -> Sequence[str]:
    added = [token["content"] for token in spec["added_tokens"] if not token["special"] and token["single_word"]]
    if not added:
        return ()
    more = f" and {len(added) - 1} more" if len(added) > 1 else ""
    return (f"llama.cpp also finds the added token {added[0]!r}{more} inside of longer words, as written",)
