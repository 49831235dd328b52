"""The compiled library, loaded once in a process, with the threads of torch."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from blankfill.kernels.native.build import LOG, NoLibraryError, library_file, remove_temporary

PATHS = ("portable", "avx2", "avx512")
"""Instructions that the kernels use, by their number in `products.h`."""


class Matrix(ctypes.Structure):
    """`Matrix` of integer_products.c."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("bits", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("scale_type", ctypes.c_int32),
        ("path", ctypes.c_int32),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the library; None where there is none. It is compiled at the first use."""
    try:
        return opened(library_file())
    except (NoLibraryError, OSError, AttributeError) as error:
        LOG.debug("products of few rows are computed by torch: %s", error)
        return None


def opened(file: Path) -> ctypes.CDLL:
    """Load a library, and give it the threads of torch. Raises OSError, or AttributeError for a function that is
    missing."""
    made = ctypes.CDLL(str(file))
    remove_temporary(file)
    made.set_pool.argtypes, made.set_pool.restype = [ctypes.c_void_p] * 3, None
    made.best_path.argtypes, made.best_path.restype = [], ctypes.c_int
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    made.integer_product.argtypes = [pointer, pointer, pointer, ctypes.c_int, number]
    made.integer_product.restype = ctypes.c_int
    torch.get_num_threads()  # torch sets its number of threads at the first question
    pool = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    names = ("GOMP_parallel", "omp_get_max_threads", "omp_in_parallel")
    made.set_pool(*(ctypes.cast(getattr(pool, name), ctypes.c_void_p) for name in names))
    return made


@functools.cache
def best_path() -> int:
    """Return the number of the newest instructions of this processor, in `PATHS`; −1 without a library."""
    made = library()
    return -1 if made is None else int(made.best_path())
