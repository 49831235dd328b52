"""Position schemes: how a stack of layers represents positions, chosen by its configuration.

    learned       tables of positions, summed with the token embeddings (BERT, GPT-2, GLM)
    T5's buckets  a number for each bucket of distances and head, added to the scores (Raffel et al. 2020, §2.1)
    relative      Transformer-XL's distances, which each layer has weights for (`model.relative`)
    rotary        queries and keys rotated by their position (Su et al. 2021), or by two (ChatGLM)

A scheme changes the embeddings (`embed`), or what attention does (`terms`, made once for a batch and each kind of
layers), or both. A stack may have several: UniLM v2 has tables and buckets.

Shapes: B rows (1 where all have the same positions), T columns, P position channels, H heads, Q queries, K keys, W
columns of the tables, N buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.buckets import buckets_of, lower_buckets
from blankfill.attention.positions import PositionTerms, Rotation
from blankfill.attention.relative import lower_distances
from blankfill.model.config import TransformerConfig
from blankfill.model.embeddings import table
from blankfill.types import LayerKind


class PositionScheme:
    """The interface of a scheme; this one changes nothing."""

    def embed(self, tokens_BTW: Tensor, positions: Tensor) -> Tensor:
        """Add positions to the token embeddings; positions int64[P, B, T]."""
        return tokens_BTW

    def terms(self, terms: PositionTerms, positions: Tensor, kind: LayerKind, ordered: bool) -> PositionTerms:
        """Add this scheme's terms for layers of a kind to those of other schemes. ordered: whether differences of
        columns equal differences of positions (`attention.masks.in_order`)."""
        return terms


class LearnedPositions(nn.ModuleList, PositionScheme):
    """One table for each channel, of `TransformerConfig.position_sizes`."""

    def __init__(self, config: TransformerConfig) -> None:
        sizes = config.position_sizes if config.position_scheme == "learned" else ()
        super().__init__(table(size, config.word_size) for size in sizes)

    def embed(self, tokens_BTW: Tensor, positions: Tensor) -> Tensor:
        """Add the rows of every table to the token embeddings."""
        for position_table, channel in zip(self, positions if len(self) else (), strict=True):
            tokens_BTW = tokens_BTW + position_table(channel)
        return tokens_BTW


class RelativePositionBias(nn.Module, PositionScheme):
    """A bias of the scores for each bucket of distances and each head, shared by all layers of a stack (T5).

    both_ways: whether keys after the query have buckets of their own.
    """

    def __init__(self, config: TransformerConfig, both_ways: bool) -> None:
        super().__init__()
        self.farthest, self.both_ways = config.relative_distance, both_ways
        self.weight = nn.Parameter(torch.empty(config.relative_buckets, config.num_heads))
        """[N, H]."""

    def forward(self, query_BQ: Tensor, key_BK: Tensor) -> Tensor:
        """Return the bias of the scores for queries and keys at these positions, [B, H, Q, K], with gradient."""
        index_BQK = lower_buckets(query_BQ, key_BK, len(self.weight), self.farthest, self.both_ways)
        return F.embedding(index_BQK, self.weight).permute(0, 3, 1, 2).contiguous()

    def bias_per_distance(self) -> Tensor:
        """Return the bias of distances from −`farthest` to `farthest`, which also hold for all larger distances;
        [2 · farthest + 1, H]."""
        far = self.farthest
        distances = torch.arange(-far, far + 1, device=self.weight.device)
        return F.embedding(buckets_of(distances, len(self.weight), far, self.both_ways), self.weight)

    def lookup(self, bias_table: Tensor, query_BQ: Tensor, key_BK: Tensor) -> Tensor:
        """Return the bias as `forward`, from a table that `bias_per_distance` made: for few queries at a time."""
        index_BQK = key_BK[:, None, :] - query_BQ[:, :, None]
        index_BQK.clamp_(-self.farthest, self.farthest).add_(self.farthest)
        return F.embedding(index_BQK, bias_table).permute(0, 3, 1, 2).contiguous()

    def terms(self, terms: PositionTerms, positions: Tensor, kind: LayerKind, ordered: bool) -> PositionTerms:
        """Add the bias of columns that attend to one another, [B or 1, H, T, T]."""
        position_BT = positions[0]
        if ordered:
            position_BT = torch.arange(position_BT.shape[1], device=position_BT.device)[None]
        return replace(terms, bias=self(position_BT, position_BT))


class DistanceEncoding(PositionScheme):
    """Transformer-XL's distances between places, and which columns are of one segment (channels 0 and 1)."""

    def __init__(self, config: TransformerConfig) -> None:
        self.width, self.clamp = config.hidden_size, config.clamp

    def terms(self, terms: PositionTerms, positions: Tensor, kind: LayerKind, ordered: bool) -> PositionTerms:
        """Add the distances of all columns."""
        return replace(terms, distances=lower_distances(positions[0], positions[1], self.width, self.clamp))


class Rotary(PositionScheme):
    """Rotations by the first position channel, or, with two axes, of the halves of a head by the first two."""

    def __init__(self, config: TransformerConfig) -> None:
        self.axes = 2 if config.position_scheme == "rotary_2d" else 1
        self.width, self.rounding = config.head_width, config.rotary_rounding
        self.theta: dict[LayerKind, float] = {
            "global": config.rotary_theta,
            "local": config.local_rotary_theta or config.rotary_theta,
        }

    def terms(self, terms: PositionTerms, positions: Tensor, kind: LayerKind, ordered: bool) -> PositionTerms:
        """Add the rotation of a batch."""
        rotation = Rotation.of(positions[: self.axes], self.width, self.theta[kind], self.rounding)
        return replace(terms, rotation=rotation)


def attention_scheme(config: TransformerConfig) -> PositionScheme | None:
    """Return the scheme of a configuration that has no weights in the stack; None for tables or without positions."""
    if config.position_scheme == "relative":
        return DistanceEncoding(config)
    return Rotary(config) if config.position_scheme in ("rotary", "rotary_2d") else None


def terms_of(
    schemes: Sequence[PositionScheme], positions: Tensor, kinds: Sequence[LayerKind], ordered: bool
) -> dict[LayerKind, PositionTerms]:
    """Return the position terms of a batch from all schemes of a stack, for each kind of its layers."""
    made: dict[LayerKind, PositionTerms] = {}
    for kind in kinds:
        terms = PositionTerms()
        for scheme in schemes:
            terms = scheme.terms(terms, positions, kind, ordered)
        made[kind] = terms
    return made
