"""A training step of this program beside transformers' and beside a GLM with logits everywhere, on the same batches.

    python bench/training_step.py --shapes bert-4x256 glm-4x256 --rounds 5 --json steps.json

Each step is forward, backward, clipping to norm 1, AdamW (torch's fused one, for all) and the schedule's arithmetic, on
the same rows of random tokens that went through this program's objectives. `transformers-sdpa` is transformers as it
comes (its default attention and optimiser; with dropout 0.1, its defaults altogether), `transformers-eager` its other
attention. T5 and BART are given both rows of every example, the encoder's and the decoder's, with a mask where there is
padding; tokens are those of both sides. `full-logit-glm` is the original GLM's way on our layers: a dense mask, logits
and loss at every position (`full_logit_glm.py`). What does not run on this machine is left out with the reason.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side import UnableError, compared, compete, load_note, serve, write

if TYPE_CHECKING:
    import torch

    from blankfill.planning.bench import Shape
    from blankfill.types import Batch

PEERS = {
    "bert": ("transformers-sdpa", "transformers-eager"),
    "gpt": ("transformers-sdpa", "transformers-eager"),
    "glm": ("full-logit-glm",),
    "t5": ("transformers-sdpa", "transformers-eager"),
    "bart": ("transformers-sdpa", "transformers-eager"),
}
CLIP = 1.0
Step = Callable[[], Any]


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shapes", nargs="+", default=["bert-4x256", "glm-4x256", "gpt-4x256"], help="OBJECTIVE-LxD")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--vocabulary", type=int, default=30_522)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of a contender in a round")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="processor: on a busy machine")
    parser.add_argument("--json", type=Path, help="write the results there too")
    return parser.parse_args()


def main() -> None:
    """Run every combination of the options, and print a table of each."""
    import os

    from blankfill.planning.bench import shape_named

    given = arguments()
    results: list[dict[str, Any]] = []
    if note := load_note():
        print(note)
    threads = given.threads or os.cpu_count() or 1
    for shape in given.shapes:
        named = shape_named(shape)
        for precision in given.precision:
            for dropout in given.dropout:
                spec = {
                    "objective": named.objective, "layers": named.layers, "width": named.width, "length": given.length,
                    "rows": max(1, given.tokens // given.length), "dropout": dropout, "vocabulary": given.vocabulary,
                    "precision": precision, "threads": threads,
                }  # fmt: skip
                names = ["blankfill", *PEERS[named.objective]]
                lines = compared(compete(Path(__file__), names, spec, given.rounds, given.steps), given.clock)
                gemm = max(line.get("gemm", 0.0) for line in lines)
                results.append({**spec, "clock": given.clock, "gemm": gemm, "contenders": lines})
                show(results[-1])
    write(given.json, results)


def show(result: dict[str, Any]) -> None:
    """Print a table of one combination."""
    print(
        f"\n{result['objective']} {result['layers']}×{result['width']}, {result['rows']} rows of {result['length']}, "
        f"{result['precision']}, dropout {result['dropout']}, {result['threads']} thread(s)"
    )
    print(f"  {'contender':<20} {'ms/step':>8} {'tokens/s':>9} {'× ours':>7} {'(rounds)':>15} {'GEMM':>6} {'MB':>6}")
    for line in result["contenders"]:
        if "unable" in line:
            print(f"  {line['contender']:<20} left out: {line['unable']}")
            continue
        ratio = f"{line['ratio']:.2f}" if "ratio" in line else "1"
        spread = f"({line['low']:.2f}–{line['high']:.2f})" if "ratio" in line else ""
        share = line["flops"] / line["seconds"] / result["gemm"]
        print(
            f"  {line['contender']:<20} {line['seconds'] * 1e3:>8.0f} {line['tokens'] / line['seconds']:>9.0f} "
            f"{ratio:>7} {spread:>15} {share:>6.0%} {line['memory'] / 1e6:>6.0f}",
            flush=True,
        )


def build(name: str, spec: dict[str, Any]) -> tuple[Step, dict[str, Any]]:
    """Return a worker: one training step of a contender."""
    import torch

    from blankfill.planning.bench import Bench, Shape
    from blankfill.training.precision import has_bf16, peak_rate

    torch.set_num_threads(spec["threads"])
    names = {field.name for field in dataclasses.fields(Shape)}
    shape = Shape(**{key: value for key, value in spec.items() if key in names})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if spec["precision"] == "bf16" else torch.float32
    if dtype == torch.bfloat16 and not has_bf16(device):
        raise UnableError("this processor has no units for bf16, or torch does not use them")
    torch.manual_seed(0)
    if name == "blankfill":
        bench = Bench(shape, device, dtype)

        def step() -> None:
            bench.steps(1)

        flops, tokens = bench.flops, bench.tokens
    else:
        from blankfill.planning.flops import batch_flops

        given = [batch.to(device) for batch in shape.batches()]
        step = peer(name, shape, given, device, dtype)
        flops = statistics.mean(batch_flops(shape.config(), batch) for batch in given)
        tokens = statistics.mean(batch.tokens for batch in given)
    return step, {"flops": flops, "tokens": tokens, "gemm": peak_rate(device, dtype)}


def peer(name: str, shape: Shape, given: list[Batch], device: torch.device, dtype: torch.dtype) -> Step:
    """Return a step of another program: as `transformers.Trainer.training_step` does it, without its bookkeeping."""
    import torch

    from blankfill.training.precision import computing

    if name == "full-logit-glm":
        from full_logit_glm import FullLogitGlm

        model: torch.nn.Module = FullLogitGlm(shape.config())
        inputs = [model.inputs(batch) for batch in given]
    else:
        model, inputs = transformers_model(name.removeprefix("transformers-"), shape, given)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    taken = 0

    def step() -> None:
        nonlocal taken
        with computing(device, dtype):
            loss = model(**inputs[taken % len(inputs)]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.item()
        taken += 1

    return step


def transformers_model(
    attention: str, shape: Shape, given: list[Batch]
) -> tuple[torch.nn.Module, list[dict[str, torch.Tensor]]]:
    """transformers' model of a shape, and our batches as it wants them: labels for every position, −100 where none."""
    try:
        import transformers
    except ImportError as error:
        raise UnableError("transformers is not installed") from error
    heads, rate = shape.config().num_heads, shape.dropout
    if shape.objective == "bert":
        options = transformers.BertConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.width, num_hidden_layers=shape.layers,
            num_attention_heads=heads, intermediate_size=4 * shape.width, hidden_dropout_prob=rate,
            attention_probs_dropout_prob=rate, attn_implementation=attention,
        )  # fmt: skip
        inputs = [
            {
                "input_ids": batch.input_ids, "token_type_ids": batch.positions[1], "labels": labels(batch),
                "next_sentence_label": batch.labels["next_sentence"][1],
            }
            for batch in given
        ]  # fmt: skip
        return transformers.BertForPreTraining(options), inputs
    if shape.objective == "t5":
        options = transformers.T5Config(
            vocab_size=shape.vocabulary, d_model=shape.width, d_kv=shape.width // heads, d_ff=4 * shape.width,
            num_layers=shape.layers, num_heads=heads, dropout_rate=rate, use_cache=False,
            attn_implementation=attention,
        )  # fmt: skip
        return transformers.T5ForConditionalGeneration(options), [two_rows(batch) for batch in given]
    if shape.objective == "bart":
        options = transformers.BartConfig(
            vocab_size=shape.vocabulary, d_model=shape.width, encoder_layers=shape.layers, decoder_layers=shape.layers,
            encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * shape.width,
            decoder_ffn_dim=4 * shape.width, dropout=rate, attention_dropout=rate, use_cache=False,
            max_position_embeddings=shape.length, attn_implementation=attention,
        )  # fmt: skip
        return transformers.BartForConditionalGeneration(options), [two_rows(batch) for batch in given]
    options = transformers.GPT2Config(
        vocab_size=shape.vocabulary, n_embd=shape.width, n_layer=shape.layers, n_head=heads, n_positions=shape.length,
        resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate, use_cache=False, attn_implementation=attention,
    )  # fmt: skip
    # the model shifts the labels itself, so the last column of a row has no target
    inputs = [{"input_ids": batch.input_ids, "labels": batch.input_ids} for batch in given]
    return transformers.GPT2LMHeadModel(options), inputs


def labels(batch: Batch) -> torch.Tensor:
    """Return the targets of a batch at their columns, int64[B, T], −100 elsewhere."""
    import torch

    every = torch.full_like(batch.input_ids, -100)
    every.view(-1)[batch.target_index] = batch.target_ids
    return every


def two_rows(batch: Batch) -> dict[str, torch.Tensor]:
    """Return a batch as a model of two stacks wants it; its rows hold one example each."""
    assert batch.context is not None
    inputs = {
        "input_ids": batch.context.input_ids, "decoder_input_ids": batch.input_ids, "labels": labels(batch)
    }  # fmt: skip
    for name, rows in (("attention_mask", batch.context), ("decoder_attention_mask", batch)):
        seen = (rows.segment >= 0).long()
        if not seen.all():  # a row without padding needs no mask
            inputs[name] = seen
    return inputs


if __name__ == "__main__":
    import sys

    if "--worker" in sys.argv:
        serve(build)
    else:
        main()
