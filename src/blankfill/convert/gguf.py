"""A model of ours → a GGUF file, as llama.cpp and programs built on it (ollama, LM Studio) read it, and back.

Tables of words and the matrices of layers get the type of the file. Biases, norms and the tables of positions and token
types stay fp32, as in llama.cpp's own converter. With types of 4 and 5 bits the table of words, which is also the
output of a tied model, has 8 bits: llama.cpp's own quantiser gives it more bits too. A matrix whose rows do not fill
blocks of 32 is fp16. Numbers are rounded by the `gguf` package; one tensor is in memory at a time.

Not here: which architecture computes a model (`gguf_layout`), the tokenizer (`gguf_tokenizer`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blankfill._version import __version__
from blankfill.convert.gguf_layout import EMBEDDINGS, GgufLayout, GgufTensor
from blankfill.errors import UserError
from blankfill.system.environment import has_module

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
BITS: dict[GgufType, float] = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5,
}  # fmt: skip
"""Bits of a weight, with its share of the scale of a block."""
FILE_TYPES: dict[GgufType, str] = {"f32": "ALL_F32"}
"""Names of file types of the gguf package that are not MOSTLY_ and the type."""
BLOCK = 32
"""Weights of a row that share a scale."""
FILE = "model.gguf"


def check_package() -> None:
    """Raise UserError when the package that writes GGUF is missing."""
    if not has_module("gguf"):
        raise UserError('GGUF needs the package gguf; install it with: pip install "blankfill[gguf]"')


def type_of(tensor: GgufTensor, columns: int, type: GgufType) -> GgufType:
    """Return the type of a tensor in a file. columns: numbers of a row. type: of the file."""
    if tensor.exact:
        return "f32"
    if BITS[type] < BITS["q8_0"] and tensor.name in EMBEDDINGS:
        type = "q8_0"
    return "f16" if BITS[type] < 16 and columns % BLOCK else type


def write_gguf(
    path: Path, layout: GgufLayout, tokenizer: Mapping[str, Any], weights: Mapping[str, Tensor], type: GgufType,
    name: str,
) -> None:  # fmt: skip
    """Write a model.

    path: the new file. tokenizer: values by key (`gguf_tokenizer`). weights: of ours, by name. name: of the model.
    """
    import gguf

    logging.getLogger("gguf").setLevel(logging.ERROR)
    file_type = gguf.LlamaFileType[FILE_TYPES.get(type, f"MOSTLY_{type.upper()}")]
    writer = gguf.GGUFWriter(str(path), layout.architecture)
    described = f"written by blankfill {__version__}"
    values = {"general.type": "model", "general.name": name, "general.description": described}
    for key, value in {**values, **layout.settings, **tokenizer}.items():
        _add(writer, key, value)
    writer.add_file_type(int(file_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in layout.tensors:
        shape = shape_of(tensor, weights)
        kind = gguf.GGMLQuantizationType[type_of(tensor, shape[-1], type).upper()]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = int(np.prod(shape))
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), count // block * size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in layout.tensors:
        data = np.ascontiguousarray(weights[tensor.source][tensor.rows].float().numpy())
        kind = gguf.GGMLQuantizationType[type_of(tensor, data.shape[-1], type).upper()]
        writer.write_tensor_data(gguf.quantize(data, kind))
    writer.close()


def shape_of(tensor: GgufTensor, weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the shape of a tensor of a file."""
    whole = tuple(weights[tensor.source].shape)
    return (len(range(whole[0])[tensor.rows]), *whole[1:])


def _add(writer: Any, key: str, value: Any) -> None:
    """Add a value with the type that llama.cpp reads it in."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        assert isinstance(value, Sequence)
        writer.add_array(key, list(value))


def read_values(path: Path) -> dict[str, Any]:
    """Return the values of a file, by key."""
    import gguf

    return {name: field.contents() for name, field in gguf.GGUFReader(str(path)).fields.items()}


def read_tensors(path: Path, layout: GgufLayout) -> Iterator[tuple[GgufTensor, NDArray[np.float32]]]:
    """Yield the tensors of a file as fp32 numbers, in its order. layout: with which the file was written."""
    import gguf

    known = {tensor.name: tensor for tensor in layout.tensors}
    for entry in gguf.GGUFReader(str(path)).tensors:
        shape = [int(size) for size in reversed(entry.shape)]
        yield known[entry.name], np.array(gguf.dequantize(entry.data, entry.tensor_type), np.float32).reshape(shape)


@torch.no_grad()
def put_back(path: Path, layout: GgufLayout, weights: Mapping[str, Tensor]) -> None:
    """Write the numbers of a file into weights of ours, by name: the model then computes what the file holds."""
    for tensor, numbers in read_tensors(path, layout):
        weights[tensor.source][tensor.rows].copy_(torch.from_numpy(numbers))
