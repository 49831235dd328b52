"""Dense layers that keep a copy of their weights in oneDNN's block format, for models that read on a CPU.

The library that torch calls for products in fp32 packs the weights anew for each product, and is slower than oneDNN on
some processors, above all for few rows. oneDNN adds the bias and applies the activation function in the same pass. A
copy takes as much memory as the weights, which stay: those of a model that was not converted are mapped from its file,
and the system can drop them. Without a gradient, `PrepackedDense` multiplies with the copy; everything else, training
too, uses the weights as they are. The copy is made by `prepack`, where a trial shows that it is faster and gives the
same numbers.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from blankfill.kernels.capability import plain_dense, recorded
from blankfill.kernels.half import HalfLinear, has_bf16_units
from blankfill.model.dense import Dense, Fused, dense_layers, replace_dense
from blankfill.model.layers import activate
from blankfill.system.environment import usable_memory

X86 = ("x86_64", "AMD64")
SMALLEST = 1 << 18
"""Number of weights in dense layers below which a model gets no copies."""
LARGEST = 1 << 20
"""Number of weights of a layer in the trial, at most; larger ones take part with fewer outputs."""
TRIAL_ROWS = (16, 96)
TRIALS = 5
GAIN = 0.95
"""Share of the time that products with copies may take."""
ALLOWED = {torch.float32: 2**-16, torch.bfloat16: 2**-7}
"""Types that may have copies, with the largest difference, as a share of the largest result."""
ACTIVATIONS = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", ""), "silu": ("swish", "")}
"""oneDNN's names."""


class PrepackedDense(HalfLinear, Fused):
    """A dense layer with a copy of its weights. The weights may change: the copy is used only while they are those of
    which it was made."""

    copied: tuple[Tensor, int, int] | None = None
    """The copy, and the address and the version of the weights."""

    @classmethod
    @torch.no_grad()
    def of(cls, layer: Dense) -> PrepackedDense:
        """Make one of a plain dense layer, with the same parameters."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.__dict__.update((name, value) for name, value in layer.__dict__.items() if name != "_parameters")
        made._parameters = dict(layer._parameters)
        weight = layer.weight
        made.copied = (reordered(weight), weight.data_ptr(), weight._version)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer; x [..., I] → [..., O]."""
        copy = self.usable(x)
        return super().forward(x) if copy is None else product(x, copy, self.bias)

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """Compute the layer and an activation function."""
        copy = self.usable(x)
        if copy is None:
            return activate(super().forward(x), activation)
        return product(x, copy, self.bias, activation)

    def usable(self, x: Tensor) -> Tensor | None:
        """Return the copy; None where it may not be used for a product with x."""
        if self.copied is None or torch.is_grad_enabled():
            return None
        copy, place, version = self.copied
        weight = self.weight
        if weight.data_ptr() != place or weight._version != version or not x.numel():
            return None
        fits = x.dtype == weight.dtype and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        return copy if fits and not recorded(x) else None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or convert the layer; the copy is dropped."""
        self.copied = None
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied with the layer: everything but the copy of the weights."""
        return {**self.__dict__, "copied": None}


def reordered(weight_OI: Tensor) -> Tensor:
    """Return oneDNN's copy of a matrix."""
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous(), None)
    return made


def product(x: Tensor, copy: Tensor, bias_O: Tensor | None, activation: str | None = None) -> Tensor:
    """Return activation(x Wᵀ + b), x [..., I] → [..., O]; copy: of W."""
    name, kind = ("none", "") if activation is None else ACTIVATIONS[activation]
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, copy, bias_O, name, [], kind)
    return made


@torch.no_grad()
def prepack(model: nn.Module) -> int:
    """Give the dense layers of a Transformer copies of their weights, in place, before the model is used.

    Returns the bytes of the copies: 0 for a model that is small, elsewhere than on a CPU or of another type than fp32
    or bf16, where memory is short, and where products with copies are not faster here or not the same.
    """
    if not torch.backends.mkldnn.is_available() or platform.machine() not in X86:
        return 0
    layers = {name: layer for name, layer in dense_layers(model) if suits(layer)}
    sizes = [layer.weight.numel() for layer in layers.values()]
    types = {layer.weight.dtype for layer in layers.values()}
    if sum(sizes) < SMALLEST or len(types) != 1:
        return 0
    largest = max(layers.values(), key=lambda layer: layer.weight.numel())
    (dtype,), size = types, sum(sizes) * largest.weight.element_size()
    outputs = min(largest.out_features, max(1, LARGEST // largest.in_features))
    if 2 * size > usable_memory() or not faster(dtype, largest.in_features, outputs, torch.get_num_threads()):
        return 0
    replace_dense(model, lambda name, layer: PrepackedDense.of(layer) if name in layers else None)
    return size


def suits(layer: Dense) -> bool:
    """Return whether a dense layer may have a copy."""
    if not plain_dense(layer) or layer.weight.device.type != "cpu" or layer.weight.is_inference():
        return False
    dtype = layer.weight.dtype
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16_units())


@cache
def faster(dtype: torch.dtype, inputs: int, outputs: int, threads: int) -> bool:
    """Try a product of a size, with and without a copy; return whether the copy is faster and gives the same numbers.

    threads: those of torch now. The least of several times counts, of trials by turns, so that other load on the
    machine meets both alike.
    """
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(outputs, inputs, generator=generator).to(dtype)
    bias_O = torch.randn(outputs, generator=generator).to(dtype)
    plain, packed = 0.0, 0.0
    try:
        copy = reordered(weight_OI)
        for rows in TRIAL_ROWS:
            x_NI = torch.randn(rows, inputs, generator=generator).to(dtype)
            right_NO = torch.nn.functional.linear(x_NI.float(), weight_OI.float(), bias_O.float())
            for activation in (None, *ACTIVATIONS):
                right = right_NO if activation is None else activate(right_NO, activation)
                if not same(product(x_NI, copy, bias_O, activation), right, ALLOWED[dtype]):
                    return False
            ways = (
                lambda x=x_NI: torch.nn.functional.linear(x, weight_OI, bias_O),
                lambda x=x_NI: product(x, copy, bias_O),
            )
            times = [[seconds(way) for way in ways] for _ in range(TRIALS)]
            least = [min(turns) for turns in zip(*times, strict=True)]
            plain, packed = plain + least[0], packed + least[1]
    except (RuntimeError, NotImplementedError, AttributeError):  # a torch without these operations
        return False
    return packed < GAIN * plain


def same(made: Tensor, right: Tensor, allowed: float) -> bool:
    """Return whether numbers are the same but for rounding."""
    return bool((made.float() - right).abs().max() <= allowed * right.abs().max())


def seconds(way: Callable[[], Tensor]) -> float:
    """Return how long a call takes."""
    begin = time.perf_counter()
    way()
    return time.perf_counter() - begin
