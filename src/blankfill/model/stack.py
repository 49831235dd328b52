"""A stack of layers, each with the mask and the position terms of its kind.

Shapes: B rows, T columns, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blankfill.attention.masks import Masks
from blankfill.attention.positions import PositionTerms
from blankfill.model.config import TransformerConfig
from blankfill.model.cross import EncoderOutput
from blankfill.model.layers import KeyValues, Layer
from blankfill.types import LayerKind


def layer_modules(config: TransformerConfig, count: int, cross: bool = False) -> nn.ModuleList:
    """Make the layers of a stack of `count` layers: one module each, or a single one when they share all weights."""
    distinct = min(1, count) if config.shared == "all" else count
    return nn.ModuleList(Layer(config, index, cross) for index in range(distinct))


def layer_kinds(config: TransformerConfig, count: int) -> tuple[LayerKind, ...]:
    """Return the kind of each layer of a stack."""
    return tuple(config.layer_kind(index) for index in range(count))


def run_layers(
    layers: nn.ModuleList,
    kinds: Sequence[LayerKind],
    hidden_BTD: Tensor,
    masks: Masks,
    terms: Mapping[LayerKind, PositionTerms],
    cache: Sequence[KeyValues] | None = None,
    encoded: EncoderOutput | None = None,
    recompute: bool = False,
    memory_BT: Tensor | None = None,
    outputs: list[Tensor] | None = None,
    prefixes: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compute the hidden states after the last layer.

    recompute: save only the input of each layer, and compute the layer again in the backward pass. memory: bool,
    columns without gradient. outputs: receives the output of each layer. prefixes: keys and values before those of the
    columns, for each layer (`model.prefix`).
    """
    first = layers[0]
    assert isinstance(first, Layer)
    modules: list[Callable[..., Tensor]] = [*layers]
    if len(modules) == 1:  # shared by all layers
        modules *= len(kinds)
    for k, (kind, layer) in enumerate(zip(kinds, modules, strict=True)):
        cross = None if encoded is None else encoded.of(k)
        prefix = None if prefixes is None else prefixes[k]
        if memory_BT is not None:  # every layer reads the memory, and no gradient passes through it
            hidden_BTD = torch.where(memory_BT[..., None], hidden_BTD.detach(), hidden_BTD)
        if recompute:
            arguments = (hidden_BTD, masks[kind], terms[kind], None, cross, first, prefix)
            hidden_BTD = checkpoint(layer, *arguments, use_reentrant=False)
        else:
            layer_cache = None if cache is None else cache[k]
            hidden_BTD = layer(hidden_BTD, masks[kind], terms[kind], layer_cache, cross, first, prefix)
        if outputs is not None:
            outputs.append(hidden_BTD)
    return hidden_BTD
