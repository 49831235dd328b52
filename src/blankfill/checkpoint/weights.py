"""Weight files of other programs: names and shapes are read on opening, each tensor when it is used.

The formats are safetensors and torch's `.bin`/`.pt`, in one file or in several with an index. Files are memory-mapped
where their format allows it. One file is open at a time, and is opened anew after some reading (`MAPPED`), so that what
was read and converted does not stay in memory: reading takes the memory of the tensors that are kept, and of one file
where it cannot be mapped. No code in a file is ever run: `.bin` files are read with torch's restricted unpickler,
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
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
MAPPED = 1 << 28
"""Number of bytes that are read from a mapped file before it is opened anew."""


class WeightFile:
    """A file of tensors, opened when one is read and closed at will. inert: see `only_tensors`."""

    def __init__(self, path: Path, inert: bool = False) -> None:
        self.path, self.inert = path, inert
        self.mapped = path.suffix == ".safetensors"
        """Whether the file can be mapped; of one of torch's, once it was opened."""
        self.bytes_read = 0
        self._opened: Any = None

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """Iterate over the tensors: name, shape, type; UserError for a file that is damaged, or has anything else."""
        regular_size(self.path)
        if self.path.suffix != ".safetensors":
            yield from plain_tensors(self.tensors(), self.path)
            return
        try:
            file = self.safetensors()
            for name in file.keys():  # noqa: SIM118 (not a dict)
                part = file.get_slice(name)
                kind = part.get_dtype()
                if kind not in _DTYPES:
                    raise UserError(f"{self.path}: {shown(name)} has the type {kind}, which is not supported")
                yield name, tuple(part.get_shape()), _DTYPES[kind]
        except (SafetensorError, ValueError, OverflowError) as error:
            raise UserError(f"{self.path} is not a complete safetensors file; copy or download it again") from error

    def safetensors(self) -> Any:
        """Open the file as safetensors."""
        if self._opened is None:
            with readable(self.path):
                self._opened = safe_open(self.path, framework="pt")
        return self._opened

    def tensors(self) -> Mapping[str, Any]:
        """Open the file as one of torch's."""
        if self._opened is None:
            self._opened = only_tensors(self.path, self.inert)
            with readable(self.path):
                self.mapped = zipfile.is_zipfile(self.path)
        opened: Mapping[str, Any] = self._opened
        return opened

    def get(self, name: str) -> Tensor:
        """Return a tensor as it is stored; mapped where the format allows it."""
        if self.mapped and self.bytes_read > MAPPED:
            self.close()
        try:
            made: Tensor = (
                self.safetensors().get_tensor(name) if self.path.suffix == ".safetensors" else self.tensors()[name]
            )
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{self.path}: {shown(name)} cannot be read; copy or download it again") from error
        self.bytes_read += made.numel() * made.element_size()
        return made

    @property
    def whole(self) -> bool:
        """Whether the file is read as a whole when it is opened."""
        return not self.mapped

    def close(self) -> None:
        """Close the file; tensors that are still in use stay as they are."""
        self._opened, self.bytes_read = None, 0


class JoinedFile(WeightFile):
    """The files of a tensor-parallel checkpoint as one: parts of a tensor are joined when it is read.

    cut: for a name, (dimension, pieces): the parts lie one after the other along the dimension, and each consists of as
    many pieces, of which those of one kind belong together; None for a tensor that each file has whole.
    """

    def __init__(self, parts: Sequence[WeightFile], cut: Callable[[str], tuple[int, int] | None]) -> None:
        super().__init__(parts[0].path)
        self.parts, self.cut = parts, cut
        self.mapped = False  # the parts see to it

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """Iterate over the joined tensors: name, shape, type."""
        by_part = [{name: (shape, dtype) for name, shape, dtype in part.shapes()} for part in self.parts]
        for part in self.parts:
            part.close()
        for name, (shape, dtype) in by_part[0].items():
            lacking = [part.path for part, names in zip(self.parts, by_part, strict=True) if name not in names]
            if lacking:
                raise UserError(f"{lacking[0]} has no {shown(name)}, which {self.path.name} has")
            cut = self.cut(name)
            across = None if cut is None else cut[0]
            for part, names in zip(self.parts, by_part, strict=True):
                if _without(names[name][0], across) != _without(shape, across):
                    raise UserError(
                        f"{part.path}: {shown(name)} is {list(names[name][0])}, and {list(shape)} in {self.path.name}; "
                        "all parts must come from one model"
                    )
            if cut is not None:
                dimension, joined = cut[0], list(shape)
                joined[dimension] = sum(names[name][0][dimension] for names in by_part)
                shape = tuple(joined)
            yield name, shape, dtype

    def get(self, name: str) -> Tensor:
        """Read the parts of a tensor and join them."""
        cut = self.cut(name)
        if cut is None:
            return self.parts[0].get(name)
        dimension, pieces = cut
        cuts = [part.get(name).chunk(pieces, dimension) for part in self.parts]
        return torch.cat([part[k] for k in range(pieces) for part in cuts], dimension)

    @property
    def whole(self) -> bool:
        """Whether a file is read as a whole when it is opened."""
        return any(part.whole for part in self.parts)

    def close(self) -> None:
        """Close all files."""
        for part in self.parts:
            part.close()


def _without(shape: tuple[int, ...], dimension: int | None) -> tuple[int, ...]:
    """Return a shape without one dimension."""
    return shape if dimension is None else (*shape[:dimension], *shape[dimension + 1 :])


def plain_tensors(tensors: Mapping[str, Any], where: Path) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Iterate over the tensors among values: name, shape, type.

    Raises UserError for a tensor that is not stored as a plain array, or that claims more elements than the file has.
    """
    for name, value in tensors.items():
        if isinstance(value, Tensor):
            plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not plain or value.untyped_storage().nbytes() < value.numel() * value.element_size():
                raise UserError(f"{where}: {shown(name)} is not stored as a plain array")
            yield name, tuple(value.shape), value.dtype


class Weights(Mapping[str, Tensor]):
    """Tensors by their names in the file; `dtypes` and `shapes` are known without reading.

    Floating-point tensors are returned in one type, since a model computes in one: `dtype`, or where that is None the
    type of most elements in the file (`stored`). `kept` names those that keep their own.
    """

    def __init__(self, where: Path, dtype: torch.dtype | None = None) -> None:
        self.where, self.dtype = where, dtype
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.kept: re.Pattern[str] | None = None
        self._files: dict[str, WeightFile] = {}
        self._current: WeightFile | None = None
        self._changes: dict[str, Callable[[], Tensor]] = {}
        self._hidden: dict[str, WeightFile] = {}

    def add(self, file: WeightFile) -> None:
        """Add the tensors of a file. Raises UserError for one that is damaged or holds other things."""
        for name, shape, dtype in file.shapes():
            self.shapes[name], self.dtypes[name], self._files[name] = shape, dtype, file
        file.close()

    def drop_rows(self, name: str, rows: int) -> None:
        """Leave the first rows of a tensor out."""
        shape = self.shapes[name]
        self.shapes[name] = (shape[0] - rows, *shape[1:])
        self._changes[name] = lambda: self.as_read(name)[rows:]

    def reader(self, name: str) -> Callable[[], Tensor]:
        """Return what reads a tensor as it is until now, whatever `change` and `hide` do from now on."""
        return self._changes.get(name) or partial(self.as_read, name)

    def change(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, read: Callable[[], Tensor]) -> None:
        """Return something else for a name: what `read` gives, which may call a `reader`."""
        self.shapes[name], self.dtypes[name], self._changes[name] = shape, dtype, read

    def hide(self, name: str) -> None:
        """Take a tensor out that only `as_read` gives from now on."""
        self._hidden[name] = self._files[name]
        self.leave_out([name])

    def leave_out(self, names: Iterable[str]) -> None:
        """Take tensors out, as if the file did not have them."""
        for name in names:
            del self._files[name], self.shapes[name], self.dtypes[name]

    def release(self) -> None:
        """Close the files and free the memory of all tensors; their shapes and types stay known."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.as_stored(name)
        if not tensor.is_floating_point():
            return tensor
        if self.kept is None or not self.kept.search(name):
            tensor = tensor.to(self.target)
        # minimum and maximum are finite only if all elements are, and need no memory beside the tensor
        if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
            raise UserError(
                f"{self.where}: {shown(name)} holds values that are not finite numbers (NaN or infinite), so the model "
                "can compute nothing; copy or download it again, or take another checkpoint"
            )
        return tensor

    def as_stored(self, name: str) -> Tensor:
        """Return a tensor in its own type, unchecked; other files are closed."""
        return self.reader(name)()

    def as_read(self, name: str) -> Tensor:
        """Return a tensor as it is in the file, whatever `change` and `drop_rows` make of it."""
        file = self._files.get(name) or self._hidden[name]
        if self._current is not None and self._current is not file:
            self._current.close()
        self._current = file
        return file.get(name)

    def equal(self, name: str, other: str) -> bool:
        """Return whether two tensors have equal elements. Reads some rows of each at a time; none when both share
        memory."""
        if self.shapes[name] != self.shapes[other]:
            return False
        if name in self._changes or other in self._changes:
            a, b = self.as_stored(name), self.as_stored(other)
        else:
            a, b = self._files[name].get(name), self._files[other].get(other)
        if _same_memory(a, b):
            return True
        count, *rest = self.shapes[name] or (1,)
        step = max(1, COMPARED // max(1, math.prod(rest)))
        a, b = a.reshape(count, -1), b.reshape(count, -1)
        # float64 holds every value of the types of weights
        return all(torch.equal(a[k : k + step].double(), b[k : k + step].double()) for k in range(0, count, step))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def largest_unmapped(self) -> int:
        """Bytes of the largest file that is read as a whole, since its format cannot be mapped."""
        return max((file.path.stat().st_size for file in set(self._files.values()) if file.whole), default=0)

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


class OwnWeights(Weights):
    """The tensors of a file that this program wrote, in their own types, or all floats but those of `kept` in `dtype`.

    Values are not checked: a run may have diverged.
    """

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.as_stored(name)
        return tensor.to(self.dtype) if self.converts(name) else tensor

    def converts(self, name: str) -> bool:
        """Return whether a tensor is returned in another type than its own."""
        stored = self.dtypes[name]
        if self.dtype in (None, stored) or not stored.is_floating_point:
            return False
        return not (self.kept and self.kept.search(name))


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


def parts_without_index(folder: Path) -> str:
    """Return a sentence for a folder with the parts of a model and no index; empty for another one."""
    for single in SINGLE:
        stem, _, ending = single.rpartition(".")
        if parts := sorted(folder.glob(f"{stem}-[0-9]*-of-[0-9]*.{ending}")):
            return (
                f"{folder} has {parts[0].name} and not the index {single}.index.json, which names all parts; copy or "
                "download it too"
            )
    return ""


def open_weights(path: Path, inert: bool = False, dtype: torch.dtype | None = None) -> Weights:
    """Open a weight file or the index of a sharded one. inert: see `only_tensors`. dtype: see `Weights`."""
    weights = Weights(path, dtype)
    for part, names in _parts(path).items():
        if not part.is_file():
            raise UserError(f"{path} names {part.name}, which is missing; copy or download all parts")
        regular_size(part)
        refuse_stand_in(part)
        file = WeightFile(part, inert)
        weights.add(file)
        if names and names.isdisjoint(name for name, _, _ in file.shapes()):
            raise UserError(
                f"{part} has none of the {len(names)} weights that {path.name} names for it, so it is another file "
                "under this name; copy or download it again"
            )
    if not weights:
        raise UserError(f"{path}: there are no weights in this file")
    return weights


def _parts(path: Path) -> dict[Path, set[str]]:
    """Return the files of an index, in order, with the names of their weights; another file alone, without names."""
    if path.suffix != ".json":
        return {path: set()}
    try:
        named = field(read_json(path), "weight_map", dict, path)
        files = {name: of_kind(file, str, f"{path}: weight_map: {shown(name)}") for name, file in named.items()}
    except UserError as error:
        raise UserError(f"{error.template}; copy or download the index again") from error
    for file in files.values():
        if not is_plain_name(file):  # an index must not name a file outside its folder
            raise UserError(f"{path} names {shown(file)}, which is not a file in its folder; copy or download it again")
    parts: dict[Path, set[str]] = {path.parent / file: set() for file in sorted(set(files.values()))}
    for name, file in files.items():
        parts[path.parent / file].add(name)
    return parts


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
