"""Texts → vectors: the mean of a model's hidden states over a text, or the state of its [CLS], first or last. Of a
model of two stacks (T5, BART) it is the encoder that reads (Sentence-T5, arXiv 2108.08877).

Most of the work in embedding sentences the usual way is spent on padding: a batch is as wide as its longest text. Here
texts are sorted by length and lie one after another in a single row, without padding, of which attention computes each
text alone (`Batch.texts`). Where the model or the device cannot do that, almost every batch holds texts of one length,
which need neither padding nor a mask. The vectors come back in the order of the texts.

The mean is over all tokens that the model reads, special ones included, as sentence-transformers takes it.

Shapes: N texts, B rows, T columns, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blankfill.data.batching import prefetch
from blankfill.data.packing import packed_batches, padded_batches
from blankfill.errors import UserError, setting
from blankfill.model.view import evaluation_view
from blankfill.types import Batch, TextSpans

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

Pooling = Literal["mean", "cls"]
Float32 = NDArray[np.float32]

FLAT_TOKENS = 1024
"""Columns of a single row of texts; more are not faster on a CPU."""
WINDOW = 16_384
"""How many texts to give at once: they are sorted together, and memory grows with this, not with the file."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of some texts, float32[N, D], and how many of the texts were cut because they were too long."""

    array: Float32
    cut: int


class Embedder:
    """A loaded model that turns texts into vectors."""

    def __init__(self, loaded: Loaded, pooling: Pooling = "mean", normalize: bool = True) -> None:
        """pooling: "mean" over a text's columns, or "cls", its first (XLNet: its last). normalize: to length 1.

        Raises UserError for "cls" with a model that reads from left to right, whose first column sees only itself, or
        has no [CLS], and for a tokenizer without the tokens that frame a text.
        """
        objective = loaded.objective
        if pooling == "cls" and not objective.cls_state:
            reason = "has no [CLS] that would stand for a text"
            if objective.causal:
                reason = "sees nothing but itself at its first column, which says nothing of the text"
            raise UserError(f"{loaded.path}: a {objective.name} model {reason}; use {setting('pooling', 'mean')}")
        format = objective.format(loaded.vocabulary, loaded.model.config.position_sizes)
        self.causal, self.cls_last = objective.causal, format.frame((), encoder_only=True).pooled > 0
        self.model = evaluation_view(loaded.model, lasting=True)
        self.tokenizer, self.path = loaded.tokenizer, loaded.path
        self.pooling, self.normalize = pooling, normalize
        self.objective = loaded.objective
        self.longest = format.max_columns
        self.device = self.model.device
        self.pad = loaded.vocabulary.roles.get("pad", 0)
        self.flat = self.device.type == "cpu"
        """Whether texts of unlike length share a row without padding."""
        self.frame = self._frame(loaded)

    @property
    def width(self) -> int:
        """D, the length of a vector."""
        return self.model.config.hidden_size

    @property
    def room(self) -> int:
        """Largest number of tokens of a text, without those that frame it."""
        return self.longest - len(self.frame[0]) - len(self.frame[1])

    def vectors(self, texts: Sequence[str], first: int = 1) -> Vectors:
        """Return the vectors of texts, in their order.

        UserError for a text without a token where the model reads no frame; it calls the texts by number from `first`.
        """
        encoded = self.tokenizer.encode_batch(texts)
        cut = sum(len(ids) > self.room for ids in encoded)
        rows = [self.framed(ids) for ids in encoded]
        empty = next((number for number, row in enumerate(rows, first) if not row), None)
        if empty is not None:
            raise UserError(f"text {empty} is empty, and {self.path} reads only the tokens of a text; leave it out")
        return Vectors(self.of_rows(rows), cut)

    def framed(self, ids: Sequence[int]) -> list[int]:
        """Return the row of a text's ids: cut to the room, with the special tokens of training around it."""
        before, after = self.frame
        return [*before, *ids[: self.room], *after]

    @torch.inference_mode()
    def of_rows(self, rows: Sequence[Sequence[int]]) -> Float32:
        """Return the vectors of rows that `framed` has made, none of them empty: float32[N, D]."""
        out = np.empty((len(rows), self.width), np.float32)
        lengths = np.array([len(row) for row in rows], np.int64)
        if self.flat and len(rows) > 1 and self.model.reads_texts(int(lengths.max())):
            for chosen in packed_batches(lengths, FLAT_TOKENS):
                out[chosen] = self._pool_flat([rows[k] for k in chosen], lengths[chosen]).numpy()
            return out
        order = list(padded_batches(lengths))
        made = (self._batch([rows[k] for k in chosen]) for chosen in order)
        batches = prefetch(made) if len(order) > 2 else made
        for chosen, batch in zip(order, batches, strict=True):
            out[chosen] = self._pool(*batch).float().cpu().numpy()
        return out

    def _pool_flat(self, rows: Sequence[Sequence[int]], lengths_N: NDArray[np.int64]) -> Tensor:
        """Compute the vectors of rows that lie one after another in a single row, without padding, [N, D]."""
        hidden_TD = self.model(self._flat_batch(rows, lengths_N), self.model.dtype).hidden[0]
        ends_N = np.cumsum(lengths_N)
        if self.pooling == "cls":
            pooled_ND = hidden_TD[torch.from_numpy(ends_N - 1 if self.cls_last else ends_N - lengths_N)].float()
        else:
            pooled_ND = torch.segment_reduce(hidden_TD.float(), "mean", lengths=torch.from_numpy(lengths_N))
        return torch.nn.functional.normalize(pooled_ND) if self.normalize else pooled_ND

    def _flat_batch(self, rows: Sequence[Sequence[int]], lengths_N: NDArray[np.int64]) -> Batch:
        width, segments = int(lengths_N.sum()), np.arange(len(rows), dtype=np.int32)
        ids_T = np.fromiter(chain.from_iterable(rows), np.int64, width)
        rank_T = np.arange(width, dtype=np.int32) if self.causal else np.zeros(width, np.int32)
        positions_PT = np.zeros((len(self.model.config.position_sizes), width), np.int64)
        first, known = 0, {}
        for length in lengths_N.tolist():
            if length not in known:
                known[length] = self.objective.row_positions(length)
            positions_PT[: len(known[length]), first : first + length] = known[length]
            first += length
        segment_1T, rank_1T, ids_1T, positions_P1T = (
            torch.from_numpy(array)
            for array in (np.repeat(segments, lengths_N)[None], rank_T[None], ids_T[None], positions_PT[:, None])
        )
        batch = Batch.of_rows(ids_1T, positions_P1T, segment_1T, rank_1T, rank_1T)
        return replace(batch, texts=TextSpans(tuple(lengths_N.tolist()), self.causal))

    def _frame(self, loaded: Loaded) -> tuple[list[int], list[int]]:
        """Return the ids before and after a text, as the objective frames it in training; where the tokenizer has no
        such tokens, as it frames a text itself."""
        before, _, after = loaded.objective.frame_roles()
        if not (missing := loaded.vocabulary.missing((*before, *after))):
            return [loaded.vocabulary[role] for role in before], [loaded.vocabulary[role] for role in after]
        if (own := self.tokenizer.frame()) != ((), ()):
            return list(own[0]), list(own[1])
        raise UserError(
            f"{loaded.path}: the tokenizer has no token for {', '.join(missing)}, which the model has read around "
            "every text; use the tokenizer that the model was trained with"
        )

    def _batch(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return ids padded on the right, int64[B, T], and lengths, int64[B]."""
        lengths = [len(row) for row in rows]
        ids = np.full((len(rows), max(lengths)), self.pad, np.int64)
        for k, row in enumerate(rows):
            ids[k, : lengths[k]] = row
        return torch.from_numpy(ids), torch.tensor(lengths)

    def _pool(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Compute the vectors of a batch, [B, D]."""
        padding_BT = torch.arange(ids_BT.shape[1]) >= lengths_B[:, None]
        hidden_BTD = self._encode(ids_BT.to(self.device), padding_BT.to(self.device))
        if self.pooling == "cls":
            columns_B = lengths_B - 1 if self.cls_last else torch.zeros_like(lengths_B)
            pooled_BD = hidden_BTD[torch.arange(len(lengths_B)), columns_B]
        elif padding_BT.any():
            inside_BT1 = (~padding_BT).to(self.device, hidden_BTD.dtype)[:, :, None]
            pooled_BD = (hidden_BTD * inside_BT1).sum(1, dtype=torch.float32) / inside_BT1.sum(1, dtype=torch.float32)
        else:
            pooled_BD = hidden_BTD.mean(1, dtype=torch.float32)
        pooled_BD = pooled_BD.float()  # the length of a vector in bf16 would be rounded to 8 bits
        return torch.nn.functional.normalize(pooled_BD) if self.normalize else pooled_BD

    def _positions(self, lengths_B: Tensor, width: int) -> Tensor:
        """Return the positions of rows, as in training; places are counted on through the padding. int64[P, B, T]."""
        positions = np.zeros((len(self.model.config.position_sizes), len(lengths_B), width), np.int64)
        positions[0] = self.objective.row_positions(width)[0]
        lengths = lengths_B.cpu().numpy()
        for length in np.unique(lengths) if len(positions) > 1 else ():
            others_PT = self.objective.row_positions(int(length))[1:]
            positions[1 : 1 + len(others_PT), lengths == length, :length] = others_PT[:, None]
        return torch.from_numpy(positions).to(self.device)

    def _encode(self, ids_BT: Tensor, padding_BT: Tensor) -> Tensor:
        width = ids_BT.shape[1]
        positions_PBT = self._positions((~padding_BT).sum(1), width)
        segment_BT, rank_BT = -padding_BT.to(torch.int32), None
        if self.causal:  # padding stands at the end, where no text sees it
            kind, rank_BT = "causal", torch.arange(width, dtype=torch.int32, device=self.device).expand_as(segment_BT)
        else:
            kind = "rule" if padding_BT.any() else "none"
        batch = Batch.of_rows(ids_BT, positions_PBT, segment_BT, rank_BT, rank_BT, mask=kind)
        dtype, has_encoder = self.model.dtype, self.model.encoder is not None
        hidden_BTD: Tensor = self.model(batch, dtype, encoder_only=has_encoder).hidden
        return hidden_BTD
