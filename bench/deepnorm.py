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
import dataclasses
import itertools
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_by_side import load_note

if TYPE_CHECKING:
    import torch

    from blankfill.model.config import TransformerConfig
    from blankfill.model.transformer import Transformer
    from blankfill.types import Batch, Vocabulary

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
RECIPE = "glm-nano"
"""Recipe whose corpus and training settings are the base."""
Settings = dict[str, Any]


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
    import torch

    given = arguments()
    finished = read(given.runs)
    if given.table:
        print_table(finished)
        return
    if note := load_note():
        print(note)
    torch.set_num_threads(given.threads)
    grid = itertools.product(given.seeds, given.rates, given.depths, given.norms, given.shrink)
    sizes = {"width": given.width, "rows": given.rows, "length": given.length, "steps": given.steps}
    grid_settings: list[Settings] = [
        {"norm": norm, "shrink": shrink, "depth": depth, "rate": rate, "seed": seed, **sizes}
        for seed, rate, depth, norm, shrink in grid
    ]
    done = [run["settings"] for run in finished]
    open_runs = [settings for settings in grid_settings if settings not in done]
    print(f"{len(grid_settings) - len(open_runs)} of {len(grid_settings)} runs are finished", flush=True)
    with tempfile.TemporaryDirectory(prefix="blankfill-") as folder:
        texts = Texts(given.paths, Path(folder), given.length, given.vocabulary, given.rows * given.steps)
        for number, settings in enumerate(open_runs, 1):
            run = train(settings, texts)
            with given.runs.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            finished.append(run)
            print(f"{number} of {len(open_runs)}: {said(settings)}: {result(run)}, {run['seconds']:.0f} s", flush=True)
    print_table(finished)


class Texts:
    """The rows of the study: those of each seed, the validation rows, and the loss of word frequencies.

    Args:
        paths: Text, or a prepared folder.
        folder: Where text is prepared.
        length: Tokens of a row.
        vocabulary: Size of the vocabulary of text that is prepared.
        rows: Rows of a run.
    """

    def __init__(self, paths: list[str], folder: Path, length: int, vocabulary: int, rows: int) -> None:
        from blankfill.config.recipe import load_recipe
        from blankfill.objectives import OBJECTIVES
        from blankfill.pretraining.data_setup import open_corpus, phases, target_baseline, validation_batches

        recipe = load_recipe(RECIPE)
        self.recipe = dataclasses.replace(
            recipe,
            objective=OBJECTIVES["glm-130b"](length=length),
            corpus=dataclasses.replace(recipe.corpus, vocab_size=vocabulary, validation=0.05),
        )
        self.corpus = open_corpus(paths, self.recipe, folder / "corpus")
        (part,) = phases(self.corpus, self.recipe)
        self.rows = rows
        self.validation = validation_batches(part.valid, 4 * PROBED, PROBED)
        if not self.validation:
            raise SystemExit("no document of the text is in its validation part; give more or longer documents")
        self.unigram = target_baseline(self.corpus, part.new, self.validation)
        self._batches: dict[tuple[int, int], list[Batch]] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the corpus."""
        return self.corpus.vocabulary

    def batches(self, seed: int, rows: int) -> list[Batch]:
        """Return the batches of a seed, the same for every run. rows: of a batch."""
        from blankfill.data.batching import collate
        from blankfill.pretraining.data_setup import phases

        if (seed, rows) not in self._batches:
            (part,) = phases(self.corpus, dataclasses.replace(self.recipe, seed=seed))
            made = [part.new.row(k) for k in range(self.rows)]
            pad = self.vocabulary["pad"]
            batches = [collate(made[k : k + rows], pad) for k in range(0, self.rows, rows)]
            self._batches = {(seed, rows): batches}
        return self._batches[seed, rows]


def model_config(settings: Settings, texts: Texts) -> TransformerConfig:
    """Return the model of a run.

    deepnorm is GLM-130B's: norms after the sublayers, residual stream times √(2N), Xavier initialisation with smaller
    feed-forward, value and output matrices. post has the same norms without the factor, and BERT's initialisation: the
    standard deviation √(1 / 3D), which is 0.02 at D = 768 and GLM-130B's 0.0052 at D = 12,288. pre has norms before
    the sublayers and GPT-2's initialisation: the same, divided by √(2N) for matrices that write to the residual stream.
    """
    from blankfill.families.options import ModelOptions

    width = settings["width"]
    options = ModelOptions(
        family="glm-130b", norm=settings["norm"], hidden_size=width, num_layers=settings["depth"],
        num_heads=width // HEAD, ffn_size=8 * width // 3, dropout=0.0, attention_dropout=0.0,
        init_std=math.sqrt(1 / (3 * width)),
    )  # fmt: skip
    config = options.config_for(texts.recipe.objective, texts.vocabulary.size)
    if settings["norm"] == "pre":
        return dataclasses.replace(config, embedding_norm=False, scaled_init=True)
    return config


def train(settings: Settings, texts: Texts) -> dict[str, Any]:
    """Train one model; returns the line of the run."""
    import torch

    from blankfill.model.transformer import build
    from blankfill.training.loop import evaluate
    from blankfill.training.loss import counts, loss_sums
    from blankfill.training.optimizer import build_optimizer
    from blankfill.training.options import TrainOptions

    options = TrainOptions(
        steps=settings["steps"], batch_size=settings["rows"], lr=settings["rate"], warmup=0.1, schedule="cosine",
        min_lr=0.1, weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-8, max_grad_norm=1.0,
        embedding_gradient_shrink=settings["shrink"],
    )  # fmt: skip
    device = torch.device("cpu")
    model = build(model_config(settings, texts), settings["seed"], device)
    model.token_embeddings.gradient_shrink = options.embedding_gradient_shrink
    optimizer = build_optimizer(model, options)
    gradients = Gradients(model)
    began, losses = time.process_time(), []
    first = probe(model, texts.validation[0])
    model.train()
    for step, batch in enumerate(texts.batches(settings["seed"], settings["rows"])[: settings["steps"]]):
        for group in optimizer.param_groups:
            group["lr"] = options.lr_at(step) * group["lr_scale"]
        sums, targets = loss_sums(model, batch), counts(batch)
        loss = sum((value / targets[name] for name, value in sums.items()), torch.zeros(()))
        losses.append(float(loss.detach()))
        loss.backward()
        norm = gradients.measure(batch)
        if not (math.isfinite(losses[-1]) and math.isfinite(norm)):
            break
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    gradients.close()
    whole = len(losses) == settings["steps"] and math.isfinite(losses[-1])
    valid = evaluate(model, texts.validation, device, torch.float32)["lm"] if whole else math.nan
    last = probe(model, texts.validation[0]) if whole else {}
    means = [statistics.fmean(losses[k : k + SPAN]) for k in range(len(losses) - SPAN + 1)]
    return {
        "settings": settings,
        "finite": whole and math.isfinite(valid),
        "steps": len(losses),
        "valid": number(valid),
        "unigram": number(texts.unigram),
        "rise": number(means[-1] - min(means)) if means else None,
        "losses": [number(mean) for mean in means[::SPAN]],
        **gradients.summary(),
        "first": first,
        "last": last,
        "seconds": round(time.process_time() - began, 1),
    }


def status(run: dict[str, Any]) -> str:
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


def number(value: float) -> float | None:
    """Return a number with four digits; None for one that is not finite, which JSON does not have."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def read(path: Path) -> list[dict[str, Any]]:
    """Return the finished runs; a line that an interruption cut is left out."""
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            runs.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line is damaged and left out; its run is repeated")
    return runs


def said(settings: Settings) -> str:
    """Return the settings of a run in words."""
    shrink = "" if settings["shrink"] == 1 else f", shrink {settings['shrink']:g}"
    return f"{settings['norm']}{shrink}, {settings['depth']} layers, rate {settings['rate']:g}, seed {settings['seed']}"


def result(run: dict[str, Any]) -> str:
    """Return what became of a run in words."""
    if not run["finite"]:
        return f"not finite at step {run['steps']}"
    return f"{status(run)}, validation {run['valid']:.2f} (word frequencies {run['unigram']:.2f})"


def print_table(runs: list[dict[str, Any]]) -> None:
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
