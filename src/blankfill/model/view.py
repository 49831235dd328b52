"""A model in evaluation mode beside the same model in training mode: both share the weights, and not the mode.

`model.eval()` before a call and `model.train()` after it fail as soon as two threads use the model: each may run in the
mode that the other has set. A view leaves the mode of the model unchanged.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def evaluation_view(model: Module, lasting: bool = False) -> Module:
    """Return a model in evaluation mode with the same weights: the model itself, or a view of a model in training mode.

    A view is a copy of the modules with the tensors and hooks of the original, so that one thread can use a model
    without dropout while another thread trains it. lasting: return a view in any case; it stays in evaluation mode when
    the model is put into training mode later.
    """
    return _view(model, {}) if lasting or model.training else model


def _view(module: Module, made: dict[int, nn.Module]) -> Module:
    """Make a view of one module. made: the views so far, by the identity of their originals."""
    known = made.get(id(module))
    if known is None:
        known = made[id(module)] = type(module).__new__(type(module))
        known.__dict__.update(
            (name, _view(value, made) if isinstance(value, nn.Module) else value)
            for name, value in module.__dict__.copy().items()  # another thread may add what a norm makes on first use
        )
        children = {name: None if child is None else _view(child, made) for name, child in module._modules.items()}
        known.__dict__.update(_modules=children, training=False)
    assert isinstance(known, type(module))
    return known
