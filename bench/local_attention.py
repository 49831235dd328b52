"""What local layers save: a ModernBERT whose layers attend locally in two of three, beside the same with global layers.

    python bench/local_attention.py --lengths 1024 2048 4096 8192

A step is forward and backward of the masked-word loss over one row of random tokens; both models have the same weights,
and take turns. Times are of the processor, one thread, so that a busy machine matters less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace


def main() -> None:
    """Measure and print a line for each length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="tokens of a row")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()

    import numpy as np
    import torch

    from blankfill.attention.kernels import best_kernel
    from blankfill.data.batching import collate
    from blankfill.families.options import ModelOptions
    from blankfill.model.transformer import build
    from blankfill.training.loss import loss_sums
    from blankfill.types import AttentionRule, Example

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for length in given.lengths:
        options = ModelOptions(
            family="modernbert", hidden_size=given.width, num_layers=given.layers, num_heads=max(1, given.width // 64),
            ffn_size=3 * given.width // 2, dropout=0.0, attention_dropout=0.0,
        )  # fmt: skip
        local = options.config(1000, (length,))
        models = [build(config, seed=0).train() for config in (local, replace(local, window=0))]
        for model in models:
            model.use_kernel(best_kernel("cpu", torch.float32))
        index = np.sort(rng.choice(length, length * 3 // 10, False)).astype(np.int32)
        ids = rng.integers(5, 1000, length).astype(np.int32)
        positions = np.arange(length, dtype=np.int32)[None]
        batch = collate([[Example(ids, positions, AttentionRule.full(length), index, ids[index])]], 0)
        seconds: list[list[float]] = [[], []]
        for turn in range(given.rounds + 1):
            for model, times in zip(models, seconds, strict=True):
                began = time.process_time()
                loss_sums(model, batch)["lm"].backward()
                if turn:  # the first one warms up
                    times.append(time.process_time() - began)
        ours, without = (statistics.median(times) for times in seconds)
        print(
            f"{length:>5} tokens: {ours:.3f} s with local layers, {without:.3f} s with global ones: "
            f"{without / ours:.2f} times",
            flush=True,
        )


if __name__ == "__main__":
    main()
