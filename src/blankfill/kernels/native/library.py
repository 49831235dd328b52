"""The compiled library, loaded once in a process, with the threads of torch."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blankfill.kernels.native.build import LOG, NoLibraryError, library_file

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""Numbers of types in `products.h`."""
PATHS = ("portable", "avx2", "avx512")
"""Instructions that the kernels use, by their number in `products.h`."""


def fields(pointers: str, counts: str, numbers: str) -> tuple[tuple[str, type[Any]], ...]:
    """Return the fields of a structure of the library, by name: pointers, then int64, then int32."""
    types = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32)
    return tuple(
        (name, type) for names, type in zip((pointers, counts, numbers), types, strict=True) for name in names.split()
    )


class Matrix(ctypes.Structure):
    """`Matrix` of integer_products.c."""

    _fields_ = fields("weight scale zero bias", "outputs inputs", "bits group scale_type path")


class Floats(ctypes.Structure):
    """`Floats` of float_products.c."""

    _fields_ = fields("weight bias", "outputs inputs row_bytes", "type path")


class DynamicMatrix(ctypes.Structure):
    """`DynamicMatrix` of dynamic_products.c."""

    _fields_ = fields("weight scale zero bias", "outputs inputs", "activation path")


class AttentionJob(ctypes.Structure):
    """`Attention` of short_attention.c."""

    _fields_ = (
        *fields("packed bias out", "rows columns heads width", ""), ("scale", ctypes.c_float), ("type", ctypes.c_int32),
    )  # fmt: skip


class LibraryProduct:
    """A product of rows with a matrix that the library computes; shapes: N rows, I inputs, O outputs.

    max_rows: more rows are faster with torch. dtype: of the rows and the result. held: tensors that are read.
    matrix: the description that the library reads.
    """

    def __init__(
        self,
        function: Any,
        matrix: Matrix | Floats | DynamicMatrix,
        dtype: torch.dtype,
        max_rows: int,
        held: tuple[Tensor | None, ...],
    ) -> None:
        self.dtype, self.max_rows, self._function, self._type = dtype, max_rows, function, TYPES[dtype]
        self._inputs, self._outputs = matrix.inputs, matrix.outputs
        self._describe(matrix, held)

    def _describe(self, matrix: Matrix | Floats | DynamicMatrix, held: tuple[Tensor | None, ...]) -> None:
        self.matrix, self.held, self._at = matrix, held, ctypes.addressof(matrix)

    def __call__(self, x_NI: Tensor) -> Tensor:
        """Return the product, [N, O]. Raises ValueError for rows of another type or size."""
        x_NI = x_NI.contiguous()
        rows, inputs = x_NI.shape
        if inputs != self._inputs or x_NI.dtype != self.dtype or x_NI.device.type != "cpu":
            raise ValueError(f"the product takes {self.dtype} [N, {self._inputs}], not {x_NI.dtype} {x_NI.shape}")
        made_NO = torch.empty(rows, self._outputs, dtype=self.dtype)
        if self._function(self._at, x_NI.data_ptr(), made_NO.data_ptr(), self._type, rows):
            raise MemoryError(f"a product of {rows} rows of {inputs} inputs")
        return made_NO


def fp32_bias(bias_O: Tensor | None) -> Tensor | None:
    """Return a bias as the library reads it."""
    return None if bias_O is None else bias_O.detach().float().contiguous()


def address(x: Tensor | None) -> int:
    """Return the address of a tensor; 0 for None."""
    return 0 if x is None else x.data_ptr()


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the library; None where there is none. It is compiled at the first use."""
    try:
        file, temporary = library_file()
        try:
            return opened(file)
        finally:
            if temporary:  # what is loaded stays
                shutil.rmtree(file.parent, ignore_errors=True)
    except (NoLibraryError, OSError, AttributeError) as error:
        LOG.debug("products of few rows are computed by torch: %s", error)
        _reasons.append(str(error))
        return None


_reasons: list[str] = []


def summary() -> tuple[str | None, str]:
    """Return the instructions that the kernels use, and ""; or None and why there are no kernels."""
    if library() is None:
        return None, _reasons[-1]
    return PATHS[best_path()], ""


def opened(file: Path) -> ctypes.CDLL:
    """Load a library, and give it the threads of torch; in a forked process it computes in one thread. Raises OSError,
    or AttributeError for a function that is missing."""
    made = ctypes.CDLL(str(file))
    made.set_pool.argtypes, made.set_pool.restype = [ctypes.c_void_p] * 3, None
    made.best_path.argtypes, made.best_path.restype = [], ctypes.c_int
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for function in (made.integer_product, made.float_product, made.dynamic_product):
        function.argtypes, function.restype = [pointer, pointer, pointer, ctypes.c_int, number], ctypes.c_int
    made.dequantized_rows.argtypes = [pointer, number, number, pointer, ctypes.c_int]
    made.dequantized_rows.restype = None
    made.read_all.argtypes, made.read_all.restype = [pointer, number], ctypes.c_uint64
    made.decoding_step.argtypes, made.decoding_step.restype = [pointer], ctypes.c_int
    made.decoding_space.argtypes, made.decoding_space.restype = [pointer], number
    made.short_attention.argtypes, made.short_attention.restype = [pointer], ctypes.c_int
    torch.get_num_threads()  # torch sets its number of threads at the first question
    pool = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    names = ("GOMP_parallel", "omp_get_max_threads", "omp_in_parallel")
    made.set_pool(*(ctypes.cast(getattr(pool, name), ctypes.c_void_p) for name in names))
    # a forked process has none of the threads that the pool counts on, and would wait for them for ever
    os.register_at_fork(after_in_child=lambda: made.set_pool(None, None, None))
    return made


@functools.cache
def best_path() -> int:
    """Return the number of the newest instructions of this processor, in `PATHS`; −1 without a library."""
    made = library()
    return -1 if made is None else int(made.best_path())
