"""`blankfill embed` against the plain way to embed sentences: `python bench/embed.py MODEL FILE`.

MODEL is a folder that both open, FILE has a text on each line. The plain way is transformers' AutoModel over batches of
32 texts in the order of the file, padded to the longest, with the masked mean and normalisation of
sentence-transformers. Rounds alternate between the two in one process; the fastest of each counts. Prints the texts a
second of both, their ratio, and how far the vectors are apart.
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


def plain_way(folder: Path, longest: int) -> Callable[[list[str]], np.ndarray]:
    """Return the peer: texts → vectors [N, D]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def embed(texts: list[str]) -> np.ndarray:
        vectors = []
        for k in range(0, len(texts), 32):
            inputs = tokenizer(
                texts[k : k + 32], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            hidden = model(**inputs).last_hidden_state
            inside = inputs["attention_mask"][:, :, None].to(hidden.dtype)
            vectors.append(torch.nn.functional.normalize((hidden * inside).sum(1) / inside.sum(1)))
        return torch.cat(vectors).numpy()

    return embed


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, default=2000, help="how many lines of the file are used")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    texts = args.file.read_text(encoding="utf-8").splitlines()[: args.texts]
    embedder = Embedder(load_model(args.model))
    ways = {"plain": plain_way(args.model, embedder.longest), "blankfill": lambda texts: embedder.vectors(texts).array}
    seconds = dict.fromkeys(ways, float("inf"))
    vectors = {}
    for round_ in range(args.rounds):
        for name, embed in ways.items():
            began = time.perf_counter()
            vectors[name] = embed(texts)
            seconds[name] = min(seconds[name], time.perf_counter() - began)
            print(f"round {round_ + 1}, {name}: {len(texts) / seconds[name]:.1f} texts/s", flush=True)
    cosine = (vectors["plain"] * vectors["blankfill"]).sum(1)
    print(
        f"{len(texts):,} texts, {args.threads} threads: {seconds['plain'] / seconds['blankfill']:.2f} times as fast; "
        f"smallest cosine {cosine.min():.7f}"
    )


if __name__ == "__main__":
    main()
