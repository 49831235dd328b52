"""What rounding the weights costs small models of GLM-130B's and of GPT's kind, with Pre-LN and with DeepNorm.

    python bench/quantised_models.py TEXT... --runs quantised.jsonl
    python bench/quantised_models.py --runs quantised.jsonl --table

GLM-130B (Zeng et al. 2022, arXiv 2210.02414, section 4, appendices B.6 to B.8, table 10) reports that weights of 4 bits
cost it almost nothing while they ruin BLOOM, and explains it with the distributions of the weights. Here models of both
kinds are trained with the same number of columns, and the matrices of attention and feed-forward part are replaced by
what their integers stand for (`kernels.integers`). A quantised layer computes the same in fp32. Word tables, norms and
biases stay as they are, and so do activations, as in the paper.

    glm       family and objective glm-130b: blank infilling, rotary positions, GeGLU of 8/3 of the width
    gpt       family gpt2, objective gpt: left to right, a table of positions, GELU of 4 times the width
    glm-body  family glm-130b, objective gpt: what of the difference is architecture

All have the same number of weights in their matrices, and tied word tables. The questions are the same for all: the
last `TARGETS` tokens of held-out passages of text, given the tokens before them (glm: context [gMASK] <sop> …). The
last of these tokens are a whole word, whose tokens must all rank first for the model to be right (as in LAMBADA, but
any word).

A run is one line of the file of --runs, which is read again on the next call: finished runs are not repeated. The seeds
are the outermost loop.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from small_models import Run, Settings, Texts, finish, model_config, number, only_table, train_options, training

from blankfill.kernels.integers import WeightFormat, dequantize, quantize

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from blankfill.model.dense import Dense
    from blankfill.model.transformer import Transformer
    from blankfill.types import Batch, Int32

MODELS = {"glm": ("glm-130b", "glm-130b"), "gpt": ("gpt2", "gpt"), "glm-body": ("glm-130b", "gpt")}
"""Family and objective of each model."""
NORMS = ("pre", "deepnorm")
HEAD = 16
"""Width of an attention head."""
GROUP = 32
"""Inputs of a group."""
KINDS = ("attention.qkv", "attention.output", "ffn.inner", "ffn.output")
"""The matrices of a layer."""
TARGETS = 16
"""Last tokens of a passage, which are predicted: a quarter of a row, as [gMASK] stands for at least a fifth of it."""
AT_ONCE = 64
"""Passages of a batch."""
OUTLIER = 6.0
"""Size of an outlier of the activations, in root mean squares of the input of a matrix."""


@dataclass(frozen=True)
class Rounding:
    """A way to round a matrix. columns: whether each column has scales of its own, not each row."""

    format: WeightFormat
    columns: bool = False

    def __call__(self, weight_OI: Tensor) -> Tensor:
        """Return the numbers that the integers of a matrix stand for, [O, I]."""
        given = weight_OI.T.contiguous() if self.columns else weight_OI
        made = dequantize(quantize(given, self.format), self.format, weight_OI.dtype)
        return made.T if self.columns else made


ROUNDINGS = {
    "absmax INT8, row": Rounding(WeightFormat(8)),
    "absmax INT4, column": Rounding(WeightFormat(4), columns=True),
    "absmax INT4, row": Rounding(WeightFormat(4)),
    "absmax INT4, groups": Rounding(WeightFormat(4, GROUP)),
    "zero-point INT4, column": Rounding(WeightFormat(4, scheme="zero-point"), columns=True),
    "zero-point INT4, row": Rounding(WeightFormat(4, scheme="zero-point")),
    "zero-point INT4, groups": Rounding(WeightFormat(4, GROUP, "zero-point")),
}
LOOKED_AT = "absmax INT4, row"
"""The rounding whose error is measured for each kind of matrix."""


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("paths", nargs="*", help="text, or a prepared folder; by default Python's documentation")
    parser.add_argument("--runs", type=Path, required=True, help="JSON Lines file of the finished runs")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished runs")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["glm", "gpt"])
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=list(NORMS))
    parser.add_argument("--widths", type=int, nargs="+", default=[96, 192], help=f"multiples of {3 * GROUP}")
    parser.add_argument("--depth", type=int, default=4, help="layers")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate of the matrices")
    parser.add_argument("--table-rate", type=float, default=16.0, help="of the word table, as a multiple of --rate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--length", type=int, default=64, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--passages", type=int, default=512, help="held-out passages whose last tokens are predicted")
    parser.add_argument("--vocabulary", type=int, default=2048, help="size, where the text is not prepared yet")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train what is not finished, and print the table."""
    given = arguments()
    if only_table(given, print_table):
        return
    same = ("rate", "table_rate", "depth", "rows", "length", "steps", "passages", "vocabulary")
    sizes = {key: getattr(given, key) for key in same}
    grid: list[Settings] = [
        {"model": model, "norm": norm, "width": width, "seed": seed, **sizes}
        for seed, width, norm, model in itertools.product(given.seeds, given.widths, given.norms, given.models)
    ]
    with tempfile.TemporaryDirectory(prefix="blankfill-") as folder:
        texts: dict[str, Texts] = {}

        def train(settings: Settings) -> Run:
            objective = MODELS[settings["model"]][1]
            if objective not in texts:
                texts[objective] = texts_of(objective, settings, given.paths, Path(folder))
            return train_one(settings, texts[objective])

        runs = finish(given.runs, grid, train, result)
    print_table(runs)


def texts_of(objective: str, settings: Settings, paths: list[str], folder: Path) -> Texts:
    """Return the rows of an objective. Texts with [MASK]s are cut in halves: quarters of short rows are sentences."""
    from blankfill.objectives import OBJECTIVES

    length = settings["length"]
    more = {"mask_length": length // 2} if objective == "glm-130b" else {}
    made = OBJECTIVES[objective](length=length, **more)
    rows = settings["rows"] * settings["steps"]
    return Texts(paths, folder, made, settings["vocabulary"], rows, settings["passages"], AT_ONCE)


def train_one(settings: Settings, texts: Texts) -> Run:
    """Train one model, round its weights in each way, and measure it: the run without its settings."""
    import torch

    from blankfill.model.transformer import build
    from blankfill.training.loop import evaluate

    options = train_options(
        settings["steps"], settings["rows"], settings["rate"], embedding_lr_multiplier=settings["table_rate"]
    )
    family, device = MODELS[settings["model"]][0], torch.device("cpu")
    config = model_config(texts, settings["norm"], settings["width"], settings["depth"], HEAD, family)
    model = build(config, settings["seed"], device)
    losses = list(training(model, texts.batches(settings["seed"], settings["rows"]), options))
    questions = Questions(texts, settings["passages"])
    return {
        "weights": sum(layer.weight.numel() for _, layer in matrices(model)),
        "valid": number(evaluate(model, texts.validation, device, torch.float32)["lm"]),
        "unigram": number(questions.unigram),
        "losses": [number(statistics.fmean(losses[k : k + 50])) for k in range(0, len(losses), 50)],
        **examine(model, questions),
    }


class Questions:
    """Held-out passages whose last tokens are to be predicted.

    batches: passages as the model reads them. sizes: of each passage, the number of tokens of its last word. unigram:
    mean negative log-probability of these tokens by word frequencies.
    """

    def __init__(self, texts: Texts, count: int) -> None:
        import numpy as np

        from blankfill.data.batching import collate

        objective, vocabulary = texts.recipe.objective, texts.vocabulary
        form = objective.format(vocabulary, objective.position_sizes())
        # the same passages for all objectives: GLM's row has a mask and <sop> beside the text
        passages, self.sizes = passages_of(texts, objective.length - 2, count)
        begin = 1 if form.sees == "left" else 0  # a model that reads to the right has no answer for the first token
        examples = [form.window(ids, begin, len(ids) - TARGETS, len(ids)) for ids in passages]
        pad = vocabulary["pad"]
        self.batches: list[Batch] = [
            collate([[example] for example in examples[k : k + AT_ONCE]], pad) for k in range(0, count, AT_ONCE)
        ]
        counts = np.maximum(texts.corpus.unigram, 1)
        targets = np.concatenate([ids[-TARGETS:] for ids in passages])
        self.unigram = float(-np.log(counts[targets] / counts.sum()).mean())


def passages_of(texts: Texts, tokens: int, count: int) -> tuple[list[Int32], list[int]]:
    """Return passages of the held-out text, each inside one document and with a whole word at its end, spread over it,
    and the numbers of tokens of their last words."""
    import numpy as np

    corpus, word_start = texts.corpus.valid, texts.vocabulary.word_start
    assert corpus is not None and word_start is not None
    tokenizer = texts.corpus.tokenizer
    letters = np.array([tokenizer.token(k).lstrip("#").isalpha() for k in range(texts.vocabulary.size)])
    ids = np.asarray(corpus.tokens).astype(np.int32)
    bounds = np.append(corpus.sentence_starts[corpus.document_starts[:-1]], len(ids))
    begins = np.append(np.flatnonzero(word_start[ids] | np.isin(np.arange(len(ids)), bounds)), len(ids))
    words: list[tuple[int, int]] = []
    for begin, end in itertools.pairwise(begins.tolist()):
        first = int(bounds[np.searchsorted(bounds, begin, side="right") - 1])
        if letters[ids[begin:end]].all() and end - tokens >= first and end - begin < TARGETS:
            words.append((begin, end))
    if len(words) < count:
        raise SystemExit(f"the held-out text has {len(words)} places for a passage; give more text, or ask for fewer")
    chosen = [words[k] for k in np.linspace(0, len(words) - 1, count).astype(int)]
    return [ids[end - tokens : end] for _, end in chosen], [end - begin for begin, end in chosen]


def matrices(model: Transformer) -> list[tuple[str, Dense]]:
    """Return the matrices that are rounded, by name."""
    from blankfill.model.quantized import quantizable

    return list(quantizable(model).items())


@contextlib.contextmanager
def rounded(model: Transformer, rounding: Rounding, kinds: Sequence[str] = KINDS) -> Iterator[None]:
    """Round the matrices of some kinds, and put the original ones back at the end."""
    layers = [layer for name, layer in matrices(model) if name.endswith(tuple(kinds))]
    originals = [layer.weight.data for layer in layers]
    for layer in layers:
        layer.weight.data = rounding(layer.weight.data)
    try:
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.weight.data = original


def answers(model: Transformer, batch: Batch) -> Tensor:
    """Return the log-probabilities of all tokens for each target, [M, V]."""
    import torch

    made: list[Tensor] = []

    def score(model: Transformer, hidden_ND: Tensor) -> None:
        scores_MV = model.lm_head(hidden_ND[batch.target_index], model.output_table)
        made.append(scores_MV.log_softmax(-1))

    model.eval()
    with torch.inference_mode():
        model(batch, torch.float32, read=score)
    return made[0]


@dataclass(frozen=True)
class Answers:
    """Answers to all questions. nats: float64[P, TARGETS], negative log-probability of each token; right: bool[P],
    whether all tokens of the last word rank first; kl: float64[P], mean divergence from the original model, in nats."""

    nats: np.ndarray
    right: np.ndarray
    kl: np.ndarray


def examine(model: Transformer, questions: Questions) -> Run:
    """Return the answers of a model with its own weights and with rounded ones, and the statistics of its weights and
    activations."""
    from blankfill.tasks.metrics.intervals import of_sums

    originals = [answers(model, batch) for batch in questions.batches]
    base = ask(model, questions, originals)

    def measured(kinds: Sequence[str], rounding: Rounding) -> Run:
        with rounded(model, rounding, kinds):
            made = ask(model, questions, originals)
        rises = made.nats.mean(1) - base.nats.mean(1)
        low, high = of_sums([(1, rise) for rise in rises], {"rise": lambda sums: sums[1] / sums[0]})["rise"]
        rise = [number(value) for value in (rises.mean(), low, high)]
        return {"rise": rise, "kl": number(made.kl.mean()), "accuracy": number(made.right.mean())}

    sums = [(1, nats, right) for nats, right in zip(base.nats.mean(1), base.right, strict=True)]
    between = of_sums(sums, {"loss": lambda sums: sums[1] / sums[0], "accuracy": lambda sums: sums[2] / sums[0]})
    kinds = of_kinds(model, questions.batches[0])
    for kind, facts in kinds.items():
        facts["alone"] = measured([kind], ROUNDINGS[LOOKED_AT])["rise"]
    return {
        "loss": [number(value) for value in (base.nats.mean(), *between["loss"])],
        "accuracy": [number(value) for value in (base.right.mean(), *between["accuracy"])],
        "roundings": {name: measured(KINDS, rounding) for name, rounding in ROUNDINGS.items()},
        "kinds": kinds,
    }


def ask(model: Transformer, questions: Questions, originals: Sequence[Tensor]) -> Answers:
    """Ask all questions. originals: the answers of the model with its own weights."""
    import numpy as np

    nats, hits, kl = [], [], []
    for batch, original_MV in zip(questions.batches, originals, strict=True):
        made_MV = answers(model, batch)
        nats.append(-made_MV.gather(1, batch.target_ids[:, None])[:, 0].double().numpy())
        hits.append((made_MV.argmax(-1) == batch.target_ids).numpy())
        kl.append((original_MV.exp() * (original_MV - made_MV)).sum(-1).double().numpy())
    rows = np.concatenate(hits).reshape(-1, TARGETS)
    right = np.array([row[-size:].all() for row, size in zip(rows, questions.sizes, strict=True)])
    divergence = np.concatenate(kl).reshape(-1, TARGETS).mean(1)
    return Answers(np.concatenate(nats).reshape(-1, TARGETS), right, divergence)


def of_kinds(model: Transformer, batch: Batch) -> dict[str, Run]:
    """Return statistics of each kind of matrix, means over the layers.

    Of the rows of the weights: `kurtosis` (of a normal distribution 3), `skewness` without its sign, `peak`, the
    largest weight in standard deviations of its row. Of the rounding `LOOKED_AT`: `error`, the norm of the difference
    as a share of the norm of the matrix; `output`, the same of the product with the activations of a batch. Of these
    activations: `activation`, the largest in root mean squares of all; `outliers`, the share of their dimensions that
    have one above `OUTLIER`.
    """
    inputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.__setitem__(name, given[0]))
        for name, layer in matrices(model)
    ]
    answers(model, batch)
    for hook in hooks:
        hook.remove()
    facts: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for name, layer in matrices(model):
        kind = next(kind for kind in KINDS if name.endswith(kind))
        weight, x_NI = layer.weight.detach(), inputs[name].flatten(0, -2)
        facts[kind].append(of_weights(weight, x_NI) | of_activations(x_NI))
    return {
        kind: {key: number(statistics.fmean(of[key] for of in each)) for key in each[0]} for kind, each in facts.items()
    }


def of_weights(weight_OI: Tensor, x_NI: Tensor) -> dict[str, float]:
    """Return the statistics of a matrix: see `of_kinds`. x: inputs of it."""
    normed = (weight_OI - weight_OI.mean(1, True)) / weight_OI.std(1, correction=0, keepdim=True)
    difference = ROUNDINGS[LOOKED_AT](weight_OI) - weight_OI
    return {
        "kurtosis": float((normed**4).mean()),
        "skewness": float((normed**3).mean(1).abs().mean()),
        "peak": float((weight_OI.abs().amax(1) / weight_OI.std(1, correction=0)).mean()),
        "error": float(difference.norm() / weight_OI.norm()),
        "output": float((x_NI @ difference.T).norm() / (x_NI @ weight_OI.T).norm()),
    }


def of_activations(x_NI: Tensor) -> dict[str, float]:
    """Return the statistics of the inputs of a matrix: see `of_kinds`."""
    sizes = x_NI.abs() / x_NI.square().mean().sqrt()
    return {"activation": float(sizes.max()), "outliers": float((sizes.amax(0) > OUTLIER).double().mean())}


def said(settings: Settings) -> str:
    """Return the settings of a run in words."""
    return f"{settings['model']}, {settings['norm']}, {settings['width']} columns, seed {settings['seed']}"


def result(run: Run) -> str:
    """Return a run in words."""
    rise = run["roundings"][LOOKED_AT]["rise"][0]
    return f"{said(run['settings'])}: {run['loss'][0]:.3f} nats, {LOOKED_AT} {rise:+.4f}"


def print_table(runs: list[Run]) -> None:
    """Print the loss of each model and its rise by each rounding: the mean of the seeds, the lowest and the highest."""
    print("| | columns | steps | runs | original | " + " | ".join(ROUNDINGS) + " |")
    print("| --- | --- | --- | --- | --- |" + " --- |" * len(ROUNDINGS))
    names = ("width", "steps", "model", "norm")
    keys = {tuple(run["settings"][name] for name in names) for run in runs}
    for key in sorted(keys):
        place = dict(zip(names, key, strict=True))
        of_cell = [run for run in runs if place.items() <= run["settings"].items()]
        cells = [f"{statistics.fmean(run['loss'][0] for run in of_cell):.3f}"]
        for name in ROUNDINGS:
            rises = [run["roundings"][name]["rise"][0] for run in of_cell]
            cells.append(f"{statistics.fmean(rises):+.4f} ({min(rises):+.4f} to {max(rises):+.4f})")
        first = [f"{place['model']} {place['norm']}", place["width"], place["steps"], len(of_cell)]
        print("| " + " | ".join(map(str, [*first, *cells])) + " |")


if __name__ == "__main__":
    main()
