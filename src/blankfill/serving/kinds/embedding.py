"""Vectors of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from blankfill.corpus.unknown import counting
from blankfill.embedding.embed import Embedder, Float32, Pooling
from blankfill.serving.errors import ApiError
from blankfill.serving.inputs import aside, check_count, check_room, check_tokens, name_of, no_token
from blankfill.serving.served import ServedModel

Row = list[int]
"""The ids of a text with the special tokens of training around it."""


class EmbeddingKind:
    """Computes vectors of rows that `texts_read` has made."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def size(self, item: Row) -> int:
        """Return the number of columns of a row."""
        return len(item)

    def compute(self, items: Sequence[Row]) -> Sequence[Float32 | Exception]:
        """Compute the vectors of rows, float32[D] each."""
        vectors_ND = self.embedder.of_rows(items)
        if np.isfinite(vectors_ND).all():
            return list(vectors_ND)
        diverged = ApiError(500, "the vectors of the model are not finite numbers: it has diverged", "model_diverged")
        return [vector if np.isfinite(vector).all() else diverged for vector in vectors_ND]


def kind_of(served: ServedModel, pooling: Pooling, normalize: bool) -> EmbeddingKind:
    """Return the kind of a model, made on first use. Raises UserError for a pooling that the model cannot have."""
    key = ("embed", pooling, normalize)
    return served.part(key, lambda served: EmbeddingKind(served.model.embedder(pooling, normalize)))


@dataclass(frozen=True)
class ReadTexts:
    """Texts as rows. tokens: of all rows. cut: whether each text was cut."""

    rows: list[Row]
    tokens: int
    cut: list[bool]


async def read_texts(
    served: ServedModel,
    embedder: Embedder,
    texts: Sequence[str] | Sequence[Sequence[int]],
    truncate: bool,
    allow_unknown: bool,
    param: str = "input",
) -> ReadTexts:
    """Encode the texts of a request, which are texts or ids, and check them against all limits.

    Raises ApiError, and UserError for texts that are mostly unknown to the tokenizer.
    """
    check_count(len(texts), served.settings, param)
    served.engine.check_room(len(texts))
    strings = [text for text in texts if isinstance(text, str)]
    if strings:
        encoded: Sequence[Sequence[int]] = await aside(_encoding(embedder, strings, allow_unknown), strings)
    else:
        encoded = [list(map(int, ids)) for ids in texts]
        _check_ids(encoded, served.model.loaded.model.config.vocab_size, param)
    sizes = list(map(len, encoded))
    check_tokens(sizes, served.settings, param)
    if 0 in sizes:
        raise no_token(sizes.index(0), len(sizes), param)
    if not truncate:
        check_room(sizes, embedder.room, param)
    rows = [embedder.framed(ids) for ids in encoded]
    return ReadTexts(rows, sum(map(len, rows)), [size > embedder.room for size in sizes])


def _encoding(embedder: Embedder, texts: list[str], allow_unknown: bool) -> Callable[[], list[list[int]]]:
    def encode() -> list[list[int]]:
        with counting("the texts", allow=allow_unknown, notes=False):
            if len(texts) == 1:
                return [embedder.tokenizer.encode(texts[0])]
            return embedder.tokenizer.encode_batch(texts)

    return encode


def _check_ids(rows: Sequence[Sequence[int]], size: int, param: str) -> None:
    for number, ids in enumerate(rows):
        if min(ids) < 0 or max(ids) >= size:
            bad = next(id for id in ids if not 0 <= id < size)
            name = name_of(number, len(rows), param)
            raise ApiError(
                422, f"{name}: the id {bad} is not in the vocabulary of {size:,} tokens; give ids of this model",
                "invalid_request", name,
            )  # fmt: skip
