"""Text ⇄ token ids, with the roles of blankfill's special tokens. Not here: training (`tokenizer_train`).

A `Tokenizer` wraps a `tokenizers.Tokenizer` and adds what pretraining needs and the library lacks:

* **Roles.** Objectives use "mask" or "sop", not strings; `tokenizer_roles` lists the strings for each role.
* **Text that cannot forge a special token.** `encode` recognises `[MASK]` in a prompt, as it must; `encode_plain`,
  which reads the corpus, does not (`tokenizer_plain`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.normalization import is_cut, runs_on
from blankfill.corpus.scripts import UNSPACED
from blankfill.corpus.tokenizer_bilingual import IMAGE, Rules, restored, with_pieces
from blankfill.corpus.tokenizer_chunks import Chunking, chunking_of, steps_of
from blankfill.corpus.tokenizer_files import Post, written
from blankfill.corpus.tokenizer_formats import (
    library_errors,
    read_tokenizer,
    roles_said,
)
from blankfill.corpus.tokenizer_plain import PlainEncoder, trimmed
from blankfill.corpus.tokenizer_roles import MASKS, ROLE_TOKENS, SENTINEL, roles_among, said_tokens, sentinels_among
from blankfill.corpus.tokenizer_words import WIDE, join_words, text_of, token_begins_word
from blankfill.corpus.unknown import counted, counted_array
from blankfill.errors import UserError
from blankfill.system.files import make_folder, write_file
from blankfill.system.reading import mended
from blankfill.types import Vocabulary

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """A `tokenizers.Tokenizer` with the roles of blankfill's special tokens."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, said: Mapping[str, str] = MappingProxyType({})) -> None:
        """said: tokens that the tokenizer's own files name for roles; its mask counts before `ROLE_TOKENS`, its other
        tokens only where the vocabulary has none of those."""
        self._full, self._said = tokenizer, dict(said)
        names = tokenizer.get_vocab(with_added_tokens=True)
        special = {added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special}
        # A vocabulary file does not mark special tokens; their names do.
        known = [*(name for tokens in ROLE_TOKENS.values() for name in tokens), *sentinels_among(names)]
        known += said_tokens(self._said, names).values()
        if special_names := [name for name in known if name in names and name not in special]:
            tokenizer.add_special_tokens([self._special(name) for name in dict.fromkeys(special_names)])

    def _special(self, name: str) -> tokenizers.AddedToken:
        from tokenizers import AddedToken

        # Except in WordPiece, the space before a mask would become a token of its own.
        blank = name in MASKS or name.startswith("<extra_id_") or name == self._said.get("mask")
        strip = self._full.model.__class__.__name__ != "WordPiece" and blank
        return AddedToken(name, normalized=False, lstrip=strip)

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[str, dict[str, str]]]:
        return _from_json, (self._full.to_str(), self._said)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Load a tokenizer of blankfill or of another program.

        Args:
            path: a tokenizer file, or a folder with one; `tokenizer_formats.read_tokenizer` lists the formats.

        Returns:
            The tokenizer, with the roles that its own files name for its special tokens.

        Raises:
            UserError: when there is no tokenizer at `path` or it cannot be read.
        """
        with library_errors(path):
            return cls(read_tokenizer(path), roles_said(Path(path)))

    def save(self, folder: Path, *, post: Post = "keep") -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which transformers' `AutoTokenizer` opens.

        Args:
            folder: the folder to write to; it is made if necessary.
            post: see `files`.

        Raises:
            UserError: when the vocabulary lacks a token that `post` needs.
        """
        make_folder(folder)
        for name, text in self.files(post=post).items():
            write_file(folder / name, text)

    def files(
        self, *, post: Post = "keep", inputs: Sequence[str] | None = None, longest: int = 10**30
    ) -> dict[str, str]:
        """Return the texts of `tokenizer.json` and `tokenizer_config.json`; the same tokenizer gives the same bytes.

        Args:
            post: the special tokens that `AutoTokenizer` adds on request, see `tokenizer_files.Post`.
            inputs: names of the tensors that `AutoTokenizer` makes for a model.
            longest: the most tokens of one text.

        Returns:
            The two texts, by file name.

        Raises:
            UserError: when the vocabulary lacks a token that `post` needs.
        """
        return written(
            json.loads(self._full.to_str()), roles={role: self.token(id) for role, id in self._roles.items()},
            ids=self._ids, special=sorted(self._special_tokens, key=self._ids.__getitem__),
            said=said_tokens(self._said, self._ids), post=post, inputs=inputs, longest=longest,
        )  # fmt: skip

    @cached_property
    def size(self) -> int:
        """One more than the greatest id."""
        return max(self._ids.values()) + 1

    def vocabulary(self) -> Vocabulary:
        """Return what objectives need to know. `special` leaves out the unknown token where text can give it."""
        special = set(self._special_tokens.values())
        if self._rules is not None:
            special.update(id for token, id in self._ids.items() if IMAGE.fullmatch(token))
        if self._text_gives_unknown:
            special.discard(self._roles.get("unk", -1))
        sentinels = tuple(self._ids[name] for name in sentinels_among(self._ids))
        doubled = "sep" in self._roles and self.token(self._roles["sep"]) in ROLE_TOKENS["eos"]
        return Vocabulary(
            self.size, dict(self._roles), frozenset(special), self._word_starts(), sentinels=sentinels,
            doubled_separator=doubled,
        )  # fmt: skip

    @property
    def adds_special(self) -> bool:
        """Whether this tokenizer can add special tokens around a text, as `[CLS] a [SEP]`."""
        return bool(self._full.num_special_tokens_to_add(False))

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The special tokens, by the strings that stand for them, with their ids."""
        return MappingProxyType(self._special_tokens)

    @property
    def is_wordpiece(self) -> bool:
        """Whether this is a WordPiece tokenizer, as BERT's."""
        return self._kind == "wordpiece"

    def with_roles(self, roles: Sequence[str], sentinels: int = 0) -> Tokenizer:
        """Return this tokenizer with tokens for more roles and sentinels.

        Missing tokens are appended, so that no existing id changes. The first sentinel comes last, as in T5's
        vocabulary: where there was none before, they count down from the highest id.

        Args:
            roles: names of `types.ROLES`.
            sentinels: the number of sentinels.

        Returns:
            The extended tokenizer, or this one when nothing is missing.

        Raises:
            UserError: when the vocabulary has gaps, which `tokenizers` would fill first.
        """
        missing = [ROLE_TOKENS[role][0] for role in roles if role not in self._roles]
        have = len(sentinels_among(self._ids))
        missing += [SENTINEL.format(k) for k in reversed(range(have, sentinels))]
        if not missing:
            return self
        grown = _from_json(self._full.to_str(), self._said)
        grown._full.add_special_tokens([self._special(name) for name in missing])
        return self._appended(grown, missing)

    def with_words(self, words: Sequence[str]) -> Tokenizer:
        """Return this tokenizer with more words as single tokens, appended in their order.

        A word is matched where it stands alone; a word with Chinese characters, or letters of another script that is
        written without spaces, is matched anywhere.

        Args:
            words: the words; those that are single tokens already are left out.

        Returns:
            The extended tokenizer, or this one when nothing is new.

        Raises:
            UserError: when the vocabulary has gaps, which `tokenizers` would fill first.
        """
        from tokenizers import AddedToken

        unknown = [self._roles.get("unk")]
        fresh = [word for word in dict.fromkeys(words) if self.id(word) is None]
        new = [word for word in fresh if len(ids := self.encode(word)) != 1 or ids == unknown]
        if not new:
            return self
        if self._rules is not None:
            joined = [self._rules.spelled(word, re.search(f"[{WIDE}{UNSPACED}]", word) is None) for word in new]
            pieces = [piece for piece in dict.fromkeys(joined) if self.id(piece) is None]
            return self._appended(Tokenizer(with_pieces(self._full, pieces), self._said), pieces)
        grown = _from_json(self._full.to_str(), self._said)
        normalizer = grown._full.normalizer
        lowers = normalizer is not None and normalizer.normalize_str("A") == "a"
        apart = [re.search(f"[{WIDE}{UNSPACED}]", word) is None for word in new]
        grown._full.add_tokens(
            [AddedToken(word, single_word=alone, normalized=alone and lowers)
             for word, alone in zip(new, apart, strict=True)]
        )  # fmt: skip
        return self._appended(grown, new)

    def _appended(self, grown: Tokenizer, names: Sequence[str]) -> Tokenizer:
        """Return the extended tokenizer, after checking that the new tokens have the highest ids."""
        ids = [grown._full.token_to_id(name) for name in names]
        if ids != list(range(self.size, self.size + len(ids))):
            raise UserError(
                f"The tokenizer's ids have gaps, so tokens cannot be appended behind them: add {', '.join(names[:8])} "
                "to its vocabulary yourself."
            )
        return Tokenizer(grown._full, self._said)

    def encode(self, text: str, inline: bool = False) -> list[int]:
        """Return the ids of a text, without adding special tokens.

        Args:
            text: the text; special tokens written out in it, such as `[MASK]`, are recognised.
            inline: whether the text behind a special token continues the text before it. Only ChatGLM's tokenizers make
                a difference: as ChatGLM-6B's code in transformers, they put ▁ before each of the two; inline, as
                GLM-130B's code, only before the first.

        Returns:
            The token ids.
        """
        ids: list[int]
        if self._rules is None:
            ids = self._full.encode(mended(text), add_special_tokens=False).ids
        else:
            (ids,) = self._plain_encoder.encode_marked([text], inline)
        counted(self, [text], [ids], self.unknown, self._hidden)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, as `encode` gives them, on all cores."""
        if self._rules is not None:
            return self._plain_encoder.encode_marked(texts)
        whole = list(map(mended, texts))
        rows: list[list[int]] = [
            encoding.ids for encoding in self._full.encode_batch_fast(whole, add_special_tokens=False)
        ]
        counted(self, texts, rows, self.unknown)
        return rows

    def without_special(self, text: str) -> str:
        """Return a text without the special tokens that are written out in it."""
        for token in self._special_tokens:
            text = text.replace(token, " ")
        return text

    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the special tokens before and after a text, as `AutoTokenizer` puts them; empty where it puts none."""
        with_frame, without = (self._full.encode("a", add_special_tokens=special).ids for special in (True, False))
        for start in range(len(with_frame) - len(without) + 1):
            stop = start + len(without)
            if with_frame[start:stop] == without:
                return tuple(with_frame[:start]), tuple(with_frame[stop:])
        return (), ()

    def encode_plain(
        self, sentences: Sequence[str], continues: Sequence[bool] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Encode the sentences of a corpus; no text becomes a special token.

        Args:
            sentences: the sentences, in order.
            continues: for each sentence, whether it continues the one before and begins with the white space between
                them. ChatGLM's tokenizers then put no ▁ before it; to others it is the same.

        Returns:
            The ids of all sentences, one after the other, and the number of ids of each sentence.
        """
        ids, lengths = self._plain_encoder.encode(sentences, continues)
        counted_array(self, sentences, ids, lengths, self.unknown)
        return ids, lengths

    def encode_places(self, text: str, marks: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Encode a text with the place of each token; as in `encode_plain`, no text becomes a special token.

        Args:
            text: the text.
            marks: recognise special tokens written out in it all the same, as `encode` does; not with ChatGLM's
                tokenizers.

        Returns:
            The ids, int32[N], and the place of each token in `text`, int32[N, 2]: its first character and one past its
            last, without the white space around it.
        """
        if marks and self._rules is None:
            encoding = self._full.encode(mended(text), add_special_tokens=False)
            offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
            ids, places = np.array(encoding.ids, np.int32), trimmed(text, offsets)
        else:
            ids, places = self._plain_encoder.encode_places(text)
        counted_array(self, [text], ids, np.array([len(ids)], np.int32), self.unknown)
        return ids, places

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Return readable text: words joined, English punctuation closed up, no spaces between Chinese characters.

        Args:
            ids: the token ids.
            skip_special: leave out special tokens, except the unknown token, whose place a reader should see.

        Returns:
            The text.
        """
        if skip_special:
            hidden = self._hidden
            ids = [id for id in ids if id not in hidden]
        if self._rules is not None:
            named = map(self._full.id_to_token, map(int, ids))
            return self._rules.joined([token for token in named if token is not None])
        if self._kind != "wordpiece":
            text: str = self._full.decode(list(map(int, ids)), skip_special_tokens=False)
            return text
        words: list[str] = []
        piece = 0  # where the last piece of a cut run begins in its word
        prefix, string_of, cut = self._prefix, self._full.id_to_token, self._is_cut
        for id in map(int, ids):
            if (token := string_of(id)) is None:
                if 0 <= id < self.size:
                    continue  # a gap in the ids, which `tokenizers` leaves out as well
                token = self.token(id)
            if token.startswith(prefix) and words:
                words[-1] += token[len(prefix) :]
            elif cut and words and runs_on(words[-1][piece:], token):
                piece = len(words[-1])
                words[-1] += token
            else:
                words.append(token)
                piece = 0
        return join_words(words)

    def token(self, id: int) -> str:
        """Return the string of a token.

        Args:
            id: the id of the token.

        Raises:
            IndexError: when the vocabulary has no such id.
        """
        token: str | None = self._full.id_to_token(int(id))
        if token is None:
            raise IndexError(f"token id {id} is not in a vocabulary of {self.size}")
        return token

    def id(self, token: str) -> int | None:
        """Return the id of a token's string, None when there is no such token."""
        result: int | None = self._full.token_to_id(token)
        return result

    def texts(self) -> list[str]:
        """Return the text of each id, without the marks of words; "" for special tokens.

        Parts of characters are written as `surrogateescape` writes them.
        """
        texts = [""] * self.size
        for token, id in self._ids.items():
            if token not in self._special_tokens:
                texts[id] = text_of(token, self._kind, self._prefix)
                if self._rules is not None:
                    texts[id] = restored(texts[id])
        return texts

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that determines the ids of a text: vocabulary, merges or scores, and settings."""
        return hashlib.sha256(json.dumps(self._deciding(), sort_keys=True).encode()).hexdigest()

    def reads_like(self, other: Tokenizer) -> bool:
        """Return whether both tokenizers give every text the same ids; special tokens, which no text gives, may
        differ."""
        return self._deciding(special=False) == other._deciding(special=False)

    def _deciding(self, special: bool = True) -> list[Any]:
        spec = json.loads(self._full.to_str())
        model = dict(spec["model"])
        if isinstance(model.get("merges"), list):  # older files write a merge as one string
            model["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        if isinstance(
            model["vocab"], list
        ):  # the JSON reader of `tokenizers` is not exact in the last digit of a score
            model["vocab"] = [[piece, round(score, 6)] for piece, score in model["vocab"]]
        added = [token for token in spec["added_tokens"] if special or not token["special"]]
        return [model, spec["normalizer"], spec["pre_tokenizer"], added]

    @cached_property
    def _ids(self) -> dict[str, int]:
        ids: dict[str, int] = self._full.get_vocab(with_added_tokens=True)
        return ids

    @cached_property
    def _roles(self) -> dict[str, int]:
        return roles_among(self._ids, self._said)

    @cached_property
    def _special_tokens(self) -> dict[str, int]:
        added = self._full.get_added_tokens_decoder()
        return {token.content: id for id, token in added.items() if token.special}

    @cached_property
    def _hidden(self) -> frozenset[int]:
        """The special tokens that `decode` leaves out."""
        return frozenset(self._special_tokens.values()) - {self._roles.get("unk", -1)}

    @cached_property
    def _spec(self) -> dict[str, Any]:
        """Settings without the vocabulary, as in tokenizer.json."""
        spec: dict[str, Any] = json.loads(self._full.to_str())
        spec["model"] = {key: value for key, value in spec["model"].items() if key not in ("vocab", "merges")}
        return spec

    @property
    def _prefix(self) -> str:
        prefix: str | None = self._spec["model"].get("continuing_subword_prefix")
        return prefix or "##"

    @cached_property
    def _is_cut(self) -> bool:
        return is_cut(steps_of(self._spec["pre_tokenizer"], "pretokenizers"))

    @property
    def _rules(self) -> Rules | None:
        """The steps around the model of ChatGLM's tokenizers; None for others."""
        return self._chunking.rules

    @cached_property
    def _chunking(self) -> Chunking:
        return chunking_of(self._spec)

    @cached_property
    def _plain_encoder(self) -> PlainEncoder:
        return PlainEncoder(self._full, self._special_tokens, self.size, self._chunking)

    @cached_property
    def _kind(self) -> str:
        """Kind of tokenizer: wordpiece, bytes (byte-level BPE), metaspace (SentencePiece's ▁), words, or other."""
        if self._spec["model"]["type"] == "WordPiece":
            return "wordpiece"
        steps = {step["type"] for step in steps_of(self._spec["pre_tokenizer"], "pretokenizers")}
        steps |= {step["type"] for step in steps_of(self._spec["normalizer"], "normalizers")}
        steps |= {step["type"] for step in steps_of(self._spec["decoder"], "decoders")}
        if "ByteLevel" in steps:
            return "bytes"
        if "Metaspace" in steps or any(token.startswith("▁") for token in self._ids):
            return "metaspace"
        return "words" if self._spec["model"]["type"] == "WordLevel" else "other"

    @cached_property
    def unknown(self) -> int | None:
        """Id of the unknown token; None where no text becomes one, as with bytes."""
        return self._roles.get("unk") if self._text_gives_unknown else None

    @property
    def _text_gives_unknown(self) -> bool:
        model = self._spec["model"]
        if model.get("byte_fallback") or self._kind == "bytes":
            return False
        return model["type"] != "BPE" or model.get("unk_token") is not None

    def _word_starts(self) -> NDArray[np.bool_] | None:
        if self._kind == "other":
            return None
        starts = np.zeros(self.size, np.bool_)
        for token, id in self._ids.items():
            starts[id] = token_begins_word(token, self._kind, self._prefix)
        starts[list(self._special_tokens.values())] = True
        return starts


def _from_json(text: str, said: Mapping[str, str]) -> Tokenizer:
    import tokenizers

    return Tokenizer(tokenizers.Tokenizer.from_str(text), said)
