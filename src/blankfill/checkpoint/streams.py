"""Files of tensors that are written one tensor at a time, so that a model that is copied is never whole in memory.

`Stream` is a mapping of tensors that are made when they are read, and whose shapes and types are known before.
`write_safetensors` writes any mapping of tensors; the bytes are those that the safetensors package writes. `Renamed` is
the stream of a model under the names of another program. `write_shards` writes several files with an index, as
transformers reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import Tensor

from blankfill.families.weight_names import Rule, Table

ShardKind = Literal["safetensors", "bin"]
KINDS = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int32: "I32", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64",
}  # fmt: skip
"""Names of types in safetensors, in the order in which the files have them, backwards."""
NOTE = {"format": "pt"}
"""The note in a file that transformers requires."""


class Stream(Mapping[str, Tensor]):
    """Tensors that are made when they are read. plan: tensors without memory, which show shapes and types."""

    def __init__(self, plan: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
        self.plan, self._read = plan, read

    def __getitem__(self, name: str) -> Tensor:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


class Renamed(Stream):
    """A model under the names of another program. Several of their tensors that are made of one of ours follow one
    another, and ours is read once."""

    def __init__(self, table: Table, ours: Mapping[str, Tensor], where: str = "the model") -> None:
        plan = planned(ours)
        table.check_ours(plan, where)
        self._rules: dict[str, tuple[Rule, int]] = {}
        shown: dict[str, Tensor] = {}
        for rule in table.rules:
            for k, (name, part) in enumerate(zip(rule.theirs, rule.to_theirs(plan[rule.ours]), strict=True)):
                if name in rule.written:
                    shown[name], self._rules[name] = part, (rule, k)
        self._last: tuple[Rule, list[Tensor]] | None = None
        self._ours = ours
        super().__init__(shown, self._part)

    def _part(self, name: str) -> Tensor:
        rule, k = self._rules[name]
        if self._last is None or self._last[0] is not rule:
            self._last = None  # frees it before the next is read
            self._last = rule, list(rule.to_theirs(self._ours[rule.ours]))
        part = self._last[1][k]
        if k == len(rule.theirs) - 1:
            self._last = None
        return part


def planned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the shapes and types of tensors as tensors without memory; none is read from a stream."""
    if isinstance(tensors, Stream):
        return dict(tensors.plan)
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; one tensor of a stream is in memory at a time.

    Raises ValueError for two names of one tensor, which a file cannot express.
    """
    plan = planned(tensors)
    if not isinstance(tensors, Stream):
        refuse_shared(tensors)
    order = sorted(plan, key=lambda name: (-list(KINDS).index(plan[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": NOTE}
    begins, end = {}, 0
    for name in order:
        begins[name], size = end, plan[name].numel() * plan[name].element_size()
        header[name] = {
            "dtype": KINDS[plan[name].dtype], "shape": list(plan[name].shape), "data_offsets": [end, end + size],
        }  # fmt: skip
        end += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.unlink(missing_ok=True)  # a file of this name may be mapped by the tensors
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        for name in plan:  # in the order in which they are read best
            tensor = tensors[name]
            if tensor.shape != plan[name].shape or tensor.dtype != plan[name].dtype:
                raise ValueError(f"{name} is not as planned")
            file.seek(start + begins[name])
            write_tensor(file, tensor)


def write_tensor(file: IO[bytes], tensor: Tensor) -> None:
    """Write the values of a tensor."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    if plain.numel():
        file.write(plain.view(torch.uint8).numpy().data)


def refuse_shared(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for two names of one tensor."""
    seen: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            other = seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
            if other is not name:
                raise ValueError(f"{name} and {other} are one tensor")


def write_shards(folder: Path, tensors: Mapping[str, Tensor], most: int, kind: ShardKind = "safetensors") -> list[str]:
    """Write tensors into files of at most `most` bytes, in their order, with an index as transformers reads it.

    kind: safetensors, or pickles as older programs read them. Tensors that fit into one file become one without an
    index. Returns the names of the files.
    """
    plan = planned(tensors)
    shards: list[list[str]] = [[]]
    total = room = 0
    for name, tensor in plan.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and size > room:
            shards.append([])
        if not shards[-1]:
            room = most
        shards[-1].append(name)
        room, total = room - size, total + size
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    count = len(shards)
    files = (
        [f"{stem}-{k:05}-of-{count:05}.{suffix}" for k in range(1, count + 1)] if count > 1 else [f"{stem}.{suffix}"]
    )
    for file, names in zip(files, shards, strict=True):
        part = Stream({name: plan[name] for name in names}, tensors.__getitem__)
        if kind == "safetensors":
            write_safetensors(folder / file, part)
        else:
            torch.save({name: part[name].contiguous().clone() for name in names}, folder / file)
    if count > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        text = json.dumps(index, indent=2) + "\n"
        (folder / f"{stem}.{suffix}.index.json").write_text(text, encoding="utf-8")
    return files
