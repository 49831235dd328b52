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

from blankfill.attention.positions import NO_TERMS, Rotation
from blankfill.kernels.capability import plain_dense, plain_weights, watched
from blankfill.model.cross import CrossAttention, EncoderOutput
from blankfill.model.dense import Dense
from blankfill.model.layers import Attention, FeedForward, Layer, LayerCache, activate, rotated
from blankfill.model.norms import Norm, single_norm
from blankfill.model.transformer import Transformer


def fits(model: Transformer) -> bool:
    """Whether a model may take its steps here."""
    if model.relative or "local" in model.kinds or any(map(watched, model.modules())):
        return False
    if not plain_weights(model.token_embeddings.parameters()):
        return False
    return all(
        plain_dense(dense)
        for layer in model.layers
        if isinstance(layer, Layer)
        for part in (layer.attention, layer.cross, layer.ffn)  # a part that is shared is the first layer's
        if part is not None
        for dense in part.children()
    )


class SingleColumn:
    """A model's layers, laid ready for single columns. Weights must not be moved while it is in use."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        first = model.layers[0]
        assert isinstance(first, Layer)
        layers = [model.layers[k] if len(model.layers) > 1 else first for k in range(len(model.kinds))]
        self.layers = [_Layer(layer, first) for layer in layers if isinstance(layer, Layer)]
        self.embedding_norm = None if model.embedding_norm is None else single_norm(model.embedding_norm)
        self.final_norm = None if model.final_norm is None else single_norm(model.final_norm)

    def logits(
        self,
        ids_B1: Tensor,
        positions: Tensor,
        bias: Tensor | None,
        cache: Sequence[LayerCache],
        context: EncoderOutput | None = None,
    ) -> Tensor:
        """Scores at the new column of each row, [B, V]; see `__call__`."""
        hidden_BD = self(ids_B1, positions, bias, cache, context)
        scores_BV: Tensor = self.model.lm_head(hidden_BD, self.model.output_table)
        return scores_BV

    def __call__(
        self,
        ids_B1: Tensor,
        positions: Tensor,
        bias: Tensor | None,
        cache: Sequence[LayerCache],
        context: EncoderOutput | None = None,
    ) -> Tensor:
        """Hidden states of the new column of each row, [B, D], with no gradient.

        positions int64[P, B, 1]. bias: what is added to the scores of the columns in the cache and the new one,
        [B, 1, 1, S + 1], or None. context: with the keys and values of all layers.
        """
        model = self.model
        rotation = None
        if model.attention_scheme is not None:
            rotation = model.attention_scheme.terms(NO_TERMS, positions, "global", False).rotation
        if model.position_bias is not None:
            added = model.cached_bias(positions[0], cache)
            bias = added if bias is None else added + bias
        x_BD = model.positions.embed(F.embedding(ids_B1, model.token_embeddings.weight), positions).squeeze(1)
        if self.embedding_norm is not None:
            x_BD = self.embedding_norm(x_BD)
        if model.embedding_projection is not None:
            x_BD = model.embedding_projection(x_BD)
        kept, hidden = (None, None) if context is None else (context.keys_values, context.mask.bias)
        for k, layer in enumerate(self.layers):
            x_BD = layer(x_BD, (bias, rotation, cache[k], None if kept is None else kept[k], hidden))
        return x_BD if self.final_norm is None else self.final_norm(x_BD)


_Given = tuple[Tensor | None, Rotation | None, LayerCache, tuple[Tensor, Tensor] | None, Tensor | None]
"""What a layer computes with besides its input: the bias of the scores, the rotation of queries and keys, its cache,
and the keys and values of the context with what is added to their scores."""


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
        self.split, self.scale = part.split, part.scale
        self.heads, self.kv_heads, self.width = part.heads, part.kv_heads, part.width
        self.shared = part.heads // part.kv_heads
        self.qkv, self.output = _Dense(part.qkv), _Dense(part.output)

    def mixed(self, x_BD: Tensor, given: _Given) -> Tensor:
        bias, rotation, cache, _, _ = given
        rows, made = len(x_BD), self.qkv.of(x_BD)
        if rotation is None:  # what `split` gives, with fewer views
            made_BH1E = made.view(rows, -1, 1, self.width)
            query_BH1E = made_BH1E[:, : self.heads]
            both_2BG1E = made_BH1E[:, self.heads :].view(rows, 2, self.kv_heads, 1, self.width).transpose(0, 1)
        else:
            query_B1HE, both_B12GE = rotated(rotation, *self.split(made[:, None]))
            query_BH1E, both_2BG1E = query_B1HE.transpose(1, 2), both_B12GE.permute(2, 0, 3, 1, 4)
        key, value = cache.append(both_2BG1E)
        if self.shared > 1:
            key, value = key.repeat_interleave(self.shared, 1), value.repeat_interleave(self.shared, 1)
        mixed = F.scaled_dot_product_attention(query_BH1E, key, value, bias, scale=self.scale)
        return mixed.reshape(rows, -1)


class _Cross:
    """Attention to a context up to its output layer; rows of one context are as columns of one row."""

    def __init__(self, part: CrossAttention) -> None:
        self.heads, self.width, self.scale = part.heads, part.width, part.scale
        self.query, self.output = _Dense(part.query), _Dense(part.output)

    def mixed(self, x_BD: Tensor, given: _Given) -> Tensor:
        _, _, _, kept, hidden = given
        assert kept is not None
        key, value = kept
        query = self.query.of(x_BD).view(len(key), -1, self.heads, self.width).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, hidden, scale=self.scale)
        return mixed.transpose(1, 2).reshape(len(x_BD), -1)


class _FeedForward:
    """The inner columns, and the layer that reads them."""

    def __init__(self, part: FeedForward) -> None:
        self.activation, self.gated = part.activation, part.gated
        self.inner, self.output = _Dense(part.inner), _Dense(part.output)

    def mixed(self, x_BD: Tensor, given: _Given) -> Tensor:
        made = self.inner.of(x_BD)
        if not self.gated:
            return activate(made, self.activation)
        chosen, other = made.chunk(2, -1)
        return activate(chosen, self.activation).mul_(other)


class _Layer:
    """The parts of a layer in its wiring (`layers.through`), made once; rows are written over.

    first: the layer that has what this one lacks.
    """

    def __init__(self, layer: Layer, first: Layer) -> None:
        attention, attention_norm, ffn, ffn_norm = layer.parts(first)
        self.pre, self.residual_scale = layer.pre, layer.residual_scale
        parts: list[tuple[Norm | None, _Attention | _Cross | _FeedForward]] = [(attention_norm, _Attention(attention))]
        if layer.cross is not None:
            parts.append((layer.cross_norm, _Cross(layer.cross)))
        parts.append((ffn_norm, _FeedForward(ffn)))
        self.parts = [(None if normed is None else single_norm(normed), part) for normed, part in parts]

    def __call__(self, x_BD: Tensor, given: _Given) -> Tensor:
        pre, scale = self.pre, self.residual_scale
        for normed, part in self.parts:
            residual_BD = x_BD if scale == 1 else x_BD * scale
            read_BD = normed(x_BD) if pre and normed is not None else x_BD
            x_BD = part.output.onto(residual_BD, part.mixed(read_BD, given))
            if not pre and normed is not None:
                x_BD = normed(x_BD)
        return x_BD
