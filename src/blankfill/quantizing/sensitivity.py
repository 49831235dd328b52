"""How much each layer matters, and the bits that a target size leaves for it.

The sensitivity of a layer is what the model loses when that layer alone has 4 bits: the mean Kullback-Leibler
divergence of the distributions at the targets of calibration rows, in nats. For models whose output is no distribution
over tokens (tasks, replaced tokens) it is the squared distance of the hidden states of the layer's stack, as a share of
their squared size.

All layers begin with the fewest bits. As long as the size allows, the layer with the largest gain per byte gets more:
8 bits, or its own type. The divergence of 8 bits is estimated from that of 4, since it grows with the square
of the error of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blankfill.generation.fill_written import SCORED_AT_ONCE
from blankfill.kernels.divergence import row_differences
from blankfill.model.layers import Layer
from blankfill.model.quantized import quantizable
from blankfill.model.transformer import Transformer
from blankfill.quantizing.calibration import Subject
from blankfill.quantizing.walk import real_rows
from blankfill.types import Batch

TOKENS = 4096
"""Tokens of calibration rows on which the model runs once for each layer."""


@dataclass(frozen=True)
class Option:
    """A way to store a layer. bits: 4 or 8; 0: as it is. size: bytes. loss: estimated loss of the model."""

    bits: int
    size: int
    loss: float


@torch.no_grad()
def sensitivities(
    subject: Subject, coarse: Callable[[str, Tensor], Tensor], names: Sequence[str], done: Callable[[int], None]
) -> dict[str, float]:
    """Return the sensitivity of layers by name. coarse: returns the weights of a layer, rounded to 4 bits."""
    layers = quantizable(subject.encoder)
    batches = some(subject.batches, TOKENS)
    measured = Outputs(subject, batches)
    made = {}
    for name in names:
        layer, whole = layers[name], layers[name].weight
        layer.weight = nn.Parameter(coarse(name, whole.detach()).to(whole.dtype), requires_grad=False)
        try:
            made[name] = measured.loss(name)
        finally:
            layer.weight = whole
        done(1)
    return made


def some(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Return batches from the first on until they have this number of tokens."""
    chosen, total = [], 0
    for batch in batches:
        chosen.append(batch)
        total += batch.tokens
        if total >= tokens:
            break
    return chosen


class Outputs:
    """The outputs of a model over batches, with which later ones are compared."""

    def __init__(self, subject: Subject, batches: Sequence[Batch]) -> None:
        self.subject, self.batches = subject, batches
        config = subject.encoder.config
        self.has_distribution = subject.loaded is not None and config.lm_head and not config.generator_size
        self.last = {
            name.rpartition(".")[0]: module
            for name, module in subject.encoder.named_modules()
            if isinstance(module, Layer)
        }
        """The last block of each stack."""
        self.before = {stack: self._hidden(stack) for stack in ([""] if self.has_distribution else self.last)}

    def _hidden(self, stack: str) -> list[Tensor]:
        """Return the hidden states of each batch: at targets, or of a stack at all columns but padding."""
        if self.has_distribution:
            return [self._at_targets(batch) for batch in self.batches]
        caught: list[Tensor] = []
        of_source = stack.startswith("encoder.")
        whole: list[Tensor] = []
        hook = self.last[stack].register_forward_hook(lambda module, given, output: caught.append(output))
        try:
            for batch in self.batches:
                caught.clear()
                self.subject.run(batch)
                if caught:
                    whole.append(real_rows(caught[-1], batch, of_source).float())
        finally:
            hook.remove()
        return whole

    def _at_targets(self, batch: Batch) -> Tensor:
        model = self.subject.encoder
        dtype = model.dtype
        hidden: Tensor = model(batch, dtype, read=lambda model, hidden_ND: hidden_ND[batch.target_index]).read
        return hidden

    def loss(self, name: str) -> float:
        """Return what the model loses by the layer that is changed now."""
        if self.has_distribution:
            total, count = 0.0, 0
            for before, now in zip(self.before[""], self._hidden(""), strict=True):
                total, count = total + _divergence(self.subject.encoder, before, now), count + len(before)
            return total / max(1, count)
        stack = next(stack for stack in sorted(self.last, key=len, reverse=True) if name.startswith(f"{stack}."))
        states = self.before[stack]
        distance = sum(float((a - b).square().sum()) for a, b in zip(states, self._hidden(stack), strict=True))
        return distance / max(sum(float(a.square().sum()) for a in states), 1e-30)


def _divergence(model: Transformer, before_MD: Tensor, now_MD: Tensor) -> float:
    """Return the sum over targets of KL(before ‖ now), in nats."""
    total = 0.0
    for before, now in zip(before_MD.split(SCORED_AT_ONCE), now_MD.split(SCORED_AT_ONCE), strict=True):
        right, other = (model.lm_head(hidden, model.output_table) for hidden in (before, now))
        total += float(row_differences(right, other).kl.sum())
    return total


def assigned(options: Mapping[str, Sequence[Option]], room: int) -> dict[str, Option] | None:
    """Choose an option for each layer so that their sizes fit into `room` bytes.

    options: of each layer, the smallest first. Returns None when even the smallest do not fit.
    """
    chosen = {name: of_layer[0] for name, of_layer in options.items()}
    room -= sum(option.size for option in chosen.values())
    if room < 0:
        return None
    while True:
        best: tuple[float, str, Option] | None = None
        for name, of_layer in options.items():
            now = chosen[name]
            for other in of_layer:
                more = other.size - now.size
                if 0 < more <= room:
                    gain = (now.loss - other.loss) / more
                    if gain > 0 and (best is None or gain > best[0]):
                        best = gain, name, other
        if best is None:
            return chosen
        room -= best[2].size - chosen[best[1]].size
        chosen[best[1]] = best[2]
