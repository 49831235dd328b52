"""One step of decoding in one call of the compiled library (`native/decoding.c`): all layers for few rows on a CPU.

The weights are read where they are, in fp32, bf16, fp16 or as integers (`integer_products.NativeProduct`); between
products everything is in fp32. Without the library `model.single` computes the same with operations of torch.

Not here: embeddings and positions (`model.single`), which models have such steps (`model.single.fits`).

Shapes: B rows, D width, H heads, G heads of keys and values, E width of a head, S columns, C contexts, O outputs, I
inputs, A axes, P pairs of columns.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blankfill.kernels.half_products import HalfProduct, half_product_for
from blankfill.kernels.integer_products import NativeProduct
from blankfill.kernels.native.library import TYPES, best_path, library

MOST_WIDTH = 512
"""Largest width of a head."""
ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh")
"""Activations, by their number in `native/decoding.h`."""
_POINTER, _COUNT, _NUMBER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class _Dense(ctypes.Structure):
    _fields_ = (("integers", _POINTER), ("floats", _POINTER), ("outputs", _COUNT), ("inputs", _COUNT))


class _Norm(ctypes.Structure):
    _fields_ = (
        ("weight", _POINTER), ("bias", _POINTER), ("eps", _FLOAT), ("root_mean_square", _NUMBER), ("present", _NUMBER),
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Norm) for name in ("attention_norm", "cross_norm", "ffn_norm")),
        *((name, _Dense) for name in ("qkv", "output", "cross_query", "cross_output", "inner", "ffn_output")),
        *((name, _POINTER) for name in ("key", "value", "cross_key", "cross_value")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("layers", _POINTER),
        *((name, _COUNT) for name in ("count", "rows", "width", "heads", "kv_heads", "head_width")),
        *((name, _FLOAT) for name in ("residual_scale", "score_scale", "cross_scale")),
        *((name, _NUMBER) for name in ("pre", "gated", "activation", "type", "path")),
        ("final_norm", _Norm), ("x", _POINTER),
        *((name, _COUNT) for name in ("cache_row", "cache_head", "begin", "end")),
        ("owner", _POINTER), ("owner_row", _COUNT),
        ("bias", _POINTER), ("bias_row", _COUNT), ("bias_head", _COUNT),
        ("cosine", _POINTER), ("sine", _POINTER), ("axes", _COUNT), ("pairs", _COUNT),
        *((name, _COUNT) for name in ("contexts", "cross_columns", "cross_row", "cross_head")),
        ("cross_bias", _POINTER), ("space", _POINTER),
    )  # fmt: skip


@dataclass(frozen=True)
class DenseWeights:
    """The weights of a dense layer: numbers [O, I] or integers, and a bias [O]."""

    weight: Tensor | NativeProduct
    bias: Tensor | None


@dataclass(frozen=True)
class NormWeights:
    """The weights of a norm, [D] each."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    root_mean_square: bool


@dataclass(frozen=True)
class Block:
    """A sublayer: its norm, the dense layer that it begins with, and the one that it ends with."""

    norm: NormWeights | None
    inner: DenseWeights
    output: DenseWeights


@dataclass(frozen=True)
class LayerWeights:
    """The weights of a layer. cross: for a layer that attends to contexts."""

    attention: Block
    cross: Block | None
    ffn: Block


@dataclass(frozen=True)
class StepShape:
    """What the layers of a model have in common; the names are those of `TransformerConfig`."""

    width: int
    heads: int
    kv_heads: int
    head_width: int
    activation: str
    gated: bool
    pre: bool
    residual_scale: float
    score_scale: float
    cross_scale: float
    dtype: torch.dtype
    """Of the cache."""


@dataclass(frozen=True)
class Columns:
    """The cached columns of a step. kept: of each layer, [2, rows, G, columns, E], with the same strides. begin, end:
    those that are seen; the last one is written. owner: the row of the buffers that holds each column of a row,
    int32[B, columns]; None where each row holds its own."""

    kept: Sequence[Tensor]
    begin: int
    end: int
    owner: Tensor | None = None


@functools.cache
def available() -> bool:
    """Return whether there is a library whose products agree with those of torch."""
    if library() is None:
        return False
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(39, 83, generator=generator).to(dtype) for dtype in TYPES]
    return all(half_product_for(weight, torch.float32) is not None for weight in weights)


def multiplies(weight: Tensor) -> bool:
    """Return whether the library can read a matrix where it is."""
    return weight.device.type == "cpu" and weight.dtype in TYPES and weight.is_contiguous() and weight.numel() > 0


class _Made:
    """Structures for the library, with what they point to. detached: copies of small weights."""

    def __init__(self) -> None:
        self.held: list[object] = []

    def vector(self, weight: Tensor | None) -> int | None:
        """Return the address of a vector in fp32."""
        if weight is None:
            return None
        made = weight.detach().float().contiguous()
        self.held.append(made)
        return made.data_ptr()

    def dense(self, given: DenseWeights) -> _Dense:
        """Return a dense layer."""
        weight = given.weight
        made = HalfProduct(weight, torch.float32, given.bias) if isinstance(weight, Tensor) else weight
        matrix = made.matrix
        if not isinstance(weight, Tensor):
            matrix = type(matrix).from_buffer_copy(matrix)
            matrix.bias = self.vector(given.bias)
        self.held += [made, matrix]
        at = ctypes.addressof(matrix)
        sides = (None, at) if isinstance(weight, Tensor) else (at, None)
        return _Dense(*sides, matrix.outputs, matrix.inputs)

    def norm(self, given: NormWeights | None) -> _Norm:
        """Return a norm."""
        if given is None:
            return _Norm()
        weight, bias = self.vector(given.weight), self.vector(given.bias)
        return _Norm(weight, bias, given.eps, given.root_mean_square, 1)


class LayerSteps:
    """The layers of a model for single columns. The weights must not be moved while it is in use; one thread at a
    time may call it."""

    def __init__(self, shape: StepShape, layers: Sequence[LayerWeights], final_norm: NormWeights | None) -> None:
        made = library()
        assert made is not None
        self._function, self._space_of, self._made = made.decoding_step, made.decoding_space, _Made()
        self._layers = (_Layer * len(layers))()
        for into, layer in zip(self._layers, layers, strict=True):
            for prefix, block in (("", layer.attention), ("cross_", layer.cross), ("ffn_", layer.ffn)):
                if block is None:
                    continue
                setattr(into, f"{prefix or 'attention_'}norm", self._made.norm(block.norm))
                inner = {"": "qkv", "cross_": "cross_query", "ffn_": "inner"}[prefix]
                setattr(into, inner, self._made.dense(block.inner))
                setattr(into, f"{prefix}output", self._made.dense(block.output))
        self._step = _Step(
            layers=ctypes.addressof(self._layers), count=len(layers), width=shape.width, heads=shape.heads,
            kv_heads=shape.kv_heads, head_width=shape.head_width, residual_scale=shape.residual_scale,
            score_scale=shape.score_scale, cross_scale=shape.cross_scale, pre=shape.pre, gated=shape.gated,
            activation=ACTIVATIONS.index(shape.activation), type=TYPES[shape.dtype], path=best_path(),
            final_norm=self._made.norm(final_norm),
        )  # fmt: skip
        self._at, self._space = ctypes.addressof(self._step), torch.empty(0)
        self._kept: Sequence[Tensor] = ()
        self._cross: Sequence[tuple[Tensor, Tensor]] | None = None
        self._cross_bias: Tensor | None = None

    def __call__(
        self,
        x_BD: Tensor,
        columns: Columns,
        bias: Tensor | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        contexts: Sequence[tuple[Tensor, Tensor]] | None = None,
        context_bias: Tensor | None = None,
    ) -> Tensor:
        """Pass new columns, fp32 [B, D], through all layers and the final norm, and write their keys and values.

        bias: added to the scores, [B or 1, H or 1, 1, S]. rotation: cosines and sines, fp32 [B, 1, A, P] each.
        contexts: keys and values of each layer, [C, H, S, E] each. context_bias: [C, 1, 1, S].
        """
        step, rows = self._step, len(x_BD)
        x_BD = x_BD.float().contiguous()
        step.x = x_BD.data_ptr()
        if step.rows != rows:
            step.rows = rows
            self._space = torch.empty(self._space_of(self._at))
            step.space = self._space.data_ptr()
        self._set_columns(columns)
        step.bias = None
        if bias is not None:
            bias = bias.float().contiguous()
            seen, step.bias = bias.shape[-1], bias.data_ptr()
            step.bias_head = seen if bias.shape[1] > 1 else 0
            step.bias_row = bias.shape[1] * seen if bias.shape[0] > 1 else 0
        if rotation is not None:
            cosine, sine = (part.contiguous() for part in rotation)
            step.cosine, step.sine = cosine.data_ptr(), sine.data_ptr()
            step.axes, step.pairs = cosine.shape[-2:]
        if contexts is not None:
            self._set_contexts(contexts, context_bias)
        if self._function(self._at):
            raise MemoryError
        return x_BD

    def _set_columns(self, columns: Columns) -> None:
        step, owner = self._step, columns.owner
        if len(self._kept) != len(columns.kept) or any(map(_differ, self._kept, columns.kept)):
            self._kept = list(columns.kept)
            first = self._kept[0]
            step.cache_row, step.cache_head = first.stride(1), first.stride(2)
            for layer, buffer in zip(self._layers, self._kept, strict=True):
                layer.key = buffer.data_ptr()
                layer.value = buffer.data_ptr() + buffer.stride(0) * buffer.itemsize
        step.begin, step.end = columns.begin, columns.end
        step.owner = None if owner is None else owner.data_ptr()
        step.owner_row = 0 if owner is None else owner.stride(0)

    def _set_contexts(self, contexts: Sequence[tuple[Tensor, Tensor]], bias: Tensor | None) -> None:
        step = self._step
        if self._cross is not contexts:
            self._cross = contexts
            first = contexts[0][0]
            step.contexts, step.cross_columns = len(first), first.shape[2]
            step.cross_row, step.cross_head = first.stride(0), first.stride(1)
            for layer, (key, value) in zip(self._layers, contexts, strict=True):
                layer.cross_key, layer.cross_value = key.data_ptr(), value.data_ptr()
        self._cross_bias = None if bias is None else bias.float().contiguous()
        step.cross_bias = None if self._cross_bias is None else self._cross_bias.data_ptr()


def _differ(buffer: Tensor, other: Tensor) -> bool:
    return buffer is not other
