"""Embedding with 8-bit activations, fp32, bf16, and transformers: `python bench/quantised.py MODEL INT8 FILE`.

MODEL is a folder that blankfill and transformers open, INT8 what `blankfill quantize` made of it, FILE has a text on
each line. transformers embeds batches of 32 texts, in the order of the file ("plain") and sorted by length ("sorted"),
with the masked mean and normalisation of sentence-transformers. Rounds alternate in one process. Prints seconds of the
processor, or of the clock with --clock wall, the ratio to the fastest of ours without quantisation, and the cosine to
our fp32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from blankfill.checkpoint.load import load_model
from blankfill.embedding.embed import Embedder

Embed = Callable[[list[str]], np.ndarray]


def ours(folder: Path, dtype: torch.dtype) -> Embed:
    """Return this program's way: texts → vectors [N, D]."""
    embedder = Embedder(load_model(folder, dtype=dtype))
    return lambda texts: embedder.vectors(texts).array


def transformers_way(folder: Path, dtype: torch.dtype, in_order: bool, longest: int = 512) -> Embed:
    """Return transformers' way. in_order: keep the order of the texts, instead of sorting them by length."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=dtype).eval()

    @torch.inference_mode()
    def embed(texts: list[str]) -> np.ndarray:
        order = np.arange(len(texts)) if in_order else np.argsort([-len(text) for text in texts], kind="stable")
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for k in range(0, len(texts), 32):
            chosen = order[k : k + 32]
            batch = [texts[i] for i in chosen]
            inputs = tokenizer(batch, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state
            inside = inputs["attention_mask"][:, :, None].to(hidden.dtype)
            pooled = (hidden * inside).sum(1).float() / inside.float().sum(1)
            vectors[chosen] = torch.nn.functional.normalize(pooled).numpy()
        return vectors

    return embed


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, default=1000, help="how many lines of the file are used")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.clock == "processor" else time.perf_counter
    texts = args.file.read_text(encoding="utf-8").splitlines()[: args.texts]
    fp32, bf16 = torch.float32, torch.bfloat16
    ways = {
        "fp32": ours(args.model, fp32),
        "bf16": ours(args.model, bf16),
        "INT8, else fp32": ours(args.int8, fp32),
        "INT8, else bf16": ours(args.int8, bf16),
        "transformers fp32, plain": transformers_way(args.model, fp32, True),
        "transformers fp32, sorted": transformers_way(args.model, fp32, False),
        "transformers bf16, plain": transformers_way(args.model, bf16, True),
        "transformers bf16, sorted": transformers_way(args.model, bf16, False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    vectors = {}
    for round_ in range(args.rounds + 1):
        for name, embed in ways.items():
            began = clock()
            vectors[name] = embed(texts if round_ else texts[:64])
            if round_:
                seconds[name].append(clock() - began)
    base = min(min(seconds[name]) for name in ("fp32", "bf16"))
    for name, times in seconds.items():
        cosine = (vectors[name] * vectors["fp32"]).sum(1)
        cosine /= np.linalg.norm(vectors[name], axis=1) * np.linalg.norm(vectors["fp32"], axis=1)
        print(
            f"{name:26} {min(times):6.2f} s ({max(times):.2f} the slowest), {base / min(times):.2f} times as fast as "
            f"ours without quantisation; cosine to fp32 {cosine.mean():.5f}, smallest {cosine.min():.5f}"
        )


if __name__ == "__main__":
    main()
