"""A model of ChatGLM-6B's size with random weights: import, quantisation, loading and answering, with peak memory.

    python bench/chatglm_size.py --folder /tmp/chatglm --tokenizer ice_text.model

Writes a checkpoint of the released layout (6.2 billion weights of fp16 in eight pickled shards, 13.4 GB with the second
copy of the word table), shard by shard. Then each step is a process of its own: import, quantise to INT8 and INT4, and
for each model loading and answering greedily. Before it is loaded, its file is read once, and both times it comes from
the disk: `disk` and `loading` are to be compared. Measured are the seconds, the largest resident memory of the process
(VmHWM) and of it the part that is no file (RssAnon, sampled), and tokens per second of decoding. The folder is removed
at the end, unless --keep. --layers, --width and --vocabulary make a smaller model. For Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHARDS = 8
HEAD = 128
SLIM, IMAGES, PIECES = 130_528, 20_000, 130_344
STEPS = ("import", "int8", "int4", "answer", "answer-int8", "answer-int4")
BYTES = 1 << 24
"""Number of random bytes that a weight repeats."""


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, required=True, help="a new folder, about 45 GB for the real size")
    parser.add_argument("--tokenizer", type=Path, required=True, help="ice_text.model")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=SLIM)
    parser.add_argument("--read", type=int, default=32, help="tokens of the prompt")
    parser.add_argument("--write", type=int, default=16, help="tokens of the answer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], help="compute types of answering: bf16, fp16, fp32")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--embeddings", default="keep", choices=("keep", "8"), help="tables of quantised models")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="bf16", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Write the checkpoint and measure each step."""
    args = arguments()
    if args.worker:
        worker(args)
        return
    if not args.keep and args.folder.exists() and any(args.folder.iterdir()):
        raise SystemExit(f"{args.folder} is not empty, and is removed at the end; give a new folder, or add --keep")
    source = args.folder / "released"
    if "import" in args.steps and not source.exists():
        begin = time.perf_counter()
        size = write_checkpoint(source, args)
        print(f"checkpoint: {size / 1e9:.2f} GB in {time.perf_counter() - begin:.0f} s", flush=True)
    rows: list[dict[str, Any]] = []
    try:
        for step in args.steps:
            for dtype in args.dtypes if step.startswith("answer") else ("",):
                command = [sys.executable, __file__, *sys.argv[1:], "--worker", step]
                done = subprocess.run(
                    [*command, *(["--dtype", dtype] if dtype else [])], capture_output=True, text=True
                )
                if done.returncode:
                    print(f"{step} {dtype}: ended with {done.returncode}\n{done.stderr[-2000:]}", flush=True)
                    continue
                row = {"step": step, **({"dtype": dtype} if dtype else {}), **json.loads(done.stdout.splitlines()[-1])}
                rows.append(row)
                print(json.dumps(row), flush=True)
                if step == "import" and not args.keep:
                    shutil.rmtree(source)  # the disk has room for two of them at most
    finally:
        if not args.keep:
            shutil.rmtree(args.folder, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def write_checkpoint(folder: Path, args: argparse.Namespace) -> int:
    """Write a random checkpoint of the released layout; returns its bytes."""
    import torch

    from blankfill.checkpoint.streams import Stream, write_shards

    folder.mkdir(parents=True)
    shutil.copyfile(args.tokenizer, folder / "ice_text.model")
    inner = 4 * args.width
    values = {
        "architectures": ["ChatGLMModel"], "model_type": "chatglm", "vocab_size": args.vocabulary,
        "hidden_size": args.width, "num_layers": args.layers, "num_attention_heads": args.width // HEAD,
        "inner_hidden_size": inner, "max_sequence_length": 2048, "layernorm_epsilon": 1e-5, "use_cache": True,
        "position_encoding_2d": True, "bos_token_id": 130004, "eos_token_id": 130005, "mask_token_id": 130000,
        "gmask_token_id": 130001, "pad_token_id": 3, "torch_dtype": "float16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"num_image_tokens": 0}) + "\n", encoding="utf-8")
    shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (args.vocabulary, args.width)}
    for k in range(args.layers):
        base = f"transformer.layers.{k}."
        for name, rows, columns in (
            ("input_layernorm", args.width, 0), ("attention.query_key_value", 3 * args.width, args.width),
            ("attention.dense", args.width, args.width), ("post_attention_layernorm", args.width, 0),
            ("mlp.dense_h_to_4h", inner, args.width), ("mlp.dense_4h_to_h", args.width, inner),
        ):  # fmt: skip
            shapes[f"{base}{name}.weight"] = (rows, columns) if columns else (rows,)
            shapes[f"{base}{name}.bias"] = (rows,)
        shapes[f"{base}attention.rotary_emb.inv_freq"] = (HEAD // 4,)
    shapes["transformer.final_layernorm.weight"] = shapes["transformer.final_layernorm.bias"] = (args.width,)
    shapes["lm_head.weight"] = (args.vocabulary, args.width)
    block = torch.randn(BYTES // 2, generator=torch.Generator().manual_seed(0)).mul(0.02).half()

    def random(name: str) -> torch.Tensor:
        shape = shapes[name]
        if "layernorm" in name:
            return torch.ones(shape, dtype=torch.float16) if name.endswith("weight") else torch.zeros(shape).half()
        count = 1
        for size in shape:
            count *= size
        start = 0 if name == "lm_head.weight" else sum(map(ord, name)) % 1000  # the head equals the word table
        start = 0 if name == "transformer.word_embeddings.weight" else start
        return block.roll(-start).repeat(count // len(block) + 1)[:count].view(shape)

    plan = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in shapes.items()}
    total = sum(2 * tensor.numel() for tensor in plan.values())
    gap = max(2 * tensor.numel() for tensor in plan.values()) // 4
    write_shards(folder, Stream(plan, random), total // SHARDS + gap, "bin")
    return total


class Peak(threading.Thread):
    """Samples the anonymous memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.anonymous = 0

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            self.anonymous = max(self.anonymous, status("RssAnon"))
            time.sleep(0.02)


def status(key: str) -> int:
    """Return a number of bytes in /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(key)


def worker(args: argparse.Namespace) -> None:
    """Do one step and print what it took."""
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)

    before, peak = status("VmRSS"), Peak()
    peak.start()
    begin = time.perf_counter()
    more = STEP[args.worker.partition("-")[0]](args)
    size = {}
    for name in ("model", "int8", "int4"):
        file = args.folder / name / "model.safetensors"
        size[name] = file.stat().st_size if file.is_file() else 0
    print(json.dumps({
        "seconds": round(time.perf_counter() - begin, 1), "before": before, "peak": status("VmHWM"),
        "anonymous": peak.anonymous, "sizes": size, **more,
    }))  # fmt: skip


def import_step(args: argparse.Namespace) -> dict[str, Any]:
    """Import the released layout."""
    from blankfill.finetuning.importing import import_model

    made = import_model(args.folder / "released", args.folder / "model")
    return {"parameters": made.parameters}


def quantize_step(args: argparse.Namespace) -> dict[str, Any]:
    """Quantise the imported model."""
    from blankfill.quantizing.run import quantize_model
    from blankfill.quantizing.settings import QuantizeSettings

    settings = QuantizeSettings(bits=8 if args.worker[-1] == "8" else 4, embeddings=args.embeddings)
    made = quantize_model(args.folder / "model", args.folder / args.worker, settings)
    return {"error": round(made.error, 5)}


def answer_step(args: argparse.Namespace) -> dict[str, Any]:
    """Load a model, read a prompt and write."""
    import torch

    from blankfill.checkpoint.dtypes import dtype_named
    from blankfill.checkpoint.load import load_model
    from blankfill.generation.engine import Decoder

    name = args.worker.removeprefix("answer").removeprefix("-") or "model"
    disk = read_from_disk(args.folder / name)
    begin = time.perf_counter()
    loaded = load_model(args.folder / name, dtype=dtype_named(args.dtype))
    loading = time.perf_counter() - begin
    ids = [5 + (37 * k) % 1000 for k in range(args.read)]
    decoder = Decoder(loaded.model, [loaded.format.continuation(ids)], args.write + 2)
    begin = time.perf_counter()
    scores = decoder.prefill()
    reading = time.perf_counter() - begin
    times = []
    for _ in range(args.write):
        begin = time.perf_counter()
        scores = decoder.step(scores.argmax(-1))
        times.append(time.perf_counter() - begin)
    if not torch.isfinite(scores).all():
        raise SystemExit("the scores are not finite")
    times.sort()
    median = times[len(times) // 2]
    rate, read = bandwidth(), bytes_of_a_step(loaded.model)
    return {
        "read": read, "bandwidth": round(rate / 1e9, 1), "share_of_bandwidth": round(read / rate / median, 3),
        "disk": round(disk, 1), "loading": round(loading, 1), "reading": round(reading, 2),
        "ms": round(1000 * median, 1),
        "tokens_per_second": round(1 / median, 2), "threads": args.threads, "resident": status("VmRSS"),
    }  # fmt: skip


def read_from_disk(folder: Path) -> float:
    """Return the seconds in which the files of a model are read once from the disk; afterwards they are not in memory
    again, so that opening the model begins like this reading."""
    files = sorted(folder.glob("*.safetensors"))
    forget(files)
    begin, block = time.perf_counter(), bytearray(8 << 20)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass
    seconds = time.perf_counter() - begin
    forget(files)
    return seconds


def forget(files: list[Path]) -> None:
    """Drop files from the memory of the system, which keeps what it has read or written."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_of_a_step(model: Any) -> int:
    """Return the bytes of weights that a step reads: all but the table of tokens, of which it reads a row."""
    whole = {id(part): part for part in (*model.parameters(), *model.buffers())}
    table = [*model.token_embeddings.parameters(), *model.token_embeddings.buffers()]
    if model.lm_head.table is not None:
        for part in table:
            whole.pop(id(part), None)
    return sum(part.numel() * part.itemsize for part in whole.values())


def bandwidth() -> float:
    """Return the bytes of memory that this process reads in a second with its threads: the best of some readings."""
    import torch

    from blankfill.kernels.native.library import library

    block, made, best = torch.ones(1 << 28, dtype=torch.int8), library(), 0.0
    for _ in range(7):
        begin = time.perf_counter()
        if made is None:
            block.sum(dtype=torch.int64)
        else:
            made.read_all(block.data_ptr(), block.numel())
        best = max(best, block.numel() / (time.perf_counter() - begin))
    return best


STEP = {"import": import_step, "int8": quantize_step, "int4": quantize_step, "answer": answer_step}


if __name__ == "__main__":
    main()
