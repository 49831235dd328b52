"""Ids of corpus text, in which no text becomes a special token; `Tokenizer.encode_plain` and `.encode_places` use it.

A page about BERT would otherwise put masks into the training data. So corpus text goes through a second tokenizer that
does not know the special tokens; their entries have names that no text contains. Chunks of text that occur again
(`tokenizer_chunks`) are encoded once.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import not_
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.tokenizer_chunks import Chunking
from blankfill.system.reading import mended

if TYPE_CHECKING:
    import tokenizers

CACHE_LIMIT = 1_000_000
"""Largest number of cached chunks: some 150 MB."""
_LONGEST_KEPT = 64


class PlainEncoder:
    """Encodes the text of a corpus with a tokenizer.

    full: the tokenizer. special: ids of its special tokens. size: number of its ids. chunking: how it cuts a text.
    """

    def __init__(self, full: tokenizers.Tokenizer, special: Mapping[str, int], size: int, chunking: Chunking) -> None:
        self._full, self._special_tokens, self.size, self._chunking = full, special, size, chunking
        self._cache: dict[str, bytes] = {}

    def encode(
        self, sentences: Sequence[str], continues: Sequence[bool] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the ids of all sentences, one after the other, and the number of ids of each sentence; continues: see
        `Tokenizer.encode_plain`."""
        sentences = list(map(mended, sentences))
        chunked, rules = self._chunking.chunks, self._chunking.rules
        if rules is not None and continues is not None:
            return self._by_chunks([rules.chunks(*pair) for pair in zip(sentences, map(not_, continues), strict=True)])
        return self._by_chunks(list(map(chunked, sentences)), sentences)

    def _by_chunks(
        self, rows: Sequence[list[str] | None], sentences: Sequence[str] = ()
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the ids of sentences that were cut into chunks, and the number of ids of each. sentences: of the rows
        that are None, which are encoded whole."""
        parts = [b""] * len(rows)
        whole: list[int] = []
        pending: list[tuple[int, list[str]]] = []
        missing: set[str] = set()
        known, lookup, join = self._cache, self._cache.__getitem__, b"".join
        for index, chunks in enumerate(rows):
            if chunks is None:
                whole.append(index)
                continue
            try:
                parts[index] = join(map(lookup, chunks))
            except KeyError:
                pending.append((index, chunks))
                missing |= set(chunks).difference(known)
        if pending:
            fresh = self._encode_chunks(missing)
            known.update(fresh)
            for index, chunks in pending:
                parts[index] = join(map(lookup, chunks))
            for chunk in fresh:
                if len(chunk) > _LONGEST_KEPT:
                    del known[chunk]
            if len(known) > CACHE_LIMIT:
                known.clear()
        if whole:
            for index, ids in zip(whole, self._by_library([sentences[index] for index in whole]), strict=True):
                parts[index] = ids
        lengths = np.fromiter(map(len, parts), np.int32, len(parts)) // 4
        return np.frombuffer(bytearray().join(parts), np.int32), lengths.astype(np.int32)

    def encode_places(self, text: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the ids of a text and the place of each token; see `Tokenizer.encode_places`."""
        plain, table = self.plain
        if self._chunking.rules is not None:
            model = plain.model
            numbers, spans = self._chunking.rules.places(
                mended(text), lambda chunk: [(token.id, token.offsets) for token in model.tokenize(chunk)]
            )
            return np.array(numbers, np.int32), trimmed(text, np.array(spans, np.int32).reshape(-1, 2))
        encoding = plain.encode(mended(text), add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        places = trimmed(text, np.array(encoding.offsets, np.int32).reshape(-1, 2))
        return (ids if table is None else table[ids]), places

    def encode_marked(self, texts: Sequence[str], inline: bool = False) -> list[list[int]]:
        """Return the ids of each text; special tokens written out in it are recognised; inline: see
        `Tokenizer.encode`."""
        rules = self._chunking.rules
        assert rules is not None
        names = tuple(self._special_tokens)
        cut: list[tuple[list[str], list[list[str]]]] = []
        for text in map(mended, texts):
            if inline:
                cut.append(rules.marked_chunks(text, names))
            else:
                parts = self._marks.split(text)
                cut.append((parts[1::2], list(map(rules.chunks, parts[::2]))))
        ids, lengths = self._by_chunks([chunks for _, between in cut for chunks in between])
        runs = iter(np.split(ids, np.cumsum(lengths)))
        rows: list[list[int]] = []
        for marks, _ in cut:
            row = next(runs).tolist()
            for mark in marks:
                row += [self._special_tokens[mark], *next(runs).tolist()]
            rows.append(row)
        return rows

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        names = sorted(self._special_tokens, key=lambda name: (-len(name), name))
        return re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")

    @cached_property
    def plain(self) -> tuple[tokenizers.Tokenizer, NDArray[np.int32] | None]:
        """Tokenizer whose special tokens no text can give, and a map from its ids to ours where they differ."""
        import tokenizers

        spec = json.loads(self._full.to_str())
        model, special = spec["model"], self._special_tokens

        def hide(token: str) -> str:
            # Noncharacters of Unicode, which no text has.
            return f"\U0010ffff\U0010fffe{special[token]}" if token in special else token

        if isinstance(model["vocab"], dict):
            model["vocab"] = {hide(token): id for token, id in model["vocab"].items()}
        else:
            model["vocab"] = [[hide(token), score] for token, score in model["vocab"]]
        if model.get("unk_token"):
            model["unk_token"] = hide(model["unk_token"])
        ordinary = [token for token in spec["added_tokens"] if not token["special"]]
        spec["added_tokens"], spec["post_processor"] = [], None
        plain = tokenizers.Tokenizer.from_str(json.dumps(spec))
        plain.add_tokens(
            [
                tokenizers.AddedToken(**{k: v for k, v in token.items() if k not in ("id", "special")})
                for token in ordinary
            ]
        )
        moved = {int(plain.token_to_id(token["content"]) or 0): token["id"] for token in ordinary}
        if all(ours == theirs for theirs, ours in moved.items()):
            return plain, None
        table = np.arange(self.size + len(ordinary), dtype=np.int32)
        table[list(moved)] = list(moved.values())
        return plain, table

    def _encode_chunks(self, chunks: Iterable[str]) -> dict[str, bytes]:
        """Return the ids of chunks and of the pieces that make them up; a piece occurs more often than a chunk."""
        known, spelling, model = self._cache, self._chunking.spelling, self.plain[0].model
        made_of = {chunk: self._chunking.pieces(chunk) for chunk in chunks}
        ids: dict[str, bytes] = {}
        others = []
        for piece in set(chain.from_iterable(made_of.values())).difference(known):
            spelled = spelling(piece)
            if spelled is None:
                others.append(piece)
            else:
                ids[piece] = array("i", [token.id for token in model.tokenize(spelled)]).tobytes()
        ids.update(zip(others, self._by_library(others), strict=True))
        for chunk, pieces in made_of.items():
            if chunk not in ids:
                ids[chunk] = b"".join([ids[piece] if piece in ids else known[piece] for piece in pieces])
        return ids

    def _by_library(self, texts: list[str]) -> Iterable[bytes]:
        """Yield the ids of each text as bytes of int32, encoded by `tokenizers`."""
        plain, table = self.plain
        encodings = plain.encode_batch_fast(texts, add_special_tokens=False)
        lengths = [len(encoding) for encoding in encodings]
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, sum(lengths))
        if table is not None:
            ids = table[ids]
        data, end = ids.tobytes(), 0
        for length in lengths:
            start, end = end, end + 4 * length
            yield data[start:end]


def trimmed(text: str, places: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return places in a text without the white space around each; int32[N, 2], changed in place."""
    for row, (start, end) in enumerate(places.tolist()):
        piece = text[start:end]
        if piece.strip():
            places[row] = start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
    return places
