"""Reads SentencePiece's `*.model` files (Unigram) into `tokenizers.Tokenizer`, with the ids that transformers gives.

A file alone does not say everything: transformers' tokenizer of a model replaces quotation marks, strips accents and
lower-cases before the file's own normalisation, and adds tokens behind its pieces (`Style`). The style follows the
class that `tokenizer_config.json` names, or the `model_type` of `config.json` beside the file. A file with the pieces
of ChatGLM-6B or GLM-130B follows the rules of `tokenizer_bilingual` instead, whatever lies beside it. The files are
parsed here, so that reading one needs no package; training one does.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blankfill.corpus.limits import MOST_BYTES, MOST_TOKENS
from blankfill.corpus.tokenizer_bilingual import BYTES, KEPT, LAST, OLDER_IMAGES, SPECIAL, bilingual, is_bilingual
from blankfill.corpus.tokenizer_roles import SENTINEL
from blankfill.errors import UserError
from blankfill.system.reading import field, read_bytes, read_json, refuse_stand_in

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class Style:
    r"""What transformers does to a text before the file's own normalisation, and which tokens follow the pieces.

    quotes: whether \`\` and '' become ". lowercase, keep_accents: unless `do_lower_case` or `keep_accents` of
    tokenizer_config.json says otherwise. sentinels: their number, unless `extra_ids` there says otherwise.
    """

    quotes: bool = False
    lowercase: bool = False
    keep_accents: bool = True
    sentinels: int = 0


STYLES: Mapping[str, Style] = {
    "AlbertTokenizer": Style(quotes=True, lowercase=True, keep_accents=False),
    "XLNetTokenizer": Style(quotes=True, keep_accents=False),
    "T5Tokenizer": Style(sentinels=100),
}
"""The styles of transformers' tokenizers, by their classes; a model's is named after its `model_type`."""
_BY_NAME = {name.lower(): style for name, style in STYLES.items()}


def style_beside(path: Path) -> Style:
    """Return the style of the tokenizer that a file belongs to, from the files beside it; plain where there are
    none."""
    file, values = path.parent / "tokenizer_config.json", {}
    if file.is_file():
        values = read_json(file, dict, MOST_BYTES)
    name = str(values.get("tokenizer_class") or "").lower().removesuffix("fast")
    model = path.parent / "config.json"
    if name not in _BY_NAME and model.is_file():
        name = f"{read_json(model, dict, MOST_BYTES).get('model_type')}tokenizer"
    usual = _BY_NAME.get(name, Style())
    count = field(values, "extra_ids", int, file, usual.sentinels) if usual.sentinels else 0
    if not 0 <= count <= MOST_TOKENS:
        raise UserError(f"{file}: `extra_ids` is {count}, which is not the number of T5's sentinels")
    return Style(
        usual.quotes,
        field(values, "do_lower_case", bool, file, usual.lowercase) if usual.quotes else False,
        field(values, "keep_accents", bool, file, usual.keep_accents) if usual.quotes else True,
        count,
    )


# SentencePiece's sentencepiece_model.proto: the fields and piece types that matter here.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "word", 4: "character"}


def read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """Return a Unigram `*.model` of SentencePiece."""
    from tokenizers import AddedToken

    refuse_stand_in(path)
    style = style_beside(path)
    try:
        pieces, kind, charsmap, prefix = parse_sentencepiece(read_bytes(path, MOST_BYTES))
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise UserError(
            f"{path} is not a SentencePiece model, or it is cut short: copy or download it again."
        ) from error
    if kind != 1:
        raise UserError(
            f"{path} is a SentencePiece {_MODEL_TYPES.get(kind, 'unknown')} model and only Unigram ones are read: "
            "convert it to a tokenizer.json (`save_pretrained` of transformers writes one) and give that."
        )
    unknown = [index for index, (_, _, type_) in enumerate(pieces) if type_ == _UNKNOWN]
    if not unknown:
        raise UserError(f"{path} has no unknown piece, which every SentencePiece model has: copy or download it again.")
    if is_bilingual([piece for piece, _, type_ in pieces if type_ == _USER_DEFINED]):
        return _read_bilingual(path, pieces, charsmap)
    tokenizer = unigram(
        [(piece, score) for piece, score, _ in pieces],
        unk_id=unknown[0],
        byte_fallback=any(type_ == _BYTE for _, _, type_ in pieces),
        charsmap=charsmap,
        prefix=prefix,
        style=style,
    )
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece, _, t in pieces if t == _CONTROL])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece, _, t in pieces if t == _USER_DEFINED])
    if not any(piece == SENTINEL.format(0) for piece, _, _ in pieces):
        names = [SENTINEL.format(k) for k in reversed(range(style.sentinels))]
        tokenizer.add_special_tokens([AddedToken(name, normalized=False, lstrip=True, rstrip=True) for name in names])
    return tokenizer


def _read_bilingual(path: Path, pieces: list[tuple[str, float, int]], charsmap: bytes) -> tokenizers.Tokenizer:
    """Return a tokenizer of ChatGLM-6B or GLM-130B."""
    names = [piece for piece, _, _ in pieces]
    older = names[-len(LAST) :] != list(LAST)
    images = OLDER_IMAGES if older else _images_beside(path)
    if older:
        # The original code appends these pieces in memory.
        types = [_CONTROL] * len(SPECIAL) + [_USER_DEFINED] * (len(KEPT) - 1) + [_BYTE] * len(BYTES)
        pieces = [*pieces, *((piece, 0.0, type_) for piece, type_ in zip(LAST, types, strict=True))]
    if repeated := [name for name, count in Counter(piece for piece, _, _ in pieces).items() if count > 1]:
        raise UserError(f"{path} has the piece {repeated[0]!r} twice: copy or download it again.")
    try:
        return bilingual(
            [(piece, score) for piece, score, _ in pieces],
            charsmap=charsmap,
            special=[piece for piece, _, type_ in pieces if type_ == _CONTROL],
            images=images,
        )
    except ValueError as error:
        raise UserError(f"{path} has a table of characters that is cut short: copy or download it again.") from error


def _images_beside(path: Path) -> int:
    """Return `num_image_tokens` of the tokenizer_config.json beside a file, 0 where it says nothing."""
    file = path.parent / "tokenizer_config.json"
    count = field(read_json(file, dict, MOST_BYTES), "num_image_tokens", int, file, 0) if file.is_file() else 0
    if not 0 <= count <= MOST_TOKENS:
        raise UserError(f"{file}: `num_image_tokens` is {count}, and it must lie between 0 and {MOST_TOKENS:,}")
    return count


def unigram(
    pieces: Sequence[tuple[str, float]],
    *,
    unk_id: int,
    byte_fallback: bool,
    charsmap: bytes,
    prefix: bool = True,
    style: Style = Style(),
) -> tokenizers.Tokenizer:
    """Make T5's form of a SentencePiece Unigram model (Kudo 2018): words split at white space, each prefixed with ▁."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    # A score has nine digits at most, few enough for `tokenizers` to read back exactly what it writes.
    rounded = [(piece, round(score, 7)) for piece, score in pieces]
    tokenizer = Tokenizer(models.Unigram(rounded, unk_id, byte_fallback))
    steps: list[normalizers.Normalizer] = []
    if style.quotes:
        steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not style.keep_accents:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if style.lowercase:
        steps.append(normalizers.Lowercase())
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])
    scheme = "always" if prefix else "never"
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    if prefix:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    else:
        tokenizer.pre_tokenizer = metaspace
    join = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), join]) if byte_fallback else join
    return tokenizer


def parse_sentencepiece(data: bytes) -> tuple[list[tuple[str, float, int]], int, bytes, bool]:
    """Parse a `*.model` into (pieces as (text, score, type), model type, compiled normaliser, whether a text begins
    with ▁).

    Raises `ValueError`, `IndexError` or `struct.error` when the bytes are something else.
    """
    pieces: list[tuple[str, float, int]] = []
    kind, charsmap, prefix = 1, b"", True
    for number, value in _fields(data):
        if number == _PIECES:
            piece = dict(_fields(_as_bytes(value)))
            score = struct.unpack("<f", _as_bytes(piece.get(2, bytes(4))))[0]
            if not math.isfinite(score):
                raise ValueError("a score that is not a number")
            pieces.append((_as_bytes(piece[1]).decode("utf-8") if 1 in piece else "", score, int(piece.get(3, 1))))
        elif number == _TRAINER:
            kind = int(dict(_fields(_as_bytes(value))).get(3, 1))
        elif number == _NORMALIZER:
            spec = dict(_fields(_as_bytes(value)))
            charsmap, prefix = _as_bytes(spec.get(2, b"")), bool(spec.get(3, 1))
    if not pieces:
        raise ValueError("no pieces")
    return pieces, kind, charsmap, prefix


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes were due")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of one protocol buffer message: (number, integer or bytes)."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 70:  # a negative number has ten bytes
                raise ValueError("a number of too many digits")
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        wire = key & 7
        if wire == 0:
            yield key >> 3, varint()
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire}")
        length = varint() if wire == 2 else 8 if wire == 1 else 4
        if at + length > len(data):
            raise ValueError("cut short")
        yield key >> 3, data[at : at + length]
        at += length
