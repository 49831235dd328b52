"""Reads the tokenizer files of other programs into `tokenizers.Tokenizer`.

A `tokenizer.json`, BERT's `vocab.txt`, GPT-2's `vocab.json` + `merges.txt`, SentencePiece's `*.model` (Unigram), or a
folder with one of these, and `added_tokens.json` there. SentencePiece files are parsed here, so that reading one needs
no package; training one does.
Not here: the roles of special tokens (`tokenizer`).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.limits import MOST_TOKENS, SPARE_IDS
from blankfill.errors import UserError
from blankfill.system.reading import field, read_bytes, read_text, shown
from blankfill.system.reading import read_json as read_values

if TYPE_CHECKING:
    import tokenizers

MOST_BYTES = 256 << 20
"""Size limit of a tokenizer file; the largest published files have a fifth of it."""
SAID = ("pad", "unk", "cls", "sep", "mask", "eos")
"""Roles that other programs name tokens for."""

STRANGE = "\u16a0\U00012000 \u13a0"
"""Letters that few vocabularies have: a tokenizer whose own unknown token is missing fails on them."""


def read_tokenizer(path: str | Path) -> tokenizers.Tokenizer:
    """Return the tokenizer in a file or folder; raises `UserError` when there is none or it cannot be read."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no tokenizer at {path}: give a tokenizer.json, a vocab.txt or a folder with one.")
    if path.is_dir():
        return _read_folder(path)
    if path.name == "vocab.json" or path.name == "merges.txt":
        return read_byte_bpe(path.parent)
    if path.suffix == ".txt":
        return read_wordpiece(path)
    if path.suffix == ".model":
        return read_sentencepiece(path)
    return read_json(path)


def roles_said(path: Path) -> dict[str, str]:
    """Return the tokens that `tokenizer_config.json` or `special_tokens_map.json` beside a tokenizer names, such as
    `mask_token`, by role; empty where there is neither file."""
    folder = path if path.is_dir() else path.parent
    said: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second file overrides the first
        values = _object(folder / name) if (folder / name).is_file() else {}
        for role in SAID:
            token = values.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                said[role] = token
    return said


def _read_folder(folder: Path) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return read_json(folder / "tokenizer.json")
    if (folder / "vocab.txt").is_file():
        return with_added(read_wordpiece(folder / "vocab.txt"), folder)
    if (folder / "vocab.json").is_file():
        return with_added(read_byte_bpe(folder), folder)
    models = sorted(folder.glob("*.model"))
    if len(models) == 1:
        return with_added(read_sentencepiece(models[0]), folder)
    if models:
        raise UserError(f"{folder} holds {len(models)} SentencePiece models: name the one to use.")
    raise UserError(
        f"{folder} holds no tokenizer: it needs a tokenizer.json, a vocab.txt, a vocab.json with merges.txt, "
        "or a SentencePiece *.model."
    )


def with_added(tokenizer: tokenizers.Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    """Add the tokens of `added_tokens.json`, which transformers saves for ids behind the vocabulary."""
    from tokenizers import AddedToken

    path = folder / "added_tokens.json"
    if not path.is_file():
        return tokenizer
    ids = ids_of(_object(path), path)
    fresh = [name for name in ids if tokenizer.token_to_id(name) is None]
    fresh.sort(key=ids.__getitem__)
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in fresh])
    for name, wanted in ids.items():
        if (id := tokenizer.token_to_id(name)) != wanted:
            raise UserError(
                f"{path} gives {name!r} the id {wanted}, and behind the vocabulary beside it that token has {id}: "
                "the files must come from one tokenizer, or give its tokenizer.json."
            )
    return tokenizer


def read_json(path: Path) -> tokenizers.Tokenizer:
    """Return a `tokenizer.json` with truncation, padding and BPE dropout off, so that encoding is lossless and
    deterministic."""
    import tokenizers

    spec = _object(path)
    if "model" not in spec:
        raise UserError(
            f"{path} is JSON but not a tokenizer: it has no `model`; give the tokenizer.json of a tokenizer."
        )
    _check_ids(_ids_of(spec), path)
    _check_names(spec, path)
    spec["truncation"] = spec["padding"] = None
    if isinstance(spec["model"], dict) and spec["model"].get("dropout"):
        spec["model"]["dropout"] = None
    with library_errors(path):
        made = tokenizers.Tokenizer.from_str(json.dumps(spec))
        made.encode(STRANGE)
    return made


def _ids_of(spec: dict[str, Any]) -> list[Any]:
    """Return the ids in a tokenizer.json; in a list, the index is the id."""
    vocab = spec["model"].get("vocab") if isinstance(spec["model"], dict) else None
    added = spec["added_tokens"] if isinstance(spec.get("added_tokens"), list) else []
    ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab) if isinstance(vocab, list) else 0))
    return ids + [token.get("id") for token in added if isinstance(token, dict)]


def _check_names(spec: dict[str, Any], path: Path) -> None:
    """Raise UserError for an id that two tokens of a tokenizer.json share: one of them could never be decoded."""
    vocab = spec["model"].get("vocab") if isinstance(spec["model"], dict) else None
    added = spec["added_tokens"] if isinstance(spec.get("added_tokens"), list) else []
    names: dict[int, object] = {}
    pairs = [(name, id) for name, id in vocab.items()] if isinstance(vocab, dict) else []
    for name, id in [*pairs, *((token.get("content"), token.get("id")) for token in added if isinstance(token, dict))]:
        if type(id) is int and names.setdefault(id, name) != name:
            raise UserError(
                f"{path} gives {shown(names[id])} and {shown(name)} the id {id}: give each token an id of its own."
            )


def _check_ids(ids: Sequence[Any], path: Path) -> None:
    """Raise UserError for ids so high that tables by id, and the model's embeddings, would be mostly empty or too
    large.

    Values that are not numbers are refused later by `tokenizers`.

    """
    whole = [id for id in ids if isinstance(id, int)]
    limit = min(MOST_TOKENS, 2 * len(whole) + SPARE_IDS)
    if wrong := next((id for id in whole if not 0 <= id < limit), None):
        raise UserError(
            f"{path} gives a token the id {str(wrong)[:24]}, and with its {len(whole):,} tokens an id must lie between "
            f"0 and {limit - 1:,}: number the tokens without such gaps."
        )


def read_wordpiece(path: Path) -> tokenizers.Tokenizer:
    """Read BERT's `vocab.txt`, one token per line; case and accents follow the `tokenizer_config.json` beside it."""
    lines = read_text(path, MOST_BYTES).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    tokens = [line.rstrip("\r") for line in lines]
    if "[UNK]" not in tokens:
        raise UserError(f"{path} has no line [UNK], so it is not a WordPiece vocabulary: give BERT's vocab.txt.")
    last = {token: line for line, token in enumerate(tokens)}
    # A repeated line keeps its number, as in BERT, but only the last of them is ever used.
    vocab = {token if last[token] == line else f"[repeated {line}]": line for line, token in enumerate(tokens)}
    config = _config_beside(path)
    return wordpiece(
        vocab,
        lowercase=_flag(config, "do_lower_case", True),
        strip_accents=None if config[1].get("strip_accents") is None else _flag(config, "strip_accents", True),
        split_chinese=_flag(config, "tokenize_chinese_chars", True),
    )


def wordpiece(
    vocab: dict[str, int], *, lowercase: bool, strip_accents: bool | None = None, split_chinese: bool = True
) -> tokenizers.Tokenizer:
    """Make BERT's tokenizer (Devlin et al. 2019) for `vocab`; `strip_accents` None means the same as `lowercase`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    if "[CLS]" in vocab and "[SEP]" in vocab:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return tokenizer


def read_byte_bpe(folder: Path) -> tokenizers.Tokenizer:
    """Read GPT-2's `vocab.json` and `merges.txt` in `folder`; a vocabulary with `<s>` and `</s>` is RoBERTa's, which
    frames texts as `<s> a </s></s> b </s>`."""
    from tokenizers import processors

    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: byte-level BPE needs vocab.json and merges.txt side by side.")
    vocab = ids_of(_object(folder / "vocab.json"), folder / "vocab.json")
    if "Ġ" not in vocab:
        raise UserError(
            f"{folder / 'vocab.json'} is not byte-level (it has no token Ġ): give a tokenizer.json instead."
        )
    _check_ids(list(vocab.values()), folder / "vocab.json")
    merges = []
    for number, line in enumerate(read_text(folder / "merges.txt", MOST_BYTES).split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2 or pair[0] + pair[1] not in vocab or not {*pair} <= vocab.keys():
            raise UserError(
                f"{folder / 'merges.txt'}, line {number}, does not merge two tokens of vocab.json: "
                "the two files must come from one tokenizer."
            )
        merges.append(pair)
    prefix = _flag(_config_beside(folder / "vocab.json"), "add_prefix_space", False)
    tokenizer = byte_bpe(vocab, merges, lowercase=False, add_prefix_space=prefix)
    if "<s>" in vocab and "</s>" in vocab:
        ends = ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"])
        tokenizer.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=prefix)
    return tokenizer


def byte_bpe(
    vocab: dict[str, int], merges: Sequence[tuple[str, str]], *, lowercase: bool, add_prefix_space: bool = False
) -> tokenizers.Tokenizer:
    """Make GPT-2's byte-level BPE (Radford et al. 2019) for `vocab` and `merges`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab, list(merges)))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# SentencePiece's sentencepiece_model.proto: the fields and piece types that matter here.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "word", 4: "character"}


def read_sentencepiece(path: Path) -> tokenizers.Tokenizer:
    """Return a Unigram `*.model` of SentencePiece."""
    from tokenizers import AddedToken

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
    tokenizer = unigram(
        [(piece, score) for piece, score, _ in pieces],
        unk_id=unknown[0],
        byte_fallback=any(type_ == _BYTE for _, _, type_ in pieces),
        charsmap=charsmap,
        prefix=prefix,
    )
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece, _, t in pieces if t == _CONTROL])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece, _, t in pieces if t == _USER_DEFINED])
    return tokenizer


def unigram(
    pieces: Sequence[tuple[str, float]], *, unk_id: int, byte_fallback: bool, charsmap: bytes, prefix: bool = True
) -> tokenizers.Tokenizer:
    """Make T5's form of a SentencePiece Unigram model (Kudo 2018): words split at white space, each prefixed with ▁."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    # A score has nine digits at most, few enough for `tokenizers` to read back exactly what it writes.
    rounded = [(piece, round(score, 7)) for piece, score in pieces]
    tokenizer = Tokenizer(models.Unigram(rounded, unk_id, byte_fallback))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(charsmap)] if charsmap else []
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
            if shift > 63:
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


def _object(path: Path) -> dict[str, Any]:
    return read_values(path, dict, MOST_BYTES)


@contextmanager
def library_errors(path: str | Path) -> Iterator[None]:
    """Turn every error of `tokenizers` about the content of a file into a UserError; it raises bare Exception, and its
    panics are not Exceptions."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as a tokenizer ({reason}): is it whole, or was it written by another version?"
        ) from error


def ids_of(values: dict[str, Any], path: Path) -> dict[str, int]:
    """Return tokens and their ids from a JSON object. Raises UserError for an id that is not a whole number."""
    for name, id in values.items():
        if type(id) is not int:
            raise UserError(f"{path} gives {shown(name)} the id {shown(id)}, which is not a whole number.")
    return values


def _config_beside(path: Path) -> tuple[Path, dict[str, Any]]:
    config = path.parent / "tokenizer_config.json"
    return config, _object(config) if config.is_file() else {}


def _flag(config: tuple[Path, dict[str, Any]], name: str, default: bool) -> bool:
    path, values = config
    return field(values, name, bool, path, default)


def ending_frame(eos: str, eos_id: int) -> dict[str, Any]:
    """Return a post-processor for `a </s>` and `a </s> b </s>`."""
    end = {"SpecialToken": {"id": eos, "type_id": 0}}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, end]
    return {
        "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {eos: {"id": eos, "ids": [eos_id], "tokens": [eos]}},
    }  # fmt: skip


def closing_frame(sep: str, sep_id: int, cls: str, cls_id: int) -> dict[str, Any]:
    """Return a post-processor for `a [SEP] [CLS]` and `a [SEP] b [SEP] [CLS]`, [CLS] of type 2."""

    def token(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    first = [{"Sequence": {"id": "A", "type_id": 0}}, token(sep, 0)]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, token(sep, 1)]
    return {
        "type": "TemplateProcessing", "single": [*first, token(cls, 2)], "pair": [*first, *second, token(cls, 2)],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ((sep, sep_id), (cls, cls_id))
        },
    }  # fmt: skip
