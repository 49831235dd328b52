"""A model of ours → the same with dense layers of 8 or 4 bits, one layer in memory at a time.

The new folder is one of ours with plain safetensors: int8 weights under their usual names, and scales beside them. It
has the tokenizer, and of a fine-tuned model the task, of the first one. Models of families whose files have quantised
layers elsewhere (ChatGLM-6B) keep those names; others have our own.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from blankfill.checkpoint import store
from blankfill.checkpoint.hf_loading import CONFIG
from blankfill.checkpoint.load import tokenizer_folder
from blankfill.checkpoint.missing import check_exists, nearby
from blankfill.checkpoint.quantization import KEY, Quantization, holds_quantized, layer_of, planned_layers, with_scales
from blankfill.checkpoint.streams import Renamed, Stream
from blankfill.convert.importing import check_free
from blankfill.errors import UserError, setting
from blankfill.families.checkpoint_format import checkpoint_format_from_state
from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize, quantize
from blankfill.model.config import TransformerConfig
from blankfill.model.quantized import quantizable, quantizable_tables
from blankfill.model.transformer import Transformer
from blankfill.system.console import say
from blankfill.system.files import whole_folder, write_file
from blankfill.system.reading import read_json

Rounding = Literal["exact", "released"]
REPORT = "quantization.json"
"""Name of the report: the settings, the sizes, and the error of each layer."""
EMBEDDINGS = 8
"""Bits of tables of tokens, also where the layers have fewer."""
KEPT = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "patterns.yaml", "results.json")
"""Files of a model that its quantised one has too."""


@dataclass(frozen=True)
class LayerError:
    """Error of a quantised layer. relative: of its weights, ‖W − Ŵ‖ / ‖W‖."""

    name: str
    bits: int
    relative: float


@dataclass(frozen=True)
class Quantized:
    """A quantised model. before, after: bytes of the weights. error: relative error of all quantised weights together.
    worst: the layer with the largest. skipped: layers that keep their type, since 4 bits need an even number of
    inputs."""

    folder: Path
    bits: int
    layers: int
    before: int
    after: int
    error: float
    worst: LayerError
    skipped: tuple[str, ...] = ()


class _Errors:
    """The errors of layers, collected while their weights are written."""

    def __init__(self) -> None:
        self.layers: list[LayerError] = []
        self.squares = self.total = 0.0

    def add(self, name: str, format: WeightFormat, weight: Tensor, made: QuantizedWeight) -> None:
        """Add a layer."""
        step = max(1, (1 << 22) // weight.shape[1])
        squares = total = 0.0
        for k in range(0, len(weight), step):
            part = weight[k : k + step].float()
            squares += float((part - dequantize(made.rows(slice(k, k + step)), format, torch.float32)).square().sum())
            total += float(part.square().sum())
        self.layers.append(LayerError(name, format.bits, (squares / total) ** 0.5 if total else 0.0))
        self.squares, self.total = self.squares + squares, self.total + total

    @property
    def relative(self) -> float:
        """The error of all layers together."""
        return (self.squares / self.total) ** 0.5 if self.total else 0.0


def quantize_model(path: str | Path, out: str | Path, bits: int = 8, rounding: Rounding = "exact") -> Quantized:
    """Quantise the dense layers of a model.

    Args:
        path: A run of pretraining or fine-tuning, one of its checkpoints, or an imported model.
        out: The new folder.
        bits: 8 or 4.
        rounding: "exact": integers nearest to the weights; "released": the quotients are rounded to fp16 first, as in
            the released checkpoints of ChatGLM-6B.

    Returns:
        The folder, sizes and errors.

    Raises:
        UserError: There is no such model, or it is quantised already; then nothing is left behind.
    """
    path, out = store.pointed(Path(path)), Path(out)
    check_free(out)
    source = newest_folder(path)
    state, _ = store.read_state(source)
    if state.get(KEY) is not None:
        raise UserError(f"{source} is quantised already; give the model that it was made from")
    if store.BASE in state:
        raise UserError(
            f"{source} holds a prefix without the weights of the model below it; quantise that model, and give the "
            f"adapter beside it with {setting('adapter')}"
        )
    layers, skipped, fine_tuned = layers_of(state, source, bits)
    quantization = Quantization(layers, rounding=rounding)
    errors = _Errors()
    before = stored_bytes(source)
    made = quantized_stream(store.open_stream(source), quantization, "encoder." if fine_tuned else "", errors)
    folder_of_words = tokenizer_folder(source)
    with whole_folder(out) as folder:
        for name in KEPT:
            if (file := folder_of_words / name).is_file():
                shutil.copyfile(file, folder / name)
        new_state = {name: value for name, value in state.items() if name not in ("sha256", store.OWN_SUM, "names")}
        new_state[KEY] = quantization.state()
        tensors: Stream = made
        if state.get("names"):
            format = checkpoint_format_from_state(state["names"], store.model_of(state, source), source / store.STATE)
            if format.family.quantization_key and holds_quantized(format.table, layers):
                tensors = Renamed(with_scales(format.table, layers), made)
                new_state["names"] = state["names"]
                if (source / CONFIG).is_file():
                    values = {**read_json(source / CONFIG), format.family.quantization_key: bits}
                    write_file(folder / CONFIG, json.dumps(values, indent=2) + "\n")
        step = int(new_state.pop("step"))
        writer = store.FolderWriter(folder)
        writer.write(store.MODEL, tensors)
        after = (folder / store.MODEL).stat().st_size
        worst = max(errors.layers, key=lambda layer: layer.relative)
        result = Quantized(
            out, bits, len(layers), before, after, errors.relative, worst, tuple(skipped)
        )  # fmt: skip
        report = {
            **quantization.state(), "before": before, "after": after, "error": errors.relative,
            "errors": [asdict(layer) for layer in errors.layers],
        }  # fmt: skip
        writer.write_text(REPORT, json.dumps(report, indent=1) + "\n")
        writer.finish({**new_state, "step": step})
    if skipped:
        say(f"{len(skipped)} layers have an odd number of inputs and keep their type: {', '.join(skipped[:3])}")
    return result


def newest_folder(path: Path) -> Path:
    """Return the folder of the weights of a model: the folder itself, or the best or newest checkpoint of a run."""
    check_exists(path, "a run or an imported model")
    if (path / store.STATE).is_file():
        return path
    if (path / "best").is_file() and not (path / CONFIG).is_file():
        best = store.named_by(path / "best")
        if "task" in store.state_of(best):  # a fine-tuned model is that of its best step
            return best
    steps = sorted(store.steps_in(path / "checkpoints"))
    for step in reversed(steps):
        try:
            store.read_state(folder := path / "checkpoints" / f"step-{step}")
        except UserError as error:
            say(f"skipped: {error}")
        else:
            return folder
    raise UserError(
        f"{path}: there is no model of blankfill in this folder; import a model of another program first with "
        f"`blankfill import`{nearby(path)}"
    )


def layers_of(
    state: dict[str, Any], source: Path, bits: int, embeddings: int | None = None
) -> tuple[dict[str, WeightFormat], list[str], bool]:
    """Return the formats of the layers to quantise, those that cannot be, and whether the model is a fine-tuned one.

    embeddings: bits of the tables of tokens and of the dense layers beside them (`quantizable_tables`); 0 keeps their
    type; None: 8, or 0 where the files of the family have quantised layers elsewhere, which have whole tables.
    """
    config = store.model_of(state, source)
    if embeddings is None:
        embeddings = 0 if _released(state, config, source) else EMBEDDINGS
    with torch.device("meta"):
        model = Transformer(config)
    dense = quantizable(model)
    inputs = {name: layer.in_features for name, layer in dense.items()}
    wanted = dict.fromkeys(inputs, bits)
    if embeddings:
        tables = {name: width for name, (_, width) in quantizable_tables(model).items()}
        inputs, wanted = inputs | tables, wanted | dict.fromkeys(tables, embeddings)
    fine_tuned = "task" in state
    task = state.get("task")
    options = task.get("options") if isinstance(task, dict) else None
    if isinstance(options, dict) and options.get("lora_rank"):
        raise UserError(
            f"{source} was fine-tuned with LoRA, whose matrices are beside the weights; export it, import the export "
            "and quantise that, or fine-tune a quantised model with LoRA"
        )
    formats = {name: WeightFormat(bits) for name, bits in wanted.items()}
    layers = {name: format for name, format in formats.items() if format.fits(inputs[name])}
    skipped = [name for name in formats if name not in layers]
    if not layers:
        raise UserError(f"{source}: no layer has an even number of inputs; use {setting('bits', 8)}")
    return layers, skipped, fine_tuned


def _released(state: dict[str, Any], config: TransformerConfig, source: Path) -> bool:
    """Return whether a model's files have the names of a family that has quantised layers elsewhere."""
    if not state.get("names"):
        return False
    form = checkpoint_format_from_state(state["names"], config, source / store.STATE)
    return bool(form.family.quantization_key)


def stored_bytes(source: Path) -> int:
    """Return the bytes of the weights of a checkpoint."""
    return sum(file.stat().st_size for name in (store.MODEL, store.HEADS) if (file := source / name).is_file())


def quantized_stream(ours: Stream, quantization: Quantization, prefix: str, errors: _Errors) -> Stream:
    """Return a model's weights, of which those of layers are quantised; their scales come right after them."""
    layers = {f"{prefix}{name}": format for name, format in quantization.layers.items()}
    pairs = ((name, layer_of(name, layers)) for name in ours.plan)
    stored = {f"{layer}.weight": (name, layer) for name, layer in pairs if layer is not None}
    others: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        if name in others:
            return others.pop(name)
        if name not in stored:
            return ours[name]
        plain, layer = stored[name]
        weight, format = ours[plain], layers[layer]
        arithmetic = weight.half() if quantization.rounding == "released" else weight.float()
        made = quantize(arithmetic, format)
        if not torch.isfinite(made.scale).all():
            raise UserError(
                f"{name} holds values that are not finite, or that are too large for scales of {format.scale_type}; a "
                "model that diverged cannot be quantised"
            )
        errors.add(layer.removeprefix(prefix), format, weight, made)
        others.update({f"{layer}.{kind}": tensor for kind, tensor in made.tensors().items() if kind != "weight"})
        return made.weight

    return Stream(planned_layers(ours.plan, layers), read)
