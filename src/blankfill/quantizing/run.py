"""A model of ours → the same with dense layers of 8 or 4 bits.

The new folder is one of ours with plain safetensors: int8 weights under their usual names, and scales beside them. It
has the tokenizer, and of a fine-tuned model the task, of the first one. Models of families whose files have quantised
layers elsewhere (ChatGLM-6B) keep those names; others have our own.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from blankfill.kernels.integers import QuantizedWeight, WeightFormat, dequantize
from blankfill.quantizing.calibration import TOKENS, Subject, has_text, open_subject
from blankfill.quantizing.methods.gptq import gptq
from blankfill.quantizing.plan import LayerPlan, Matrices, Plan, chosen_integers, plan_of, sized_plan
from blankfill.quantizing.settings import Activations, QuantizeSettings, released
from blankfill.quantizing.walk import Walk
from blankfill.system.console import amount, progress, say
from blankfill.system.environment import usable_memory
from blankfill.system.files import whole_folder, write_file
from blankfill.system.reading import field, read_json
from blankfill.tasks.datasets.registry import task_named

REPORT = "quantization.json"
"""Name of the report: the settings, the sizes, and the error of each layer."""
KEPT = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "patterns.yaml", "results.json")
"""Files of a model that its quantised one has too."""


@dataclass(frozen=True)
class LayerError:
    """A quantised layer in the report. relative: error of its weights, ‖W − Ŵ‖ / ‖W‖. sensitivity: see
    `plan.LayerPlan`."""

    name: str
    bits: int
    relative: float
    group_size: int = 0
    scheme: str = "absmax"
    method: str = "nearest"
    sensitivity: float | None = None


@dataclass(frozen=True)
class Quantized:
    """A quantised model.

    bits: the fewest bits of a layer. layers: number of quantised layers; by_bits: the same by bits. before, after:
    bytes of the weights. error: relative error of the weights of all quantised layers together, without tables. worst:
    the layer with the largest. method: how the integers were chosen. skipped: layers that keep their type. tables:
    tables of tokens of 8 bits, and dense layers beside them.
    """

    folder: Path
    bits: int
    layers: int
    before: int
    after: int
    error: float
    worst: LayerError
    skipped: tuple[str, ...]
    by_bits: dict[int, int]
    method: str
    tables: tuple[str, ...]


class _Errors:
    """The errors of layers, collected while their weights are written."""

    def __init__(self) -> None:
        self.listed: list[LayerError] = []
        self.worst: LayerError | None = None
        self.squares = self.total = 0.0

    def add(self, name: str, plan: LayerPlan, weight: Tensor, made: QuantizedWeight, is_layer: bool = True) -> None:
        """Add a layer, or a table, which is listed and does not count for `relative` and `worst`."""
        format, step = plan.format, max(1, (1 << 22) // weight.shape[1])
        squares = total = 0.0
        for k in range(0, len(weight), step):
            part = weight[k : k + step].float()
            squares += float((part - dequantize(made.rows(slice(k, k + step)), format, torch.float32)).square().sum())
            total += float(part.square().sum())
        relative = (squares / total) ** 0.5 if total else 0.0
        error = LayerError(
            name, format.bits, relative, format.group_size, format.scheme, plan.method, plan.sensitivity
        )  # fmt: skip
        self.listed.append(error)
        if is_layer:
            self.worst = max(self.worst or error, error, key=lambda layer: layer.relative)
            self.squares, self.total = self.squares + squares, self.total + total

    @property
    def relative(self) -> float:
        """The error of all layers together."""
        return (self.squares / self.total) ** 0.5 if self.total else 0.0


def quantize_model(path: str | Path, out: str | Path, settings: QuantizeSettings | None = None) -> Quantized:
    """Quantise the dense layers of a model.

    Args:
        path: A run of pretraining or fine-tuning, one of its checkpoints, or an imported model.
        out: The new folder.
        settings: How; None for 8 bits, rows, absmax.

    Returns:
        The folder, sizes and errors.

    Raises:
        UserError: There is no such model, it is quantised already, a target size is too small, or there is no text for
            calibration; then nothing is left behind.
    """
    settings = settings or QuantizeSettings()
    settings.check()
    path, out = store.pointed(Path(path)), Path(out)
    check_free(out)
    source = newest_folder(path)
    state, _ = store.read_state(source)
    check_quantizable(state, source)
    matrices, fine_tuned = Matrices.of(state, source), "task" in state
    prefix = "encoder." if fine_tuned else ""
    before, ours = stored_bytes(source), store.open_stream(source)
    keeps = keeps_format(state, source)
    subject = subject_for(source, fine_tuned, settings, keeps, calibration_memory(ours.plan, matrices, fine_tuned))
    if settings.target_size:
        assert subject is not None
        plan = sized_plan(matrices, settings, ours.plan, prefix, before, subject)
    else:
        plan = plan_of(matrices, settings, settings.bits or 8, keeps, subject is not None)
    for remark in plan.remarks():
        say(remark)
    ready = calibrated(subject, plan) if subject is not None else {}
    note = None if subject is None else subject.note
    subject = None  # its weights are not needed while the new ones are written
    activations = settings.activations or usual_activations(state, source, settings, plan)
    quantization = Quantization(plan.formats, plan.method, settings.rounding, activations)
    errors = _Errors()
    made = quantized_stream(ours, plan, ready, settings.rounding, prefix, errors)
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
            if format.family.quantization_key and holds_quantized(format.table, plan.formats):
                tensors = Renamed(with_scales(format.table, plan.formats), made)
                new_state["names"] = state["names"]
                if (source / CONFIG).is_file():
                    values = {**read_json(source / CONFIG), format.family.quantization_key: quantization.bits}
                    write_file(folder / CONFIG, json.dumps(values, indent=2) + "\n")
        step = int(new_state.pop("step"))
        writer = store.FolderWriter(folder)
        writer.write(store.MODEL, tensors)
        after = (folder / store.MODEL).stat().st_size
        bits = Counter(layer.format.bits for layer in plan.layers.values())
        assert errors.worst is not None
        result = Quantized(
            out, min(bits), len(plan.layers), before, after, errors.relative, errors.worst, tuple(plan.whole),
            dict(sorted(bits.items())), plan.method, tuple(plan.tables),
        )  # fmt: skip
        report = {
            **quantization.state(), "settings": noted(settings), "before": before, "after": after,
            "error": errors.relative, "whole": plan.whole, "calibration": note,
            "errors": [asdict(layer) for layer in errors.listed],
        }  # fmt: skip
        writer.write_text(REPORT, json.dumps(report, indent=1) + "\n")
        writer.finish({**new_state, "step": step})
    return result


def check_quantizable(state: dict[str, Any], source: Path) -> None:
    """Raise UserError for a model that is quantised already, or without the weights below a prefix."""
    if state.get(KEY) is not None:
        raise UserError(f"{source} is quantised already; give the model that it was made from")
    if store.BASE in state:
        raise UserError(
            f"{source} holds a prefix without the weights of the model below it; quantise that model, and give the "
            f"adapter beside it with {setting('adapter')}"
        )


def subject_for(
    source: Path, fine_tuned: bool, settings: QuantizeSettings, keeps: bool, memory: int = 0
) -> Subject | None:
    """Return the model with calibration rows where the settings need them, or where the usual method can have them.

    memory: bytes that calibration takes. Raises UserError where they are not free and the settings need calibration.
    """
    needed = bool(settings.target_size or settings.method == "gptq" or settings.calibration)
    if not needed and (settings.method is not None or settings.bits != 4 or released(settings, keeps)):
        return None
    if not needed and not has_text(source, fine_tuned):
        return None
    try:
        if memory > (free := usable_memory()):
            raise UserError(
                f"{source}: calibration takes about {amount(memory, 'B')} of memory, and {amount(free, 'B')} is free; "
                f"{setting('method', 'hqq')} reads no text and takes that of one matrix"
            )
        return open_subject(source, fine_tuned, settings)
    except UserError as error:
        if needed:
            raise
        say(f"{error}; the integers are chosen by {setting('method', 'hqq')} instead")
        return None


def calibration_memory(tensors: Mapping[str, Tensor], matrices: Matrices, fine_tuned: bool) -> int:
    """Return the bytes of a model that is calibrated, about: its weights, six matrices of the largest layer's inputs
    (Σ x xᵀ and its factors) in fp32, and the hidden states of all calibration rows.

    tensors: its weights, without memory.
    """
    weights = sum(
        tensor.numel() * (4 if fine_tuned or tensor.dtype == torch.float16 else tensor.element_size())
        for tensor in tensors.values()
    )
    inputs = [inputs for _, inputs in matrices.layers.values()]
    return weights + 4 * (6 * max(inputs) ** 2 + TOKENS * min(inputs))


def usual_activations(state: dict[str, Any], source: Path, settings: QuantizeSettings, plan: Plan) -> Activations:
    """Return the type of activations of a model: 8 bits where it reads batches and does not write, and layers have 8
    bits and a scale for each row. What a fine-tuned model is for is said by its task, else by its objective."""
    objective = store.objective_of(state, source)
    if "task" in state:
        task = field(state, "task", dict, where := source / store.STATE)
        writes = task_named(field(task, "name", str, where)).writes
    else:
        writes = objective.causal or objective.writes or objective.two_sided
    rows = any(layer.format.bits == 8 and not layer.format.group_size for layer in plan.layers.values())
    return "int8" if rows and not writes and settings.rounding == "exact" else "keep"


def keeps_format(state: dict[str, Any], source: Path) -> bool:
    """Return whether the model has the names of a family whose files hold quantised layers (ChatGLM-6B)."""
    if not state.get("names"):
        return False
    format = checkpoint_format_from_state(state["names"], store.model_of(state, source), source / store.STATE)
    return bool(format.family.quantization_key)


def noted(settings: QuantizeSettings) -> dict[str, Any]:
    """Return the settings as JSON values."""
    return {**asdict(settings), "calibration": [str(path.resolve()) for path in settings.calibration]}


def calibrated(subject: Subject, plan: Plan) -> dict[str, QuantizedWeight]:
    """Quantise the layers that need their inputs (GPTQ), by name. Raises UserError for inputs that are not finite."""
    formats = {name: layer.format for name, layer in plan.layers.items() if layer.method == "gptq"}
    if not formats:
        return {}

    def choose(name: str, weight: Tensor, hessian: Tensor) -> QuantizedWeight:
        try:
            return gptq(weight, hessian, formats[name])
        except ValueError as error:
            raise UserError(f"{name}: {error}; a model that diverged cannot be quantised") from error

    with progress("calibration", len(formats), "layers") as bar:
        made = Walk(subject, formats).run(choose, bar.advance)
    for name in formats.keys() - made.keys():  # layers that the rows do not reach
        plan.layers[name] = LayerPlan(formats[name], "hqq", plan.layers[name].sensitivity)
    return made


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


def stored_bytes(source: Path) -> int:
    """Return the bytes of the weights of a checkpoint."""
    return sum(file.stat().st_size for name in (store.MODEL, store.HEADS) if (file := source / name).is_file())


def quantized_stream(
    ours: Stream, plan: Plan, ready: dict[str, QuantizedWeight], rounding: str, prefix: str, errors: _Errors
) -> Stream:
    """Return a model's weights, of which those of layers are quantised; their scales come right after them.

    ready: layers that are quantised already, by name. prefix: of the names of layers in the model.
    """
    layers = {f"{prefix}{name}": layer for name, layer in plan.matrices.items()}
    names = ((name, layer_of(name, layers)) for name in ours.plan)
    stored = {f"{layer}.weight": (name, layer) for name, layer in names if layer is not None}
    others: dict[str, Tensor] = {}

    def read(name: str) -> Tensor:
        if name in others:
            return others.pop(name)
        if name not in stored:
            return ours[name]
        plain, layer = stored[name]
        weight, own = ours[plain], layer.removeprefix(prefix)
        made = ready.pop(own, None) or chosen_integers(weight, layers[layer], rounding)
        if not torch.isfinite(made.scale).all():
            raise UserError(
                f"{name} holds values that are not finite, or that are too large for scales of "
                f"{layers[layer].format.scale_type}; a model that diverged cannot be quantised"
            )
        errors.add(own, layers[layer], weight, made, own in plan.layers)
        others.update({f"{layer}.{kind}": tensor for kind, tensor in made.tensors().items() if kind != "weight"})
        return made.weight

    formats: dict[str, WeightFormat] = {name: layer.format for name, layer in layers.items()}
    return Stream(planned_layers(ours.plan, formats), read)
