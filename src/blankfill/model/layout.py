"""The memory layout of weights for inference: matrix products of a few rows at a time on a CPU, in fp32.

A step of decoding multiplies one row for each text with every matrix, and its time is that of reading the weights from
memory. For so few rows a matrix with more outputs than inputs is faster stored by columns (the product is a sum of
columns; by rows each output is a sum of its own). The token embeddings, by far the largest matrix, are fastest in
oneDNN's block format; the head stores such a copy for products of more than one row. The values of the weights do not
change. docs/performance.md shows the gain.

Only for inference: training is faster with rows. The layout changes the last bits of products, so it belongs before the
first use of a model (`inference.load`), and never changes between two uses.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor

from blankfill.kernels.capability import plain_dense, plain_weight
from blankfill.model.dense import dense_layers
from blankfill.model.single import compiled, fits
from blankfill.model.transformer import Transformer

X86 = ("x86_64", "AMD64")
SMALLEST = 1 << 20
"""Number of weights below which token embeddings get no copy."""


@torch.no_grad()
def optimize_for_inference(model: Transformer) -> None:
    """Change the layout of a model's weights for inference, in place, before the model is used.

    A model in this layout already, or not in fp32 on a CPU, stays unchanged, and so does one whose steps the compiled
    library computes, which reads rows at full speed.
    """
    table = model.output_table
    if not isinstance(table, Tensor) or not plain_weight(table):
        return
    if table.device.type != "cpu" or table.dtype != torch.float32 or table.stride(0) == 1:
        return
    if fits(model) and compiled(model):
        return
    for _, layer in dense_layers(model):
        if plain_dense(layer) and layer.out_features >= layer.in_features:
            layer.weight.data = by_columns(layer.weight)
    copy = packed(table)
    model.lm_head.packed = None if copy is None else (copy, table._version)
    table.data = by_columns(table)


def by_columns(weight_OI: Tensor) -> Tensor:
    """Return the same matrix, stored by columns."""
    return weight_OI.detach().t().contiguous().t()


def packed(table_VW: Tensor) -> Tensor | None:
    """Return oneDNN's copy of a table, for `LMHead`; None without oneDNN, or where the gain is small."""
    if table_VW.numel() < SMALLEST or not torch.backends.mkldnn.is_available() or platform.machine() not in X86:
        return None
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(table_VW.detach().contiguous(), None)
    return made
