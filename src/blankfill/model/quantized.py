"""Dense layers and tables of embeddings with weights of 8 or 4 bits and scales (`kernels.integers`).

Only the weights are quantised; activations keep their type. `QuantizedDense` computes with integers and scales,
`QuantizedTable` looks rows up and is the matrix of the output embeddings, and `make_quantized` puts them in place of
the dense layers (`model.dense`) and the tables of a model. Gradients go through to the input, so
that prefixes and adapters learn on a quantised model.

On a CPU, products of few rows have kernels (`kernels.integer_products`), each compared with the dequantised product
before it is used; more rows, other devices and shapes without a kernel dequantise some rows of the matrix at a time.

Not here: which layers of a model on disk are quantised (`checkpoint.quantization`).

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.kernels.capability import recorded
from blankfill.kernels.half import has_bf16_units, linear
from blankfill.kernels.integer_products import NativeProduct, Product, TorchProduct, product_for
from blankfill.kernels.integers import BLOCK, QuantizedWeight, WeightFormat, dequantize
from blankfill.kernels.native.library import TYPES
from blankfill.model.dense import Dense, dense_layers, replace_dense
from blankfill.model.layers import Layer

if TYPE_CHECKING:
    from blankfill.model.transformer import Transformer

FEW = 64
"""Number of rows up to which the library looks them up one by one."""
NATIVE_BLOCK = 1 << 22
"""Number of weights that the library dequantises at a time."""


class QuantizedMatrix(nn.Module):
    """A matrix of quantised weights, W = scale · (q + zero), with its product.

    weight: int8 [O, I], or [O, I/2] with 4 bits; weight_scale: [O] or [O, groups]; weight_zero: like weight_scale,
    where the format has zero points. They are no parameters: they do not learn, and keep their types when the model is
    converted.
    """

    weight: Any  # a buffer of integers, where `nn.Linear` has a parameter
    weight_scale: Tensor
    weight_zero: Tensor | None

    def __init__(self, in_features: int, out_features: int, format: WeightFormat) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.format = in_features, out_features, format
        self.register_buffer("weight_zero", None)
        types = format.types()
        for name, shape in format.shapes(out_features, in_features).items():
            self.register_buffer(name, torch.zeros(shape, dtype=types[name]))
        self.kernel: Product | None = None

    def multiply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x Wᵀ + b, with a gradient for x; x [..., I] → [..., O]."""
        x_NI = x.reshape(-1, self.in_features)
        made_NO = _Product.apply(x_NI, self) if torch.is_grad_enabled() else self.product(x_NI)  # type: ignore[no-untyped-call]
        if bias is not None:
            made_NO = made_NO + bias.to(made_NO.dtype)
        made: Tensor = made_NO.view(*x.shape[:-1], self.out_features)
        return made

    def product(self, x_NI: Tensor) -> Tensor:
        """Return x Wᵀ, [N, O], without a gradient."""
        kernel = self.kernel
        if (
            kernel is not None
            and kernel.dtype == x_NI.dtype
            and not recorded(x_NI)
            and 0 < len(x_NI) <= kernel.max_rows
        ):
            return kernel(x_NI)
        return self.dequantized_product(x_NI)

    def dequantized_product(self, x_NI: Tensor) -> Tensor:
        """Return x Wᵀ of dequantised rows, [N, O]."""
        dtype = _type_of_products(x_NI)
        x_NI, kind = x_NI.to(dtype), x_NI.dtype
        made = [F.linear(x_NI, weight) for _, weight in self.blocks(dtype, not recorded(x_NI))]
        return (made[0] if len(made) == 1 else torch.cat(made, 1)).to(kind)

    def blocks(self, dtype: torch.dtype, native: bool = True) -> Iterator[tuple[int, Tensor]]:
        """Iterate over the dequantised weights, some rows at a time, each with the number of its first row.

        native: whether the kernel may compute them, which gives the same numbers.
        """
        kernel = self.kernel if native and isinstance(self.kernel, NativeProduct) and dtype in TYPES else None
        step = max(1, (BLOCK if kernel is None else NATIVE_BLOCK) // self.in_features)
        for begin in range(0, self.out_features, step):
            end = min(begin + step, self.out_features)
            made = self.rows(slice(begin, end), dtype) if kernel is None else kernel.weights(begin, end, dtype)
            yield begin, made

    def rows(self, at: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """Return some dequantised rows. at: a slice, or their numbers, int64[N]."""
        return dequantize(self.quantized().rows(at), self.format, dtype)

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

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move the matrix; the scales keep their type, and the kernel is dropped."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.weight_scale = self.weight_scale.to(self.format.dtype)
        if self.weight_zero is not None:
            self.weight_zero = self.weight_zero.to(self.format.dtype)
        self.kernel = None
        return self

    def extra_repr(self) -> str:
        """Return the sizes and the format."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.format}"


class QuantizedDense(QuantizedMatrix, Dense):
    """A dense layer with quantised weights: y = x Wᵀ + b. bias: a parameter [O], or None."""

    def __init__(self, in_features: int, out_features: int, bias: bool, format: WeightFormat) -> None:
        QuantizedMatrix.__init__(self, in_features, out_features, format)
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_features))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer; x [..., I] → [..., O]."""
        return self.multiply(x, self.bias)


class QuantizedTable(QuantizedMatrix):
    """A table of embeddings with quantised rows, O = V of I = W numbers: token embeddings, output embeddings, or both.

    scores: whether it is multiplied, as output embeddings are; another table needs no kernel.
    """

    def __init__(self, rows: int, width: int, format: WeightFormat, scores: bool) -> None:
        super().__init__(width, rows, format)
        self.scores = scores

    def forward(self, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Look up the rows of ids of any shape, [..., W]; only these are dequantised."""
        kernel = self.kernel
        if isinstance(kernel, NativeProduct) and ids.numel() <= FEW and dtype in TYPES and not recorded(ids):
            return kernel.picked(ids.flatten().tolist(), dtype).view(*ids.shape, self.in_features)
        return self.rows(ids.flatten(), dtype).view(*ids.shape, self.in_features)

    def __len__(self) -> int:
        return self.out_features

    @property
    def shape(self) -> torch.Size:
        """The shape of the table, [V, W]."""
        return torch.Size((self.out_features, self.in_features))

    @property
    def device(self) -> torch.device:
        """The device of the table."""
        device: torch.device = self.weight.device
        return device


OutputTable = Tensor | QuantizedTable
"""Output embeddings, [V, W]."""


def table_scores(x: Tensor, table_VW: OutputTable, bias_V: Tensor | None) -> Tensor:
    """Return the scores of all tokens; x [..., W] → [..., V]."""
    return table_VW.multiply(x, bias_V) if isinstance(table_VW, QuantizedTable) else linear(x, table_VW, bias_V)


def table_rows(table_VW: OutputTable, ids_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Return some output embeddings in a type, [N, W]."""
    return table_VW.rows(ids_N, dtype) if isinstance(table_VW, QuantizedTable) else table_VW[ids_N].to(dtype)


def float_table(table_VW: OutputTable, dtype: torch.dtype) -> Tensor:
    """Return the whole table in a type, [V, W]."""
    return table_VW.float_weight(dtype) if isinstance(table_VW, QuantizedTable) else table_VW.to(dtype)


class _Product(torch.autograd.Function):
    """x Wᵀ with a gradient for x alone: that of the dequantised product."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, layer: QuantizedMatrix) -> Tensor:
        ctx.layer = layer
        return layer.product(x_NI)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor, None]:
        layer, dtype = ctx.layer, _type_of_products(grad_NO)
        grad_NI = grad_NO.new_zeros(len(grad_NO), layer.in_features, dtype=dtype)
        for begin, weight in layer.blocks(dtype, not recorded(grad_NO)):
            grad_NI.addmm_(grad_NO[:, begin : begin + len(weight)].to(dtype), weight)
        return grad_NI.to(grad_NO.dtype), None


def _type_of_products(x: Tensor) -> torch.dtype:
    """Return the type of dequantised products: fp32 on a CPU without units for the type, where others are slower."""
    if x.device.type != "cpu" or (x.dtype == torch.bfloat16 and has_bf16_units()):
        return x.dtype
    return torch.float32


def quantizable(model: nn.Module) -> dict[str, Dense]:
    """Return the dense layers of attention and feed-forward of a model, of all stacks, by name."""
    return {
        f"{prefix}.{name}": layer
        for prefix, module in model.named_modules()
        if isinstance(module, Layer)
        for name, layer in dense_layers(module)
    }


TABLES = ("token_embeddings", "lm_head.table")
"""Names of the tables of a model whose rows are quantised; the second one is of a model that does not tie them."""
BESIDE_TABLES = re.compile(r"(^|\.)(lm_head\.dense|embedding_projection|span_boundary_head\.(first|second))$")
"""Names of the dense layers between the tables and the layers of a model."""


def quantizable_tables(model: Transformer) -> dict[str, tuple[int, int]]:
    """Return the shapes [O, I] of the other matrices of a model that can be quantised, by name: its tables of tokens,
    and the dense layers between these and its layers. Norms, positions and the heads of tasks stay as they are."""
    tables = {name: _matrix(model, name) for name in TABLES}
    shapes = {name: (value.shape[0], value.shape[1]) for name, value in tables.items() if value is not None}
    beside = {name: layer for name, layer in dense_layers(model) if BESIDE_TABLES.search(name)}
    return shapes | {name: (layer.out_features, layer.in_features) for name, layer in beside.items()}


def matrix_names(model: Transformer) -> list[str]:
    """Return the names of all matrices of a model that can be quantised."""
    return [*(name for name, _ in dense_layers(model)), *TABLES]


def _matrix(model: Transformer, name: str) -> Tensor | QuantizedTable | None:
    """Return a table of a model; None where it has none of this name."""
    value: Any = attrgetter(name)(model)
    return value.weight if isinstance(value, nn.Embedding) else value


def make_quantized(
    model: Transformer, formats: Mapping[str, WeightFormat], dense: type[QuantizedDense] | None = None
) -> None:
    """Replace dense layers and tables of a model by quantised ones without values.

    formats: by name. dense: the class of the new layers, `QuantizedDense` where none is given.
    """
    kind = dense or QuantizedDense

    def made(name: str, layer: Dense) -> nn.Module | None:
        if name not in formats:
            return None
        with torch.device(layer.weight.device):
            return kind(layer.in_features, layer.out_features, layer.bias is not None, formats[name])

    replace_dense(model, made)
    for name in TABLES:
        if name not in formats or (table := _matrix(model, name)) is None:
            continue
        owner, _, own = name.rpartition(".")
        holder = model.get_submodule(owner)
        scores = name == TABLES[1] or (_matrix(model, TABLES[1]) is None and model.config.lm_head)
        rows, width = table.shape
        with torch.device(table.device):
            replacement = QuantizedTable(rows, width, formats[name], scores)
        if isinstance(getattr(holder, own), nn.Parameter):
            delattr(holder, own)
        setattr(holder, own, replacement)


def quantized_matrices(model: nn.Module) -> Iterator[tuple[str, QuantizedMatrix]]:
    """Iterate over the quantised layers and tables of a model, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedMatrix):
            yield name, module


def quantized_formats(model: nn.Module) -> dict[str, WeightFormat]:
    """Return the formats of the quantised layers and tables of a model, by name."""
    return {name: layer.format for name, layer in quantized_matrices(model)}


def prepare(model: nn.Module, dtype: torch.dtype) -> None:
    """Look for kernels for the quantised layers of a model that computes in a type.

    A kernel is compared with the dequantised product in the first layer of each shape.
    """
    works: dict[tuple[WeightFormat, int, int], bool] = {}
    for _, layer in quantized_matrices(model):
        if isinstance(layer, QuantizedTable) and not layer.scores:
            continue
        shape = (layer.format, layer.in_features, layer.out_features)
        if shape not in works:
            works[shape] = layer.prepare(dtype)
        elif works[shape]:
            layer.prepare(dtype, probe=False)


def float_weight(layer: Dense) -> Tensor:
    """Return the weights of a dense layer as floating-point numbers, [O, I]."""
    return layer.float_weight() if isinstance(layer, QuantizedDense) else layer.weight
