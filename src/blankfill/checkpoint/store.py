"""Checkpoints on disk: written completely or not at all, checked when read, never unpickled.

`checkpoints/step-N/` holds `model.safetensors`, `optimizer.safetensors` and `state.json` with the step, the counters of
the run, a checksum of each file and a checksum of itself. Where transformers has a class for the model (a
`CheckpointFormat`, see `families`), the weights have its names, and `config.json` and the tokenizer's files are in the
same folder, so that transformers opens the folder. Weights for which that class has no place are in the optimiser's
file, or for whole heads in `heads.safetensors`. A checkpoint is written under a temporary name, synced to disk and
renamed, so a kill or a power cut at any time leaves the previous one complete; `latest` names the newest, `best` that
of the best validation.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from blankfill.checkpoint.quantization import OWN_TYPE, Quantization, quantization_of, with_scales
from blankfill.checkpoint.streams import Renamed, Stream, write_safetensors
from blankfill.checkpoint.verified import read_with_checksum
from blankfill.checkpoint.weights import OwnWeights, WeightFile
from blankfill.errors import UserError, setting
from blankfill.families.checkpoint_format import CheckpointFormat, checkpoint_format_from_state
from blankfill.families.weight_names import LISTED, put_back
from blankfill.model.config import TransformerConfig, config_from_values
from blankfill.model.transformer import Transformer
from blankfill.objectives import Objective, objective_from_values
from blankfill.system import files
from blankfill.system.loader import fitting
from blankfill.system.marks import checksum
from blankfill.system.reading import UnreadableError, field, read_json, read_name, readable, refuse_stand_in, shown

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
HEADS = "heads.safetensors"
"""File of the heads for which the format of a model has no place (`Table.apart`)."""

GONE = ".gone"
"""Suffix of the name of a checkpoint that is being removed."""

OWN_SUM = "state_sha256"
"""Key in state.json: the checksum of all other keys; checkpoints of version 0.1 have none."""

BASE = "base"
"""Key in state.json of a checkpoint that has only trained weights: the identity of the model with the others."""

REST = "rest."
"""Prefix, in the optimiser's file, of the names for which the format of a model has no place."""


@dataclass(frozen=True)
class HFLayout:
    """The layout of checkpoints for other programs: the format of the weights, and the texts of files beside them."""

    checkpoint_format: CheckpointFormat
    files: Mapping[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read. step: number of steps done; state: values that the run stored; weights under our own
    names."""

    path: Path
    step: int
    state: dict[str, Any]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]

    @property
    def quantization(self) -> Quantization | None:
        """The quantised layers, if any. Raises UserError."""
        return quantization_of(self.state, self.path / STATE)

    @property
    def partial(self) -> bool:
        """Whether it has only the weights that were trained, and the state says which model the others are from."""
        return BASE in self.state


def save(
    folder: Path,
    step: int,
    model: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    keep: int = 2,
    best: int | None = None,
    hf_layout: HFLayout | None = None,
) -> Path:
    """Write `folder/step-N`, then remove all checkpoints but the newest `keep` and the best one.

    model: the state dict. optimizer: its `optimizer_tensors`, or nothing. state: JSON values. best: step of the best
    checkpoint, which the file `best` names (as `latest` names the newest). hf_layout: None keeps our own names. Raises
    UserError when the disk is full or not writable.
    """
    final = folder / f"step-{step}"
    remedy = f"{files.REMEDY}; the checkpoints before it are whole"
    files.own_folder(folder)
    files.remove_parts(folder, rf"step-\d+({GONE})?")  # parts that killed runs left
    with files.whole_folder(final, remedy) as temporary:
        write_files(temporary, step, model, optimizer, state, hf_layout)
        if os.path.lexists(final):
            _remove(final)
    files.write_file(folder.parent / "latest", f"{final.name}\n", remedy)
    if best is not None and (folder / f"step-{best}").exists():
        files.write_file(folder.parent / "best", f"step-{best}\n", remedy)
    for old in sorted(steps_in(folder))[: -keep or None]:
        if old not in (best, step):
            _remove(folder / f"step-{old}")
    return final


def write_files(
    folder: Path,
    step: int,
    model: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    hf_layout: HFLayout | None = None,
) -> None:
    """Write the files of a checkpoint into an existing folder; see `save`. The caller syncs and renames the folder."""
    write_checkpoint(FolderWriter(folder), step, model, optimizer, state, hf_layout)


class CheckpointWriter(Protocol):
    """The interface through which a checkpoint is written, so that several processes may each write a share of it.

    `write` and `write_text` take one file each; `finish` is called once, after all files.
    """

    def write(self, file: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the tensors of one file, by name. The caller may change their memory after the call."""

    def write_text(self, file: str, text: str) -> None:
        """Write a text file."""

    def finish(self, state: Mapping[str, Any]) -> None:
        """Write the state and the checksum of each file; the checkpoint is complete when this method returns."""


class FolderWriter:
    """A `CheckpointWriter` for one process: each file is one safetensors file in an existing folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, file: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `CheckpointWriter`."""
        write_weights(self.folder / file, tensors)

    def write_text(self, file: str, text: str) -> None:
        """See `CheckpointWriter`."""
        files.write_file(self.folder / file, text)

    def finish(self, state: Mapping[str, Any]) -> None:
        """See `CheckpointWriter`."""
        sums = {path.name: checksum(path) for path in sorted(self.folder.iterdir())}
        values = {**state, "sha256": sums}
        files.write_file(self.folder / STATE, json.dumps({**values, OWN_SUM: sum_of(values)}, indent=1))


def write_checkpoint(
    writer: CheckpointWriter,
    step: int,
    model: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    hf_layout: HFLayout | None = None,
) -> None:
    """Write all parts of a checkpoint through a writer; see `save`."""
    if hf_layout is not None:
        table, quantization = hf_layout.checkpoint_format.table, quantization_of(state, STATE)
        if quantization is not None:
            table = with_scales(table, quantization.layers)
        rest = {f"{REST}{name}": part for name, part in table.rest(model).items()} if optimizer else {}
        if heads := table.kept_apart(model):
            writer.write(HEADS, heads)
        renamed = Renamed(table, model) if isinstance(model, Stream) else table.to_theirs(model)
        model, optimizer = renamed, {**optimizer, **rest}
        state = {**state, "names": hf_layout.checkpoint_format.state()}
        for name, text in hf_layout.files.items():
            writer.write_text(name, text)
    writer.write(MODEL, model)
    if optimizer:
        writer.write(OPTIMIZER, optimizer)
    writer.finish({**state, "step": step})


class Writer:
    """Writes checkpoints in a thread, one at a time, while training continues.

    `save` copies the tensors before it returns, so that the caller may change them. The next `save`, or `wait`, raises
    the error of a failed write; call `wait` at the end.
    """

    def __init__(self, folder: Path, keep: int, hf_layout: HFLayout | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.hf_layout = hf_layout
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="blankfill-checkpoint")
        self._pending: Future[Path] | None = None

    def save(
        self, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], best: int
    ) -> None:
        """Start to write the checkpoint of a step; without the frozen weights, if the state says where they are from
        (`BASE`)."""
        self.wait()
        weights = model.state_dict()
        if BASE in state:
            frozen = frozen_names(model)
            weights = {name: tensor for name, tensor in weights.items() if name not in frozen}
        copies = _copies(weights), _copies(optimizer_tensors(optimizer))
        self._pending = self._pool.submit(save, self.folder, step, *copies, state, self.keep, best, self.hf_layout)

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except UserError:
            if error is None:
                raise
        finally:
            self._pool.shutdown()


def _copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors to main memory; tensors that share memory (tied weights) share one copy."""
    made: dict[tuple[int, torch.Size, tuple[int, ...]], torch.Tensor] = {}
    for tensor in tensors.values():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in made:
            made[key] = tensor.detach().to("cpu", copy=True)
    return {name: made[t.data_ptr(), t.shape, t.stride()] for name, t in tensors.items()}


def _remove(path: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that an interrupted removal leaves nothing like a damaged
    checkpoint."""
    gone = files.part_of(path.with_name(f"{path.name}{GONE}"))
    try:
        path.rename(gone)
    except OSError:
        return
    files.remove(gone)


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file; see `streams.write_safetensors`."""
    write_safetensors(path, tensors)


def sum_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON values without their own checksum, independent of their layout in a file."""
    rest = {name: value for name, value in values.items() if name != OWN_SUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, unordered."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.glob("step-*") if path.is_dir())
    return [int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdigit()]


def read(path: Path, with_optimizer: bool = True, dtype: torch.dtype | None = None) -> Checkpoint:
    """Read a checkpoint folder and compare it with its checksums; UserError when anything is missing or damaged.

    dtype: type of the model's floating-point weights; None: as they are stored, and memory-mapped. Each weight is
    converted as it is read, so that no second copy of the model is in memory. Scales of quantised layers keep theirs.
    """
    state, sums = read_state(path)
    loaded: dict[str, Mapping[str, torch.Tensor]] = {OPTIMIZER: {}, HEADS: {}}
    for name in (MODEL, *(name for name in (HEADS, OPTIMIZER) if name in sums and (with_optimizer or name == HEADS))):
        loaded[name] = _checked(path / name, sums, None if name == OPTIMIZER else dtype)
    optimizer = dict(loaded[OPTIMIZER])
    rest = {name.removeprefix(REST): optimizer.pop(name) for name in list(optimizer) if name.startswith(REST)}
    if state.get("names"):
        checkpoint_format = checkpoint_format_from_state(
            field(state, "names", dict, path / STATE), model_of(state, path), path / STATE
        )
        table, quantization = checkpoint_format.table, quantization_of(state, path / STATE)
        if quantization is not None:
            table = with_scales(table, quantization.layers)
        model = table.to_ours(loaded[MODEL], str(path / MODEL))
        put_back(model, {name: part for name, part in rest.items() if name in model})
        model.update(loaded[HEADS])
    else:
        model = dict(loaded[MODEL])
    return Checkpoint(path, state["step"], state, model, optimizer)


def _own_weights(path: Path, dtype: torch.dtype | None) -> OwnWeights:
    weights = OwnWeights(path, dtype)
    weights.kept = OWN_TYPE
    weights.add(WeightFile(path))
    return weights


def open_stream(path: Path) -> Stream:
    """Return the model's weights of a checkpoint folder under our own names, which are read one at a time.

    Raises UserError when anything is missing or damaged.
    """
    state, sums = read_state(path)
    for name in (MODEL, HEADS):
        if name in sums:
            _checked(path / name, sums, None)
    weights = [_own_weights(path / name, None) for name in (MODEL, HEADS) if name in sums]
    heads = weights[1] if len(weights) > 1 else {}
    plan = {
        name: torch.empty(weights[0].shapes[name], dtype=weights[0].dtypes[name], device="meta") for name in weights[0]
    }
    if not state.get("names"):
        return Stream(plan, weights[0].__getitem__)
    names = field(state, "names", dict, path / STATE)
    config = model_of(state, path)
    table = checkpoint_format_from_state(names, config, path / STATE).table
    rules, in_file = {rule.ours: rule for rule in table.rules}, table.match(plan, str(path / MODEL))

    def read(name: str) -> torch.Tensor:
        if name in heads:
            return heads[name]
        return rules[name].to_ours([weights[0][in_file[theirs]] for theirs in rules[name].theirs if theirs in in_file])

    with torch.device("meta"):
        shapes = Transformer(config).state_dict()
    first = {rule.ours: next(in_file[name] for name in rule.theirs if name in in_file) for rule in table.rules}
    ours = {name: shapes[name].to(plan[theirs].dtype) for name, theirs in first.items()}
    more = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in heads.items()}
    return Stream({**ours, **more}, read)


def _compare(path: Path, digest: str, sums: Mapping[str, str]) -> None:
    """Raise UserError for a file whose checksum is not the one that state.json notes."""
    if digest != sums.get(path.name):
        refuse_stand_in(path)
        raise UserError(f"{path} is damaged: its checksum differs from the one in {STATE}")


def _checked(path: Path, sums: Mapping[str, str], dtype: torch.dtype | None) -> Mapping[str, torch.Tensor]:
    """Read a file of weights whose bytes are those that state.json notes."""
    try:
        try:
            weights = _own_weights(path, dtype)
        except UserError:
            _compare(path, checksum(path), sums)
            raise
        with readable(path):
            read, digest = read_with_checksum(path, weights)
        _compare(path, digest, sums)
        return read
    except SafetensorError as error:
        raise UserError(f"{path} is not a complete safetensors file") from error


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of a checkpoint's state.json and the checksums of its files. Raises UserError when damaged."""
    file = path / STATE
    try:
        state = read_json(file)
        if OWN_SUM in state and state[OWN_SUM] != sum_of(state):
            raise UserError(f"{file} is damaged: its checksum differs from the one that it contains")
        if field(state, "step", int, file) < 0:
            raise UserError(f"{file}: `step` is negative")
        return state, fitting(field(state, "sha256", dict, file), dict[str, str], f"{file}: `sha256`")
    except UnreadableError as error:
        if not error.missing:
            raise
        raise UserError(f"{path}: not a complete checkpoint ({STATE} is missing)") from error


def model_of(state: Mapping[str, Any], path: Path) -> TransformerConfig:
    """Return the configuration of the model in a checkpoint. Raises UserError."""
    return config_from_values(field(state, "model", dict, path / STATE), path / STATE)


def objective_of(state: Mapping[str, Any], path: Path) -> Objective:
    """Return the objective of the model in a checkpoint. Raises UserError."""
    return objective_from_values(field(state, "objective", dict, path / STATE), path / STATE)


def roles_of(state: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Return the roles of tokens that a checkpoint stores; they override the roles by token names. Raises UserError."""
    where = f"{path / STATE}: `roles`"
    roles: dict[str, int] = fitting(state.get("roles", {}), dict[str, int], where)
    if any(not 0 <= id < 2**31 for id in roles.values()):
        raise UserError(f"{where}: an id is negative or too large")
    return roles


def frozen_names(model: torch.nn.Module) -> set[str]:
    """Return the names of the weights of a model that get no gradient, quantised ones among them."""
    learning = {name for name, weight in model.named_parameters(remove_duplicate=False) if weight.requires_grad}
    return model.state_dict().keys() - learning


def put_weights(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    assign: bool = False,
    partial: bool = False,
) -> None:
    """Load a checkpoint's weights into a model. assign: use the tensors themselves instead of copies. partial: whether
    frozen weights may be missing, which then stay as they are.

    Raises UserError when the tensors do not match the model.
    """
    own = model.state_dict()
    if partial:
        frozen = frozen_names(model)
        own = {name: tensor for name, tensor in own.items() if name in tensors or name not in frozen}
    shapes = [
        name
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape or own[name].is_floating_point() != tensors[name].is_floating_point()
    ]
    if problems := differences(own.keys() - tensors.keys(), tensors.keys() - own.keys(), shapes):
        raise UserError(
            f"{path}: its weights do not match the model that {STATE} describes: {problems}; train or import it again"
        )
    model.load_state_dict(dict(tensors), strict=not partial, assign=assign)


def named_by(pointer: Path) -> Path:
    """Return the checkpoint that a run's `latest` or `best` names. Raises UserError when the file names anything
    else."""
    return pointer.parent / "checkpoints" / read_name(pointer)


def pointed(path: Path) -> Path:
    """Return the checkpoint that a path names, where it is a run's `latest` or `best`; else the path itself."""
    return named_by(path) if path.name in ("best", "latest") and path.is_file() else path


def state_of(path: Path) -> dict[str, Any]:
    """Return the state that the run stored in a checkpoint; an empty one when it cannot be read."""
    try:
        return read_json(path / STATE)
    except UserError:
        return {}


def newest(
    folder: Path, with_optimizer: bool = True, damaged: list[str] | None = None, dtype: torch.dtype | None = None
) -> Checkpoint | None:
    """Return the newest complete checkpoint of a folder; None when there is none.

    dtype: as for `read`. damaged: receives a sentence for each newer checkpoint that was skipped.
    """
    for step in sorted(steps_in(folder), reverse=True):
        try:
            return read(folder / f"step-{step}", with_optimizer, dtype)
        except UserError as error:
            if damaged is not None:
                damaged.append(str(error))
    return None


def differences(missing: Collection[str], unknown: Collection[str], unlike: Collection[str]) -> str:
    """Describe how the names of tensors differ from those expected, as part of a sentence; empty without a
    difference."""
    kinds = (missing, "missing names"), (unknown, "unknown names"), (unlike, "of another shape")
    return " and ".join(
        f"{len(names)} {kind} ({', '.join(shown(name) for name in sorted(names)[:LISTED])}"
        f"{', …' if len(names) > LISTED else ''})"
        for names, kind in kinds
        if names
    )


def named_parameters(optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters of an optimiser with their names, in its order; it must have been made of named
    parameters."""
    return [
        pair for group in optimizer.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
    ]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return an optimiser's state as named tensors, `<parameter name>.<state>`, independent of the order of
    parameters."""
    return {
        f"{name}.{key}": value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for name, parameter in named_parameters(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore the state saved by `optimizer_tensors` by the names of parameters. Raises UserError when it does not
    fit."""
    names = named_parameters(optimizer)
    numbers = {name: number for number, (name, _) in enumerate(names)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    unknown, unlike = set(), set()
    for key, value in tensors.items():
        name, _, kind = key.rpartition(".")
        if name.isdecimal():
            raise UserError(
                f"{OPTIMIZER} numbers the parameters (version 0.1), and this version names them; start a new run from "
                f"the model with {setting('model', flag='from')}"
            )
        if name not in numbers:
            unknown.add(name)
        elif value.dim() == names[numbers[name]][1].dim() and value.shape != names[numbers[name]][1].shape:
            unlike.add(name)
        else:
            state.setdefault(numbers[name], {})[kind] = value
    if problems := differences((), unknown, unlike):
        raise UserError(f"{OPTIMIZER} belongs to another model than that of this run: {problems}; train it again")
    state = dict(sorted(state.items()))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
