"""Products of few rows with quantised and half-precision matrices: `python bench/integer_products.py --threads 2`.

Calls of a way and plain reading of as many bytes, which is the bound, take turns in one process. Each call has another
copy of the weights, so that they come from memory and not from a cache. Prints µs (nine of ten calls take longer), GB/s
of weights and scales, those of plain reading, and the share. The ways:

- native: the kernels of this package, with integers of 8 and 4 bits (groups of 32, or one scale for each row), bf16 and
  fp32
- torch int8, int4: `_weight_int8pack_mm` and `_weight_int4pack_mm_for_cpu` (groups of 32), activations in bf16
- torch dynamic: `quantized.linear_dynamic`, which rounds the activations to 8 bits
- torch bf16, fp32: `torch.nn.functional.linear`
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.kernels.half_products import HalfProduct
from blankfill.kernels.integer_products import NativeProduct
from blankfill.kernels.integers import QuantizedWeight, WeightFormat
from blankfill.kernels.native.library import PATHS, best_path, library

Call = Callable[[], object]
SHAPES = ((768, 3072, 1), (768, 50257, 1), (4096, 16384, 1), (768, 3072, 8), (4096, 16384, 8))
"""Inputs, outputs and rows."""


def native_integers(inputs: int, outputs: int, rows: int, format: WeightFormat) -> tuple[Call, int]:
    """Return a call, and its bytes of weights and scales."""
    types = format.types()
    tensors = {
        name: torch.randint(-7, 7, shape, dtype=torch.int8)
        if name == "weight"
        else torch.ones(shape, dtype=types[name])
        for name, shape in format.shapes(outputs, inputs).items()
    }
    quantized = QuantizedWeight(tensors["weight"], tensors["weight_scale"])
    product, x = NativeProduct(quantized, format, torch.float32), torch.randn(rows, inputs)
    return lambda: product(x), sum(tensor.nbytes for tensor in tensors.values())


def native_floats(inputs: int, outputs: int, rows: int, dtype: torch.dtype) -> tuple[Call, int]:
    """The same for a matrix of floating-point numbers."""
    weight = torch.full((outputs, inputs), 0.5, dtype=dtype)
    product, x = HalfProduct(weight, dtype), torch.randn(rows, inputs).to(dtype)
    return lambda: product(x), weight.nbytes


def torch_floats(inputs: int, outputs: int, rows: int, dtype: torch.dtype) -> tuple[Call, int]:
    """The same by torch."""
    weight, x = torch.full((outputs, inputs), 0.5, dtype=dtype), torch.randn(rows, inputs).to(dtype)
    return lambda: F.linear(x, weight), weight.nbytes


def torch_int8(inputs: int, outputs: int, rows: int) -> tuple[Call, int]:
    """The same for torch's packed integers of 8 bits."""
    weight, x = torch.randint(-7, 7, (outputs, inputs), dtype=torch.int8), torch.randn(rows, inputs).bfloat16()
    scale = torch.ones(outputs, dtype=torch.bfloat16)
    return lambda: torch._weight_int8pack_mm(x, weight, scale), weight.nbytes


def torch_int4(inputs: int, outputs: int, rows: int) -> tuple[Call, int]:
    """The same for torch's packed integers of 4 bits."""
    if outputs % 16:
        raise ValueError("torch packs multiples of 16 outputs alone")
    weight = torch._convert_weight_to_int4pack_for_cpu(torch.randint(0, 15, (outputs, inputs), dtype=torch.int32), 1)
    scale, x = torch.ones(inputs // 32, outputs, 2, dtype=torch.bfloat16), torch.randn(rows, inputs).bfloat16()
    call = lambda: torch._weight_int4pack_mm_for_cpu(x, weight, 32, scale)  # noqa: E731
    return call, weight.nbytes + scale.nbytes


def torch_dynamic(inputs: int, outputs: int, rows: int) -> tuple[Call, int]:
    """The same for torch's product that rounds the activations to 8 bits."""
    weight = torch.quantize_per_channel(
        torch.full((outputs, inputs), 0.5), torch.full((outputs,), 0.01), torch.zeros(outputs).long(), 0, torch.qint8
    )
    packed, x = torch.ops.quantized.linear_prepack(weight, None), torch.randn(rows, inputs)
    return lambda: torch.ops.quantized.linear_dynamic(x, packed), inputs * outputs


WAYS: dict[str, Callable[[int, int, int], tuple[Call, int]]] = {
    "native int8": lambda *shape: native_integers(*shape, WeightFormat(8)),
    "native int8, groups of 32": lambda *shape: native_integers(*shape, WeightFormat(8, 32)),
    "native int4": lambda *shape: native_integers(*shape, WeightFormat(4)),
    "native int4, groups of 32": lambda *shape: native_integers(*shape, WeightFormat(4, 32)),
    "native bf16": lambda *shape: native_floats(*shape, torch.bfloat16),
    "native fp32": lambda *shape: native_floats(*shape, torch.float32),
    "torch int8": torch_int8,
    "torch int4, groups of 32": torch_int4,
    "torch dynamic int8": torch_dynamic,
    "torch bf16": lambda *shape: torch_floats(*shape, torch.bfloat16),
    "torch fp32": lambda *shape: torch_floats(*shape, torch.float32),
}


def measure(way: str, shape: tuple[int, int, int], memory: int, rounds: int, clock: Callable[[], float]) -> str:
    """Measure a way over copies of its weights that fill the memory; return the line to print."""
    made = library()
    assert made is not None
    size = WAYS[way](*shape)[1]
    copies = [WAYS[way](*shape)[0] for _ in range(max(2, memory // size))]
    others: Tensor = torch.zeros(memory // 8, dtype=torch.int64)
    pieces = max(1, memory // size)
    calls: list[float] = []
    readings: list[float] = []
    for _ in range(rounds):
        for call in copies:
            begin = clock()
            call()
            calls.append(clock() - begin)
        for piece in range(pieces):
            begin = clock()
            made.read_all(others.data_ptr() + piece * (memory // pieces) // 64 * 64, memory // pieces)
            readings.append(clock() - begin)
    seconds, reading = (statistics.quantiles(all_of, n=10)[0] for all_of in (calls, readings))
    rate, bound = size / seconds / 1e9, memory / pieces / reading / 1e9
    return f"{way:28}{1e6 * seconds:9.0f}{rate:8.1f}{bound:8.1f}{rate / bound:8.0%}"


@torch.inference_mode()
def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, default=160, help="MB of weights of each way, more than the caches hold")
    parser.add_argument("--ways", default="", help="only those whose name contains this")
    parser.add_argument("--shapes", type=int, nargs="*", help="numbers of the shapes, from 0; all by default")
    parser.add_argument("--processor-time", action="store_true", help="of one thread, on a machine that others use")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if library() is None:
        raise SystemExit("there is no C compiler here, or the kernels are turned off")
    load = Path("/proc/loadavg").read_text().split()[0]
    print(f"{PATHS[best_path()]}, {args.threads} threads, load {load}, torch {torch.__version__}")
    clock = time.thread_time if args.processor_time else time.perf_counter
    for number, shape in enumerate(SHAPES):
        if args.shapes and number not in args.shapes:
            continue
        print(f"\n{shape[2]} × {shape[0]} → {shape[1]:<18}{'µs':>9}{'GB/s':>8}{'memory':>8}{'share':>8}")
        for way in WAYS:
            if args.ways in way:
                try:
                    print(measure(way, shape, args.memory << 20, args.rounds, clock), flush=True)
                except ValueError as error:
                    print(f"{way:28}{error}", flush=True)


if __name__ == "__main__":
    main()
