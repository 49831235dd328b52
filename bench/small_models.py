"""Small models trained on a text of one's own, for the studies of this folder: rows, training, files of finished runs.

A study is a grid of runs. A run is one line of a JSON Lines file, which is read again on the next call: finished runs
are not repeated, so a study can be interrupted at any time (`finish`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from side_by_side import load_note

if TYPE_CHECKING:
    from blankfill.model.config import TransformerConfig
    from blankfill.model.transformer import Transformer
    from blankfill.objectives import Objective
    from blankfill.training.options import TrainOptions
    from blankfill.types import Batch, Vocabulary

RECIPE = "glm-nano"
"""Recipe whose corpus and training settings are the base."""
VALIDATION = 0.05
"""Share of the text that is held out."""
Norm = Literal["pre", "post", "deepnorm"]
Settings = dict[str, Any]
Run = dict[str, Any]


class Texts:
    """The rows of a study for one objective: those of each seed, the validation rows, and the loss of word frequencies.

    Args:
        paths: Text, or a prepared folder.
        folder: Where text is prepared.
        objective: What the models learn; its length is that of a row.
        vocabulary: Size of the vocabulary of text that is prepared.
        rows: Rows of a run.
        validation: Number of validation rows.
        at_once: Validation rows of a batch.
    """

    def __init__(
        self,
        paths: list[str],
        folder: Path,
        objective: Objective,
        vocabulary: int,
        rows: int,
        validation: int,
        at_once: int,
    ) -> None:
        from blankfill.config.recipe import load_recipe
        from blankfill.pretraining.data_setup import open_corpus, phases, target_baseline, validation_batches

        recipe = load_recipe(RECIPE)
        self.recipe = dataclasses.replace(
            recipe,
            objective=objective,
            corpus=dataclasses.replace(recipe.corpus, vocab_size=vocabulary, validation=VALIDATION),
        )
        self.corpus = open_corpus(paths, self.recipe, folder / "corpus")
        (part,) = phases(self.corpus, self.recipe)
        self.rows = rows
        self.validation = validation_batches(part.valid, validation, at_once)
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


def model_config(
    texts: Texts, norm: Norm, width: int, depth: int, head: int, family: str = "glm-130b"
) -> TransformerConfig:
    """Return a model without dropout, whose feed-forward part has 8 · width² weights. head: width of an attention head.

    deepnorm is GLM-130B's: norms after the sublayers, residual stream times √(2N), Xavier initialisation with smaller
    feed-forward, value and output matrices. post has the same norms without the factor, and BERT's initialisation: the
    standard deviation √(1 / 3D), which is 0.02 at D = 768 and GLM-130B's 0.0052 at D = 12,288. pre has norms before
    the sublayers and GPT-2's initialisation: the same, divided by √(2N) for matrices that write to the residual stream.
    """
    from blankfill.families.options import ModelOptions

    options = ModelOptions(
        family=family, norm=norm, hidden_size=width, num_layers=depth, num_heads=width // head, dropout=0.0,
        attention_dropout=0.0, init_std=math.sqrt(1 / (3 * width)),
    )  # fmt: skip
    if options.spec.preset.get("gated"):
        options = dataclasses.replace(options, ffn_size=8 * width // 3)
    config = options.config_for(texts.recipe.objective, texts.vocabulary.size)
    if norm == "pre":
        return dataclasses.replace(config, embedding_norm=False, scaled_init=True)
    return config


def train_options(steps: int, rows: int, rate: float, **more: Any) -> TrainOptions:
    """Return the training settings of a run: AdamW as GLM-130B's, a short warm-up and a cosine decay to a tenth."""
    from blankfill.training.options import TrainOptions

    return TrainOptions(
        steps=steps, batch_size=rows, lr=rate, warmup=0.1, schedule="cosine", min_lr=0.1, weight_decay=0.1, beta1=0.9,
        beta2=0.95, eps=1e-8, max_grad_norm=1.0, **more,
    )  # fmt: skip


def training(
    model: Transformer, batches: Sequence[Batch], options: TrainOptions, norm: Callable[[Batch], float] | None = None
) -> Iterator[float]:
    """Train a model; yields the loss of each step, in nats per target, after its update.

    norm: called between the backward pass and the clipping, returns the norm of the gradient. A step whose loss or norm
    is not finite changes nothing, and is the last.
    """
    import torch

    from blankfill.training.loss import counts, loss_sums
    from blankfill.training.optimizer import build_optimizer

    optimizer = build_optimizer(model, options)
    model.train()
    for step, batch in enumerate(batches[: options.steps]):
        for group in optimizer.param_groups:
            group["lr"] = options.lr_at(step) * group["lr_scale"]
        sums, targets = loss_sums(model, batch), counts(batch)
        loss = sum((value / targets[name] for name, value in sums.items()), torch.zeros(()))
        loss.backward()
        measured = 0.0 if norm is None else norm(batch)
        if not (math.isfinite(float(loss.detach())) and math.isfinite(measured)):
            yield float(loss.detach())
            return
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield float(loss.detach())


def finish(
    path: Path, grid: Sequence[Settings], train: Callable[[Settings], Run], describe: Callable[[Run], str]
) -> list[Run]:
    """Train the runs of a grid that a file does not have yet, and add each to the file; returns all runs of the file.

    describe: returns a run in words.
    """
    runs = read(path)
    done = [run["settings"] for run in runs]
    still_open = [settings for settings in grid if settings not in done]
    print(f"{len(grid) - len(still_open)} of {len(grid)} runs are finished", flush=True)
    for place, settings in enumerate(still_open, 1):
        began = time.process_time()
        run = {"settings": settings, **train(settings), "seconds": round(time.process_time() - began, 1)}
        cut = path.exists() and not path.read_text(encoding="utf-8").endswith("\n")
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut + json.dumps(run, allow_nan=False) + "\n")
        runs.append(run)
        print(f"{place} of {len(still_open)}: {describe(run)}, {run['seconds']:.0f} s", flush=True)
    return runs


def read(path: Path) -> list[Run]:
    """Return the finished runs; a line that an interruption cut is left out."""
    runs = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            runs.append(json.loads(line))
        except ValueError:
            print(f"{path}: a line is damaged and left out; its run is repeated")
    return runs


def number(value: float, digits: int = 4) -> float | None:
    """Return a number with some digits; None for one that is not finite, which JSON does not have."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def only_table(given: argparse.Namespace, print_table: Callable[[Sequence[Run]], None]) -> bool:
    """Print the table of the finished runs where no more is wanted, and return whether it is so.

    Otherwise say how busy the machine is, and take the threads. given: options `table`, `runs` and `threads`.
    """
    import torch

    if given.table:
        print_table(read(given.runs))
        return True
    if note := load_note():
        print(note)
    torch.set_num_threads(given.threads)
    return False
