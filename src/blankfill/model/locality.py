"""Locality initialisation, for short runs: the first heads are initialised to attend to adjacent positions.

With the random weights of the papers, a small masked model needs most of a run of minutes to learn that the words
beside a blank matter: until its attention distinguishes positions, it knows little more than the frequencies of words.
Here the first position table is initialised with sines and cosines (Vaswani et al. 2017, §3.5), for which a shift by d
positions is a rotation, and the first heads of the first layer are initialised with this rotation between query and
key, each with its own d. All other weights are random as usual, but token embeddings are larger (otherwise the
positions would dominate the residual stream), and the dense layer of the masked-LM head is initialised with a multiple
of the identity. All of these weights are trained. A model with relative positions already has the sines: there the
first heads are initialised with a v and a projection of the distances whose product is largest at one distance.
Structured initial weights were proposed by Trockman & Kolter 2023 (arXiv:2305.09828) for the products of the
attention's weights; docs/log.md has the effect of each part here.

An embedding projection (ALBERT) is initialised to copy the embeddings into its first columns.

D width, E width of a head, W width of the embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blankfill.attention.relative import BASE
from blankfill.model.draw import Patch, Rule
from blankfill.model.replaced_tokens import NAME

if TYPE_CHECKING:
    from blankfill.model.config import TransformerConfig
    from blankfill.model.transformer import Transformer

AMPLITUDE = 0.3
"""Of the sines in the position table."""
WORD_STD = 0.05
SLOWEST, FASTEST = 0.03, 1.5
"""Radians from one position to the next."""
SHARPNESS = 22.6
"""Difference of the scores, before the softmax, between the attended position and a distant one."""
IDENTITY = 0.2
"""Factor of the identity in the head's dense layer, small enough for its activation to be nearly linear."""


def locality_rules(model: Transformer, shifts: Sequence[int], rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return the rules that differ from the family's, by parameter. shifts: relative offsets that the first heads
    attend to; rules: those of the family."""
    D, W = model.config.hidden_size, model.config.word_size
    patches: dict[str, list[Patch]] = {}
    if model.relative:
        patches = distance_patches(D, model.config.num_heads, shifts)
    else:
        pairs = min(D, W) // 2
        angle = torch.exp(torch.linspace(math.log(FASTEST), math.log(SLOWEST), pairs))
        place = torch.arange(model.config.position_sizes[0])[:, None] * angle
        positions = torch.zeros(len(place), W)
        positions[:, 0 : 2 * pairs : 2] = AMPLITUDE * place.sin()
        positions[:, 1 : 2 * pairs : 2] = AMPLITUDE * place.cos()
        patches["positions.0.weight"] = [Patch(positions)]
        if model.embedding_projection is not None:
            patches["embedding_projection.weight"] = [Patch(torch.eye(2 * pairs, W))]
        patches["layers.0.attention.qkv.weight"] = neighbour_patches(angle, shifts, D, model.config.num_heads)
        if model.lm_head.dense is not None:
            patches["lm_head.dense.weight"] = [Patch(IDENTITY * torch.eye(*model.lm_head.dense.weight.shape))]
        if model.config.generator_size:
            patches |= generator_patches(model.config.generator, angle, shifts)
    changed = {name: replace(rules[name], patches=tuple(parts)) for name, parts in patches.items()}
    return {"token_embeddings.weight": replace(rules["token_embeddings.weight"], scale=WORD_STD), **changed}


def generator_patches(config: TransformerConfig, angle: Tensor, shifts: Sequence[int]) -> dict[str, list[Patch]]:
    """Return the same values for a generator on the embeddings of a model.

    config: the generator's. angle: the angle of each pair of columns in the embeddings. As many of the pairs as fit the
    generator, from fast to slow, are copied into its first columns.
    """
    prefix, patches = f"heads.{NAME}.generator.", dict[str, list[Patch]]()
    if config.embedding_size:
        chosen = torch.linspace(0, len(angle) - 1, min(config.hidden_size // 2, len(angle))).round().long()
        angle, columns = angle[chosen], torch.stack([2 * chosen, 2 * chosen + 1], 1).flatten()
        patches[f"{prefix}embedding_projection.weight"] = [Patch(torch.eye(config.word_size)[columns])]
    attention = neighbour_patches(angle, shifts, config.hidden_size, config.num_heads)
    return {**patches, f"{prefix}layers.0.attention.qkv.weight": attention}


def neighbour_patches(angle: Tensor, shifts: Sequence[int], width: int, heads: int) -> list[Patch]:
    """Return the values with which the first heads of a layer attend to the offsets `shifts`. width: D."""
    E, patches = width // heads, list[Patch]()
    scale = math.sqrt(SHARPNESS / math.sqrt(E))
    for head, shift in enumerate(shifts[:heads]):
        query, key = rotation(angle, shift, E, width)
        patches += [Patch(scale * query, head * E), Patch(scale * key, width + head * E)]
    return patches


def distance_patches(width: int, heads: int, shifts: Sequence[int]) -> dict[str, list[Patch]]:
    """Return the values with which the scores of the first heads are highest for keys at the offsets `shifts`: a sum of
    cosines. width: D."""
    E = width // heads
    angle = BASE ** (-torch.arange(0, width, 2) / width)
    angle = angle[angle > SLOWEST]
    scale = math.sqrt(SHARPNESS * math.sqrt(E) / len(angle))
    name = "layers.0.attention.relative"
    patches: dict[str, list[Patch]] = {f"{name}.distance_bias": [], f"{name}.distance.weight": []}
    for head, shift in enumerate(shifts[:heads]):
        row = torch.zeros(2, width // 2)
        row[0, : len(angle)] = -scale * (angle * shift).sin()
        row[1, : len(angle)] = scale * (angle * shift).cos()
        patches[f"{name}.distance_bias"].append(Patch(torch.full((1, 1), scale), head))
        patches[f"{name}.distance.weight"].append(Patch(row.view(1, -1), head * E))
    return patches


def rotation(angle: Tensor, shift: int, width: int, hidden: int) -> tuple[Tensor, Tensor]:
    """Return query and key matrices [E, D] of a head whose query at place i has the largest product with the key at i +
    shift.

    angle: radians per position of each (sine, cosine) pair of columns.
    """
    query, key = torch.zeros(width, hidden), torch.zeros(width, hidden)
    chosen = torch.linspace(0, len(angle) - 1, width // 2).round().long()
    for row, pair in enumerate(chosen.tolist()):
        cosine, sine = math.cos(float(angle[pair]) * shift), math.sin(float(angle[pair]) * shift)
        key[2 * row, 2 * pair] = key[2 * row + 1, 2 * pair + 1] = 1.0
        query[2 * row, 2 * pair], query[2 * row, 2 * pair + 1] = cosine, sine
        query[2 * row + 1, 2 * pair], query[2 * row + 1, 2 * pair + 1] = -sine, cosine
    return query, key
