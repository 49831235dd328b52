"""Which layers of a stored model are quantised, and the names of their tensors in each format.

A folder of ours notes it in `state.json` under `quantization`; the weights of a layer are int8 under their usual name,
with the scales beside them (`weight_scale`), as in the quantised checkpoints of ChatGLM-6B. `model.quantized` has the
layers and the arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from blankfill.errors import UserError
from blankfill.families.weight_names import ByHead, HalvesSwapped, Rule, Table
from blankfill.kernels.integers import WeightFormat
from blankfill.model.dynamic import DynamicDense
from blankfill.model.quantized import TABLES, QuantizedDense, make_quantized, quantizable, quantizable_tables
from blankfill.model.transformer import Transformer
from blankfill.system.loader import fitting

KEY = "quantization"
"""Key in state.json."""
SCALE = "weight_scale"
"""Name of the scales of a layer, beside its weights."""
ACTIVATIONS = ("keep", "int8")
"""How layers of 8 bits take their input: as it is, or rounded to 8 bits with a scale for each row."""
KEEPS_ROWS = (Rule, ByHead, HalvesSwapped)
"""Rules that move whole rows, which have a scale each."""
ZERO = "weight_zero"
"""Name of the zero points of a layer, beside its scales."""
OWN_TYPE = re.compile(rf"\.({SCALE}|{ZERO})$")
"""Names of tensors that keep their type when a model is converted."""


@dataclass(frozen=True)
class Quantization:
    """The quantised layers of a model: formats by name. method: how the integers were chosen; it does not change how
    they are read. rounding: that of the integers, `exact` or `released`. activations: `keep`, or `int8` where layers of
    8 bits round their input to 8 bits too (`model.dynamic`)."""

    layers: Mapping[str, WeightFormat]
    method: str = "nearest"
    rounding: str = "exact"
    activations: str = "keep"

    @property
    def bits(self) -> int:
        """The largest number of bits of a layer."""
        return max(format.bits for format in self.layers.values())

    def state(self) -> dict[str, Any]:
        """Return the value in state.json."""
        layers = {name: format.state() for name, format in self.layers.items()}
        made = {"layers": layers, "method": self.method, "rounding": self.rounding}
        return made if self.activations == "keep" else made | {"activations": self.activations}

    def apply(self, model: Transformer) -> None:
        """Put quantised layers without values into a model. Raises UserError for layers that it does not have."""
        if unknown := sorted(self.layers.keys() - quantizable(model).keys() - quantizable_tables(model).keys()):
            raise UserError(
                f"the model has no layer {unknown[0]}, which is noted as quantised; its files do not belong together"
            )
        make_quantized(model, self.layers, DynamicDense if self.activations == "int8" else QuantizedDense)


def quantization_of(state: Mapping[str, Any], where: object) -> Quantization | None:
    """Return what state.json notes; None for a model that is not quantised. Raises UserError for other values."""
    if state.get(KEY) is None:
        return None
    values = fitting(state[KEY], dict[str, Any], f"{where}: `{KEY}`")
    noted = fitting(values.get("layers"), dict[str, Any], f"{where}: `{KEY}.layers`")
    try:
        layers = {name: WeightFormat.from_state(value) for name, value in noted.items()}
    except ValueError as error:
        raise UserError(f"{where}: `{KEY}.layers` has a format that is not known to this version ({error})") from None
    if not layers:
        raise UserError(f"{where}: `{KEY}.layers` must name layers")
    activations = values.get("activations", "keep")
    if activations not in ACTIVATIONS:
        raise UserError(
            f"{where}: `{KEY}.activations` is {activations!r}, which this version does not know; use a newer version"
        )
    method, rounding = str(values.get("method", "nearest")), str(values.get("rounding", "exact"))
    return Quantization(layers, method, rounding, activations)


def holds_quantized(table: Table, layers: Mapping[str, WeightFormat]) -> bool:
    """Return whether the files of a table hold these layers: all have the same bits and one scale for each row, and the
    table maps their weights without touching the inside of a row."""
    if len(formats := set(layers.values())) != 1 or not all(format == WeightFormat(format.bits) for format in formats):
        return False
    if not layers.keys().isdisjoint(TABLES):  # the files have whole tables
        return False
    wanted = {f"{name}.weight" for name in layers}
    matching = {rule.ours for rule in table.rules if rule.ours in wanted and type(rule) in KEEPS_ROWS}
    return matching == wanted


def with_scales(table: Table, layers: Mapping[str, WeightFormat]) -> Table:
    """Return a table with the scales and zero points of quantised layers, which follow the rows of their weights."""
    rules = []
    for rule in table.rules:
        if (name := layer_of(rule.ours, layers)) is None:
            rules.append(rule)
            continue
        for other in layers[name].shapes(1, 0):
            theirs = (f"{rule.theirs[0].removesuffix('weight')}{other}",) if other != "weight" else rule.theirs
            rules.append(replace(rule, ours=f"{name}.{other}", theirs=theirs))
    return replace(table, rules=tuple(rules))


def layer_of(tensor: str, layers: Container[str]) -> str | None:
    """Return the quantised layer whose weights a tensor of the plain model is; None for another tensor. The parameter
    `lm_head.table` has the name of its layer."""
    layer = tensor.removesuffix(".weight")
    return layer if layer in layers else None


def scale_of(weight: str) -> str:
    """Return the name of the scales for the name of a weight."""
    return f"{weight.removesuffix('weight')}{SCALE}"


def planned_layers(plan: Mapping[str, Tensor], layers: Mapping[str, WeightFormat]) -> dict[str, Tensor]:
    """Return tensors without memory in which the weights of layers are quantised; scales and zero points come after
    them."""
    import torch

    out: dict[str, Tensor] = {}
    for name, tensor in plan.items():
        if (layer := layer_of(name, layers)) is None:
            out[name] = tensor
            continue
        types = layers[layer].types()
        for other, shape in layers[layer].shapes(*tensor.shape).items():
            out[f"{layer}.{other}"] = torch.empty(shape, dtype=types[other], device="meta")
    return out
