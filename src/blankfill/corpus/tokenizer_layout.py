"""The two layouts of ChatGLM-6B's vocabulary, and the `ice_text.model` of a tokenizer of its kind.

The slim layout, from 2023-04-06 on, has the ids of text from 0. In that of the first release and of GLM-130B they begin
behind 20,000 ids of image tokens. A model and a tokenizer of different layouts fit each other by size alone, and then
every id means another token; so `check_layout` compares them before a model is built.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tokenizer_bilingual import BYTES, IMAGE, KEPT, OLDER_IMAGES, Rules
from blankfill.errors import UserError

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer

_NAMES = {0: "the slim layout", OLDER_IMAGES: "the layout of the first release"}


def check_layout(tokenizer: Tokenizer, vocab_size: int, ids: Mapping[str, int], where: str) -> None:
    """Raise UserError when a model of ChatGLM's kind and a tokenizer are of different layouts.

    Args:
        tokenizer: the tokenizer.
        vocab_size: number of rows of the model's word table.
        ids: ids that the model's files name, by role, such as "gmask".
        where: the file that says so, such as a config.json.

    Raises:
        UserError: with both layouts and the remedy.
    """
    images = images_of(tokenizer)
    roles = tokenizer.vocabulary().roles
    shifts = {ids[role] - roles[role] for role in ids if role in roles}
    if tokenizer.size <= vocab_size and not shifts - {0}:
        # A table with room for 20,000 rows more than the tokenizer has ids is the older one.
        if images or vocab_size - tokenizer.size < OLDER_IMAGES:
            return
        shifts = {OLDER_IMAGES}
    ours = f"{_NAMES.get(images, f'a layout with {images:,} image tokens')} ({tokenizer.size:,} ids)"
    size = f"vocab_size is {vocab_size:,}"
    if shifts == {OLDER_IMAGES} or (not images and vocab_size - tokenizer.size >= OLDER_IMAGES):
        raise UserError(
            f"{where} is of {_NAMES[OLDER_IMAGES]} ({size}: ids of text begin behind {OLDER_IMAGES:,} image tokens), "
            f"and the tokenizer beside it is of {ours}: put the ice_text.model of the first release there (130,000 "
            f'pieces), or write "num_image_tokens": {OLDER_IMAGES} into its tokenizer_config.json.'
        )
    if images == OLDER_IMAGES and (shifts == {-OLDER_IMAGES} or vocab_size < tokenizer.size):
        raise UserError(
            f"{where} is of {_NAMES[0]} ({size}: ids of text begin at 0), and the tokenizer beside it is of {ours}: "
            'put the slim ice_text.model there (130,344 pieces), and "num_image_tokens": 0 into its '
            "tokenizer_config.json."
        )
    if vocab_size < tokenizer.size:
        raise UserError(
            f"{where}: {size}, and the tokenizer beside it has {tokenizer.size:,} ids: give the tokenizer of this "
            "model."
        )
    role = next(role for role in ids if role in roles and ids[role] != roles[role])
    raise UserError(
        f"{where} gives {tokenizer.token(roles[role])} the id {ids[role]:,}, and the tokenizer beside it "
        f"{roles[role]:,}: give the tokenizer of this model."
    )


def images_of(tokenizer: Tokenizer) -> int:
    """Return how many ids of image tokens stand before those of text."""
    count = 0
    while count < tokenizer.size and (name := _name(tokenizer, count)) is not None and IMAGE.fullmatch(name):
        count += 1
    return count


def without_images(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer without the ids of image tokens; all others are smaller by their number."""
    import tokenizers

    from blankfill.corpus.tokenizer import Tokenizer

    images = images_of(tokenizer)
    if not images:
        return tokenizer
    spec = json.loads(tokenizer.files()["tokenizer.json"])
    spec["model"]["vocab"] = spec["model"]["vocab"][images:]
    spec["model"]["unk_id"] -= images
    for token in spec["added_tokens"]:
        token["id"] -= images
    spec["post_processor"] = None  # it names ids
    spec["decoder"]["decoders"] = [step for step in spec["decoder"]["decoders"] if "image" not in str(step)]
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)))


def _name(tokenizer: Tokenizer, id: int) -> str | None:
    try:
        return tokenizer.token(id)
    except IndexError:
        return None


def sentencepiece_file(tokenizer: Tokenizer) -> bytes | None:
    """Return a tokenizer of ChatGLM's kind as an `ice_text.model`, which SentencePiece and the original code read; None
    for other kinds. Image tokens are no pieces: the original adds `num_image_tokens` of its tokenizer_config.json."""
    spec = json.loads(tokenizer.files()["tokenizer.json"])
    rules = Rules.of(spec)
    if rules is None:
        return None
    special = {token["content"] for token in spec["added_tokens"] if token["special"]}
    types: dict[str, int] = dict.fromkeys(special, 3) | dict.fromkeys(KEPT, 4) | dict.fromkeys(BYTES, 6) | {"<unk>": 2}
    vocab = spec["model"]["vocab"]
    vocab += [[token["content"], 0.0] for token in spec["added_tokens"] if token["id"] >= len(vocab)]
    pieces = [(piece, score) for piece, score in vocab if not IMAGE.fullmatch(piece)]
    out = bytearray()
    for piece, score in pieces:
        kind = types.get(piece, 1)
        values: dict[int, Any] = {1: piece.encode(), 2: 0.0 if kind > 1 else score}
        out += _message({1: _message(values | ({3: kind} if kind > 1 else {}))})
    trainer = {3: 1, 4: len(pieces), 35: 1, 40: 0, 41: 1, 42: 2, 43: 3}
    normalizer = {1: b"nmt_nfkc", 2: rules.charsmap, 3: 1, 4: 1, 5: 1}
    return bytes(out + _message({2: _message(trainer), 3: _message(normalizer)}))


def _message(values: Mapping[int, Any]) -> bytes:
    """Return a message of protocol buffers: whole numbers, floats and bytes, by the number of their field."""
    out = bytearray()
    for number, value in values.items():
        if isinstance(value, bytes):
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
        elif isinstance(value, float):
            out += _varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            out += _varint(number << 3) + _varint(value)
    return bytes(out)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
