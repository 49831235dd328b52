"""One decoding step, with one new column in each row: the result of `Transformer.forward` in fewer operations.

A step of a small model on a CPU takes milliseconds, and the call of an operation on a single column costs as much as
the matrix product in it. Here rows are [B, D] throughout, each product and the sum with its residual are one in-place
operation, and no module is called. docs/performance.md shows the gain.

Only for models with plain dense layers and without hooks (`fits`); models with adapters or quantised weights use the
forward pass.

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
from blankfill.model.layers import Attention, FeedForward, Layer, LayerCache, Sublayer, activate, rotated, through
from blankfill.model.norms import Norm, single_norm
from blankfill.model.transformer import Transformer


def fits(model: Transformer) -> bool:
    """Return whether a model may decode with this module."""
    if model.relative or "local" in model.kinds or any(map(watched, model.modules())):
        return False
    if not plain_weights(model.token_embeddings.parameters()):
        return False
    return all(
        plain_dense(dense)
        for layer in model.layers
        if isinstance(layer, Layer)
        for part in (layer.attention, layer.cross, layer.ffn)  # shared parts belong to the first layer
        if part is not None
        for dense in part.children()
    )


class SingleColumn:
    """The layers of a model, prepared for single columns. Weights must not be moved while it is in use."""

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
        """Compute the scores at the new column of each row, [B, V]; see `__call__`."""
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
        """Compute the hidden states of the new column of each row, [B, D], without gradient.

        positions int64[P, B, 1]. bias: added to the scores of the cached columns and the new one, [B, 1, 1, S + 1], or
        None. context: the encoder's output with the keys and values of all layers.
        """
        model = self.model
        rotation = None
        if model.attention_scheme is not None:
            rotation = model.attention_scheme.terms(NO_TERMS, positions, "global", False).rotation
        if model.position_bias is not None:
            added = model.cached_bias(positions[0], cache)
            bias = added if bias is None else added + bias
        x_BD = model.positions.embed(model.look_up(ids_B1), positions).squeeze(1)
        if self.embedding_norm is not None:
            x_BD = self.embedding_norm(x_BD)
        if model.embedding_projection is not None:
            x_BD = model.embedding_projection(x_BD)
        keys_values, hidden = (None, None) if context is None else (context.keys_values, context.mask.bias)
        for k, layer in enumerate(self.layers):
            x_BD = layer(x_BD, (bias, rotation, cache[k], None if keys_values is None else keys_values[k], hidden))
        return x_BD if self.final_norm is None else self.final_norm(x_BD)


_Given = tuple[Tensor | None, Rotation | None, LayerCache, tuple[Tensor, Tensor] | None, Tensor | None]
"""The arguments of a layer besides its input: the bias of the scores, the rotation of queries and keys, its cache,
and the keys and values of the context with what is added to their scores."""


class _Dense:
    """A dense layer."""

    def __init__(self, dense: Dense) -> None:
        self.weight_IO, self.bias = dense.weight.t(), dense.bias

    def of(self, x_BI: Tensor) -> Tensor:
        """Compute the output for x."""
        if self.bias is None:
            return torch.mm(x_BI, self.weight_IO)
        return torch.addmm(self.bias, x_BI, self.weight_IO)

    def onto(self, residual_BO: Tensor, x_BI: Tensor) -> Tensor:
        """Add the output for x to the residual, in place."""
        residual_BO.addmm_(x_BI, self.weight_IO)
        return residual_BO if self.bias is None else residual_BO.add_(self.bias)


class _Sublayer:
    """A sublayer. `mixed` computes what its output layer reads."""

    output: _Dense

    def mixed(self, x_BD: Tensor, given: _Given) -> Tensor:
        raise NotImplementedError

    def step(self, x_BD: Tensor, residual_BD: Tensor, given: _Given) -> Tensor:
        """Add the output for x to the residual, in place."""
        return self.output.onto(residual_BD, self.mixed(x_BD, given))


class _Attention(_Sublayer):
    """Self-attention."""

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


class _Cross(_Sublayer):
    """Attention to a context; the rows of one context are treated as columns of one row."""

    def __init__(self, part: CrossAttention) -> None:
        self.heads, self.width, self.scale = part.heads, part.width, part.scale
        self.query, self.output = _Dense(part.query), _Dense(part.output)

    def mixed(self, x_BD: Tensor, given: _Given) -> Tensor:
        _, _, _, keys_values, hidden = given
        assert keys_values is not None
        key, value = keys_values
        query = self.query.of(x_BD).view(len(key), -1, self.heads, self.width).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value, hidden, scale=self.scale)
        return mixed.transpose(1, 2).reshape(len(x_BD), -1)


class _FeedForward(_Sublayer):
    """The inner dense layer, activation and output layer."""

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
    """The parts of a layer, wired; the input is overwritten. first: the layer with the parts that this one lacks."""

    def __init__(self, layer: Layer, first: Layer) -> None:
        attention, attention_norm, ffn, ffn_norm = layer.parts(first)
        self.pre, self.residual_scale = layer.pre, layer.residual_scale
        parts: list[tuple[Norm | None, _Sublayer]] = [(attention_norm, _Attention(attention))]
        if layer.cross is not None:
            parts.append((layer.cross_norm, _Cross(layer.cross)))
        parts.append((ffn_norm, _FeedForward(ffn)))
        self.steps: list[Sublayer] = [
            (None if normed is None else single_norm(normed), part.step) for normed, part in parts
        ]

    def __call__(self, x_BD: Tensor, given: _Given) -> Tensor:
        return through(x_BD, self.steps, self.pre, self.residual_scale, given)
