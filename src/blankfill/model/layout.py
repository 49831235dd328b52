"""The memory layout of weights for inference: matrix products of a few rows at a time on a CPU, in fp32.

A step of writing multiplies one row for each text with every matrix, and lasts as long as the weights take to come from
memory. For so few rows a matrix that makes more numbers than it reads is faster by columns (the product is a sum of
them, where by rows each number is a sum of its own). The word table, much the largest, is fastest in the blocks that
oneDNN puts it in; the head keeps such a copy for more rows than one. Weights are the same numbers in another order.
docs/performance.md says what it is worth.

For models that only answer: a model that trains is better off with rows. The layout changes the last bits of what a
product gives, so it belongs before the first use of a model (`inference.load`), and is never changed between two.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor

from blankfill.kernels.capability import plain_dense, plain_weight
from blankfill.model.dense import dense_layers
from blankfill.model.transformer import Transformer

X86 = ("x86_64", "AMD64")
SMALLEST = 1 << 20
"""A word table of fewer weights is not worth a copy."""


@torch.no_grad()
def optimize_for_inference(model: Transformer) -> None:
    """Lay a model's weights out for inference, in place, before the model is used.

    The weights of a model that is laid out already, or not in fp32 on a CPU, stay as they are.
    """
    table = model.output_table
    if not plain_weight(table) or table.device.type != "cpu" or table.dtype != torch.float32 or table.stride(0) == 1:
        return
    for _, layer in dense_layers(model):
        if plain_dense(layer) and layer.out_features >= layer.in_features:
            layer.weight.data = by_columns(layer.weight)
    copy = packed(table)
    model.lm_head.packed = None if copy is None else (copy, table._version)
    table.data = by_columns(table)


def by_columns(weight_OI: Tensor) -> Tensor:
    """The same matrix, each column in one piece of memory."""
    return weight_OI.detach().t().contiguous().t()


def packed(table_VW: Tensor) -> Tensor | None:
    """oneDNN's copy of a table, for `LMHead`; None where there is no oneDNN, or little to gain."""
    if table_VW.numel() < SMALLEST or not torch.backends.mkldnn.is_available() or platform.machine() not in X86:
        return None
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(table_VW.detach().contiguous(), None)
    return made
