"""A recipe of seconds and a text of our own, for tests of whole runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

SMALL = {
    "model.hidden_size": 32, "model.num_layers": 1, "model.num_heads": 2, "objective.length": 32, "train.steps": 12,
    "train.batch_size": 4, "train.log_every": 2, "train.eval_every": 6, "train.eval_rows": 8, "train.lr": 3e-3,
    "corpus.vocab_size": 256, "corpus.validation": 0.2, "corpus.workers": 1,
}  # fmt: skip


def sentences(count: int, seed: int) -> str:
    """Plain sentences of a small grammar."""
    rng = np.random.default_rng(seed)
    who = ["the farmer", "a teacher", "my sister", "the old captain", "every child", "their neighbour"]
    does = ["carries", "paints", "remembers", "finds", "sells", "repairs"]
    what = ["a wooden boat", "the red lantern", "some fresh bread", "an empty basket", "the garden wall"]
    when = ["in the morning", "before supper", "near the harbour", "without a word", "after the rain"]
    pick = [[words[k] for k in rng.integers(0, len(words), count)] for words in (who, does, what, when)]
    return " ".join(f"{a.capitalize()} {b} {c} {d}." for a, b, c, d in zip(*pick, strict=True))


def texts_in(folder: Path, count: int) -> Path:
    """Return the folder with `count` files of sentences in it."""
    for k in range(count):
        (folder / f"{k}.txt").write_text(sentences(30, k) + "\n", encoding="utf-8")
    return folder


def edit_state(path: Path, *without: str, **values: Any) -> None:
    """Rewrite a checkpoint's state.json with other values and without some, as version 0.1 did: with no checksum."""
    state = json.loads(path.read_text(encoding="utf-8"))
    rest = {name: value for name, value in state.items() if name not in (*without, "state_sha256")}
    path.write_text(json.dumps({**rest, **values}), encoding="utf-8")


def permute(path: Path) -> None:
    """Exchange the ids of two ordinary words of a tokenizer."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    vocab = spec["model"]["vocab"]
    a, b = sorted(vocab, key=vocab.get)[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    path.write_text(json.dumps(spec), encoding="utf-8")
