"""A model that was fine-tuned with LoRA → an adapter for peft, beside the model that it belongs to.

The folder holds `adapter_config.json` and `adapter_model.safetensors`, and in `base` the frozen model in transformers'
format; `adapt.peft` has the names. What was trained besides (the head) is among the `modules_to_save`.

Shapes: I inputs, O outputs, r rank.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blankfill.adapt.lora import ALPHA
from blankfill.adapt.peft import FILE, PREFIX, WEIGHTS, peft_matrices, same_name
from blankfill.checkpoint.hf_layout import make_hf_layout
from blankfill.checkpoint.store import MODEL, write_weights
from blankfill.convert.card import README, Target
from blankfill.convert.check import TOLERANCE, difference_of, open_in_transformers
from blankfill.convert.exporting import Exported, differs, export_format
from blankfill.errors import UserError, setting
from blankfill.exporting.cards import fine_tuned_card, writes_elsewhere
from blankfill.exporting.heads import (
    KINDS,
    files_of,
    format_of_head,
    generation_config,
    head_difference_of,
    head_layers,
    loaded_of,
)
from blankfill.exporting.rows import rows_to_compare
from blankfill.finetuning.tuned import best_checkpoint
from blankfill.system.environment import has_module
from blankfill.system.files import make_folder, whole_folder, write_file
from blankfill.tasks.adapter import HeadAdapter
from blankfill.tasks.heads.models import TaskModel

if TYPE_CHECKING:
    from blankfill.finetuning.predictor import Predictor

BASE = "base"
"""Folder of the frozen model."""
TASK_TYPES = {"text": "SEQ_CLS", "token": "TOKEN_CLS"}
"""`task_type` of peft for a kind of head; an adapter of another kind names none, and opens as any model does."""


def export_adapter(predictor: Predictor, path: Path, out: Path, lines: Sequence[str] | None = None) -> Exported:
    """Write the adapter of an opened model that was fine-tuned with LoRA; see `exporting.model.export_model`."""
    if not predictor.options.lora_rank:
        raise UserError(f"{path} was not fine-tuned with LoRA; leave out {setting('lora')}")
    loaded, adapter, model = loaded_of(predictor, path), predictor.adapter, predictor.model
    kind = KINDS.get(adapter.task.kind, "token") if isinstance(adapter, HeadAdapter) else "token"
    given = rows_to_compare(predictor, loaded, path, lines, kind)
    frozen, products = frozen_and_products(predictor.path)
    describe = fine_tuned_card(predictor, out.name)
    with whole_folder(out) as folder:
        make_folder(folder / BASE)
        if isinstance(adapter, HeadAdapter) and isinstance(model, TaskModel):
            format = format_of_head(predictor, path)
            files, rules = files_of(format, adapter, loaded), format.encoder.table.rules
            architecture, task_type = format.names.architecture, TASK_TYPES.get(kind)
            theirs, rename = format.encoder_to_theirs(frozen), format.name_of
            trained = format.to_theirs(frozen, *head_layers(model))
            saved = {name: tensor for name, tensor in trained.items() if name not in theirs}
            if model.head.pooled and model.encoder.pooler is not None:  # which is frozen with the encoder
                for name in [name for name in saved if name.startswith(f"{format.names.dense}.")]:
                    theirs[name] = saved.pop(name)
        else:
            plain = export_format(loaded)
            layout = make_hf_layout(plain, loaded.objective, loaded.tokenizer, loaded.vocabulary)
            files, rules = {**layout.files, **generation_config(predictor)}, plain.table.rules
            architecture, task_type = plain.family.write(plain.config)["architectures"][0], None
            theirs, saved, rename = plain.table.to_theirs(frozen), {}, same_name
        for name, content in files.items():
            write_file(folder / BASE / name, content)
        write_weights(folder / BASE / MODEL, theirs)
        matrices = dict(peft_matrices(rules, products, rename))
        tensors = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in {**matrices, **saved}.items()}
        write_weights(folder / WEIGHTS, tensors)
        values = config_values(predictor, matrices, saved, task_type, architecture)
        write_file(folder / FILE, json.dumps(values, indent=2) + "\n")
        largest = None
        if has_module("peft") and has_module("transformers"):
            opened = open_adapter(folder, loaded.objective.hf_auto_class)
            if isinstance(adapter, HeadAdapter):
                largest = head_difference_of(predictor, opened, folder / BASE, kind, given.rows)
            else:
                largest = difference_of(loaded, opened, folder / BASE, given.texts)
            if not largest <= TOLERANCE:
                raise UserError(differs(path, largest))
        target = Target("peft", architecture, given.count, largest, base=BASE)
        write_file(folder / README, describe(target))
    return Exported(out, architecture, given.count, largest, note=writes_elsewhere(predictor), task=given.task)


def frozen_and_products(path: Path) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Return the frozen weights of the encoder of a run with LoRA, and (down, up) by the name of the weight to which
    their product is added."""
    weights = {name.removeprefix("encoder."): tensor for name, tensor in best_checkpoint(path).model.items()
               if name.startswith("encoder.")}  # fmt: skip
    products = {
        f"{layer}.weight": (weights.pop(f"{layer}.down"), weights.pop(f"{layer}.up"))
        for layer in [name.removesuffix(".down") for name in weights if name.endswith(".down")]
    }
    layers = {name.removesuffix("weight") for name in products}
    for layer in layers:
        for part in ("weight", "bias"):
            if (tensor := weights.pop(f"{layer}base.{part}", None)) is not None:
                weights[layer + part] = tensor
    return weights, products


def config_values(
    predictor: Predictor,
    matrices: Mapping[str, Tensor],
    saved: Mapping[str, Tensor],
    task_type: str | None,
    architecture: str,
) -> dict[str, Any]:
    """Return the values of adapter_config.json. matrices, saved: those of the adapter, and trained weights besides, by
    their names in the class."""
    modules = sorted({name.rpartition(".lora_")[0] for name in matrices})
    rank = predictor.options.lora_rank
    transposed = architecture.startswith("GPT2")
    return {
        "peft_type": "LORA", "task_type": task_type, "base_model_name_or_path": BASE, "r": rank,
        "lora_alpha": ALPHA * rank, "lora_dropout": predictor.model.encoder.config.dropout, "bias": "none",
        "target_modules": modules, "fan_in_fan_out": transposed, "inference_mode": True,
        "modules_to_save": sorted({whole_module(name, modules) for name in saved}) or None,
    }  # fmt: skip


def whole_module(name: str, adapted: Sequence[str]) -> str:
    """Return the largest module of a trained weight that has no adapted module in it: peft itself saves such modules
    whole (`classifier`)."""
    first, parts = name.partition(".")[0], name.rpartition(".")[0]
    return parts if any(module.startswith(f"{first}.") for module in adapted) else first


def open_adapter(folder: Path, auto_class: str) -> Any:
    """Open an adapter with its base in peft. auto_class: see `open_in_transformers`."""
    peft: Any = importlib.import_module("peft")
    return peft.PeftModel.from_pretrained(open_in_transformers(folder / BASE, auto_class), folder).eval()
