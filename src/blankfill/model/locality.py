"""Locality initialisation, for short runs: the first heads begin by attending to adjacent positions.

Drawn as the papers draw it, a small masked model spends most of a run of minutes on finding out that the words beside a
blank matter: until its attention tells positions apart it knows little more than how often each word occurs. Here the
first position table starts as sines and cosines (Vaswani et al. 2017, §3.5), for which "the place d further on" is a
rotation, and the first heads of the first layer start with that rotation between query and key, each with a d of its
own. Everything else is drawn as usual, larger for the words (a residual stream of small vectors is drowned by the
positions), and the masked-LM head's dense layer starts as a multiple of the identity. All of it is trained as ever.
A model with relative positions has the sines already: there the first heads start with a v and a projection of the
distances whose product is largest at one of them.
Starting from structure instead of noise is Trockman & Kolter 2023 (arXiv:2305.09828), who do it for the products of the
attention's weights; what each part is worth here is in docs/log.md.

Where a dense layer stands between narrow embeddings and the layers (ALBERT), it begins by copying them into its first
columns.

D width, E width of a head, W width of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blankfill.attention.relative import BASE
from blankfill.model.layers import Layer
from blankfill.model.relative import TransformerXLAttention
from blankfill.model.replaced_tokens import generator_of

if TYPE_CHECKING:
    from blankfill.model.transformer import Transformer

AMPLITUDE = 0.3
"""Of the sines in the position table."""
WORD_STD = 0.05
SLOWEST, FASTEST = 0.03, 1.5
"""Radians from one position to the next."""
SHARPNESS = 22.6
"""Difference of the scores, before the softmax, between the place looked for and one far away."""
IDENTITY = 0.2
"""So much of the identity is the head's dense layer: small enough for its activation to be nearly linear."""


def init_locality(model: Transformer, shifts: Sequence[int]) -> None:
    """Overwrite a freshly drawn model's start. shifts: what the first heads look at, in positions from their own."""
    D, W = model.config.hidden_size, model.config.word_size
    model.token_embeddings.weight.mul_(WORD_STD / model.config.init_std)
    if model.relative:
        first = model.layers[0]
        assert isinstance(first, Layer) and first.attention is not None and first.attention.relative is not None
        for head, shift in enumerate(shifts[: model.config.num_heads]):
            look_at_distance(first.attention.relative, head, shift)
        return
    pairs = min(D, W) // 2
    angle = torch.exp(torch.linspace(math.log(FASTEST), math.log(SLOWEST), pairs))
    positions, first = model.positions[0], model.layers[0]
    assert isinstance(positions, nn.Embedding) and isinstance(first, Layer) and first.attention is not None
    table = positions.weight
    place = torch.arange(len(table))[:, None] * angle
    table.zero_()
    table[:, 0 : 2 * pairs : 2] = AMPLITUDE * place.sin()
    table[:, 1 : 2 * pairs : 2] = AMPLITUDE * place.cos()
    if model.embedding_projection is not None:
        model.embedding_projection.weight[: 2 * pairs] = torch.eye(2 * pairs, W)
    look_at_neighbours(first, angle, shifts)
    if model.lm_head.dense is not None:
        model.lm_head.dense.weight.copy_(IDENTITY * torch.eye(*model.lm_head.dense.weight.shape))
    if (generator := generator_of(model)) is not model:
        init_generator(generator, angle, shifts)


def init_generator(model: Transformer, angle: Tensor, shifts: Sequence[int]) -> None:
    """The same for a generator on the embeddings of a model; angle: that of each pair of columns in them. Of the pairs
    as many as fit the generator, from fast to slow, are copied into its first columns."""
    D, project, first = model.config.hidden_size, model.embedding_projection, model.layers[0]
    assert isinstance(first, Layer)
    pairs = min(D // 2, len(angle))
    if project is not None:
        chosen = torch.linspace(0, len(angle) - 1, pairs).round().long()
        angle, columns = angle[chosen], torch.stack([2 * chosen, 2 * chosen + 1], 1).flatten()
        project.weight[: 2 * pairs] = torch.eye(model.config.word_size)[columns]
    look_at_neighbours(first, angle, shifts)


def look_at_neighbours(layer: Layer, angle: Tensor, shifts: Sequence[int]) -> None:
    """Let the first heads of a layer have their highest scores `shifts` places further on."""
    assert layer.attention is not None
    weight, heads = layer.attention.qkv.weight, layer.attention.heads
    D = weight.shape[1]
    E = D // heads
    scale = math.sqrt(SHARPNESS / math.sqrt(E))
    for head, shift in enumerate(shifts[:heads]):
        query, key = rotation(angle, shift, E, D)
        weight[head * E : (head + 1) * E] = scale * query
        weight[D + head * E : D + (head + 1) * E] = scale * key


def look_at_distance(terms: TransformerXLAttention, head: int, shift: int) -> None:
    """Let a head's scores be highest for the key that stands `shift` places further on: a sum of cosines."""
    H, E = terms.distance_bias.shape
    D = H * E
    angle = BASE ** (-torch.arange(0, D, 2) / D)
    angle = angle[angle > SLOWEST]
    scale = math.sqrt(SHARPNESS * math.sqrt(E) / len(angle))
    row = torch.zeros(2, D // 2)
    row[0, : len(angle)] = -scale * (angle * shift).sin()
    row[1, : len(angle)] = scale * (angle * shift).cos()
    terms.distance_bias[head, 0] = scale
    terms.distance.weight[head * E] = row.flatten()


def rotation(angle: Tensor, shift: int, width: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Query and key matrices [E, D] of a head whose query at place i has the largest product with the key at i + shift.

    angle: radians a position of each (sine, cosine) pair of columns.
    """
    query, key = torch.zeros(width, hidden), torch.zeros(width, hidden)
    chosen = torch.linspace(0, len(angle) - 1, width // 2).round().long()
    for row, pair in enumerate(chosen.tolist()):
        cosine, sine = math.cos(float(angle[pair]) * shift), math.sin(float(angle[pair]) * shift)
        key[2 * row, 2 * pair] = key[2 * row + 1, 2 * pair + 1] = 1.0
        query[2 * row, 2 * pair], query[2 * row, 2 * pair + 1] = cosine, sine
        query[2 * row + 1, 2 * pair], query[2 * row + 1, 2 * pair + 1] = -sine, cosine
    return query, key
