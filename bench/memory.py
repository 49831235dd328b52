"""What `blankfill plan` says of a training step's memory, beside what the process took at most.

    python bench/memory.py --families bert glm t5 --lengths 128 512 2048 --precision fp32 bf16

Each line is a process of its own: a model of a family, its objective's rows of random tokens, and two steps of the
training loop with AdamW. Measured is the largest memory of the process less its memory before the model was built, so
libraries and rows are left out, and so are the rows and the copy of a checkpoint that `plan` counts. The estimate
should not be far below: the system would stop a run that fits according to `plan`. For Linux.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from blankfill.model.config import TransformerConfig
    from blankfill.training.options import TrainOptions
    from blankfill.types import Batch

OBJECTIVE = {
    "bert": "bert", "roberta": "mlm", "modernbert": "mlm", "albert": "albert", "spanbert": "spanbert", "gpt2": "gpt",
    "glm": "glm", "xlnet": "xlnet", "t5": "t5", "bart": "bart",
}  # fmt: skip
"""The objective that a family is measured with."""
HEAD = 64
"""Width of an attention head."""
STEPS = 2
ENDLESS = 10**9
"""Steps after which validation and checkpoints would come due."""


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    families = ["bert", "glm", "gpt2", "t5", "bart", "xlnet", "modernbert"]
    parser.add_argument("--families", nargs="+", default=families, choices=list(OBJECTIVE))
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048], help="tokens of a row")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a micro-batch")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.1])
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[1], help="micro-batches of a step")
    parser.add_argument("--checkpointing", type=int, nargs="+", default=[0], choices=[0, 1], help="1: compute again")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results there too")
    return parser.parse_args()


def main() -> None:
    """Run every combination of the options, and print a line for each."""
    if "--worker" in sys.argv:
        print(json.dumps(measure(json.loads(os.environ["BENCH_SPEC"]))))
        return
    given = arguments()
    results = []
    print(f"{'family':<11} {'rows':>11} {'type':<4} {'dropout':>7} {'micro':>5} {'again':>5} "
          f"{'estimate':>9} {'measured':>9} {'ratio':>5}")  # fmt: skip
    for spec in specifications(given):
        worker = subprocess.run(
            [sys.executable, __file__, "--worker"], env={**os.environ, "BENCH_SPEC": json.dumps(spec)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if worker.returncode:
            print(f"{spec['family']:<11} {spec['rows']:>4} × {spec['length']:<4} left out: "
                  f"{worker.stderr.strip().splitlines()[-1]}")  # fmt: skip
            continue
        result = {**spec, **json.loads(worker.stdout.splitlines()[-1])}
        result["ratio"] = result["estimate"] / result["measured"]
        results.append(result)
        print(
            f"{spec['family']:<11} {spec['rows']:>4} × {spec['length']:<4} {spec['precision']:<4} "
            f"{spec['dropout']:>7} {spec['micro_batches']:>5} {spec['checkpointing']:>5} "
            f"{result['estimate'] / 1e6:>6.0f} MB {result['measured'] / 1e6:>6.0f} MB {result['ratio']:>5.2f}",
            flush=True,
        )
    ratios = sorted(result["ratio"] for result in results)
    if ratios:
        print(f"estimate / measured: {ratios[0]:.2f} to {ratios[-1]:.2f}, in the middle {ratios[len(ratios) // 2]:.2f}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def specifications(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what each worker measures."""
    return [
        {
            "family": family, "length": length, "rows": max(1, given.tokens // length), "precision": precision,
            "dropout": dropout, "micro_batches": micro, "checkpointing": again, "layers": given.layers,
            "width": given.width, "vocabulary": given.vocabulary, "threads": given.threads,
        }
        for family in given.families for length in given.lengths for precision in given.precision
        for dropout in given.dropout for micro in given.micro_batches for again in given.checkpointing
    ]  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What a worker trains. batches: those of each step."""

    config: TransformerConfig
    options: TrainOptions
    batches: list[list[Batch]]
    dtype: torch.dtype


def made(spec: dict[str, Any]) -> Setup:
    """Return the model's configuration and the batches of a specification."""
    import numpy as np
    import torch

    from blankfill.data.batching import collate
    from blankfill.families.options import ModelOptions
    from blankfill.objectives import OBJECTIVES
    from blankfill.planning.bench import made_up_example, made_up_vocabulary
    from blankfill.training.options import TrainOptions

    objective = OBJECTIVES[OBJECTIVE[spec["family"]]](length=spec["length"])
    options = ModelOptions(
        family=spec["family"], hidden_size=spec["width"], num_layers=spec["layers"],
        num_heads=max(1, spec["width"] // HEAD), dropout=spec["dropout"], attention_dropout=spec["dropout"],
    )  # fmt: skip
    config = options.config(
        spec["vocabulary"], objective.position_sizes(), bool(objective.labels()),
        max_span_positions=objective.max_span_positions(),
    )  # fmt: skip
    rows, micro_batches = spec["rows"], spec["micro_batches"]
    train = TrainOptions(
        steps=ENDLESS, batch_size=rows * micro_batches, log_every=ENDLESS, eval_every=ENDLESS, save_every=ENDLESS,
        sample_every=ENDLESS, warmup=0, gradient_checkpointing=bool(spec["checkpointing"]),
    )  # fmt: skip
    vocabulary, rng = made_up_vocabulary(spec["vocabulary"], objective.sentinels()), np.random.default_rng(0)
    batches = [
        [collate([[made_up_example(objective, vocabulary, rng)] for _ in range(rows)], 0) for _ in range(micro_batches)]
        for _ in range(STEPS)
    ]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[spec["precision"]]
    return Setup(dataclasses.replace(config, init="normal"), train, batches, dtype)


def estimated(setup: Setup) -> int:
    """Return the bytes that `plan` says, rows and the copy of a checkpoint left out."""
    from blankfill.attention.kernels import best_kernel
    from blankfill.planning import estimate

    shapes = [estimate.batch_shape(batch) for step in setup.batches for batch in step]
    computing = estimate.Computing.of(setup.dtype, best_kernel("cpu", setup.dtype))
    rows, again = len(setup.batches[0][0].input_ids), setup.options.gradient_checkpointing
    widest = max(shapes, key=lambda shape: shape.columns)
    needed = estimate.memory(setup.config, widest, setup.options, computing, rows, again)
    return needed.peak - needed.saving - needed.batches


def measured(setup: Setup) -> int:
    """Return the bytes that this process takes at most for steps of the training loop, less those before it."""
    import torch

    from blankfill.attention.kernels import best_kernel
    from blankfill.model.transformer import build
    from blankfill.planning.bench import peak_memory
    from blankfill.training.loop import Trainer
    from blankfill.training.optimizer import build_optimizer
    from blankfill.training.progress import Progress
    from blankfill.training.scaling import loss_scaler

    device = torch.device("cpu")
    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    model = build(setup.config, 0, device)
    model.use_kernel(best_kernel(device, setup.dtype))
    model.recompute = setup.options.gradient_checkpointing
    trainer = Trainer(
        model, build_optimizer(model, setup.options), setup.options, 0, device, setup.dtype, Silent(), lambda step: [],
        lambda progress: None, setup.options.row_schedule, loss_scaler(device, setup.dtype), on_nan="skip",
    )  # fmt: skip
    trainer.train(iter([*enumerate(setup.batches)]), Progress())
    return peak_memory(device) - before


def measure(spec: dict[str, Any]) -> dict[str, float]:
    """Return the measured bytes and the estimate, measured first so that the estimate's own memory is left out."""
    import torch

    from blankfill.system.allocator import keep_freed_memory

    torch.set_num_threads(spec["threads"])
    keep_freed_memory()
    setup = made(spec)
    return {"measured": measured(setup), "estimate": estimated(setup)}


class Silent:
    """Takes the loop's reports and does nothing with them."""

    def record(self, metrics: Any) -> None:
        """Metrics are of no interest."""

    def event(self, step: int, kind: str, text: str) -> None:
        """Nor are events."""

    def advance(self, step: int, fields: Any) -> None:
        """Nor is progress."""


if __name__ == "__main__":
    main()
