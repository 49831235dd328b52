"""How fast rows of examples are made on one core, beside transformers' collators, and how long training waits for them.

    python bench/objectives.py --json objectives.json

Ours start from token files: the plan of an epoch says which text a row holds, the objective draws and builds, packing
makes tensors. transformers' collators start from lists of token ids that are cut, framed and in memory already (which a
data set still has to do for them), mask them and make tensors. The last part trains small models with the loader in
the background, as a run does, and tells which share of a step was spent on waiting for rows.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from side_by_side import load_note, write

if TYPE_CHECKING:
    from blankfill.corpus.indexed import IndexedCorpus

VOCABULARY = 30_522
SMALL = 2048
"""A vocabulary for which small models are fast."""
ROWS = 32
WARMING = 3
"""Steps of the loader's part that are not counted: the first rows have to be waited for."""
OURS: list[tuple[str, dict[str, Any]]] = [
    ("bert", {}),
    ("bert", {"whole_word": True}),
    ("mlm", {}),
    ("glm", {}),
    ("glm", {"token": 0.5, "sentence": 0.1, "document": 0.4}),
    ("gpt", {}),
    ("gpt", {"documents": "stream"}),
]
Making = Callable[[int], Any]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each contender in a round, processor time")
    parser.add_argument("--steps", type=int, default=30, help="steps trained for the loader's part; 0: leave it out")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if note := load_note():
        print(note)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        corpus = made_up_corpus(Path(folder) / "text")
        made = [line for length in given.lengths for line in lines(corpus, length, given.rounds, given.seconds)]
        waits = loader_waits(corpus, given.steps) if given.steps else []
        del corpus
    write(given.json, {"rows_per_second": made, "loader": waits})


def lines(corpus: IndexedCorpus, length: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure and print the rows per second of every contender, taking turns."""
    makers: list[tuple[str, dict[str, Any], Making]] = [
        (name, options, ours(corpus, name, options, length)) for name, options in OURS
    ]
    try:
        makers += theirs(length)
    except ImportError:
        print("transformers is not installed, so its collators are left out")
    rates: list[list[float]] = [[] for _ in makers]
    for _ in range(rounds):
        for (_, _, make), measured in zip(makers, rates, strict=True):
            measured.append(rate(make, seconds))
    print(f"\nrows of {length} tokens, made by one core")
    print(f"  {'':<60} {'rows/s':>8} {'(rounds)':>15} {'tokens/s':>11}")
    out = []
    for (name, options, _), measured in zip(makers, rates, strict=True):
        middle = statistics.median(measured)
        label = " ".join([name, *(f"{key}={value}" for key, value in options.items())])
        print(
            f"  {label:<60} {middle:>8.0f} {f'({min(measured):.0f}–{max(measured):.0f})':>15} {middle * length:>11,.0f}"
        )
        out.append({"name": name, "options": options, "length": length, "rows_per_second": middle,
                    "slowest": min(measured), "fastest": max(measured)})  # fmt: skip
    return out


def rate(make: Making, seconds: float) -> float:
    """Measure rows per second of processor time."""
    done, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        make(done)
        done += 1
    return done * ROWS / spent


def made_up_corpus(prefix: Path) -> IndexedCorpus:
    """Write token files with 3,000 documents of 3 to 40 sentences of 5 to 40 random tokens."""
    from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter

    rng = np.random.default_rng(0)
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(3000):
            sentences = rng.integers(5, 40, int(rng.integers(3, 40)))
            writer.add_document(rng.integers(11, SMALL, sentences.sum()), sentences.tolist())
    return IndexedCorpus(prefix)


def ours(corpus: IndexedCorpus, name: str, options: dict[str, Any], length: int) -> Making:
    """Return a maker of batches of an objective from token files."""
    from blankfill.data.batching import collate
    from blankfill.data.sampler import Sampler
    from blankfill.objectives import OBJECTIVES
    from blankfill.planning.bench import made_up_vocabulary

    objective = OBJECTIVES[name](length=length, **options)
    sampler = Sampler(corpus, objective, made_up_vocabulary(VOCABULARY, objective.sentinels()), 0)
    sampler.row(0)
    return lambda k: collate([sampler.row(i) for i in range(k * ROWS, (k + 1) * ROWS)], 0)


def theirs(length: int) -> list[tuple[str, dict[str, Any], Making]]:
    """Return a maker of batches by transformers' collators over lists of ids; the options name the corresponding
    objective."""
    import transformers
    from tokenizers import Tokenizer, models

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*specials, *(f"w{k}" for k in range(VOCABULARY - len(specials)))]
    core = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), specials, strict=True))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(specials), VOCABULARY, (8 * ROWS, length))
    drawn[:, 0], drawn[:, -1] = 2, 3
    special = (drawn < len(specials)).astype(int).tolist()
    rows = [{"input_ids": ids, "special_tokens_mask": mark} for ids, mark in zip(drawn.tolist(), special, strict=True)]

    def making(collator: Callable[[Sequence[Any]], Any]) -> Making:
        def make(k: int) -> Any:
            return collator([dict(row) for row in rows[k % 8 * ROWS : (k % 8 + 1) * ROWS]])

        return make

    masked = transformers.DataCollatorForLanguageModeling(tokenizer)
    causal = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return [
        ("transformers", {"collator": "mlm"}, making(masked)),
        ("transformers", {"collator": "causal"}, making(causal)),
    ]


def loader_waits(corpus: IndexedCorpus, steps: int) -> list[dict[str, Any]]:
    """Train small models on the corpus as in a run; print the share of the time spent on waiting for rows."""
    import torch

    from blankfill.data.loader import Phase, Steps, load
    from blankfill.data.sampler import Sampler
    from blankfill.planning.bench import Bench, Shape
    from blankfill.training.progress import Window

    print("\ntraining with the loader in the background: share of the time spent on waiting for rows")
    results = []
    for objective in ("bert", "glm", "gpt"):
        for layers, width in ((2, 128), (4, 256)):
            shape = Shape(objective, layers, width, rows=16, vocabulary=VOCABULARY if width > 128 else SMALL)
            bench = Bench(shape, torch.device("cpu"), torch.float32)
            sampler = Sampler(corpus, shape.made_objective(), shape.made_vocabulary(), 0)
            batches = load(Steps([Phase(0, sampler, shape.rows)], bench.options.row_schedule), 0, steps + WARMING)
            with closing(batches):
                bench.trainer.train(islice(batches, WARMING), bench.progress)
                bench.progress.window = window = Window()
                bench.trainer.train(batches, bench.progress)
            share = window.waited / window.seconds
            rows = steps * shape.rows / window.seconds
            print(f"  {shape!s:<40} {rows:>7.1f} rows/s trained, waited {share:.2%}", flush=True)
            results.append({"shape": str(shape), "rows_per_second": rows, "waited": share})
    return results


if __name__ == "__main__":
    main()
