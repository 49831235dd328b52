"""Weight files of other programs: names and shapes are read on opening, each tensor when it is used.

The formats are safetensors and torch's `.bin`/`.pt`, in one file or in several with an index. Files are memory-mapped
where their format allows it. No code in a file is ever run: `.bin` files are read with torch's restricted unpickler,
and a file that needs more than tensors raises an error. Checkpoints of the original GLM code hold harmless settings
beside the weights; these are read as inert placeholders (`only_tensors`). A tensor with values that are not finite
raises an error when it is read.
"""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from blankfill.checkpoint.dtypes import name_of
from blankfill.errors import UserError
from blankfill.system.reading import (
    field,
    is_plain_name,
    of_kind,
    read_json,
    readable,
    refuse_stand_in,
    regular_size,
    shown,
)

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Weight files of a transformers folder, in order of preference; with `.index.json` when sharded."""
COMPARED = 1 << 20
"""Number of elements of two tensors that are compared at a time."""


class Weights(Mapping[str, Tensor]):
    """Tensors by their names in the file; `dtypes` and `shapes` are known without reading.

    Floating-point tensors are returned in one type, since a model computes in one: `dtype`, or where that is None the
    type of most elements in the file (`stored`).
    """

    def __init__(self, where: Path, dtype: torch.dtype | None = None) -> None:
        self.where, self.dtype = where, dtype
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._open: dict[str, Any] = {}

    def add_safetensors(self, path: Path) -> None:
        """Add the tensors of a safetensors file; UserError when it is another file or is cut short."""
        regular_size(path)
        try:
            with readable(path):
                file = safe_open(path, framework="pt")
            for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)  # type: ignore[no-untyped-call]
                kind = part.get_dtype()
                if kind not in _DTYPES:
                    raise UserError(f"{path}: {shown(name)} has the type {kind}, which is not supported")
                self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), _DTYPES[kind]
                self._open[name] = file
        except (SafetensorError, ValueError, OverflowError) as error:
            raise UserError(f"{path} is not a complete safetensors file; copy or download it again") from error

    def add_tensors(self, tensors: Mapping[str, Any]) -> None:
        """Add tensors in memory; other values are left out.

        Raises UserError for a tensor that is not stored as a plain array, or that claims more elements than the file
        has.
        """
        for name, value in tensors.items():
            if isinstance(value, Tensor):
                plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
                if not plain or value.untyped_storage().nbytes() < value.numel() * value.element_size():
                    raise UserError(f"{self.where}: {shown(name)} is not stored as a plain array")
                self.shapes[name], self.dtypes[name] = tuple(value.shape), value.dtype
                self._open[name] = value

    def leave_out(self, names: Iterable[str]) -> None:
        """Take tensors out, as if the file did not have them."""
        for name in names:
            del self._open[name], self.shapes[name], self.dtypes[name]

    def release(self) -> None:
        """Close the files and free the memory of all tensors; their shapes and types stay known."""
        self._open.clear()

    def __getitem__(self, name: str) -> Tensor:
        held = self._open[name]
        try:
            tensor: Tensor = held if isinstance(held, Tensor) else held.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self.where}: {shown(name)} cannot be read; copy or download it again") from error
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.to(self.target)
        # minimum and maximum are finite only if all elements are, and need no memory beside the tensor
        if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
            raise UserError(
                f"{self.where}: {shown(name)} holds values that are not finite numbers (NaN or infinite), so the model "
                "can compute nothing; copy or download it again, or take another checkpoint"
            )
        return tensor

    def equal(self, name: str, other: str) -> bool:
        """Return whether two tensors have equal elements. Reads some rows of each at a time; none when both share
        memory."""
        if self.shapes[name] != self.shapes[other]:
            return False
        a, b = self._open[name], self._open[other]
        if isinstance(a, Tensor) and isinstance(b, Tensor) and _same_memory(a, b):
            return True
        count, *rest = self.shapes[name] or (1,)
        step = max(1, COMPARED // max(1, math.prod(rest)))
        return all(
            torch.equal(self._rows(name, k, k + step), self._rows(other, k, k + step)) for k in range(0, count, step)
        )

    def _rows(self, name: str, begin: int, end: int) -> Tensor:
        """Read some rows as float64, which holds every value of the types of weights."""
        held = self._open[name]
        if not self.shapes[name]:
            return self[name].double()
        part: Tensor = (held if isinstance(held, Tensor) else held.get_slice(name))[begin:end]
        return part.double()

    def __iter__(self) -> Iterator[str]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def stored(self) -> torch.dtype:
        """The floating-point type of most elements; float32 for float64, in which no model computes."""
        sizes: dict[torch.dtype, int] = {}
        for name, dtype in self.dtypes.items():
            if dtype.is_floating_point:
                sizes[dtype] = sizes.get(dtype, 0) + math.prod(self.shapes[name])
        most = max(sizes, key=lambda dtype: (sizes[dtype], dtype.itemsize), default=torch.float32)
        return torch.float32 if most == torch.float64 else most

    @cached_property
    def target(self) -> torch.dtype:
        """The type in which floating-point tensors are returned."""
        return self.dtype or self.stored

    @property
    def converted(self) -> str:
        """The floating-point types that are converted when they are read, in words; empty when none is."""
        kinds = {name_of(dtype) for dtype in self.dtypes.values() if dtype.is_floating_point and dtype != self.target}
        return " and ".join(sorted(kinds))


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.dtype == b.dtype and a.stride() == b.stride()


_DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types by their names in safetensors; other types are those of quantised models, which are not supported."""


def weight_file(folder: Path) -> Path | None:
    """Return the weight file, or the index of several, of a transformers folder; None when there is none."""
    for name in SINGLE:
        for candidate in (folder / name, folder / f"{name}.index.json"):
            if candidate.is_file():
                return candidate
    return None


def open_weights(path: Path, inert: bool = False, dtype: torch.dtype | None = None) -> Weights:
    """Open a weight file or the index of a sharded one. inert: see `only_tensors`. dtype: see `Weights`."""
    weights = Weights(path, dtype)
    for part in _parts(path):
        if not part.is_file():
            raise UserError(f"{path} names {part.name}, which is missing; copy or download all parts")
        regular_size(part)
        refuse_stand_in(part)
        if part.suffix == ".safetensors":
            weights.add_safetensors(part)
        else:
            weights.add_tensors(only_tensors(part, inert))
    if not weights:
        raise UserError(f"{path}: there are no weights in this file")
    return weights


def _parts(path: Path) -> list[Path]:
    if path.suffix != ".json":
        return [path]
    names = sorted(
        {of_kind(name, str, str(path)) for name in field(read_json(path), "weight_map", dict, path).values()}
    )
    for name in names:
        if not is_plain_name(name):  # an index must not name a file outside its folder
            raise UserError(f"{path} names {shown(name)}, which is not a file in its folder; copy or download it again")
    return [path.parent / name for name in names]


class Inert:
    """A placeholder for an object of a class that is not loaded: it takes any arguments and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Accept any arguments."""
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def only_tensors(path: Path, inert: bool = False) -> dict[str, Any]:
    """Read a file written by `torch.save`; tensors are memory-mapped where the format allows it.

    inert: replace objects of other classes by placeholders instead of raising an error; none of their code is imported
    or called. Checkpoints with their weights under "module" (DeepSpeed) or "state_dict" return those. Raises UserError
    for a file that is damaged or needs to run code.
    """
    regular_size(path)
    with readable(path):
        mapped = zipfile.is_zipfile(path)
    try:
        values = _load(path, mapped)
    except pickle.UnpicklingError as error:
        if not inert or not mapped:
            raise _refusal(path, error) from error
        values = _load_inert(path)
    except Exception as error:  # the bytes of a file can make torch raise anything
        raise _damaged(path) from error
    for key in ("module", "state_dict"):
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: holds {type(values).__name__}, not named weights; give the checkpoint of a model")
    return {str(name): value for name, value in values.items()}


def _load(path: Path, mapped: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning about pickle, for developers
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _load_inert(path: Path) -> Any:
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    try:
        stand_ins: list[Any] = [(Inert, name) for name in get_unsafe_globals_in_checkpoint(path)]
        with safe_globals(stand_ins):
            return _load(path, True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except Exception as error:  # see above
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is not a complete file of weights written by torch; copy or download it again")


def _refusal(path: Path, error: Exception) -> UserError:
    """Return the error for a file that torch's restricted unpickler does not accept, in our words, since the library's
    message advises to trust the file."""
    match = re.search(r"(?:GLOBAL|Unsupported class) ([A-Za-z_][\w.]{0,120}\w)", str(error))
    if match is None:
        return _damaged(path)
    return UserError(
        f"{path} is not read: it needs {match[1]}, so it holds more than tensors and might run code; "
        "get the weights as safetensors, or from a source that saves tensors only"
    )
