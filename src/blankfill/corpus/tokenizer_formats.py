"""Reads the tokenizer files of other programs into `tokenizers.Tokenizer`.

A `tokenizer.json`, BERT's `vocab.txt`, GPT-2's `vocab.json` + `merges.txt`, SentencePiece's `*.model` (Unigram), or a
folder with one of these, and `added_tokens.json` there.
Not here: SentencePiece's files (`tokenizer_sentencepiece`), the roles of special tokens (`tokenizer`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.limits import MOST_BYTES, MOST_TOKENS, SPARE_IDS
from blankfill.corpus.tokenizer_files import SAID
from blankfill.corpus.tokenizer_sentencepiece import read_sentencepiece
from blankfill.errors import UserError
from blankfill.system.console import say
from blankfill.system.reading import field, read_text, refuse_stand_in, shown
from blankfill.system.reading import read_json as read_values

if TYPE_CHECKING:
    import tokenizers

LEAST_CAPITALS = 0.02
"""Share of the words with letters that have capitals above which a vocabulary is cased; a third have, usually."""
LEAST_ACCENTED = 0.001
"""Share of the words that have marks on letters above which a vocabulary keeps them."""
_SPECIAL = re.compile(r"\[[^\[\]]+\]|<[^<>]+>")

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
    """Read BERT's `vocab.txt`, one token per line.

    Case and accents follow the `tokenizer_config.json` beside it; where that names neither, they follow the vocabulary:
    one with capital letters is of a cased model, and one with accented letters keeps the accents of a text.
    """
    refuse_stand_in(path)
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
    capitals, accents = _letters_of(tokens)
    lowercase = _flag(config, "do_lower_case", not capitals)
    strip = None if config[1].get("strip_accents") is None else _flag(config, "strip_accents", True)
    if "do_lower_case" not in config[1]:
        letters = [name for name, has in (("capital", capitals), ("accented", accents)) if has]
        if letters:
            say(
                f"{path} has {' and '.join(letters)} letters, and no {config[0].name} says do_lower_case: texts keep "
                f"their{' case' * capitals}{' and' * (capitals and accents)}{' accents' * accents}"
            )
        if strip is None and lowercase == accents:  # otherwise accents follow the case, as in BERT
            strip = not accents
    elif lowercase and capitals:
        say(
            f"{config[0]} says do_lower_case, and {path.name} has capital letters, which no text can then give; if the "
            "model is cased, write false there"
        )
    return wordpiece(
        vocab, lowercase=lowercase, strip_accents=strip, split_chinese=_flag(config, "tokenize_chinese_chars", True)
    )


def _letters_of(tokens: Sequence[str]) -> tuple[bool, bool]:
    """Return whether the words of a vocabulary have capital letters, and whether they have accented letters.

    A few do not count: vocabularies of models that lower-case have odd ones. Special tokens are no words.
    """
    words = [token for token in tokens if not _SPECIAL.fullmatch(token)]
    cased = [word for word in words if word.lower() != word.upper()]
    capitals = sum(word != word.lower() for word in cased)
    accented = sum(any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", word)) for word in words)
    return capitals > LEAST_CAPITALS * len(cased), accented > LEAST_ACCENTED * len(words)


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
    refuse_stand_in(folder / "merges.txt")
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
