"""Decoding at the speed of memory, beside other programs: `python bench/decoding.py --json out.json`.

Models of a shape with random weights write greedily, or by beams, as many tokens for all. GPT-2 (12 layers of 768,
50,257 tokens) reads 128 tokens and writes 128; T5 (6 and 6 layers of 512) and BART (the same shape) read 128 and write
64. Ours has weights in fp32, bf16, fp16, INT8 and INT4 (groups of 64 with zero points; tables of 8 bits); fp32-torch is
ours without the compiled library. transformers computes in fp32, CTranslate2 in float32, bfloat16 and int8, where it is
installed and has the type; llama.cpp reads a GGUF file of 4 bits, 8 bits or fp16, where llama-cpp-python is installed
(--packages PATH: a folder of packages that is searched after the installed ones). Contenders are processes that take
turns (`side_by_side`). Prints tokens per second, how
many times faster than the first contender, and the share of the limit of memory: bytes of weights that a step reads,
divided by the bandwidth of reads measured in the same process with as many threads, and by the time of a step. Reading
the input is part of the tokens per second, and not of a step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_peer
from side_by_side import UnableError, compared, compete, load_note, serve, write

import generation

TYPES = ("fp32", "fp32-torch", "bf16", "fp16", "int8", "int4")
THEIRS = ("transformers", "ctranslate2-float32", "ctranslate2-bfloat16", "ctranslate2-int8")
THEIRS += ("llama-cpp-f16", "llama-cpp-q8_0", "llama-cpp-q4_0")
ONE_ROW = ("fp16", "ctranslate2-bfloat16", "llama-cpp-f16", "llama-cpp-q8_0", "llama-cpp-q4_0")
"""Contenders that only write one row."""
SHAPES = {
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "words": 50257, "source": 128, "written": 128},
    "t5": {"layers": 6, "width": 512, "heads": 8, "words": 32000, "source": 128, "written": 64},
    "bart": {"layers": 6, "width": 512, "heads": 8, "words": 32000, "source": 128, "written": 64},
}
CASES = (("gpt2", 1, 1), ("gpt2", 8, 1), ("gpt2", 8, 4), ("t5", 8, 1), ("t5", 8, 4), ("bart", 8, 1), ("bart", 8, 4))
"""Families, rows and beams."""


def typed(model: Any, kind: str) -> int:
    """Convert a model to a type of weights in place; returns the bytes of weights that a step reads."""
    import torch

    from blankfill.kernels.integers import WeightFormat, quantize
    from blankfill.model.quantized import make_quantized, prepare, quantizable, quantizable_tables

    if kind in ("int8", "int4"):  # as `blankfill quantize` does by default, but for the choice of the integers
        format = WeightFormat(8) if kind == "int8" else WeightFormat(4, 64, "zero-point")
        formats = dict.fromkeys(quantizable_tables(model), WeightFormat(8)) | dict.fromkeys(quantizable(model), format)
        state = model.state_dict()
        for name, chosen in formats.items():
            stored = name if name in state else f"{name}.weight"
            made = quantize(state.pop(stored), chosen)
            state |= {f"{name}.{ending}": tensor for ending, tensor in made.tensors().items()}
        make_quantized(model, formats)
        model.load_state_dict(state)
    dtype = {"fp32": torch.float32, "fp32-torch": torch.float32, "fp16": torch.float16}.get(kind, torch.bfloat16)
    model.to(dtype)
    prepare(model, dtype)
    table = model.output_table
    read = [table] if isinstance(table, torch.Tensor) else list(table.buffers())
    for layer in model.layers:
        parts = dict(layer.named_parameters()) | dict(layer.named_buffers())
        read += [part for name, part in parts.items() if not name.startswith("cross.key_value")]
    return sum(part.numel() * part.itemsize for part in read)


def clock_of(spec: dict[str, Any]) -> Callable[[], float]:
    """Return the clock of the figures, in seconds."""
    return time.process_time if spec["clock"] == "processor" else time.perf_counter


def bandwidth(clock: Callable[[], float]) -> float | None:
    """Return the bytes that this process reads from memory in a second: the best of some readings of 512 MiB; None
    without the library."""
    import torch

    from blankfill.kernels.native.library import library

    made = library()
    if made is None:
        return None
    block, best = torch.ones(128 << 20), 0.0
    for _ in range(5):
        start = clock()
        made.read_all(block.data_ptr(), block.nbytes)
        best = max(best, block.nbytes / (clock() - start))
    return best


def time_reading(seconds: list[float], clock: Callable[[], float]) -> None:
    """Add the time that each decoder takes to read its input, which is no step, to a list."""
    from blankfill.generation.engine import Decoder

    def timed(function: Callable[..., Any], first: bool) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            start = clock()
            made = function(*given, **more)
            seconds.append(clock() - start + (0.0 if first else seconds.pop()))
            return made

        return call

    Decoder.__init__ = timed(Decoder.__init__, True)  # type: ignore[method-assign]
    Decoder.prefill = timed(Decoder.prefill, False)  # type: ignore[method-assign]


def worker(name: str, spec: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return a contender."""
    if name == "fp32-torch":
        os.environ["BLANKFILL_NATIVE"] = "off"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    sys.path += spec["packages"]
    import torch

    torch.set_num_threads(spec["threads"])
    if name in TYPES:
        facts: dict[str, Any] = {"bandwidth": bandwidth(clock_of(spec))}
        seconds = facts["reading"] = list[float]()
        repeat = generation.ours(spec, lambda model: facts.update(bytes=typed(model, name)))
        time_reading(seconds, clock_of(spec))
        return repeat, facts
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if name == "transformers":
        return generation.theirs(spec), {}
    if name.startswith(llama_peer.PREFIX):
        return llama_peer.written(spec, name.removeprefix(llama_peer.PREFIX)), {}
    try:
        return generation.translated(spec, name.removeprefix("ctranslate2-")), {}
    except ValueError as error:
        if "compute type" not in str(error):
            raise
        raise UnableError(str(error)) from None


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=[*SHAPES])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--contenders", nargs="+", default=[*TYPES, *THEIRS])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    parser.add_argument("--packages", nargs="+", default=[], help="folders of other programs' packages")
    parser.add_argument("--json", type=Path, help="keep the figures as JSON here")
    args = parser.parse_args()
    if note := load_note():
        print(note)
    results = []
    for family, rows, beams in CASES:
        if family not in args.families or rows not in args.rows or beams not in args.beams:
            continue
        spec: dict[str, Any] = {**SHAPES[family], "family": family, "rows": rows, "beams": beams}
        spec |= {"threads": args.threads, "clock": args.clock, "packages": args.packages}
        names = [name for name in args.contenders if rows == 1 or name not in ONE_ROW]
        lines = compared(compete(Path(__file__), names, spec, args.rounds, 1), args.clock)
        for line in lines:
            line |= {"family": family, "rows": rows, "beams": beams}
            head = f"{family}, {rows} rows, {beams} beams, {line['contender']}"
            if "unable" in line:
                print(f"{head}: {line['unable']}")
                continue
            line["rate"] = rows * spec["written"] / line["seconds"]
            report = f"{head}: {line['rate']:,.0f} tokens/s"
            if "ratio" in line:
                line["faster"] = 1 / line["ratio"]
                report += f"; {line['faster']:.2f} times {names[0]} ({1 / line['high']:.2f} to {1 / line['low']:.2f})"
            if "bytes" in line:
                line["reading"] = statistics.median(line["reading"][1:])
                step = (line["seconds"] - line["reading"]) / spec["written"]
                line["step"] = step
                report += f"; a step {step * 1e3:.2f} ms, reading {line['reading'] * 1e3:.0f} ms"
                if line["bandwidth"] is not None:
                    line["share"] = line["bytes"] / line["bandwidth"] / step
                    report += f", {line['share']:.0%} of {line['bandwidth'] / 1e9:.1f} GB/s"
            print(report, flush=True)
        results += lines
    write(args.json, results)


if __name__ == "__main__":
    if "--worker" in sys.argv:
        serve(worker)
    else:
        main()
