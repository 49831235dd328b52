"""Dev scores of fine-tuning here and with transformers, under the same settings, seed by seed.

    python bench/finetune_scores.py MODEL --data GLUE --task cola --seeds 0 1 2 3 4 --json cola.json

MODEL is a transformers folder of a BERT encoder; the task is one of texts or pairs (classes or scores). Both use its
dropout, AdamW without decay on biases and norms, linear warm-up over a tenth of the steps and linear decay, and are
scored after each epoch; the best counts. What each draws from its seed differs: the head, dropout and the order.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side import write

if TYPE_CHECKING:
    from blankfill.tasks.options import FinetuneOptions


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="a transformers folder of a BERT encoder")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--only", choices=["blankfill", "transformers"], help="one of the two")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    from blankfill.tasks.options import FinetuneOptions
    from blankfill.tasks.registry import task_named

    items = len(task_named(given.task).read(given.data, "train"))
    options = FinetuneOptions(
        lr=given.lr, batch_size=given.batch, epochs=given.epochs, max_length=given.max_length, precision="fp32",
        threads=given.threads, eval_every=-(-items // given.batch),
    )  # fmt: skip
    contenders = {"blankfill": ours, "transformers": theirs}
    found: dict[str, list[dict[str, float]]] = {}
    for name, run in contenders.items():
        if given.only in (None, name):
            found[name] = [
                run(given.model, given.task, given.data, dataclasses.replace(options, seed=seed))
                for seed in given.seeds
            ]
            scores = [one["score"] for one in found[name]]
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            seconds = statistics.fmean(one["seconds"] for one in found[name])
            told = " ".join(f"{score:.4f}" for score in scores)
            print(
                f"{given.task} {name:<13} {statistics.fmean(scores):.4f}{spread}  ({told})  {seconds:.0f} s", flush=True
            )
    asked = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    write(given.json, {**asked, "scores": found})


def ours(model: Path, task: str, data: Path, options: FinetuneOptions) -> dict[str, float]:
    """A run of this program; processor seconds of all of it."""
    from blankfill.finetune import Request, finetune

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(Request(task, data, model, options), Path(folder) / "run")
    return {"score": result.score, "seconds": time.process_time() - began}


def theirs(model: Path, task: str, data: Path, options: FinetuneOptions) -> dict[str, float]:
    """The same with transformers' model and dynamic padding, in the order and with the arithmetic of its Trainer."""
    import torch
    import transformers

    from blankfill.environment import usable_cores
    from blankfill.tasks.registry import task_named
    from blankfill.tasks.scoring import score

    began = time.process_time()
    torch.set_num_threads(options.threads or usable_cores())
    transformers.set_seed(options.seed)
    asked = task_named(task)
    train, dev = asked.read(data, "train"), asked.read(data, "dev")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classes = len(asked.labels) or 1
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes)

    def coded(split: Any) -> list[dict[str, Any]]:
        texts = split.texts()
        seconds = [item.second for item in texts] if texts[0].second is not None else None
        made = tokenizer([item.first for item in texts], seconds, truncation=True, max_length=options.max_length)
        return [{key: values[k] for key, values in made.items()} for k in range(len(texts))]

    rows, dev_rows = coded(train), coded(dev)
    gold = torch.tensor([item.label for item in train.texts()], dtype=torch.float32 if classes == 1 else torch.int64)
    decayed = [p for p in network.parameters() if p.dim() >= 2]
    spared = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, eps=1e-8, fused=True)
    steps = options.steps(len(rows))
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    best = -1.0
    for _ in range(int(options.epochs)):
        network.train()
        for chosen in torch.randperm(len(rows)).split(options.batch_size):
            batch = tokenizer.pad([rows[k] for k in chosen], return_tensors="pt")
            network(**batch, labels=gold[chosen]).loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), options.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        network.eval()
        predicted: list[float] = []
        with torch.no_grad():
            for k in range(0, len(dev_rows), 64):
                scores = network(**tokenizer.pad(dev_rows[k : k + 64], return_tensors="pt")).logits
                predicted += (scores[:, 0] if classes == 1 else scores.argmax(1)).tolist()
        best = max(best, score(asked, dev, predicted)[asked.main])
    return {"score": best, "seconds": time.process_time() - began}


if __name__ == "__main__":
    sys.exit(main())
