"""Which layers of a stored model are quantised, and the names of their tensors in each format.

A folder of ours notes it in `state.json` under `quantization`; the weights of a layer are int8 under their usual name,
with the scales beside them (`weight_scale`), as in the quantised checkpoints of ChatGLM-6B. `model.quantized` has the
layers and the arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor, nn

from blankfill.errors import UserError
from blankfill.families.weight_names import ByHead, HalvesSwapped, Rule, Table
from blankfill.model.quantized import LARGEST, make_quantized, quantizable
from blankfill.system.loader import fitting

KEY = "quantization"
"""Key in state.json."""
SCALE = "weight_scale"
"""Name of the scales of a layer, beside its weights."""
KEEPS_ROWS = (Rule, ByHead, HalvesSwapped)
"""Rules that move whole rows, which have a scale each."""
OWN_TYPE = re.compile(rf"\.{SCALE}$")
"""Names of tensors that keep their type when a model is converted."""


@dataclass(frozen=True)
class Quantization:
    """The quantised layers of a model: bits by name. rounding: that of the integers, `exact` or `released`."""

    layers: Mapping[str, int]
    method: str = "absmax"
    rounding: str = "exact"

    @property
    def bits(self) -> int:
        """The largest number of bits of a layer."""
        return max(self.layers.values())

    def state(self) -> dict[str, Any]:
        """Return the value in state.json."""
        return asdict(self)

    def apply(self, model: nn.Module) -> None:
        """Put quantised layers without values into a model. Raises UserError for layers that it does not have."""
        if unknown := sorted(set(self.layers) - set(quantizable(model))):
            raise UserError(
                f"the model has no layer {unknown[0]}, which is noted as quantised; its files do not belong together"
            )
        make_quantized(model, self.layers)


def quantization_of(state: Mapping[str, Any], where: object) -> Quantization | None:
    """Return what state.json notes; None for a model that is not quantised. Raises UserError for other values."""
    if state.get(KEY) is None:
        return None
    values = fitting(state[KEY], dict[str, Any], f"{where}: `{KEY}`")
    layers = fitting(values.get("layers"), dict[str, int], f"{where}: `{KEY}.layers`")
    if not layers or not set(layers.values()) <= set(LARGEST):
        raise UserError(f"{where}: `{KEY}.layers` must name layers with 8 or 4 bits")
    if values.get("method") != "absmax":
        raise UserError(f"{where}: `{KEY}.method` is not known to this version; update blankfill")
    return Quantization(layers, "absmax", str(values.get("rounding", "exact")))


def holds_quantized(table: Table, layers: Iterable[str]) -> bool:
    """Return whether a table maps the weights of these layers without touching the inside of a row."""
    wanted = {f"{name}.weight" for name in layers}
    matching = {rule.ours for rule in table.rules if rule.ours in wanted and type(rule) in KEEPS_ROWS}
    return matching == wanted


def with_scales(table: Table, layers: Iterable[str]) -> Table:
    """Return a table with the scales of quantised layers, which follow the rows of their weights."""
    wanted = {f"{name}.weight" for name in layers}
    more = [
        replace(rule, ours=scale_of(rule.ours), theirs=(scale_of(rule.theirs[0]),))
        for rule in table.rules
        if rule.ours in wanted
    ]
    return replace(table, rules=(*table.rules, *more))


def scale_of(weight: str) -> str:
    """Return the name of the scales for the name of a weight."""
    return f"{weight.removesuffix('weight')}{SCALE}"


def planned_layers(plan: Mapping[str, Tensor], layers: Mapping[str, int]) -> dict[str, Tensor]:
    """Return tensors without memory in which the weights of layers are quantised; their scales come after them."""
    import torch

    out: dict[str, Tensor] = {}
    for name, tensor in plan.items():
        bits = layers.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if bits is None:
            out[name] = tensor
            continue
        rows, inputs = tensor.shape
        out[name] = torch.empty(rows, inputs * bits // 8, dtype=torch.int8, device="meta")
        out[scale_of(name)] = torch.empty(rows, dtype=torch.float16, device="meta")
    return out
