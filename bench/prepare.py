"""`blankfill prepare` beside the usual road of transformers' examples: datasets and tokenizers, as run_mlm does it.

    python bench/prepare.py novels/*.txt --json prepare.json

Both start from the same text files and the same tokenizer (given, or trained once beforehand) and end with tokens on
the disk from which training can begin. Ours also cleans the text, finds sentences and duplicates, and splits off a
validation set; the other tokenises lines with special tokens and cuts them into rows of 512. Whole processes take
turns, each in an empty folder with empty caches of its own; memory is the sum over its processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from side_by_side import load_note, write

LENGTH = 512
PEERS = ("blankfill", "datasets")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("text", type=Path, nargs="+", help="plain text files")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer.json; trained on the text otherwise")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of each contender")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if note := load_note():
        print(note)
    paths = [str(path.resolve()) for path in given.text]
    size = sum(path.stat().st_size for path in given.text)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = str(given.tokenizer.resolve()) if given.tokenizer else trained(paths, Path(folder))
        for number in range(given.rounds):
            for name in PEERS if number % 2 == 0 else reversed(PEERS):
                out = Path(folder) / f"{name}-{number}"
                results[name].append(timed(command(name, paths, tokenizer, out, given.workers)))
    print(f"\n{size / 1e6:.1f} MB of text, {given.workers} processes")
    print(f"  {'contender':<12} {'seconds':>8} {'MB/s':>6} {'processor':>10} {'memory':>8}")
    lines = []
    for name, runs in results.items():
        line: dict[str, Any] = {"contender": name}
        line |= {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        lines.append(line | {"megabytes_per_second": size / 1e6 / line["seconds"], "runs": runs})
        print(
            f"  {name:<12} {line['seconds']:>8.1f} {size / 1e6 / line['seconds']:>6.2f} {line['processor']:>8.1f} s "
            f"{line['memory'] / 1e6:>5.0f} MB"
        )
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(*results.values(), strict=True)]
    print(f"  datasets takes {statistics.median(ratios):.2f} times as long ({min(ratios):.2f}–{max(ratios):.2f})")
    write(given.json, {"bytes": size, "workers": given.workers, "contenders": lines, "ratios": ratios})


def trained(paths: list[str], folder: Path) -> str:
    """Return a tokenizer trained on the text, which both then use."""
    blankfill = [sys.executable, "-m", "blankfill"]
    subprocess.run([*blankfill, "prepare", *paths, "--out", str(folder / "first")], check=True, capture_output=True)
    return str(folder / "first")


def command(name: str, paths: list[str], tokenizer: str, out: Path, workers: int) -> list[str]:
    """Return the command line of a contender."""
    if name == "blankfill":
        options = ["--tokenizer", tokenizer, "--out", str(out), "--workers", str(workers)]
        return [sys.executable, "-m", "blankfill", "prepare", *paths, *options]
    return [sys.executable, __file__, "--worker", tokenizer, str(out), str(workers), *paths]


def timed(line: list[str]) -> dict[str, float]:
    """Run a process; return its wall-clock seconds, processor seconds, and the peak memory of it and its children."""
    import psutil

    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        root = psutil.Process(process.pid)
        while not done.wait(0.05):
            held = 0
            try:
                for child in [root, *root.children(recursive=True)]:
                    held += child.memory_info().rss
            except psutil.Error:
                continue
            most = max(most, held)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    done.set()
    watcher.join()
    after = os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(line[:4])} … ended with code {process.returncode}:\n{errors[-2000:]}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - began, "processor": spent, "memory": float(most)}


def theirs() -> None:
    """Run the other contender: lines → tokens with special tokens → rows of one length, to the disk."""
    tokenizer_folder, out, workers, *paths = sys.argv[2:]
    os.environ["HF_DATASETS_CACHE"] = f"{out}-cache"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from itertools import chain

    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
    text = datasets.load_dataset("text", data_files=paths, split="train")

    def tokenised(rows: dict[str, list[Any]]) -> Any:
        return tokenizer(rows["text"], return_special_tokens_mask=True)

    def grouped(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {key: list(chain.from_iterable(parts)) for key, parts in rows.items()}
        whole = len(joined["input_ids"]) // LENGTH * LENGTH
        return {key: [part[k : k + LENGTH] for k in range(0, whole, LENGTH)] for key, part in joined.items()}

    processes = int(workers)
    tokens = text.map(tokenised, batched=True, num_proc=processes, remove_columns=["text"])
    tokens.map(grouped, batched=True, num_proc=processes).save_to_disk(out)


if __name__ == "__main__":
    if "--worker" in sys.argv:
        theirs()
    else:
        main()
