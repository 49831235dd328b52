"""The check that decides whether raw kernels may be used on a module's weights.

Code that multiplies with a weight itself, instead of calling the module that owns it, is correct only where both give
the same: for torch's own dense class with ordinary strided weights and without hooks or parametrisations. Adapters,
quantised and sharded weights (tensor subclasses), pruned and parametrised modules and modules with hooks are called as
modules.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from blankfill.kernels.half import HalfLinear


def plain_weight(weight: Tensor | None) -> bool:
    """Return whether a weight is None or an ordinary strided floating-point tensor."""
    if weight is None:
        return True
    # the type of a parameter that wraps a tensor subclass is that subclass
    return type(weight) in (nn.Parameter, Tensor) and weight.layout is torch.strided and weight.is_floating_point()


def plain_weights(weights: Iterable[Tensor]) -> bool:
    """Return whether all weights are ordinary (`plain_weight`)."""
    return all(map(plain_weight, weights))


def recorded(x: Tensor) -> bool:
    """Return whether a computation with a tensor is being recorded, for export or compilation: its numbers cannot be
    read then. Also true of tensor subclasses, which only torch's own functions can read."""
    return type(x) is not Tensor or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def plain_layer_norm(module: nn.Module) -> bool:
    """Return whether raw kernels may compute this module as torch's layer norm; hooks are not looked for."""
    return type(module) is nn.LayerNorm


def watched(module: nn.Module) -> bool:
    """Return whether calling the module runs hooks, its own or global ones."""
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(
        own
        or nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )


def plain_dense(module: nn.Module) -> bool:
    """Return whether raw kernels may compute this module: a plain dense layer."""
    if not isinstance(module, nn.Linear) or type(module) not in (nn.Linear, HalfLinear) or watched(module):
        return False
    return plain_weight(module.weight) and plain_weight(module.bias)
