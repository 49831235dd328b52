"""Dense layers whose activations are quantised too: 8 bits, with a scale for each row, found as it passes.

`DynamicDense` multiplies integers with integers where this processor is fast at it (`kernels.dynamic_products`), for
any number of rows, and elsewhere like its base class, with the weights dequantised. A row has the same numbers
alone and among others. Gradients are those of the dequantised product.

Shapes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blankfill.kernels.dynamic_products import NativeDynamic, TorchDynamic, dynamic_for
from blankfill.model.dense import Fused
from blankfill.model.layers import activate
from blankfill.model.quantized import QuantizedDense


class DynamicDense(QuantizedDense, Fused):
    """A quantised dense layer that rounds its input to 8 bits, with bias and activation function in the same pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer; x [..., I] → [..., O]."""
        return self.fused(x, None)

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """Compute the layer and an activation function."""
        return self.fused(x, activation)

    def fused(self, x: Tensor, activation: str | None) -> Tensor:
        """Compute the layer, and an activation function where one is named."""
        kernel = self.kernel
        plain = isinstance(kernel, NativeDynamic | TorchDynamic) and kernel.dtype == x.dtype
        if not plain or torch.is_grad_enabled():
            made = super().forward(x)
            return made if activation is None else activate(made, activation)
        assert isinstance(kernel, NativeDynamic | TorchDynamic)
        made_NO = kernel.variant(self.bias, activation)(x.reshape(-1, self.in_features))
        return made_NO.view(*x.shape[:-1], self.out_features)

    def prepare(self, dtype: torch.dtype, probe: bool = True) -> bool:
        """Look for the product with activations of 8 bits, else for a kernel for few rows; returns whether there is
        one."""
        made = dynamic_for(self.quantized(), self.format, dtype, probe=probe)
        if made is None:
            return super().prepare(dtype, probe)
        self.kernel = made
        return True
