"""Old text in fine-tuning: its replay beside the items of a task, and what the model forgets of it.

The old text is prepared as for pretraining, a part of it held out. Rows of the rest, blanked by the model's own
objective, join each step; the loss of the held-out rows, always blanked the same way, is measured before the training
and with the chosen checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.folder import is_prepared
from blankfill.data.interleave import Share
from blankfill.errors import UserError
from blankfill.runs.folder import CORPUS
from blankfill.runs.inputs import Note
from blankfill.system.files import write_file
from blankfill.system.reading import field, read_json, read_path
from blankfill.tasks.batching import Batches
from blankfill.tasks.metrics.intervals import FEWEST_ROWS, Interval, draws, interval, of_sums

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.data.sampler import Sampler
    from blankfill.pretraining.data_setup import Corpus
    from blankfill.tasks.heads.models import AnswerModel
    from blankfill.tasks.options import FinetuneOptions
    from blankfill.types import Batch

FORGETTING = "forgetting.json"
"""The losses of the held-out rows of old text: nats and number of targets of each row, before and after."""
HELD_OUT = 0.05
"""Share of the old text that is held out."""
MEASURED = 128
"""Number of held-out rows, evenly spaced, whose loss is measured."""
AT_ONCE = 8
"""Rows of old text that are computed together."""
Rows = NDArray[np.float64]
"""Nats and number of targets of each row, float64[N, 2]."""


def known_text(path: Path) -> Path:
    """Return the text that a path names: of a pretraining run its corpus, otherwise the path.

    Raises UserError for a path that does not exist, and for a run whose corpus is gone.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file or a folder of the text that the model knows")
    pointer = path / CORPUS
    if not pointer.is_file():
        return path
    corpus = path / read_path(pointer)
    if not is_prepared(corpus):
        raise UserError(f"{path} is a run, and its corpus {corpus} is not there; give the text that the model knows")
    return corpus


@dataclass(frozen=True)
class OldText:
    """Old text that is prepared. rows: those to replay, by number. valid: the held-out rows, in batches."""

    corpus: Corpus
    rows: Sampler
    valid: Sequence[Batch]
    pad: int

    @classmethod
    def opened(cls, loaded: Loaded, options: FinetuneOptions, out: Path) -> OldText:
        """Prepare the old text of a run in its folder, or open it. Raises UserError for text that cannot be read."""
        from blankfill.config.recipe import Recipe
        from blankfill.corpus.options import PrepareConfig
        from blankfill.data.sampler import Sampler
        from blankfill.pretraining.data_setup import old_seed, old_validation, open_corpus
        from blankfill.training.options import TrainOptions

        words = PrepareConfig(validation=HELD_OUT, allow_unknown=options.allow_unknown)
        measured = TrainOptions(eval_rows=MEASURED)
        recipe = Recipe(name="old text", seed=options.seed, corpus=words, objective=loaded.objective, train=measured)
        path, tokenizer = known_text(Path(options.replay)), loaded.tokenizer
        corpus = open_corpus([path], recipe, out / "replay", tokenizer, (tokenizer,))
        rows = Sampler(corpus.train, loaded.objective, corpus.vocabulary, old_seed(options.seed))
        pad = loaded.vocabulary.roles.get("pad", 0)
        return cls(corpus, rows, old_validation(corpus, recipe, AT_ONCE), pad)

    @property
    def held_out(self) -> bool:
        """Whether the measured rows are of text that is not replayed."""
        return self.corpus.valid is not None and len(self.corpus.valid) > 0

    def mark(self) -> Note:
        """Return the noted mark of the text."""
        return {"items": len(self.corpus.train), "content": str(self.corpus.train.fingerprint)}

    def mixed_into(self, batches: Batches, ratio: float) -> Batches:
        """Return the batches of items with rows of old text behind them. ratio: their share of the rows."""
        return WithOldText(batches, self.rows, Share(ratio))

    @cached_property
    def _labelled(self) -> list[Batch]:
        from blankfill.tasks.chat.model import as_old

        return [as_old(batch) for batch in self.valid]

    def measure(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> Rows:
        """Return the losses of the held-out rows."""
        from blankfill.tasks.chat.model import OLD, ChatModel
        from blankfill.training.precision import computing

        assert isinstance(model, ChatModel)
        model.eval()
        parts = []
        for batch in self._labelled:
            with computing(device, dtype):
                nats_K = model.nats(batch.to(device), dtype, OLD).double().cpu().numpy()
            row_K = batch.labels[OLD][0].numpy() // batch.input_ids.shape[1]
            rows = np.zeros((len(batch.input_ids), 2))
            np.add.at(rows[:, 0], row_K, nats_K)
            np.add.at(rows[:, 1], row_K, 1.0)
            parts.append(rows)
        model.train()
        return np.concatenate(parts).round(6)  # as the file has them

    def loss(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> float:
        """Return the mean loss of the held-out rows, in nats per target."""
        return mean_of(self.measure(model, device, dtype))


class WithOldText(Batches):
    """The batches of items; each step ends with its rows of old text. Which rows is arithmetic on the step."""

    def __init__(self, items: Batches, old: Sampler, share: Share) -> None:
        super().__init__(items.items, items.epochs, items.pad, items.micro)
        self._of_items, self.old, self.share = items, old, share

    def step(self, step: int) -> list[Batch]:
        """Return the batches of a step."""
        from blankfill.data.batching import collate
        from blankfill.tasks.chat.model import as_old

        rows = [self.old.row(row) for row in self.old_rows(step)]
        parts = [rows[at : at + self.micro] for at in range(0, len(rows), self.micro)]
        return [*self._of_items.step(step), *(as_old(collate(part, self.pad)) for part in parts)]

    def rows(self, step: int) -> list[int]:
        """Return the number of the first item in each row of a step's batches; old rows come after the items."""
        return [*self._of_items.rows(step), *(len(self.items) + row for row in self.old_rows(step))]

    def old_rows(self, step: int) -> range:
        """Return the numbers of the old rows of a step."""
        return range(self._before(step), self._before(step + 1))

    def _before(self, step: int) -> int:
        new = step * self.epochs.size
        return self.share.row_after(new) - new


def mean_of(rows: Rows) -> float:
    """Return the mean loss of rows, in nats per target."""
    return float(rows[:, 0].sum() / max(1.0, rows[:, 1].sum()))


@dataclass
class Forgetting:
    """The loss of old text before and after the training. after: None until it is measured. replayed: share of old rows
    in the training."""

    old: OldText
    before: Rows
    file: Path
    replayed: float = 0.0
    after: Rows | None = None

    @classmethod
    def begun(
        cls,
        old: OldText,
        model: AnswerModel,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path,
        trained: bool,
        replayed: float = 0.0,
    ) -> Forgetting:
        """Measure the loss before the training, or read it from the folder of a resumed run. Raises UserError when it
        is not there."""
        file = folder / FORGETTING
        if trained:
            rows = np.array(field(read_json(file), "before", list, file), np.float64)
            if rows.ndim != 2 or rows.shape[1:] != (2,) or not len(rows):
                raise UserError(f"{file} is damaged: `before` has not two numbers for each row")
            return cls(old, rows, file, replayed)
        begun = cls(old, old.measure(model, device, dtype), file, replayed)
        begun._write()
        return begun

    def measure(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> None:
        """Measure the loss after the training."""
        self.after = self.old.measure(model, device, dtype)
        self._write()

    def _write(self) -> None:
        after = {} if self.after is None else {"after": self.after.tolist()}
        write_file(self.file, json.dumps({"before": self.before.tolist(), **after}) + "\n")

    @property
    def between(self) -> Interval | None:
        """The 95% interval of the change of the loss, over rows; None for a few rows."""
        if self.after is None or len(self.before) < FEWEST_ROWS or len(self.after) != len(self.before):
            return None
        rows = np.concatenate([self.before, self.after], 1)
        drawn = [rows.T @ weights for weights in draws(len(rows))]
        sums = np.concatenate(drawn, axis=1)
        return interval(sums[2] / sums[3] - sums[0] / sums[1])

    def values(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        if self.after is None:
            return {}
        before, after = mean_of(self.before), mean_of(self.after)
        known = {
            name: list(of_sums(rows, {name: lambda sums: sums[0] / sums[1]}).get(name, ()))
            for name, rows in (("before", self.before), ("after", self.after))
        }
        between = self.between
        return {
            "before": before, "after": after, "change": after - before,
            "interval": None if between is None else list(between), "intervals": known, "rows": len(self.before),
            "targets": int(self.before[:, 1].sum()), "held_out": self.old.held_out, "replay_ratio": self.replayed,
        }  # fmt: skip


def sentence_of(report: dict[str, Any]) -> str:
    """Return the forgetting report in a sentence."""
    between = report.get("interval")
    span = f" [{between[0]:+.3f}, {between[1]:+.3f}]" if between else ""
    if between and between[0] > 0:
        verdict = "the model has forgotten some of it"
    elif between and between[1] < 0:
        verdict = "the model knows it better than before"
    else:
        verdict = "no clear change"
    replayed = f"{report['replay_ratio']:.0%} of the rows were old text" if report["replay_ratio"] else "none replayed"
    times = math.exp(min(report["change"], 700.0))
    rows = f"{report['rows']:,} {'held-out ' if report['held_out'] else ''}rows"
    return (
        f"old text, {rows}: loss {report['before']:.3f} nats before, {report['after']:.3f} "
        f"after, change {report['change']:+.3f}{span} (perplexity × {times:.2f}; {replayed}): {verdict}"
    )
