"""What the weights of a run lose at 4 bits by method, scheme and group size: perplexity and divergence on its own rows.

    python bench/quantised_methods.py RUN [--methods nearest hqq gptq] [--groups 0 128 64 32]

Measured on validation rows of the run's objective: perplexity over their targets, and the mean Kullback-Leibler
divergence from the distributions of the model as it is. GPTQ reads 128 rows of the training text. The dense layers are
rounded; the tables of tokens stay as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path

import torch
from torch import nn

from blankfill.corpus.indexed import IndexedCorpus
from blankfill.data.sampler import VALIDATION_SEED, Sampler
from blankfill.kernels.integers import WeightFormat, dequantize
from blankfill.model.quantized import quantizable
from blankfill.pretraining.data_setup import validation_batches
from blankfill.quantizing.calibration import open_subject
from blankfill.quantizing.methods.gptq import gptq
from blankfill.quantizing.plan import LayerPlan, chosen_integers
from blankfill.quantizing.run import newest_folder
from blankfill.quantizing.sensitivity import Outputs
from blankfill.quantizing.settings import QuantizeSettings, fitting_group
from blankfill.quantizing.walk import Walk
from blankfill.runs.folder import corpus_of


@torch.no_grad()
def main() -> None:
    """Print a line for each way to round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--methods", nargs="+", default=["nearest", "hqq", "gptq"])
    parser.add_argument("--schemes", nargs="+", default=["absmax", "zero-point"])
    parser.add_argument("--groups", nargs="+", type=int, default=[0, 128, 64, 32])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    subject = open_subject(newest_folder(args.run), False, QuantizeSettings())
    loaded = subject.loaded
    assert loaded is not None
    text = IndexedCorpus(corpus_of(args.run) / "valid")
    rows = Sampler(text, loaded.objective.for_validation(), loaded.vocabulary, VALIDATION_SEED)
    batches = validation_batches(rows, args.rows, 8)
    targets = sum(len(batch.target_ids) for batch in batches)
    layers = quantizable(subject.encoder)
    before_each = {name: layer.weight for name, layer in layers.items()}
    before = Outputs(dataclasses.replace(subject, batches=batches), batches)

    def perplexity() -> float:
        return math.exp(sum(float(subject.run(batch)["lm"]) for batch in batches) / targets)

    whole = perplexity()
    print(f"{args.run}: {targets} targets, perplexity {whole:.3f}, calibration {subject.note}")
    for scheme in args.schemes:
        for group in args.groups:
            formats = {name: WeightFormat(4, fitting_group(layer.in_features, group), scheme)
                       for name, layer in layers.items()}  # fmt: skip
            sizes = {name: weight.numel() for name, weight in before_each.items()}
            bits = sum(formats[name].bits_per_weight(layers[name].in_features) * sizes[name] for name in sizes)
            for method in args.methods:
                for name, layer in layers.items():
                    layer.weight = before_each[name]
                began = time.process_time()
                if method == "gptq":
                    Walk(subject, formats).run(lambda name, weight, hessian: gptq(weight, hessian, formats[name]))  # noqa: B023
                else:
                    for name, layer in layers.items():
                        plan = LayerPlan(formats[name], method)
                        made = dequantize(
                            chosen_integers(before_each[name], plan, "exact"), formats[name], torch.float32
                        )
                        layer.weight = nn.Parameter(made, requires_grad=False)
                seconds, changed = time.process_time() - began, perplexity()
                divergence = before.loss(next(iter(layers)))
                print(
                    f"{scheme:10} {group:4} {method:8} {bits / sum(sizes.values()):.2f} bits  perplexity {changed:.3f} "
                    f"({changed / whole - 1:+.2%})  KL {divergence:.5f}  {seconds:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
