"""One column more of every row, for a model that writes: what `Transformer.forward` computes, in fewer operations.

A step of a small model on a CPU is over in milliseconds, and the many operations on a single column cost as much as
the matrix products: each takes its time to be called, whatever it computes. Here rows are [B, D] throughout, a product
and the sum with its residual are one operation, in place, and no module is called. docs/performance.md says what it is
worth.

Only for models whose dense layers are plain ones and that no hook watches (`fits`): adapters and quantised weights
take the usual way.

Shapes: B rows, C contexts (B, or a divisor of it), D width, H heads, E width of a head, S columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.capability import plain_dense, plain_weights, watched
from blankfill.model.cross import CrossAttention, Reading
from blankfill.model.dense import Dense
from blankfill.model.embeddings import summed
from blankfill.model.layers import Attention, FeedForward, Layer, LayerCache, activate
from blankfill.model.norms import single_norm
from blankfill.model.transformer import Transformer


def fits(model: Transformer) -> bool:
    """Whether a model may take its steps here."""
    if model.relative or not plain_weights(model.words.parameters()) or any(map(watched, model.modules())):
        return False
    return all(
        plain_dense(dense)
        for layer in model.layers
        if isinstance(layer, Layer)
        for part in (layer.attention, layer.cross, layer.ffn)
        if part is not None
        for dense in part.children()
    )


class SingleColumn:
    """A model's layers, laid ready for single columns. Weights must not be moved while it is in use."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.layers = [_Layer(layer) for layer in model.layers if isinstance(layer, Layer)]
        self.embedding_norm = None if model.embedding_norm is None else single_norm(model.embedding_norm)
        self.final_norm = None if model.final_norm is None else single_norm(model.final_norm)

    def __call__(
        self,
        ids_B1: Tensor,
        positions: Tensor,
        bias: Tensor | None,
        cache: Sequence[LayerCache],
        context: Reading | None = None,
    ) -> Tensor:
        """Hidden states of the new column of each row, [B, D], with no gradient.

        positions int64[P, B, 1]. bias: what is added to the scores of the columns in the cache and the new one,
        [B, 1, 1, S + 1], or None. context: with the keys and values of all layers.
        """
        model = self.model
        if model.distances is not None:
            added = model.by_distance(positions[0], cache)
            bias = added if bias is None else added + bias
        x_BD = summed(F.embedding(ids_B1, model.words.weight), model.positions, positions).squeeze(1)
        if self.embedding_norm is not None:
            x_BD = self.embedding_norm(x_BD)
        if model.widen is not None:
            x_BD = model.widen(x_BD)
        kept, hidden = (None, None) if context is None else (context.kept, context.mask.bias)
        for k, layer in enumerate(self.layers):
            x_BD = layer(x_BD, bias, cache[k], None if kept is None else kept[k], hidden)
        return x_BD if self.final_norm is None else self.final_norm(x_BD)


class _Dense:
    """A dense layer."""

    def __init__(self, dense: Dense) -> None:
        self.weight_IO, self.bias = dense.weight.t(), dense.bias

    def of(self, x_BI: Tensor) -> Tensor:
        """Its output."""
        if self.bias is None:
            return torch.mm(x_BI, self.weight_IO)
        return torch.addmm(self.bias, x_BI, self.weight_IO)

    def onto(self, residual_BO: Tensor, x_BI: Tensor) -> Tensor:
        """The residual with its output added, in place."""
        residual_BO.addmm_(x_BI, self.weight_IO)
        return residual_BO if self.bias is None else residual_BO.add_(self.bias)


class _Attention:
    """Self-attention up to its output layer."""

    def __init__(self, part: Attention) -> None:
        self.heads, self.width, self.scale = part.heads, part.width, part.scale
        self.qkv, self.output = _Dense(part.qkv), _Dense(part.output)

    def mixed(self, x_BD: Tensor, bias: Tensor | None, cache: LayerCache) -> Tensor:
        made_3BH1E = self.qkv.of(x_BD).view(len(x_BD), 3, self.heads, 1, self.width).transpose(0, 1)
        key, value = cache.append(made_3BH1E[1:])
        mixed = F.scaled_dot_product_attention(made_3BH1E[0], key, value, bias, scale=self.scale)
        return mixed.reshape(len(x_BD), -1)


class _Cross:
    """Attention to a context up to its output layer; rows of one context are as columns of one row."""

    def __init__(self, part: CrossAttention) -> None:
        self.heads, self.width, self.scale = part.heads, part.width, part.scale
        self.query, self.output = _Dense(part.query), _Dense(part.output)

    def mixed(self, x_BD: Tensor, kept: tuple[Tensor, Tensor], hidden: Tensor | None) -> Tensor:
        key, value = kept
        query = self.query.of(x_BD).view(len(key), -1, self.heads, self.width).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, hidden, scale=self.scale)
        return mixed.transpose(1, 2).reshape(len(x_BD), -1)


class _FeedForward:
    """The inner columns, and the layer that reads them."""

    def __init__(self, part: FeedForward) -> None:
        self.activation, self.gated = part.activation, part.gated
        self.inner, self.output = _Dense(part.inner), _Dense(part.output)

    def mixed(self, x_BD: Tensor) -> Tensor:
        made = self.inner.of(x_BD)
        if not self.gated:
            return activate(made, self.activation)
        chosen, other = made.chunk(2, -1)
        return activate(chosen, self.activation).mul_(other)


class _Layer:
    """The parts of a layer in their wiring; rows are written over."""

    def __init__(self, layer: Layer) -> None:
        self.pre = layer.pre
        self.attention, self.attention_norm = _Attention(layer.attention), single_norm(layer.attention_norm)
        self.cross = None if layer.cross is None else _Cross(layer.cross)
        self.cross_norm = None if layer.cross_norm is None else single_norm(layer.cross_norm)
        self.ffn, self.ffn_norm = _FeedForward(layer.ffn), single_norm(layer.ffn_norm)

    def __call__(
        self,
        x_BD: Tensor,
        bias: Tensor | None,
        cache: LayerCache,
        kept: tuple[Tensor, Tensor] | None,
        hidden: Tensor | None,
    ) -> Tensor:
        attention, cross, ffn = self.attention, self.cross, self.ffn
        if self.pre:
            x_BD = attention.output.onto(x_BD, attention.mixed(self.attention_norm(x_BD), bias, cache))
            if cross is not None and self.cross_norm is not None and kept is not None:
                x_BD = cross.output.onto(x_BD, cross.mixed(self.cross_norm(x_BD), kept, hidden))
            return ffn.output.onto(x_BD, ffn.mixed(self.ffn_norm(x_BD)))
        x_BD = self.attention_norm(attention.output.onto(x_BD, attention.mixed(x_BD, bias, cache)))
        if cross is not None and self.cross_norm is not None and kept is not None:
            x_BD = self.cross_norm(cross.output.onto(x_BD, cross.mixed(x_BD, kept, hidden)))
        return self.ffn_norm(ffn.output.onto(x_BD, ffn.mixed(x_BD)))
