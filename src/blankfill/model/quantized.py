"""Dense layers with weights of 8 or 4 bits and scales (`kernels.integers`).

Only the weights are quantised; activations keep their type. `QuantizedDense` computes with integers and scales, and
`make_quantized` puts it in place of the dense layers of a model (`model.dense`). Gradients go through to the input, so
that prefixes and adapters learn on a quantised model.

On a CPU, products of few rows have kernels (`kernels.integer_products`), each compared with the dequantised product
before it is used; more rows, other devices and shapes without a kernel dequantise some rows of the matrix at a time.

Not here: which layers of a model on disk are quantised (`checkpoint.quantization`).

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.kernels.integer_products import Product, TorchProduct, product_for
from blankfill.kernels.integers import BLOCK, QuantizedWeight, WeightFormat, dequantize
from blankfill.model.dense import Dense, dense_layers, replace_dense
from blankfill.model.layers import Layer


class QuantizedDense(Dense):
    """A dense layer with quantised weights: y = x Wᵀ + b with W = scale · (q + zero).

    weight: int8 [O, I], or [O, I/2] with 4 bits; weight_scale: [O] or [O, groups]; weight_zero: like weight_scale,
    where the format has zero points; bias: [O] or None. Weight, scale and zero are no parameters: they do not learn,
    and keep their types when the model is converted.
    """

    weight: Any  # a buffer of integers, where `nn.Linear` has a parameter
    weight_scale: Tensor
    weight_zero: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool, format: WeightFormat) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.format = in_features, out_features, format
        self.register_buffer("weight_zero", None)
        types = format.types()
        for name, shape in format.shapes(out_features, in_features).items():
            self.register_buffer(name, torch.zeros(shape, dtype=types[name]))
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features))
        else:
            self.register_parameter("bias", None)
        self.kernel: Product | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer; x [..., I] → [..., O]."""
        x_NI = x.reshape(-1, self.in_features)
        made_NO = _Product.apply(x_NI, self) if torch.is_grad_enabled() else self.product(x_NI)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            made_NO = made_NO + self.bias.to(made_NO.dtype)
        return made_NO.view(*x.shape[:-1], self.out_features)

    def product(self, x_NI: Tensor) -> Tensor:
        """Return x Wᵀ, [N, O], without a gradient."""
        kernel = self.kernel
        if kernel is not None and kernel.dtype == x_NI.dtype and 0 < len(x_NI) <= kernel.max_rows:
            return kernel(x_NI)
        return self.dequantized_product(x_NI)

    def dequantized_product(self, x_NI: Tensor) -> Tensor:
        """Return x Wᵀ of dequantised rows, [N, O]."""
        dtype = _type_of_products(x_NI)
        x_NI, kind = x_NI.to(dtype), x_NI.dtype
        made = [F.linear(x_NI, weight) for _, weight in self.blocks(dtype)]
        return (made[0] if len(made) == 1 else torch.cat(made, 1)).to(kind)

    def blocks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Iterate over the dequantised weights, some rows at a time, each with the number of its first row."""
        step = max(1, BLOCK // self.in_features)
        for begin in range(0, self.out_features, step):
            at = slice(begin, begin + step)
            yield begin, dequantize(self.quantized().rows(at), self.format, dtype)

    def quantized(self) -> QuantizedWeight:
        """Return the stored tensors."""
        return QuantizedWeight(self.weight, self.weight_scale, self.weight_zero)

    def float_weight(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the dequantised weights, [O, I]."""
        return torch.cat([part for _, part in self.blocks(dtype)])

    def prepare(self, dtype: torch.dtype, probe: bool = True) -> bool:
        """Look for a kernel for few rows of a type; returns whether there is one.

        probe: compare it with the dequantised product; False where a layer of this shape and format was compared.
        """
        made = product_for(self.quantized(), self.format, dtype, probe=probe)
        if isinstance(made, TorchProduct) and self.format.bits == 8:
            self.weight = made.weight  # an aligned copy replaces the original, so that no weight is in memory twice
        self.kernel = made
        return made is not None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; the kernel reads the tensors that it was made of, so it is dropped with them."""
        super().__setattr__(name, value)
        if name in ("weight", "weight_scale", "weight_zero"):
            self.kernel = None

    def _load_from_state_dict(self, *arguments: Any) -> None:
        """Load the tensors; the kernel is dropped, since it may read copies."""
        super()._load_from_state_dict(*arguments)
        self.kernel = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied: everything but the kernel."""
        return {**self.__dict__, "kernel": None}

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedDense:
        """Move the layer; the scales keep their type, and the kernel is dropped."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight_scale = self.weight_scale.to(self.format.dtype)
        if self.weight_zero is not None:
            self.weight_zero = self.weight_zero.to(self.format.dtype)
        self.kernel = None
        return self

    def extra_repr(self) -> str:
        """Return the sizes and the bits."""
        return f"{super().extra_repr()}, {self.format}"


class _Product(torch.autograd.Function):
    """x Wᵀ with a gradient for x alone: that of the dequantised product."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, layer: QuantizedDense) -> Tensor:
        ctx.layer = layer
        return layer.product(x_NI)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, None]:
        layer, dtype = ctx.layer, _type_of_products(grad_NO)
        grad_NI = grad_NO.new_zeros(len(grad_NO), layer.in_features, dtype=dtype)
        for begin, weight in layer.blocks(dtype):
            grad_NI.addmm_(grad_NO[:, begin : begin + len(weight)].to(dtype), weight)
        return grad_NI.to(grad_NO.dtype), None


def _type_of_products(x: Tensor) -> torch.dtype:
    """Return the type of dequantised products: fp32 on a CPU, where other types are slower."""
    return torch.float32 if x.device.type == "cpu" else x.dtype


def quantizable(model: nn.Module) -> dict[str, Dense]:
    """Return the dense layers of a model that are quantised, by name: those of attention and feed-forward, of all
    stacks. Embeddings, norms and heads stay as they are."""
    return {
        f"{prefix}.{name}": layer
        for prefix, module in model.named_modules()
        if isinstance(module, Layer)
        for name, layer in dense_layers(module)
    }


def make_quantized(model: nn.Module, formats: Mapping[str, WeightFormat]) -> None:
    """Replace dense layers of a model by quantised ones without values. formats: of the layers, by name."""

    def made(name: str, layer: Dense) -> nn.Module | None:
        if name not in formats:
            return None
        with torch.device(layer.weight.device):
            return QuantizedDense(layer.in_features, layer.out_features, layer.bias is not None, formats[name])

    replace_dense(model, made)


def quantized_formats(model: nn.Module) -> dict[str, WeightFormat]:
    """Return the formats of the quantised layers of a model, by name."""
    return {name: layer.format for name, layer in dense_layers(model) if isinstance(layer, QuantizedDense)}


def prepare(model: nn.Module, dtype: torch.dtype) -> None:
    """Look for kernels for the quantised layers of a model that computes in a type.

    A kernel is compared with the dequantised product in the first layer of each shape.
    """
    works: dict[tuple[WeightFormat, int, int], bool] = {}
    for _, layer in dense_layers(model):
        if not isinstance(layer, QuantizedDense):
            continue
        shape = (layer.format, layer.in_features, layer.out_features)
        if shape not in works:
            works[shape] = layer.prepare(dtype)
        elif works[shape]:
            layer.prepare(dtype, probe=False)


def float_weight(layer: Dense) -> Tensor:
    """Return the weights of a dense layer as floating-point numbers, [O, I]."""
    return layer.float_weight() if isinstance(layer, QuantizedDense) else layer.weight
