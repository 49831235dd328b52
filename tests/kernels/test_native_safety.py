"""The compiled library at the end of mapped memory, at odd addresses, in forked processes and in several threads."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from blankfill.attention.masks import Mask
from blankfill.kernels.dynamic_products import NativeDynamic
from blankfill.kernels.half_products import HalfProduct
from blankfill.kernels.integer_products import NativeProduct
from blankfill.kernels.integers import QuantizedWeight, WeightFormat, quantize
from blankfill.kernels.native.library import PATHS, best_path, library
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.single import SingleColumn
from blankfill.model.transformer import Transformer, build

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here, or the kernels are turned off")
PAGE = mmap.PAGESIZE
_held: list[mmap.mmap] = []


def at_the_end(x: Tensor) -> Tensor:
    """A copy that ends where readable memory ends, as a matrix at the end of a mapped file: reading on is a fault."""
    content = x.contiguous().view(-1).view(torch.uint8)
    pages = -(-len(content) // PAGE)
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    _held.append(memory)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    made = whole[pages * PAGE - len(content) : pages * PAGE]
    made.copy_(content)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(whole.data_ptr() + pages * PAGE), PAGE, 0) == 0
    return made.view(x.dtype).view(x.shape)


@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
@pytest.mark.parametrize("format", [
    WeightFormat(8), WeightFormat(4), WeightFormat(8, 32, "zero-point"), WeightFormat(4, 64, "zero-point"),
    WeightFormat(4, 32, scale_type="float32"), WeightFormat(8, 384, scale_type="bfloat16"),
], ids=str)  # fmt: skip
def test_nothing_is_read_past_the_end_of_integers(path: int, format: WeightFormat) -> None:
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    generator = torch.Generator().manual_seed(0)
    for outputs, inputs in ((1, 2), (3, 34), (4, 66), (5, 64), (9, 384), (13, 768), (1, 1)):
        if not format.fits(inputs):
            continue
        quantized = quantize(torch.randn(outputs, inputs, generator=generator), format)
        bias = torch.randn(outputs, generator=generator)
        guarded = QuantizedWeight(*(None if x is None else at_the_end(x) for x in quantized))
        for rows in (1, 3):
            x = torch.randn(rows, inputs, generator=generator)
            right = NativeProduct(quantized, format, torch.float32, bias, path)(x)
            made = NativeProduct(guarded, format, torch.float32, at_the_end(bias), path)(at_the_end(x))
            assert torch.equal(made, right)


@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_is_read_past_the_end_of_numbers(path: int, stored: torch.dtype) -> None:
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    for outputs, inputs in ((1, 1), (3, 17), (4, 33), (5, 100), (9, 64)):
        weight, x = torch.randn(outputs, inputs).to(stored), torch.randn(3, inputs).to(stored)
        right = HalfProduct(weight, stored, path=path)(x)
        assert torch.equal(HalfProduct(at_the_end(weight), stored, path=path)(at_the_end(x)), right)


@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
def test_nothing_is_read_past_the_end_of_activations(path: int) -> None:
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    for outputs, inputs in ((1, 1), (65, 17), (64, 33), (70, 100)):
        quantized = quantize(torch.randn(outputs, inputs), WeightFormat(8))
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            product, x = NativeDynamic(quantized, WeightFormat(8), dtype, path=path), torch.randn(5, inputs).to(dtype)
            assert torch.equal(product(at_the_end(x)), product(x))


@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
@pytest.mark.parametrize("bits", [8, 4])
def test_tensors_may_have_any_address(path: int, bits: int) -> None:
    """In a file, a tensor of numbers can begin at an odd byte."""
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    for format in (WeightFormat(bits), WeightFormat(bits, 32, "zero-point", "float32")):
        quantized, x = quantize(torch.randn(7, 96), format), torch.randn(2, 96)
        right = NativeProduct(quantized, format, torch.float32, path=path)(x)
        product = NativeProduct(quantized, format, torch.float32, path=path)
        held = []
        for name in ("weight", "scale", "zero"):
            tensor = getattr(quantized, name)
            if tensor is not None:
                content = bytes(tensor.view(-1).view(torch.uint8).tolist())
                place = ctypes.create_string_buffer(len(content) + 1)
                at = ctypes.addressof(place) | 1
                ctypes.memmove(at, content, len(content))
                setattr(product.matrix, name, at)
                held.append(place)
        assert torch.equal(product(x), right)


@pytest.mark.parametrize("path", range(len(PATHS)), ids=PATHS)
def test_the_largest_sums_fit_in_32_bits(path: int) -> None:
    """The most inputs, with the largest integers."""
    if path > best_path():
        pytest.skip("this processor does not have the instructions")
    inputs = 1 << 16
    signs = torch.where(torch.arange(inputs) % 2 == 0, 1.0, -1.0)
    for integer in (127, -128):
        weight = torch.full((2, inputs), integer, dtype=torch.int8)
        weight[1, ::2] = 127
        quantized = QuantizedWeight(weight, torch.full((2,), 2.0**-8))
        for kind in (NativeDynamic, NativeProduct):
            product: Any = kind(quantized, WeightFormat(8, scale_type="float32"), torch.float32, path=path)
            x = torch.stack([torch.ones(inputs), -torch.ones(inputs), signs])
            right = (x.double() @ weight.double().T) * 2.0**-8
            assert (product(x) - right).abs().max() <= 2**-14 * right.abs().max()


FORKED = """
import os, signal, torch
from blankfill.kernels.half_products import HalfProduct
torch.set_num_threads(2)
product, x = HalfProduct(torch.randn(4096, 512), torch.float32), torch.randn(1, 512)
right = product(x)
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if torch.equal(product(x), right) else 1)
status = os.waitpid(child, 0)[1]
assert torch.equal(product(x), right)
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_process_computes_without_the_threads_of_its_parent() -> None:
    """It would wait for them for ever."""
    made = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert made.stdout.strip() == "0", made.stderr


GPT = TransformerConfig(
    vocab_size=60, hidden_size=64, num_layers=2, num_heads=4, ffn_size=96, position_sizes=(40,), norm="pre",
    init_std=0.2,
)  # fmt: skip


def written(model: Transformer, first: int, rows: int) -> list[list[int]]:
    """Tokens that a model writes, the most probable ones."""
    ids, made = torch.full((rows, 1), first) + torch.arange(rows)[:, None], []
    with torch.inference_mode():
        cache = model.new_cache(rows, 30)
        model(Inputs(ids, torch.zeros(1, rows, 1, dtype=torch.long), Mask("causal")), cache=cache)
        single = SingleColumn(model)
        assert single.compiled is not None
        for place in range(1, 30):
            scores = single.logits(ids, torch.full((1, rows, 1), place), None, cache)
            ids = scores.argmax(-1, keepdim=True)
            made.append(ids.flatten().tolist())
    return made


def test_threads_may_decode_with_one_model_at_the_same_time() -> None:
    model = build(GPT, seed=1).eval()
    prompts = [(5, 1), (9, 3), (20, 2), (30, 4)]
    alone = [written(model, *each) for each in prompts]
    results: list[Any] = [None] * len(prompts)

    def work(k: int) -> None:
        torch.set_num_threads(1 + k % 2)
        results[k] = [written(model, *prompts[k]) for _ in range(4)]

    before = torch.get_num_threads()
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert results == [[each] * 4 for each in alone]
