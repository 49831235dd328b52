"""Loss curves that a rebuilding of the program must not move: every nano recipe, and a fine-tuning run of each kind.

    python bench/golden_curves.py before.json          # in the tree before the change
    python bench/golden_curves.py after.json --against before.json
    python bench/golden_curves.py after.json --against before.json --seeds 1 2 3 4 5    # where random numbers changed

Each run computes in fp32 on one thread with fixed seeds, on text that is made here, so that two trees on one machine
give the same bits unless something changed. Machines differ in their last bits: compare files of one machine only.
Beside each loss curve stands a checksum of the last checkpoint's weights. Times are not measured here.

A change of what is drawn at random moves every curve. With several `--seeds`, given for both trees, each run's final
losses are compared as two samples: their means, and the difference in standard errors (Welch's t).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

STEPS = 40
QUICK = [
    "--train.batch-size", "4", "--train.log-every", "1", "--train.eval-every", "20", "--train.eval-rows", "8",
    "--train.threads", "1", "--train.precision", "fp32", "--train.device", "cpu", "--train.workers", "0",
]  # fmt: skip
TUNING = ["--epochs", "2", "--batch-size", "8", "--threads", "1", "--precision", "fp32", "--device", "cpu",
          "--max-length", "64", "--lr", "1e-3"]  # fmt: skip
WHO = ["the farmer", "a teacher", "my sister", "the old captain", "every child", "their neighbour", "Ada Smith"]
DOES = ["carries", "paints", "remembers", "finds", "sells", "repairs", "never saw"]
WHAT = ["a wooden boat", "the red lantern", "some fresh bread", "an empty basket", "the garden wall", "old letters"]
WHEN = ["in the morning", "before supper", "near the harbour", "without a word", "after the rain", "in Rome"]
CHINESE = [
    ["农夫", "老师", "我的妹妹", "老船长", "孩子们"],
    ["修理", "寻找", "出售", "记得", "画"],
    ["一条木船", "红灯笼", "新鲜面包", "花园的墙", "旧信"],
    ["在早上。", "在港口边。", "在雨后。", "在罗马。"],
]
PATTERNS = 'verbalizers: {good: fresh, bad: old}\npatterns: ["{first}. It is [MASK]."]\n'


def sentence(generator: Any, parts: Sequence[Sequence[str]], space: str) -> str:
    return space.join(part[int(generator.integers(len(part)))] for part in parts)


def write_texts(folder: Path) -> None:
    """Documents in English and Chinese, and the tables of the tasks."""
    import numpy as np

    generator = np.random.default_rng(11)
    english, chinese = folder / "english", folder / "chinese"
    for place in (english, chinese, *(folder / name for name in ("classes", "tags", "questions", "pairs"))):
        place.mkdir()
    for number in range(60):
        lines = [
            " ".join(f"{sentence(generator, (WHO, DOES, WHAT, WHEN), ' ').capitalize()}." for _ in range(8))
            for _ in range(6)
        ]
        (english / f"{number}.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
        rows = ["".join(sentence(generator, CHINESE, "") for _ in range(8)) for _ in range(6)]
        (chinese / f"{number}.txt").write_text("\n\n".join(rows) + "\n", encoding="utf-8")
    for split, count in (("train", 80), ("dev", 24)):
        tables: dict[str, list[dict[str, Any]]] = {"classes": [], "tags": [], "questions": [], "pairs": []}
        for _ in range(count):
            who, does, what, when = (part[int(generator.integers(len(part)))] for part in (WHO, DOES, WHAT, WHEN))
            text = f"{who} {does} {what} {when}"
            words = text.split()
            tables["classes"].append({"text": text, "label": "good" if "fresh" in text or "red" in text else "bad"})
            tables["tags"].append({"words": words, "tags": ["B-LOC" if word == "Rome" else "O" for word in words]})
            tables["questions"].append({"question": f"What is it that {who} {does}?", "context": text, "answer": what})
            tables["pairs"].append({"source": text, "target": what})
        for name, table in tables.items():
            lines = "".join(json.dumps(row) + "\n" for row in table)
            (folder / name / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "patterns.yaml").write_text(PATTERNS, encoding="utf-8")


def curve(run: Path) -> dict[str, Any]:
    """Return the losses of a run, as exact as they were computed, and a checksum of its last weights."""
    losses: dict[str, list[str]] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "loss" not in row:  # how many hidden words are named
            continue
        losses.setdefault(row["split"], []).append(float(row["loss"]).hex())
    last = max((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    return {"losses": losses, "weights": checksum(last / "model.safetensors")}


def checksum(path: Path) -> str:
    """Return a checksum of the tensors of a file, whatever their names and their order."""
    from safetensors.torch import load_file

    digests = sorted(hashlib.sha256(tensor.numpy().tobytes()).digest() for tensor in load_file(path).values())
    return hashlib.sha256(b"".join(digests)).hexdigest()


def run_all(folder: Path, seed: int, only: Sequence[str], steps: int = STEPS) -> dict[str, Any]:
    """Return the curves of all runs by name, or of some; folder: has the texts, and receives the runs."""
    from blankfill.cli.main import main as command
    from blankfill.config.recipe import recipe_names

    results: dict[str, Any] = {}
    runs, chosen = folder / f"runs-{seed}", ("--seed", str(seed))

    def run(label: str, *line: str) -> None:
        began = time.perf_counter()
        with (
            open(folder / "log.txt", "w", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            code = command([*line, *chosen, "--out", str(runs / label)])
        if code:
            raise SystemExit(f"{label}: code {code}\n{(folder / 'log.txt').read_text(encoding='utf-8')[-2000:]}")
        results[label] = curve(runs / label)
        print(f"{label}: {time.perf_counter() - began:.1f} s, {results[label]['weights'][:12]}", flush=True)

    def wanted(label: str) -> bool:
        return not only or label in only

    for recipe in sorted(recipe_names(), key=lambda name: (name != "bert-nano", name)):
        needed = recipe in ("bert-nano", "glm-nano", "t5-nano")
        if "-nano" not in recipe or not (wanted(recipe) or needed):
            continue
        language = "chinese" if recipe.startswith("ernie") else "english"
        more = ["--teacher", str(runs / "bert-nano")] if recipe.startswith("distilbert") else []
        text = [] if more else ["--corpus.vocab-size", "400", "--corpus.no-vocab-exact"]
        corpus = ["--corpus.workers", "1", "--corpus.validation", "0.1", "--corpus.dedup", "none", *text]
        length = ["--train.steps", str(steps), *QUICK]
        run(recipe, "pretrain", str(folder / language), "--recipe", recipe, *corpus, *length, *more)
    tuned = (
        ("head", "classify", "classes", "bert-nano", ()),
        ("cloze", "classify", "classes", "bert-nano",
         ("--method", "cloze", "--patterns", str(folder / "patterns.yaml"))),
        ("text", "classify", "classes", "t5-nano", ("--method", "text")),
        ("writing", "seq2seq", "pairs", "glm-nano", ()),
        ("tags", "tag", "tags", "bert-nano", ()),
        ("questions", "qa", "questions", "bert-nano", ("--max-query-length", "16", "--stride", "16")),
    )  # fmt: skip
    for label, task, data, model, more in tuned:
        if wanted(label):
            place = ["--data", str(folder / data), "--from", str(runs / model)]
            run(label, "finetune", "--task", task, *place, *TUNING, *more)
    return results


def final_loss(result: dict[str, Any]) -> float:
    """Return the last validation loss of a run, in nats."""
    losses = result["losses"]
    split = next(name for name in ("valid", "train") if name in losses)
    return float.fromhex(losses[split][-1])


def print_samples(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Print a table of the final losses of runs over several seeds, named `label, seed n`, before and after."""
    from scipy.stats import ttest_ind

    def samples(results: dict[str, Any]) -> dict[str, list[float]]:
        losses: dict[str, list[float]] = {}
        for name, result in results.items():
            losses.setdefault(name.rpartition(", seed ")[0], []).append(final_loss(result))
        return losses

    ours, theirs = samples(after), samples(before)
    print("| run | before | after | difference | t | p |\n| --- | --- | --- | --- | --- | --- |")
    for label in [name for name in ours if name in theirs]:
        sides = (theirs[label], ours[label])
        shown = [f"{statistics.mean(side):.3f} ± {statistics.stdev(side):.3f}" for side in sides]
        t, p = ttest_ind(*reversed(sides), equal_var=False)
        gap = statistics.mean(sides[1]) - statistics.mean(sides[0])
        print(f"| {label} | {shown[0]} | {shown[1]} | {gap:+.3f} | {t:+.1f} | {p:.2f} |")


def main() -> int:
    """Run everything; returns 1 when a curve differs from those held against it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", nargs="*", default=[], help="names of runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7])
    args = parser.parse_args()
    several = len(args.seeds) > 1
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="blankfill-golden-") as name:
        write_texts(Path(name))
        for seed in args.seeds:
            made = run_all(Path(name), seed, args.only)
            results |= {f"{label}, seed {seed}" if several else label: curve for label, curve in made.items()}
            args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if args.against is None:
        return 0
    before = json.loads(args.against.read_text(encoding="utf-8"))
    if several:
        print_samples(before, results)
        return 0
    moved = [label for label in results if results[label] != before.get(label)]
    for label in moved:
        earlier = before.get(label)
        if earlier is None:
            print(f"{label}: not among the curves before")
            continue
        for split, losses in results[label]["losses"].items():
            pairs = zip(losses, earlier["losses"].get(split, []), strict=False)
            apart = [abs(float.fromhex(a) - float.fromhex(b)) for a, b in pairs]
            where = next((k for k, gap in enumerate(apart) if gap), None)
            if where is not None:
                print(f"{label}, {split}: differs from entry {where}, at most {max(apart):.3g} nats")
    print(f"{len(results) - len(moved)} of {len(results)} runs are the same to the bit")
    return int(bool(moved))


if __name__ == "__main__":
    sys.exit(main())
