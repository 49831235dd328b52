"""The one place where the dense layers of the model and its heads are made.

A model with another kind of dense layer (quantised, sharded) needs a change only here; `replace_dense` transforms an
existing model. `kernels.capability.plain_dense` decides whether raw kernels may compute a dense layer, whatever its
class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from blankfill.kernels.half import HalfLinear

Dense = nn.Linear
"""The class of an ordinary dense layer, for type checks: weight [out, in], bias [out] or None."""


class Fused:
    """A dense layer that applies an activation function in the same pass."""

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """Return the activation function, a name of `TransformerConfig.activation`, of the layer's output."""
        raise NotImplementedError


def dense(in_features: int, out_features: int, bias: bool = True) -> Dense:
    """Make a dense layer with torch's initial values, until the model that owns it draws its own."""
    return HalfLinear(in_features, out_features, bias)


def dense_layers(root: nn.Module) -> Iterator[tuple[str, Dense]]:
    """Iterate over the names and the dense layers inside a module; a shared layer comes once."""
    for name, module in root.named_modules():
        if isinstance(module, Dense):
            yield name, module


def replace_dense(root: nn.Module, make: Callable[[str, Dense], nn.Module | None]) -> int:
    """Replace dense layers inside a module by what `make` returns for their name; None keeps a layer.

    Returns the number of layers that were replaced.
    """
    replaced = 0
    for name, layer in list(dense_layers(root)):
        new = make(name, layer)
        if new is not None and new is not layer:
            root.set_submodule(name, new)
            replaced += 1
    return replaced
