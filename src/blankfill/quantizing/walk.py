"""GPTQ through a model: one dense layer after the other, each with the inputs that the quantised ones before it give.

Only one layer's Σ x xᵀ is in memory. The output of the last finished block of each stack is kept for every batch, and
the blocks before it are skipped, so that the cost is that of a few passes whatever the number of layers. Blocks that
share weights are run whole each time instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize
from blankfill.model.dense import Dense
from blankfill.model.layers import Layer
from blankfill.model.quantized import quantizable
from blankfill.quantizing.calibration import Subject
from blankfill.quantizing.methods.gptq import Hessian
from blankfill.types import PADDING, Batch

Choose = Callable[[str, Tensor, Tensor], QuantizedWeight]
"""Quantises a layer: its name, its weights [O, I] and Σ x xᵀ of its inputs [I, I]."""


class _Stop(Exception):
    """Ends a pass: everything after this point is not needed."""


class Walk:
    """A model whose layers are quantised in the order in which they compute."""

    def __init__(self, subject: Subject, formats: Mapping[str, WeightFormat]) -> None:
        """formats: of the layers to quantise, by name."""
        self.subject, self.formats = subject, formats
        self.dense = {name: layer for name, layer in quantizable(subject.encoder).items() if name in formats}
        self.blocks = {name: module for name, module in subject.encoder.named_modules() if isinstance(module, Layer)}
        self.skips = subject.encoder.config.shared == "none"
        self._held: dict[str, list[Tensor]] = {}
        """For the last finished block of each stack, its output for every batch."""
        self._done: dict[str, str] = {}
        """For each finished block, its stack."""
        self._batch: Batch = subject.batches[0]

    @torch.no_grad()
    def run(self, choose: Choose, done: Callable[[int], None] = lambda count: None) -> dict[str, QuantizedWeight]:
        """Quantise all layers that compute; their weights in the model become the dequantised ones.

        Layers that the calibration rows do not reach, such as the decoder of a model of which a task uses the encoder
        alone, are not in the result. done: called with the number of finished layers.
        """
        made: dict[str, QuantizedWeight] = {}
        for block, layers in self._order():
            for name in layers:
                layer = self.dense[name]
                hessian = self._hessian(name, layer)
                if not hessian.rows:
                    continue
                made[name] = quantized = choose(name, layer.weight.detach(), hessian.sum_II)
                kept = layer.weight.dtype
                layer.weight = nn.Parameter(dequantize(quantized, self.formats[name], kept), requires_grad=False)
                done(1)
            self._finish(block)
        return made

    def _order(self) -> list[tuple[str, list[str]]]:
        """Return the blocks in the order in which they compute, each with its dense layers in order."""
        blocks: list[str] = []
        layers: list[str] = []
        with self._watching(blocks, layers):
            self._pass(self.subject.batches[0])
        owner = {name: block for block in self.blocks for name in self.dense if name.startswith(f"{block}.")}
        order: dict[str, list[str]] = {block: [] for block in blocks}
        for name in layers:
            if name not in order[owner[name]]:
                order[owner[name]].append(name)
        return list(order.items())

    @contextmanager
    def _watching(self, blocks: list[str], layers: list[str]) -> Iterator[None]:
        """Note the names of blocks and dense layers when they begin to compute."""

        def noting(into: list[str], name: str) -> Callable[..., None]:
            return lambda *given: None if name in into else into.append(name)

        hooks = [module.register_forward_pre_hook(noting(blocks, name)) for name, module in self.blocks.items()]
        hooks += [module.register_forward_pre_hook(noting(layers, name)) for name, module in self.dense.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hessian(self, name: str, layer: Dense) -> Hessian:
        """Compute Σ x xᵀ of a layer's inputs over all batches."""
        hessian = Hessian(layer.in_features)
        of_source = name.startswith("encoder.") or ".cross.key_value" in name

        def add(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            hessian.add(real_rows(given[0], self._batch, of_source))
            if self.skips:
                raise _Stop

        hook = layer.register_forward_pre_hook(add)
        try:
            for number, batch in enumerate(self.subject.batches):
                self._pass(batch, number)
        finally:
            hook.remove()
        return hessian

    def _finish(self, block: str) -> None:
        """Keep the outputs of a block, and skip it from now on."""
        if not self.skips:
            return
        outputs: list[Tensor] = []

        def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            outputs.append(output)
            raise _Stop

        hook = self.blocks[block].register_forward_hook(keep)
        try:
            for number, batch in enumerate(self.subject.batches):
                self._pass(batch, number)
        finally:
            hook.remove()
        stack = block.rpartition(".")[0]
        for other in [name for name in self._held if self._done[name] == stack]:
            del self._held[other]
        self._done[block], self._held[block] = stack, outputs

    def _pass(self, batch: Batch, number: int = 0) -> None:
        """Run the model over a batch, without the finished blocks."""
        self._batch = batch
        replaced = []
        for name in self._done:
            module, held = self.blocks[name], self._held.get(name)
            module.forward = _giving(None if held is None else held[number])  # type: ignore[method-assign]
            replaced.append(module)
        try:
            self.subject.run(batch)
        except _Stop:
            pass
        finally:
            for module in replaced:
                del module.__dict__["forward"]


def _giving(output: Tensor | None) -> Callable[..., Tensor]:
    """Return a function in place of a block's: it gives what is given, or its own input back."""
    return lambda hidden, *others: hidden if output is None else output


def real_rows(x: Tensor, batch: Batch, of_source: bool) -> Tensor:
    """Return the inputs of a layer without those of padding, [N, I]. of_source: whether they are of the encoder's side
    of a batch with two sides."""
    x_NI = x.reshape(-1, x.shape[-1])
    side = batch.context if of_source and batch.context is not None else batch
    real_N = side.segment.flatten() != PADDING
    return x_NI[real_N] if len(real_N) == len(x_NI) else x_NI
