"""Whether raw kernels may be used on a module's weights: the one check of that.

Code that multiplies with a weight itself, in place of calling the module that has it, is right only where calling the
module would do the same: for torch's own dense class, with ordinary strided weights, which nothing watches or replaces.
Adapters, quantised and sharded weights (tensor subclasses), pruned and parametrised modules and modules with hooks go
the usual way.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""What torch keeps of a module's hooks, and, with `_global` before each, of those of all modules."""


def plain_weight(weight: Tensor | None) -> bool:
    """Whether a weight is an ordinary strided tensor of floats, or there is none."""
    if weight is None:
        return True
    # the type of a parameter that wraps a tensor subclass is that subclass
    return type(weight) in (nn.Parameter, Tensor) and weight.layout is torch.strided and weight.is_floating_point()


def plain_weights(weights: Iterable[Tensor]) -> bool:
    """Whether all of some weights are ordinary ones."""
    return all(map(plain_weight, weights))


def watched(module: nn.Module) -> bool:
    """Whether calling the module runs hooks, its own or those of all modules."""
    return any(getattr(module, name) or getattr(nn_module, f"_global{name}") for name in HOOKS)


def plain_dense(module: nn.Module) -> bool:
    """Whether a module is a dense layer that raw kernels may stand in for."""
    if type(module) is not nn.Linear or watched(module):
        return False
    return plain_weight(module.weight) and plain_weight(module.bias)
