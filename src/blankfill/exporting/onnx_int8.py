"""An ONNX graph with matrices of 8 bits, compared with the graph of full precision on real rows.

int8 is onnxruntime's dynamic quantisation: a scale for each column of a matrix, and one for all activations of a batch,
found while it runs. int8_blocks has a scale for every 32 inputs, of weights and of activations: more exact, and less
fast. Only products with a matrix of weights are changed; the table of words and the norms stay fp32.

Shapes: B rows, T columns, C outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from blankfill.convert.onnx import IN_ONE_FILE, Named, quiet
from blankfill.convert.score_change import ScoreChange, ScoreComparison
from blankfill.errors import UserError, setting
from blankfill.system.environment import has_module

OnnxType = Literal["f32", "int8", "int8_blocks"]
BLOCK = 32
EVERY = 7
"""Distance of the tokens that are masked for a comparison."""
NAMES = ("onnx", "onnxruntime", "onnx_ir")


def check_packages() -> None:
    """Raise UserError when a package that makes graphs of 8 bits is missing."""
    if missing := [name for name in NAMES if not has_module(name)]:
        raise UserError(f'ONNX of 8 bits needs {" and ".join(missing)}; install with: pip install "blankfill[export]"')


def lowering(
    type: OnnxType, reduce_range: bool, force: bool, mask: int | None, labels: bool
) -> Callable[[Path, Sequence[Named]], ScoreChange]:
    """Return the function that makes the matrices of a graph smaller, and compares its outputs for given inputs.

    mask: id of the mask of a language model, None for none. labels: whether each output is a label of its own.
    """

    def lower(file: Path, batches: Sequence[Named]) -> ScoreChange:
        original = file.with_name("full-" + file.name)
        file.rename(original)
        quantize_graph(original, file, type, reduce_range)
        before, after = map(session_of, (original, file))
        comparison = ScoreComparison(8)
        values: list[tuple[Tensor, Tensor]] = []
        outputs = [entry.name for entry in before.get_outputs()]
        words = "last_hidden_state" in outputs and len(outputs) > 1
        for batch in batches:
            inputs, targets = masked(batch, mask if words else None)
            given = {name: tensor.numpy() for name, tensor in inputs.items()}
            pairs = [(torch.from_numpy(ours), torch.from_numpy(theirs))
                     for ours, theirs in zip(before.run(None, given), after.run(None, given), strict=True)]  # fmt: skip
            for name, (ours, theirs) in zip(outputs, pairs, strict=True):
                _add(comparison, values, name, ours, theirs, inputs, targets, words, labels)
        if values:  # numbers: whether they rise and fall together
            ours, theirs = (torch.cat(parts) for parts in zip(*values, strict=True))
            comparison.add_vectors(*centred(ours, theirs))
        for rest in file.parent.glob(original.name + "*"):
            rest.unlink()
        change = comparison.result()
        remedy = "choose int8_blocks or f32" if type == "int8" else "choose f32"
        change.check(f"a graph of the type {type}", f"{remedy} for {setting('type')}", force)
        return change

    return lower


def quantize_graph(source: Path, out: Path, type: OnnxType, reduce_range: bool) -> None:
    """Write a graph with matrices of 8 bits.

    reduce_range: 7 bits for int8: sums of two products of 8 bits do not fit into the 16 bits that AVX2 and AVX-512 have
    for them without VNNI, and are cut without a word.
    """
    large = sum(file.stat().st_size for file in source.parent.glob(source.name + "*")) > IN_ONE_FILE
    with quiet():
        logging.disable(logging.WARNING)
        if type == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(
                source, out, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=reduce_range,
                weight_type=QuantType.QInt8, use_external_data_format=large,
                extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
            return
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        made = MatMulNBitsQuantizer(
            onnx.load(str(source)), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4
        )
        made.process()
        made.model.save_model_to_file(str(out), large)


def centred(before_N: Tensor, after_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers of two graphs without the mean of the first ones; as they are where these are all equal."""
    middle = before_N.mean() if bool((before_N != before_N[0]).any()) else torch.zeros(())
    return before_N - middle, after_N - middle


def session_of(file: Path) -> Any:
    """Return a session of a graph on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def masked(batch: Named, mask: int | None) -> tuple[Named, Tensor | None]:
    """Return inputs with every seventh token masked, and the ids of the masked ones, -1 elsewhere, [B, T]."""
    if mask is None:
        return batch, None
    ids = batch["input_ids"].clone()
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, 1::EVERY] = True
    hidden &= batch["attention_mask"].bool()
    targets = torch.where(hidden, ids, torch.full_like(ids, -1))
    ids[hidden] = mask
    return {**batch, "input_ids": ids}, targets


def _add(
    comparison: ScoreComparison, values: list[tuple[Tensor, Tensor]], name: str, ours: Tensor, theirs: Tensor,
    inputs: Named, targets: Tensor | None, words: bool, labels: bool,
) -> None:  # fmt: skip
    """Add the values of an output of two graphs."""
    inside = inputs["attention_mask"].bool()
    if name == "last_hidden_state":
        weights = inside[:, :, None].float()
        for row in zip((ours * weights).sum(1), (theirs * weights).sum(1), strict=True):
            comparison.add_vectors(*row)
    elif words:
        assert targets is not None
        at = targets >= 0
        comparison.add_scores(ours[at], theirs[at], targets[at])
    elif labels:
        pairs = [torch.stack([scores.flatten(), torch.zeros(scores.numel())], -1) for scores in (ours, theirs)]
        comparison.add_scores(*pairs)
    elif ours.shape[-1] == 1:
        values.append((ours.flatten(), theirs.flatten()))
    elif ours.dim() == 3:
        comparison.add_scores(ours[inside], theirs[inside])
    elif name in ("start_logits", "end_logits"):
        for k, keep in enumerate(inside):
            comparison.add_scores(ours[k][keep][None], theirs[k][keep][None])
    else:
        comparison.add_scores(ours, theirs)
