"""Where deep models diverge: Pre-LN, Post-LN and DeepNorm, with and without the embedding-gradient shrink.

    python bench/deepnorm.py TEXT... --runs deepnorm.jsonl
    python bench/deepnorm.py --runs deepnorm.jsonl --table

GLM-130B (Zeng et al. 2022, arXiv 2210.02414) chose DeepNorm since Pre-LN's main branch grows with depth, and reports
that the gradient of the token embeddings is orders of magnitude larger than the others and spikes before the loss does,
which the shrink by 0.1 cured. Here the same narrow model of GLM-130B's kind (rotary positions, GeGLU, tied output
embeddings) is trained with each of them at several depths and learning rates, on the same rows for the same seed, in
fp32 and without dropout. The three differ in norms, residual scale and initial weights alone (`model_config`).

A run is one line of the file of --runs, which is read again on the next call: finished runs are not repeated, so the
command can be interrupted at any time. The seeds are the outermost loop: the first seed of the whole grid comes first.

What became of a run, the first that applies:

    not finite  a loss or a gradient is not finite
    diverged    the mean of the last 10 losses is more than 0.5 nats above the lowest mean of 10 losses in a row
    learned     the validation loss is more than 0.1 nats below that of word frequencies
    collapsed   the gradient that reaches the token embeddings from the layers is less than a thousandth of what it was
                in the first 10 steps (medians of 10 steps): the output hardly depends on the text any more
    slow        none of these

A gradient spike is a step whose gradient norm, before clipping, is above 10 times the median of the 20 steps before it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from small_models import Run, Settings, Texts, finish, model_config, number, only_table, train_options, training

if TYPE_CHECKING:
    import torch

    from blankfill.model.transformer import Transformer
    from blankfill.types import Batch

NORMS = ("pre", "post", "deepnorm")
HEAD = 16
"""Width of an attention head."""
SPAN = 10
"""Number of steps of which a mean is taken."""
DIVERGED, LEARNED = 0.5, 0.1
"""Rise of the loss, and its distance from word frequencies, in nats."""
COLLAPSED = 1e-3
"""Share of the first gradient that is left."""
SPIKE, BEFORE = 10.0, 20
"""Factor of a gradient spike over the median of this number of steps before it."""
PROBED = 16
"""Number of rows on which activations are measured."""


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("paths", nargs="*", help="text, or a prepared folder; by default Python's documentation")
    parser.add_argument("--runs", type=Path, required=True, help="JSON Lines file of the finished runs")
    parser.add_argument("--table", action="store_true", help="only print the table of the finished runs")
    parser.add_argument("--norms", nargs="+", choices=NORMS, default=list(NORMS))
    parser.add_argument("--shrink", type=float, nargs="+", default=[1.0, 0.1], help="of the embedding gradient; 1: off")
    parser.add_argument("--depths", type=int, nargs="+", default=[6, 12, 24, 48])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=32, help=f"of the model, a multiple of {HEAD}")
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--length", type=int, default=32, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--vocabulary", type=int, default=256, help="size, where the text is not prepared yet")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train what is not finished, and print the table."""
    given = arguments()
    if only_table(given, print_table):
        return
    sizes = {"width": given.width, "rows": given.rows, "length": given.length, "steps": given.steps}
    grid: list[Settings] = [
        {"norm": norm, "shrink": shrink, "depth": depth, "rate": rate, "seed": seed, **sizes}
        for seed, rate, depth, norm, shrink in itertools.product(
            given.seeds, given.rates, given.depths, given.norms, given.shrink
        )
    ]
    with tempfile.TemporaryDirectory(prefix="blankfill-") as folder:
        texts = texts_of(given.paths, Path(folder), given.length, given.vocabulary, given.rows * given.steps)
        runs = finish(given.runs, grid, lambda settings: train(settings, texts), result)
    print_table(runs)


def texts_of(paths: list[str], folder: Path, length: int, vocabulary: int, rows: int) -> Texts:
    """Return the rows of the study: see `Texts`. length: tokens of a row."""
    from blankfill.objectives import OBJECTIVES

    objective = OBJECTIVES["glm-130b"](length=length)
    return Texts(paths, folder, objective, vocabulary, rows, 4 * PROBED, PROBED)


def train(settings: Settings, texts: Texts) -> Run:
    """Train one model; returns the run without its settings."""
    import torch

    from blankfill.model.transformer import build
    from blankfill.training.loop import evaluate

    options = train_options(
        settings["steps"], settings["rows"], settings["rate"], embedding_gradient_shrink=settings["shrink"]
    )
    device = torch.device("cpu")
    config = model_config(texts, settings["norm"], settings["width"], settings["depth"], HEAD)
    model = build(config, settings["seed"], device)
    model.token_embeddings.gradient_shrink = options.embedding_gradient_shrink
    gradients = Gradients(model)
    first = probe(model, texts.validation[0])
    losses = list(training(model, texts.batches(settings["seed"], settings["rows"]), options, gradients.measure))
    gradients.close()
    whole = len(losses) == settings["steps"] and math.isfinite(losses[-1])
    valid = evaluate(model, texts.validation, device, torch.float32)["lm"] if whole else math.nan
    last = probe(model, texts.validation[0]) if whole else {}
    means = [statistics.fmean(losses[k : k + SPAN]) for k in range(len(losses) - SPAN + 1)]
    return {
        "finite": whole and math.isfinite(valid),
        "steps": len(losses),
        "valid": number(valid),
        "unigram": number(texts.unigram),
        "rise": number(means[-1] - min(means)) if means else None,
        "losses": [number(mean) for mean in means[::SPAN]],
        **gradients.summary(),
        "first": first,
        "last": last,
    }


def status(run: Run) -> str:
    """Return what became of a run: see the head of this file."""
    if not run["finite"]:
        return "not finite"
    if run["rise"] > DIVERGED:
        return "diverged"
    if run["valid"] < run["unigram"] - LEARNED:
        return "learned"
    look_up = run["gradients"]["look_up"]
    return "collapsed" if look_up[-1] < COLLAPSED * look_up[0] else "slow"


class Gradients:
    """Norms of gradients, step by step: of all parameters, of the token embeddings, and of the matrices of the layers.

    The token embeddings are tied: their gradient is the sum of that of their look-up, which the shrink scales, and that
    of the output embeddings. The part of the look-up is gathered from the gradients of the looked-up rows, and is
    given as it reaches the table, after the shrink.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.matrices = [parameter for parameter in model.layers.parameters() if parameter.dim() == 2]
        self.norms: list[float] = []
        self.embedding: list[float] = []
        self.look_up: list[float] = []
        self.middle: list[float] = []
        self.largest: list[float] = []
        self._rows: torch.Tensor | None = None
        self._hook = model.token_embeddings.register_forward_hook(self._looked_up)

    def _looked_up(self, module: Any, inputs: Any, output: Any) -> None:
        if output.requires_grad:
            output.register_hook(self._keep)

    def _keep(self, gradient: Any) -> None:
        self._rows = gradient

    def measure(self, batch: Batch) -> float:
        """Measure after a backward pass; returns the norm of the gradient of all parameters."""
        import torch

        table = self.model.token_embeddings.weight
        assert table.grad is not None
        every = torch.stack(torch._foreach_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        of_layers = torch.stack(torch._foreach_norm([p.grad for p in self.matrices if p.grad is not None]))
        self.norms.append(float(every.norm()))
        self.embedding.append(float(table.grad.norm()))
        self.middle.append(float(of_layers.median()))
        self.largest.append(float(of_layers.max()))
        if self._rows is not None:
            gathered = torch.zeros_like(table).index_add_(0, batch.input_ids.flatten(), self._rows.flatten(0, 1))
            self.look_up.append(float(gathered.norm()) * self.model.token_embeddings.gradient_shrink)
            self._rows = None
        return self.norms[-1]

    def close(self) -> None:
        """Remove the hook."""
        self._hook.remove()

    def summary(self) -> dict[str, Any]:
        """Return the largest norm and the medians of every `SPAN` steps, and the steps of spikes."""
        spikes = [
            step for step in range(BEFORE, len(self.norms))
            if self.norms[step] > SPIKE * statistics.median(self.norms[step - BEFORE : step])
        ]  # fmt: skip
        parts = {"embedding": self.embedding, "look_up": self.look_up, "middle": self.middle, "largest": self.largest}
        medians = {
            name: [number(statistics.median(values[k : k + SPAN])) for k in range(0, len(values), SPAN)]
            for name, values in parts.items()
        }
        highest = [number(max(self.norms[k : k + SPAN])) for k in range(0, len(self.norms), SPAN)]
        return {"spikes": spikes, "norms": highest, "gradients": medians}


def probe(model: Transformer, batch: Batch) -> dict[str, list[float | None]]:
    """Return, by layer, the largest absolute value that enters it and after the last layer, and the largest absolute
    attention score of any two columns, visible to each other or not, as the original code computes them all."""
    import torch

    from blankfill.model.layers import Attention

    scores: list[float] = []

    def score(module: Attention, inputs: tuple[Any, ...], output: Any) -> None:
        hidden, _, terms = inputs[:3]
        query, both = module.split(module.qkv(hidden))
        key = both.unbind(2)[0]
        if terms.rotation is not None:
            query, key = terms.rotation.rotate(query), terms.rotation.rotate(key)
        products = query.transpose(1, 2) @ key.transpose(1, 2).transpose(2, 3)
        scores.append(float(products.abs().max()) / math.sqrt(module.width))

    model.eval()
    hooks = [module.register_forward_hook(score) for module in model.modules() if isinstance(module, Attention)]
    with torch.no_grad():
        states = model(batch, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    return {"hidden": [number(float(state.abs().max())) for state in states], "scores": list(map(number, scores))}


def said(settings: Settings) -> str:
    """Return the settings of a run in words."""
    shrink = "" if settings["shrink"] == 1 else f", shrink {settings['shrink']:g}"
    return f"{settings['norm']}{shrink}, {settings['depth']} layers, rate {settings['rate']:g}, seed {settings['seed']}"


def result(run: Run) -> str:
    """Return what became of a run in words."""
    if not run["finite"]:
        return f"{said(run['settings'])}: not finite at step {run['steps']}"
    losses = f"validation {run['valid']:.2f} (word frequencies {run['unigram']:.2f})"
    return f"{said(run['settings'])}: {status(run)}, {losses}"


def print_table(runs: list[Run]) -> None:
    """Print, for each norm, shrink, depth and rate, the number of its runs by what became of them, and their mean
    validation loss."""
    rates = sorted({run["settings"]["rate"] for run in runs})
    print("| norm | shrink | layers | " + " | ".join(f"{rate:g}" for rate in rates) + " |")
    print("| --- | --- | --- |" + " --- |" * len(rates))
    for norm, shrink, depth in sorted(
        {tuple(run["settings"][key] for key in ("norm", "shrink", "depth")) for run in runs},
        key=lambda key: (NORMS.index(key[0]), -key[1], key[2]),
    ):
        cells = []
        for rate in rates:
            place = {"norm": norm, "shrink": shrink, "depth": depth, "rate": rate}
            of_cell = [run for run in runs if place.items() <= run["settings"].items()]
            losses = [run["valid"] for run in of_cell if run["finite"]]
            counted = Counter(map(status, of_cell)).most_common()
            words = ", ".join(f"{count} {name}" for name, count in counted)
            cells.append(f"{statistics.fmean(losses):.2f}: {words}" if losses else words)
        print(f"| {norm} | {shrink:g} | {depth} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
