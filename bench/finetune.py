"""A fine-tuning step of this program beside one of transformers' Trainer, on the same items of a real task.

    python bench/finetune.py MODEL --data GLUE/SST-2 --task sst2 --json finetune.json

MODEL is a transformers folder of a BERT encoder. Each step is forward, backward, clipping to norm 1, fused AdamW and
the schedule, over the same 32 items drawn at random, tokenised beforehand. `transformers` pads each batch to its
longest item, as Trainer's usual collator does; `transformers-128` pads to 128 tokens, as its run_glue example does by
default. Ours puts several items in a row (`tasks/batching.py`).
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from side_by_side import UnableError, compared, compete, load_note, serve, write

PEERS = ("blankfill", "transformers", "transformers-128")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="a transformers folder of a BERT encoder")
    parser.add_argument("--task", default="sst2", help="a task of texts or pairs")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="steps of a contender in a round")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="processor: on a busy machine")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if note := load_note():
        print(note)
    spec = {
        "model": str(given.model.resolve()), "task": given.task, "data": str(given.data.resolve()),
        "batch": given.batch, "lr": given.lr, "threads": given.threads or os.cpu_count() or 1,
    }  # fmt: skip
    lines = compared(compete(Path(__file__), PEERS, spec, given.rounds, given.steps), given.clock)
    print(f"\n{given.task}, {given.batch} items a step, fp32, {spec['threads']} thread(s)")
    print(f"  {'contender':<18} {'ms/step':>8} {'items/s':>8} {'× ours':>7} {'(rounds)':>15} {'MB':>6}")
    for line in lines:
        if "unable" in line:
            print(f"  {line['contender']:<18} left out: {line['unable']}")
            continue
        ratio = f"{line['ratio']:.2f}" if "ratio" in line else "1"
        spread = f"({line['low']:.2f}–{line['high']:.2f})" if "ratio" in line else ""
        print(
            f"  {line['contender']:<18} {line['seconds'] * 1e3:>8.0f} {given.batch / line['seconds']:>8.1f} "
            f"{ratio:>7} {spread:>15} {line['memory'] / 1e6:>6.0f}"
        )
    write(given.json, {**spec, "clock": given.clock, "contenders": lines})


def build(name: str, spec: dict[str, Any]) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Return a worker: one training step of a contender."""
    import torch

    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    return (ours(spec) if name == "blankfill" else theirs(name, spec)), {}


def ours(spec: dict[str, Any]) -> Callable[[], Any]:
    """Return a training step of `blankfill finetune`."""
    import torch

    from blankfill.checkpoint.load import load_model
    from blankfill.finetuning.model_setup import build_adapter, build_model
    from blankfill.system.allocator import keep_freed_memory
    from blankfill.tasks.batching import Batches, Epochs
    from blankfill.tasks.datasets.registry import task_named
    from blankfill.tasks.heads.models import task_losses
    from blankfill.tasks.options import FinetuneOptions
    from blankfill.tasks.training import task_optimizer
    from blankfill.training.loop import Trainer
    from blankfill.training.progress import Progress

    class Silent:
        """A recorder that records nothing."""

        def record(self, metrics: Any) -> None:
            """Do nothing."""

        def event(self, step: int, kind: str, text: str) -> None:
            """Do nothing."""

        def advance(self, step: int, fields: Any) -> None:
            """Do nothing."""

    keep_freed_memory()
    options = FinetuneOptions(lr=spec["lr"], batch_size=spec["batch"], epochs=1000, eval_every=10**9, threads=1)
    task, loaded = task_named(spec["task"]), load_model(spec["model"])
    split = task.read(spec["data"], "train")
    adapter = build_adapter(task, split.labels, loaded, options)
    encoded = adapter.encode(split.items, learn=True).encoded
    device = torch.device("cpu")
    model = build_model(loaded, adapter, split.items, options, device, torch.float32)
    settings = options.train_options(len(encoded))
    batches = Batches(encoded, Epochs(len(encoded), spec["batch"], 0), loaded.vocabulary["pad"])
    trainer = Trainer(
        model, task_optimizer(model, options, settings), settings, 0, device, torch.float32, Silent(), lambda step: [],
        lambda progress: None, batches, loss=task_losses, examine=lambda: (0.0, {"loss": 0.0}),
    )  # fmt: skip
    progress = Progress(step=1)

    def step() -> None:
        trainer.train(batches.steps(progress.step, progress.step + 1), progress)

    return step


def theirs(name: str, spec: dict[str, Any]) -> Callable[[], Any]:
    """Return a training step of `transformers.Trainer.training_step`, without its bookkeeping."""
    try:
        import transformers
    except ImportError as error:
        raise UnableError("transformers is not installed") from error
    import torch

    from blankfill.tasks.batching import Epochs
    from blankfill.tasks.datasets.registry import task_named

    items = task_named(spec["task"]).read(spec["data"], "train").texts()
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["model"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(spec["model"]).train()
    pairs = [item.second for item in items]
    coded = tokenizer([item.first for item in items], pairs if pairs[0] is not None else None, truncation=True)
    rows = [{key: values[k] for key, values in coded.items()} for k in range(len(items))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec["lr"], weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    epochs = Epochs(len(items), spec["batch"], 0)
    padding = {"padding": "max_length", "max_length": 128} if name.endswith("128") else {"padding": True}

    def chosen() -> Iterator[Any]:
        for step in itertools.count(1):
            yield epochs.items(step)

    numbers = chosen()

    def step() -> None:
        taken = next(numbers)
        batch = tokenizer.pad([rows[k] for k in taken], return_tensors="pt", **padding)
        labels = torch.tensor([int(items[k].label or 0) for k in taken])
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.item()

    return step


if __name__ == "__main__":
    import sys

    if "--worker" in sys.argv:
        serve(build)
    else:
        main()
