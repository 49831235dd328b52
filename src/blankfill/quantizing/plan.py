"""Which layers of a model are quantised, in which format and by which method.

Norms, biases, position tables and the heads of tasks stay as they are by rule: they are small, and errors in them reach
every output. With a target size, `sensitivity` decides the bits of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blankfill.checkpoint import store
from blankfill.errors import UserError, setting
from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize, quantize
from blankfill.model.quantized import quantizable, quantizable_tables
from blankfill.model.transformer import Transformer
from blankfill.quantizing.calibration import Subject
from blankfill.quantizing.methods.hqq import hqq
from blankfill.quantizing.sensitivity import Option, assigned, sensitivities
from blankfill.quantizing.settings import Method, QuantizeSettings, fitting_group, resolved, size_of
from blankfill.system.console import amount, progress

HEADER = 160
"""Bytes of the header of a safetensors file for each tensor, at most."""
ERROR_OF_STEP = (2 * 7 / (2 * 127)) ** 2
"""Squared error of 8 bits as a share of that of 4, for the same scales."""


@dataclass(frozen=True)
class Matrices:
    """The matrices of a model that can be quantised: [O, I] by name.

    layers: the dense layers of attention and feed-forward. tables: those of tokens, and the dense layers beside them.
    """

    layers: Mapping[str, tuple[int, int]]
    tables: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, state: dict[str, Any], source: Path) -> Matrices:
        """Return those of a stored model. Raises UserError for a model that was fine-tuned with LoRA."""
        task = state.get("task")
        options = task.get("options") if isinstance(task, dict) else None
        if isinstance(options, dict) and options.get("lora_rank"):
            raise UserError(
                f"{source} was fine-tuned with LoRA, whose matrices are beside the weights; export it, import the "
                "export and quantise that, or fine-tune a quantised model with LoRA"
            )
        with torch.device("meta"):
            model = Transformer(store.model_of(state, source))
        layers = {name: (layer.out_features, layer.in_features) for name, layer in quantizable(model).items()}
        return cls(layers, quantizable_tables(model))


@dataclass(frozen=True)
class LayerPlan:
    """How a layer is quantised. sensitivity: what the model loses when the layer alone has 4 bits; None where it was
    not measured."""

    format: WeightFormat
    method: Method
    sensitivity: float | None = None


TABLE = LayerPlan(WeightFormat(8), "nearest")
"""How tables of tokens are quantised."""


@dataclass
class Plan:
    """The layers and the tables to quantise, by name.

    whole: layers that keep their type, with the reason. regrouped: layers with a smaller group than requested, since
    that does not divide their inputs.
    """

    layers: dict[str, LayerPlan] = field(default_factory=dict)
    tables: dict[str, LayerPlan] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    regrouped: dict[str, int] = field(default_factory=dict)

    @property
    def matrices(self) -> dict[str, LayerPlan]:
        """The layers and the tables."""
        return {**self.layers, **self.tables}

    @property
    def formats(self) -> dict[str, WeightFormat]:
        """The formats of layers and tables."""
        return {name: layer.format for name, layer in self.matrices.items()}

    @property
    def method(self) -> str:
        """The names of the methods of the layers, joined by a plus."""
        return "+".join(sorted({layer.method for layer in self.layers.values()}))

    def remarks(self) -> list[str]:
        """Return sentences about layers that differ from the settings."""
        remarks = []
        if odd := [name for name, why in self.whole.items() if why == ODD]:
            remarks.append(f"{len(odd)} layers have an odd number of inputs and keep their type: {shortened(odd)}")
        if self.regrouped:
            sizes = ", ".join(str(size) if size else "the row" for size in sorted(set(self.regrouped.values())))
            remarks.append(
                f"{len(self.regrouped)} layers have a number of inputs that the group size does not divide; their "
                f"groups are smaller or the row ({sizes}): {shortened(list(self.regrouped))}"
            )
        return remarks


ODD = "odd number of inputs"
LARGE = "target size"


def shortened(names: list[str], most: int = 3) -> str:
    """Return the first names of a list."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def plan_of(
    matrices: Matrices, settings: QuantizeSettings, bits: int, keeps_format: bool = False, has_text: bool = False
) -> Plan:
    """Return the plan with the same bits for all layers. keeps_format, has_text: see `resolved`."""
    plan = Plan()
    wanted = resolved(settings, bits, keeps_format, has_text)
    for name, (_, inputs) in matrices.layers.items():
        if bits == 4 and inputs % 2:
            plan.whole[name] = ODD
            continue
        group = fitting_group(inputs, wanted.group_size)
        if group != wanted.group_size and inputs != wanted.group_size:
            plan.regrouped[name] = group
        plan.layers[name] = LayerPlan(WeightFormat(bits, group, wanted.scheme), wanted.method)
    if not plan.layers:
        raise UserError(f"no layer of the model has an even number of inputs; use {setting('bits', 8)}")
    if wanted.embeddings == "8":
        plan.tables = dict.fromkeys(matrices.tables, TABLE)
    return plan


def sized_plan(
    matrices: Matrices,
    settings: QuantizeSettings,
    tensors: Mapping[str, Tensor],
    prefix: str,
    before: int,
    subject: Subject,
) -> Plan:
    """Return the plan whose layers have the bits that a target size leaves for them.

    tensors: all weights of the model, which show shapes and types; prefix: of the names of layers there; before: bytes
    of the model. Raises UserError for a target size that the fewest bits do not reach.
    """
    most = size_of(settings.target_size, before)
    plans = {
        bits: plan_of(matrices, settings, bits, has_text=True) for bits in ((8,) if settings.bits == 8 else (4, 8))
    }
    made = Plan(tables=plans[8].tables)
    layers = {f"{prefix}{name}": name for name in (*matrices.layers, *made.tables)}
    sizes = {
        own: stored_size(tensor)
        for name, tensor in tensors.items()
        if (own := layers.get(name.removesuffix(".weight"))) is not None
    }
    rest = sum(map(stored_size, tensors.values())) - sum(sizes.values())
    rest += HEADER * (len(tensors) + 2 * len(layers))
    rest += sum(quantised_size(table, *matrices.tables[name]) for name, table in made.tables.items())
    kinds = {
        name: {bits: quantised_size(plan.layers[name], *shape) for bits, plan in plans.items() if name in plan.layers}
        for name, shape in matrices.layers.items()
    }
    smallest = rest + sum(min(sizes[name], *of_bits.values()) for name, of_bits in kinds.items())
    if smallest > most:
        more = "" if made.tables else f", or store the tables of tokens in 8 bits with {setting('embeddings', '8')}"
        raise UserError(
            f"{setting('target_size', settings.target_size)} is {amount(most, 'B')}, and the smallest that these "
            f"settings make of the model is {amount(smallest, 'B')}; give at least {_up(smallest)}{more}"
        )
    if rest + sum(sizes[name] for name in kinds) <= most:
        raise UserError(
            f"{setting('target_size', settings.target_size)} is {amount(most, 'B')}, in which the layers fit as they "
            "are; give a smaller one"
        )
    losses = measured(matrices, settings, subject)
    options: dict[str, list[Option]] = {}
    for name, of_bits in kinds.items():
        estimates = {4: losses[name], 8: losses[name] * ERROR_OF_STEP}
        options[name] = [Option(bits, size, estimates[bits]) for bits, size in of_bits.items()]
        options[name].append(Option(0, sizes[name], 0.0))
    chosen = assigned(options, most - rest)
    assert chosen is not None
    for name, option in chosen.items():
        if not option.bits:
            made.whole[name] = LARGE
            continue
        of_layer = plans[option.bits]
        made.layers[name] = replace(of_layer.layers[name], sensitivity=losses[name])
        if name in of_layer.regrouped:
            made.regrouped[name] = of_layer.regrouped[name]
    return made


def measured(matrices: Matrices, settings: QuantizeSettings, subject: Subject) -> dict[str, float]:
    """Return the sensitivity of each layer; of a layer with an odd number of inputs, that of 8 bits × 1/4-bit error."""
    wanted = resolved(settings, 4)

    def coarse(name: str, weight: Tensor) -> Tensor:
        inputs = weight.shape[1]
        format = WeightFormat(8 if inputs % 2 else 4, fitting_group(inputs, wanted.group_size), wanted.scheme)
        choose = quantize if wanted.method == "nearest" else hqq
        return dequantize(choose(weight.float(), format), format, torch.float32)

    with progress("sensitivity", len(matrices.layers), "layers") as bar:
        losses = sensitivities(subject, coarse, list(matrices.layers), bar.advance)
    odd = {name for name, (_, inputs) in matrices.layers.items() if inputs % 2}
    return {name: loss / ERROR_OF_STEP if name in odd else loss for name, loss in losses.items()}


def stored_size(tensor: Tensor) -> int:
    """Return the bytes of a tensor, which may be without memory."""
    return tensor.numel() * tensor.element_size()


def quantised_size(plan: LayerPlan, outputs: int, inputs: int) -> int:
    """Return the bytes of a layer's integers, scales and zero points."""
    shapes, types = plan.format.shapes(outputs, inputs), plan.format.types()
    return sum(int(torch.Size(shape).numel()) * types[name].itemsize for name, shape in shapes.items())


def _up(size: int) -> str:
    """Return a size that is at least as large, as a setting takes it."""
    return f"{-(-size // 1000)}kB" if size < 10**6 else f"{-(-size // 10**4) / 100:g}MB"


def chosen_integers(weight: Tensor, plan: LayerPlan, rounding: str) -> QuantizedWeight:
    """Quantise a matrix by a method that needs no data."""
    if plan.method == "nearest":
        return quantize(weight, plan.format, torch.float16 if rounding == "released" else torch.float32)
    return hqq(weight, plan.format)
