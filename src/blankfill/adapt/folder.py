"""Adapters as folders: LoRA's matrices or a prefix, without the weights of the model that they belong to.

A folder is in peft's format (`adapt.peft`), with a file of ours beside it: `blankfill.json` holds the identity of the
base model (`adapt.identity`), the names of LoRA's weights, checksums, and for a fine-tuned model its task, whose head
is in `head.safetensors`. Folders that peft wrote are read as well, and ChatGLM-6B's checkpoints of P-tuning v2, which
have `transformer.prefix_encoder` in pytorch_model.bin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blankfill.adapt.peft import FILE, PICKLED, PROMPT, WEIGHTS
from blankfill.checkpoint.missing import check_exists
from blankfill.checkpoint.store import write_weights
from blankfill.checkpoint.weights import only_tensors
from blankfill.errors import UserError
from blankfill.families.chatglm_layout import PREFIX_ENCODER
from blankfill.system.files import whole_folder, write_file
from blankfill.system.loader import fitting
from blankfill.system.marks import checksum
from blankfill.system.reading import field as field_of
from blankfill.system.reading import read_json, refuse_stand_in, shown

Kind = Literal["lora", "prefix"]
NOTE, HEAD = "blankfill.json", "head.safetensors"
TYPES: dict[str, Kind] = {"LORA": "lora", "PREFIX_TUNING": "prefix"}
"""peft's names of the kinds."""
RELEASED = ("pytorch_model.bin", "model.safetensors")
"""Files of ChatGLM-6B's checkpoints."""
ENCODER = PREFIX_ENCODER
INSIDE = "adapter"
"""Folder of the adapter in a run."""


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter as read. values: those of adapter_config.json. tensors: by the names in the file; of a prefix, the
    weights of `model.prefix.PrefixEncoder`. head: weights of a fine-tuned head. note: what blankfill.json holds, {}
    without it."""

    path: Path
    kind: Kind
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    head: Mapping[str, Tensor] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_task(self) -> bool:
        """Whether it is a fine-tuned model with a task."""
        return "state" in self.note


def adapter_folder(path: Path) -> Path:
    """Return the folder of the adapter in a run, or the folder itself."""
    inside = path / INSIDE
    return inside if not (path / FILE).exists() and (inside / FILE).exists() else path


def read_adapter(path: Path) -> AdapterFolder:
    """Read an adapter, or that of a run. Raises UserError for any other folder, and for one that is damaged."""
    check_exists(path, "the folder of an adapter")
    path = adapter_folder(path)
    if not (path / FILE).is_file():
        return _released(path)
    values = read_json(path / FILE)
    name = field_of(values, "peft_type", str, path / FILE)
    if name not in TYPES:
        raise UserError(
            f"{path / FILE}: `peft_type` is {shown(name)}, which is not known here; known: {', '.join(TYPES)}"
        )
    note = read_json(path / NOTE) if (path / NOTE).is_file() else {}
    sums = fitting(note.get("sha256", {}), dict[str, str], f"{path / NOTE}: `sha256`")
    tensors = _tensors(path, sums)
    head = _read(path / HEAD, sums) if HEAD in sums else {}
    if TYPES[name] == "prefix":
        if PROMPT not in tensors:
            raise UserError(f"{path / WEIGHTS} has no {PROMPT}, which the adapter of a prefix has; copy it again")
        tensors = {"embedding.weight": tensors[PROMPT]}
    return AdapterFolder(path, TYPES[name], values, tensors, head, note)


def write_adapter(
    out: Path,
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    note: Mapping[str, Any],
    head: Mapping[str, Tensor] | None = None,
    files: Mapping[str, str] | None = None,
) -> int:
    """Write the folder of an adapter, completely or not at all; returns its size in bytes.

    values, tensors: peft's. note: for blankfill.json, without checksums. head: of a fine-tuned model. files: further
    files by name.
    """
    with whole_folder(out) as folder:
        write_weights(folder / WEIGHTS, {name: tensor.contiguous() for name, tensor in tensors.items()})
        if head:
            write_weights(folder / HEAD, head)
        sums = {path.name: checksum(path) for path in sorted(folder.iterdir())}
        write_file(folder / FILE, json.dumps(values, indent=2) + "\n")
        for name, content in (files or {}).items():
            write_file(folder / name, content)
        write_file(folder / NOTE, json.dumps({**note, "sha256": sums}, indent=1) + "\n")
    return sum(path.stat().st_size for path in out.iterdir())


def _tensors(path: Path, sums: Mapping[str, str]) -> dict[str, Tensor]:
    """Read the weights of a folder of peft."""
    if not (path / WEIGHTS).exists() and (path / PICKLED).is_file():
        return _only_matrices(only_tensors(path / PICKLED), path / PICKLED)
    return _read(path / WEIGHTS, sums)


def _read(file: Path, sums: Mapping[str, str]) -> dict[str, Tensor]:
    """Read a safetensors file, and compare it with its checksum where there is one."""
    if not file.is_file():
        raise UserError(f"{file.parent} is not a complete adapter ({file.name} is missing); copy it again")
    try:
        if file.name in sums and checksum(file) != sums[file.name]:
            refuse_stand_in(file)
            raise UserError(f"{file} is damaged: its checksum differs from the one in {NOTE}; copy it again")
        return load_file(file)
    except (OSError, SafetensorError) as error:
        refuse_stand_in(file)
        raise UserError(f"{file} is not a complete safetensors file; copy it again") from error


def _released(path: Path) -> AdapterFolder:
    """Read a checkpoint of ChatGLM-6B's P-tuning v2."""
    for name in RELEASED:
        file = path / name
        if not file.is_file():
            continue
        tensors = _read(file, {}) if name.endswith(".safetensors") else _only_matrices(only_tensors(file), file)
        own = {key.removeprefix(ENCODER).replace("trans.", "projection."): tensor for key, tensor in tensors.items()
               if key.startswith(ENCODER)}  # fmt: skip
        if "embedding.weight" in own:
            return AdapterFolder(path, "prefix", {}, own)
    raise UserError(
        f"{path} is not an adapter ({FILE} is missing); give a folder that `blankfill finetune` wrote with LoRA or a "
        "prefix, or one of peft"
    )


def _only_matrices(values: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    if not all(isinstance(value, Tensor) for value in values.values()):
        raise UserError(f"{file} holds more than tensors; give the folder of an adapter")
    return dict(values)
