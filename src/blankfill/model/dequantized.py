"""A quantised model as a plain one, with the numbers that its integers stand for, for formats that hold no others."""

from __future__ import annotations

import torch
from torch import nn

from blankfill.model.dense import dense
from blankfill.model.embeddings import TokenEmbeddings
from blankfill.model.quantized import QuantizedDense, QuantizedTable, quantized_matrices


@torch.no_grad()
def make_plain(model: nn.Module, dtype: torch.dtype) -> int:
    """Replace the quantised layers and tables inside a module, in place, by plain ones with weights of a type.

    The plain model computes what the quantised one does, and takes the memory of one that was never quantised.

    Returns:
        The number of matrices that were replaced.
    """
    matrices = list(quantized_matrices(model))
    for name, matrix in matrices:
        weight = nn.Parameter(matrix.float_weight(dtype))
        if isinstance(matrix, QuantizedDense):
            with torch.device("meta"):
                layer = dense(matrix.in_features, matrix.out_features, matrix.bias is not None)
            layer.weight, layer.bias = weight, matrix.bias
            model.set_submodule(name, layer.train(matrix.training))
        elif isinstance(matrix, QuantizedTable):
            owner, _, own = name.rpartition(".")
            holder = model.get_submodule(owner)
            delattr(holder, own)
            if own != "table":
                setattr(holder, own, TokenEmbeddings(weight.shape[0], weight.shape[1], _weight=weight.detach()))
            else:
                setattr(holder, own, weight)
    return len(matrices)
