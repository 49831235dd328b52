"""The memory of a training step's activations, counted without computing.

Counted are the tensors that a model keeps for its backward pass, and those that it takes besides at the worst moment. A
forward and a backward pass of a small copy of the model run through the program's own modules and kernels, with one or
two layers of each kind and two or three rows, and the bytes of storages are added up. Nothing is computed: an operation
on floating-point numbers returns memory of the right shape and type that is never written, so a pass takes
milliseconds and hardly any memory (`ShapesOnly`). The bytes of all that is not a layer, and of each kind of layer, are
a constant and a term for each row, so a few passes give those of any number of rows and layers. Rows longer than
`LONGEST` are extrapolated from three shorter lengths: bytes grow at most with the square of the length.

On a device that is not a CPU the same passes are used, without the CPU's own feed-forward kernel and with attention
weights that are never stored. That follows torch's kernels and has not been measured.

Shapes: T columns, S columns of a context.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from blankfill.model.config import TransformerConfig
from blankfill.model.dense import dense_layers
from blankfill.model.transformer import Transformer
from blankfill.training.loss import loss_sums
from blankfill.training.precision import computing as compute_context
from blankfill.types import Batch

if TYPE_CHECKING:
    from blankfill.planning.estimate import Computing, RowShape

VOCABULARY = 64
"""Tokens of the copies: token embeddings and their loss are estimated separately."""
LONGEST = 1024
"""Columns of the longest rows that are tried; longer rows are extrapolated from this, 3/4 and half of it. All are
longer than what kernels treat as short, and whole blocks of their queries (`kernels.blocked_attention`)."""
MANY = 8192
"""Columns of the largest micro-batches that are tried."""
FP32 = 4
NOISE = (torch.int8, torch.int16)
"""Types of dropout masks and of the random bits from which they are made."""
RANDOM = ("random_", "bernoulli_", "normal_", "uniform_")


@dataclass(frozen=True)
class Bytes:
    """A number of bytes that grows with the rows."""

    fixed: float = 0.0
    by_row: float = 0.0

    def of(self, rows: int) -> float:
        """Return the bytes of `rows` rows."""
        return self.fixed + rows * self.by_row

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.fixed + other.fixed, self.by_row + other.by_row)

    def __sub__(self, other: Bytes) -> Bytes:
        return self + -1 * other

    def __rmul__(self, factor: float) -> Bytes:
        return Bytes(factor * self.fixed, factor * self.by_row)


@dataclass(frozen=True)
class Activations:
    """Bytes that the parts of a model keep."""

    rest: Bytes
    """All that is not a layer."""
    layers: Mapping[str, Bytes]
    """A layer of each kind (`TransformerConfig.layer_kind`)."""
    encoder: Bytes | None
    """A layer of the encoder, where there is one."""
    working: tuple[Bytes, ...]
    """What a pass of one layer takes besides, gradients of weights left out: the least of these. Blocks of a kernel
    have a largest size, so the bytes grow more slowly in large micro-batches."""

    def kept(self, config: TransformerConfig, rows: int) -> float:
        """Return the bytes that a model with the layers of a configuration keeps."""
        total = self.rest.of(rows)
        total += sum(self.layers[config.layer_kind(index)].of(rows) for index in range(config.num_layers))
        return total if self.encoder is None else total + config.encoder_layers * self.encoder.of(rows)

    def kept_by_inputs(self, config: TransformerConfig, shape: RowShape, rows: int) -> float:
        """Return the bytes where each layer keeps its input only, and one layer at a time is computed again."""
        columns = config.num_layers * shape.columns
        columns += config.encoder_layers * (0 if shape.context is None else shape.context.columns)
        inputs = FP32 * rows * columns * (config.hidden_size + config.generator_size)
        return self.rest.of(rows) + inputs + self.largest_layer(rows)

    def taken(self, rows: int) -> float:
        """Return the bytes that a pass takes besides."""
        return min(part.of(rows) for part in self.working)

    def largest_layer(self, rows: int) -> float:
        """Return the bytes of the layer that keeps most."""
        return max(part.of(rows) for part in (*self.layers.values(), self.encoder) if part is not None)


def activations(config: TransformerConfig, shape: RowShape, computing: Computing) -> Activations:
    """Count the bytes of a model for rows of a shape, without those of its language-model loss."""
    copied = replace(config, vocab_size=VOCABULARY, num_layers=1, encoder_layers=min(1, config.encoder_layers))
    return _measured(copied, _essential(shape), computing)


def _essential(shape: RowShape) -> RowShape:
    """The shape without what changes no memory, and with whole targets, so that similar shapes are counted once."""
    return replace(
        shape, tokens=0.0, ids=0, positions=(), targets=math.ceil(shape.targets), pairs=math.ceil(shape.pairs),
        span_boundary_targets=math.ceil(shape.span_boundary_targets),
        context=None if shape.context is None else _essential(shape.context),
    )  # fmt: skip


@lru_cache(maxsize=256)
def _measured(config: TransformerConfig, shape: RowShape, computing: Computing) -> Activations:
    columns = max(shape.columns, 0 if shape.context is None else shape.context.columns)
    if columns > LONGEST:
        shares = [share * LONGEST / columns for share in (0.5, 0.75, 1.0)]
        shorter = [_measured(config, _essential(shape.shortened(share)), computing) for share in shares]
        return _extrapolated(shorter, _weights_at(shares, 1.0), columns)

    def line(config: TransformerConfig, low: int, high: int) -> tuple[Bytes, Bytes]:
        """Return the bytes that are kept, and those that are taken besides, through two numbers of rows."""
        less, more = (run(config, shape, computing, rows) for rows in (low, high))
        slopes = [(more[k] - less[k]) / (high - low) for k in (0, 1)]
        rise = max(0.0, slopes[1])  # the worst moment may be another one in more rows
        return Bytes(less[0] - low * slopes[0], slopes[0]), Bytes(max(0.0, less[1] - low * rise), rise)

    def kept(**changes: Any) -> Bytes:
        # two rows and three: with one row, changes of layout that copy otherwise are views
        return line(replace(config, **changes), 2, 3)[0]

    single, few = line(config, 2, 3)
    many = max(4, MANY // columns)
    working = few, line(config, many // 2, many)[1]
    encoder = None
    if config.encoder_layers:
        encoder = kept(encoder_layers=2) - single
    if config.window:
        layer = kept(num_layers=2, global_every=1) - kept(global_every=1)
        both = kept(num_layers=2, global_every=3)
        kinds = {"global": layer, "local": kept(num_layers=3, global_every=3) - both}
        rest = both - layer - kinds["local"]
    else:
        layer = kept(num_layers=2) - single
        kinds, rest = {"global": layer}, single - layer
    return Activations(rest if encoder is None else rest - encoder, kinds, encoder, working)


def _weights_at(points: Sequence[float], at: float) -> list[float]:
    """Return the weights of a polynomial's values at some points in its value at another one (Lagrange)."""
    weights = []
    for k, point in enumerate(points):
        weight = 1.0
        for other in (*points[:k], *points[k + 1 :]):
            weight *= (at - other) / (point - other)
        weights.append(weight)
    return weights


def _extrapolated(measured: Sequence[Activations], weights: Sequence[float], columns: int) -> Activations:
    def joined(parts: Sequence[Bytes]) -> Bytes:
        return sum((weight * part for part, weight in zip(parts, weights, strict=True)), Bytes())

    encoders = [shorter.encoder for shorter in measured if shorter.encoder is not None]
    half, _, last = (shorter.taken(2) for shorter in measured)
    power = min(2.0, max(1.0, math.log2(last / half)))  # the worst moment may be another one in longer rows
    return Activations(
        joined([shorter.rest for shorter in measured]),
        {kind: joined([shorter.layers[kind] for shorter in measured]) for kind in measured[0].layers},
        joined(encoders) if encoders else None,
        tuple((columns / LONGEST) ** power * part for part in measured[-1].working),
    )


def run(config: TransformerConfig, shape: RowShape, computing: Computing, rows: int) -> tuple[int, int]:
    """Return the bytes that one pass on rows of a shape keeps, without the losses', and those that it takes besides."""
    half = torch.float16 if computing.half and computing.device == "cpu" else torch.bfloat16
    dtype = torch.float32 if computing.width == FP32 else half
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device="cpu").train()
    model.use_kernel(computing.kernel)
    batch = made_up_batch(config, shape, rows)
    with ExitStack() as stack:
        if computing.device != "cpu":
            stack.enter_context(as_on_gpu(model))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        mode = stack.enter_context(ShapesOnly(model))
        with compute_context(torch.device("cpu"), dtype):
            sums = loss_sums(model, batch, dtype)
        total = torch.stack([*sums.values()]).sum()
        saved = mode.live
        mode.backward = True
        total.backward()
        working = mode.peak - saved
        del sums, total
    losses = lm_loss_bytes(config, len(batch.target_ids))
    if batch.span_boundary_targets is not None:
        losses += lm_loss_bytes(config, batch.span_boundary_targets.shape[1])
    return saved - losses, working


def lm_loss_bytes(config: TransformerConfig, targets: int) -> int:
    """Return the bytes that the language-model loss keeps: gradients of the output embeddings and of both factors."""
    bias = config.vocab_size if config.head_bias else 0
    return FP32 * (config.vocab_size * config.word_size + bias + targets * config.word_size)


def made_up_batch(config: TransformerConfig, shape: RowShape, rows: int) -> Batch:
    """Return a batch of rows of a shape; its tokens do not matter."""
    T = shape.columns
    segment = torch.zeros(rows, T, dtype=torch.int32)
    segment[:, T - 1 :] = 1 if shape.mask == "rule" else 0  # a rule that hides one column
    positions = torch.zeros(len(config.position_sizes), rows, T, dtype=torch.int64)
    positions[0] = torch.arange(T).clamp(max=config.position_sizes[0] - 1)
    if config.position_scheme == "relative":  # segments, and queries behind the text
        positions[1:, :, T // 2 :] = 1
    index = torch.arange(round(rows * shape.targets)) % (rows * T)
    labels, borders = {}, None
    if shape.pairs:
        first = torch.arange(round(rows * shape.pairs)) % rows * T
        labels = {name: (first, torch.zeros_like(first)) for name in config.heads or ("next_sentence",)}
    if config.max_span_positions:
        at = torch.arange(round(rows * shape.span_boundary_targets)) % (rows * T)
        borders = torch.stack([at, at, at % config.max_span_positions, torch.zeros_like(at)])
    context = None if shape.context is None else made_up_batch(config, shape.context, rows)
    return Batch(
        torch.zeros(rows, T, dtype=torch.int64), positions, segment, segment * 0, segment * 0, index,
        torch.zeros_like(index), labels, shape.mask, rows * T, span_boundary_targets=borders, context=context,
    )  # fmt: skip


@dataclass(frozen=True)
class _Operation:
    """What an operation does. written: places and names of the arguments that it writes; views: whether it returns
    memory of its arguments; numbers: whether it returns anything but tensors; draws: whether it writes random
    numbers."""

    written: tuple[tuple[int, str], ...]
    views: bool
    numbers: bool
    draws: bool


RESULTS = 4096
"""Operations whose results are kept."""
_RESULTS: dict[Any, Any] = {}


@lru_cache(maxsize=1024)
def _operation(func: Any) -> _Operation:
    schema = func._schema
    infos = [(k, argument) for k, argument in enumerate(schema.arguments) if argument.alias_info is not None]
    return _Operation(
        tuple((k, argument.name) for k, argument in infos if argument.alias_info.is_write),
        any(result.alias_info is not None for result in schema.returns),
        any("Tensor" not in str(result.type) for result in schema.returns),
        schema.name.rpartition("::")[2] in RANDOM,
    )


class ShapesOnly(TorchDispatchMode):
    """Operations on floating-point numbers return memory of the right shape that is never written; those on integers
    are computed, random ones left out.

    live and peak: bytes of the storages that were allocated since and are alive, now and at most. backward: to be set
    before the backward pass, in which a tensor with the shape of a weight is taken for its gradient and left out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.backward = False
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._shapes = {tuple(parameter.shape) for parameter in model.parameters()}
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = _operation(func)
        if operation.written:
            outputs = [args[k] if k < len(args) else kwargs[name] for k, name in operation.written]
            target = outputs[0]
            if operation.draws or target.is_floating_point() or target.dtype in NOISE:
                return target if len(outputs) == 1 else tuple(outputs)
        if operation.views:  # also of what was written
            return func(*args, **kwargs)
        floats = any(isinstance(x, Tensor) and x.is_floating_point() for x in tree_flatten((args, kwargs))[0])
        if operation.numbers or not floats:
            out = func(*args, **kwargs)
        else:
            out = tree_map(_empty, _shapes_of(func, args, kwargs))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                self._count(tensor)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or storage.data_ptr() in self._weights:
            return
        if self.backward and tuple(tensor.shape) in self._shapes:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._released, key, size)

    def _released(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _shapes_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The results of an operation without memory; operations repeat in each layer and pass, and are kept."""
    key = func, _described(args), _described(tuple(sorted(kwargs.items())))
    if key not in _RESULTS:
        if len(_RESULTS) == RESULTS:
            _RESULTS.clear()
        args, kwargs = tree_map(_meta, (args, kwargs))
        if "device" in kwargs:
            kwargs["device"] = torch.device("meta")
        _RESULTS[key] = func(*args, **kwargs)
    return _RESULTS[key]


def _described(value: Any) -> Any:
    """What the shapes of results depend on, as the key of a dict."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(_described(part) for part in value)
    return type(value), value


def _meta(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _empty(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


class _FusedAttention(TorchFunctionMode):
    """torch's attention as a GPU computes it: attention weights are never stored, with dropout or without."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            args, given = args[:4], {**given, "dropout_p": 0.0}
        return func(*args, **given)


@contextmanager
def as_on_gpu(model: nn.Module) -> Iterator[None]:
    """Compute with torch's own functions alone, as devices other than a CPU do."""

    def watch(module: nn.Module, given: Any) -> None:  # our own kernels stand in for no module with hooks
        return None

    hooks = [layer.register_forward_pre_hook(watch) for _, layer in dense_layers(model)]
    try:
        with _FusedAttention():
            yield
    finally:
        for hook in hooks:
            hook.remove()
