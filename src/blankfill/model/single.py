"""One decoding step, with one new column in each row: the result of `Transformer.forward` in fewer operations.

A step of a small model on a CPU takes milliseconds, and the call of an operation on a single column costs as much as
the matrix product in it. Here rows are [B, D] throughout, each product and the sum with its residual are one in-place
operation, and no module is called. docs/performance.md shows the gain.

Where the compiled library is there (`kernels.decoding`), it computes all layers in one call, with the weights in the
type in which they are stored: fp32, bf16, fp16, or integers of 8 or 4 bits. Otherwise operations of torch do.

Only for models with plain or quantised dense layers and without hooks (`fits`); models with adapters use the forward
pass.

Shapes: B rows, C contexts (B, or a divisor of it), D width, H heads, E width of a head, S columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.attention.positions import NO_TERMS, Rotation
from blankfill.kernels import decoding
from blankfill.kernels.capability import plain_dense, plain_layer_norm, plain_weight, plain_weights, watched
from blankfill.kernels.decoding import Block, Columns, DenseWeights, LayerSteps, LayerWeights, NormWeights
from blankfill.kernels.half import linear
from blankfill.kernels.half_products import HalfProduct
from blankfill.kernels.integer_products import NativeProduct
from blankfill.kernels.native.library import TYPES, LibraryProduct
from blankfill.model.cross import CrossAttention, EncoderOutput
from blankfill.model.dense import Dense
from blankfill.model.layers import Attention, FeedForward, Layer, LayerCache, Sublayer, activate, rotated, through
from blankfill.model.norms import Norm, RmsNorm, single_norm
from blankfill.model.positions import LearnedPositions
from blankfill.model.quantized import QuantizedDense, QuantizedTable
from blankfill.model.transformer import Transformer


def fits(model: Transformer) -> bool:
    """Return whether a model may decode with this module."""
    if model.relative or "local" in model.kinds or any(map(watched, model.modules())):
        return False
    if not plain_weights(model.token_embeddings.parameters()):
        return False
    return all(_usable(dense) for layer in model.layers if isinstance(layer, Layer) for dense in _dense_of(layer))


def _dense_of(layer: Layer) -> list[Any]:
    """Return the children of the parts of a layer; those of shared parts belong to the first layer."""
    parts = (layer.attention, layer.cross, layer.ffn)
    return [dense for part in parts if part is not None for dense in part.children()]


def _usable(dense: Any) -> bool:
    """Return whether a dense layer may be computed here; `fits` has looked for hooks."""
    if type(dense) is QuantizedDense:
        return plain_weight(dense.bias)
    return plain_dense(dense)


def compiled(model: Transformer) -> bool:
    """Return whether the compiled library computes the layers of a model that `fits`."""
    config = model.config
    dtype = model.dtype
    if config.head_width > decoding.MOST_WIDTH or config.activation not in decoding.ACTIVATIONS or dtype not in TYPES:
        return False
    if model.device.type != "cpu" or not decoding.available():
        return False
    norms = (module for module in model.modules() if isinstance(module, Norm))
    if not all((plain_layer_norm(norm) or type(norm) is RmsNorm) and norm.weight is not None for norm in norms):
        return False
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    return all(_readable(dense, dtype) for layer in layers for dense in _dense_of(layer))


def _readable(dense: Any, dtype: torch.dtype) -> bool:
    if isinstance(dense, QuantizedDense):
        return isinstance(dense.kernel, NativeProduct)
    return bool(dense.weight.dtype == dtype and decoding.multiplies(dense.weight))


class SingleColumn:
    """The layers of a model, prepared for single columns. Weights must not be moved while it is in use."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        first = model.layers[0]
        assert isinstance(first, Layer)
        layers = [model.layers[k] if len(model.layers) > 1 else first for k in range(len(model.kinds))]
        self.compiled = _compiled_layers(model, layers, first) if compiled(model) else None
        self.layers = [_Layer(layer, first) for layer in layers if self.compiled is None and isinstance(layer, Layer)]
        self.embedding_norm = None if model.embedding_norm is None else single_norm(model.embedding_norm)
        self.final_norm = None if model.final_norm is None else single_norm(model.final_norm)
        self.position_tables = _position_tables(model)
        self.head = _head(model) if self.compiled is not None else None

    def logits(
        self,
        ids_B1: Tensor,
        positions: Tensor,
        bias: Tensor | None,
        cache: Sequence[LayerCache],
        context: EncoderOutput | None = None,
    ) -> Tensor:
        """Compute the scores at the new column of each row, [B, V]; see `__call__`."""
        hidden_BD = self._hidden(ids_B1, positions, bias, cache, context)
        if self.head is not None:
            return self.head(hidden_BD)
        scores_BV: Tensor = self.model.lm_head(hidden_BD.to(self.model.dtype), self.model.output_table)
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
        hidden_BD = self._hidden(ids_B1, positions, bias, cache, context)
        return hidden_BD.to(self.model.dtype)

    def _hidden(
        self,
        ids_B1: Tensor,
        positions: Tensor,
        bias: Tensor | None,
        cache: Sequence[LayerCache],
        context: EncoderOutput | None,
    ) -> Tensor:
        """Compute `__call__`, in fp32 where the library computes it."""
        model = self.model
        rotation = None
        if model.attention_scheme is not None:
            rotation = model.attention_scheme.terms(NO_TERMS, positions, "global", False).rotation
        if model.position_bias is not None:
            added = model.cached_bias(positions[0], cache)
            bias = added if bias is None else added + bias
        x_BD = self._embedded(ids_B1, positions)
        if self.embedding_norm is not None:
            x_BD = self.embedding_norm(x_BD)
        if model.embedding_projection is not None:
            x_BD = model.embedding_projection(x_BD)
        keys_values, hidden = (None, None) if context is None else (context.keys_values, context.mask.bias)
        if self.compiled is not None:
            rotated_by = None if rotation is None else (rotation.cosine, rotation.sine)
            columns = _columns(cache, ids_B1.shape[1])
            return self.compiled(x_BD, columns, bias, rotated_by, keys_values, hidden)
        for k, layer in enumerate(self.layers):
            x_BD = layer(x_BD, (bias, rotation, cache[k], None if keys_values is None else keys_values[k], hidden))
        return x_BD if self.final_norm is None else self.final_norm(x_BD)

    def _embedded(self, ids_B1: Tensor, positions: Tensor) -> Tensor:
        """Return the embeddings of tokens with their positions, [B, W]."""
        model = self.model
        if self.position_tables is None:
            return model.positions.embed(model.look_up(ids_B1), positions).squeeze(1)
        x_BW = model.look_up(ids_B1).squeeze(1)
        for table_SW, channel_B1 in zip(self.position_tables, positions, strict=True):
            x_BW = x_BW + table_SW.index_select(0, channel_B1[:, 0])
        return x_BW


_Given = tuple[Tensor | None, Rotation | None, LayerCache, tuple[Tensor, Tensor] | None, Tensor | None]
"""The arguments of a layer besides its input: the bias of the scores, the rotation of queries and keys, its cache,
and the keys and values of the context with what is added to their scores."""


def _columns(cache: Sequence[LayerCache], count: int) -> Columns:
    """Make room for new columns in all layers; return the columns that they see."""
    begin = end = 0
    for layer in cache:
        begin, end = layer.extend(count)
    owners = cache[0].owners
    return Columns([layer.active for layer in cache], begin, end, None if owners is None else owners.table_BS)


def _position_tables(model: Transformer) -> list[Tensor] | None:
    """Return the tables of learned positions, one for each channel; None for positions of another kind."""
    if type(model.positions) is not LearnedPositions or not len(model.positions):
        return None
    tables: list[Tensor] = [parameter for table in model.positions for parameter in table.parameters()]
    return tables if all(map(plain_weight, tables)) else None


def _head(model: Transformer) -> Callable[[Tensor], Tensor] | None:
    """Return the product with the output embeddings by the library, hidden states [B, D] → scores fp32 [B, V]; None
    where it cannot compute it."""
    head, table_VW, dtype = model.lm_head, model.output_table, model.dtype
    if not plain_weight(head.bias):
        return None
    product: LibraryProduct
    if isinstance(table_VW, QuantizedTable):
        if not isinstance(table_VW.kernel, NativeProduct):
            return None
        product = NativeProduct(table_VW.quantized(), table_VW.format, torch.float32, head.bias)
    elif plain_weight(table_VW) and decoding.multiplies(table_VW):
        product = HalfProduct(table_VW, torch.float32, head.bias)
    else:
        return None
    if head.dense is None:
        return lambda hidden_BD: product(head.transform(hidden_BD))
    return lambda hidden_BD: product(head.transform(hidden_BD.to(dtype)).float())


def _compiled_layers(model: Transformer, layers: Sequence[Any], first: Layer) -> LayerSteps:
    """Return the layers of a model as the library computes them."""
    config, weights = model.config, []
    for layer in layers:
        attention, attention_norm, ffn, ffn_norm = layer.parts(first)
        cross = None
        if layer.cross is not None:
            cross = _block(layer.cross_norm, layer.cross.query, layer.cross.output)
        own = _block(attention_norm, attention.qkv, attention.output)
        weights.append(LayerWeights(own, cross, _block(ffn_norm, ffn.inner, ffn.output)))
    scale = config.head_width**-0.5 if config.scale_scores else 1.0
    shape = decoding.StepShape(
        config.hidden_size, config.num_heads, config.kv_heads, config.head_width, config.activation, config.gated,
        first.pre, first.residual_scale, scale, scale, model.dtype,
    )  # fmt: skip
    return LayerSteps(shape, weights, None if model.final_norm is None else _norm(model.final_norm))


def _block(norm: Norm | None, inner: Dense, output: Dense) -> Block:
    return Block(None if norm is None else _norm(norm), _weights(inner), _weights(output))


def _norm(norm: Norm) -> NormWeights:
    if isinstance(norm, torch.nn.LayerNorm):
        return NormWeights(norm.weight, norm.bias, norm.eps, False)
    return NormWeights(norm.weight, None, norm.eps or 0.0, True)


def _weights(dense: Dense) -> DenseWeights:
    if isinstance(dense, QuantizedDense):
        assert isinstance(dense.kernel, NativeProduct)
        return DenseWeights(dense.kernel, dense.bias)
    return DenseWeights(dense.weight, dense.bias)


class _Dense:
    """A dense layer."""

    def __init__(self, dense: Dense) -> None:
        self.dense, self.bias = dense, dense.bias
        self.float = not isinstance(dense, QuantizedDense) and dense.weight.dtype == torch.float32
        self.weight_IO = dense.weight.t() if self.float else None

    def of(self, x_BI: Tensor) -> Tensor:
        """Compute the output for x."""
        if self.weight_IO is None:
            return self._of_other(x_BI)
        if self.bias is None:
            return torch.mm(x_BI, self.weight_IO)
        return torch.addmm(self.bias, x_BI, self.weight_IO)

    def onto(self, residual_BO: Tensor, x_BI: Tensor) -> Tensor:
        """Add the output for x to the residual, in place."""
        if self.weight_IO is None:
            return residual_BO.add_(self._of_other(x_BI))
        residual_BO.addmm_(x_BI, self.weight_IO)
        return residual_BO if self.bias is None else residual_BO.add_(self.bias)

    def _of_other(self, x_BI: Tensor) -> Tensor:
        """Compute the output of weights that are integers, or numbers of another type than fp32."""
        if isinstance(self.dense, QuantizedDense):
            made_BO = self.dense.product(x_BI)
            return made_BO if self.bias is None else made_BO.add_(self.bias)
        return linear(x_BI, self.dense.weight, self.bias)


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
