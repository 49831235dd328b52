"""Setting up a cloze run: a model that can fill blanks, and texts to mask beside its items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blankfill.checkpoint.load import Loaded
from blankfill.errors import ConfigError, UserError, setting
from blankfill.system.console import say
from blankfill.tasks.adapter import Adapter
from blankfill.tasks.batching import Batches, EncodedItem
from blankfill.tasks.cloze.texts import WithTexts
from blankfill.tasks.items import Item
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.task import Task


def check_model(loaded: Loaded, options: FinetuneOptions) -> None:
    """Raise UserError for a model that cannot fill a blank, ConfigError for masked texts with a model without masks."""
    if not loaded.model.config.lm_head:
        raise UserError(
            f"{loaded.path}: the model is a bare encoder without a language-model head, so it cannot fill blanks; "
            f"give a model with its masked-language-model head, or leave out {setting('method', 'cloze')}"
        )
    objective = loaded.objective
    if objective.two_sided:
        raise UserError(
            f"{loaded.path}: a cloze reads scores where the blank stands, and a model of the objective "
            f"{objective.name} writes its answers; use {setting('method', 'text')} in place of "
            f"{setting('method', 'cloze')}"
        )
    if objective.cloze == "none":
        raise UserError(
            f"{loaded.path}: a cloze reads the scores of masks in the text, which a model of the objective "
            f"{objective.name} has none of; leave out {setting('method', 'cloze')}"
        )
    loaded.check_tokens("cloze", "without which the model cannot fill blanks")
    if options.mlm_weight and objective.cloze == "writing":
        raise ConfigError(
            [f"{setting('mlm_weight')} is for models that were trained with masks; {loaded.path} is a {objective.name}"]
        )


def read_unlabelled(task: Task, options: FinetuneOptions, labels: tuple[str, ...]) -> list[Item]:
    """Read the texts of `--unlabelled`, none without it; UserError when they cannot be read."""
    if not options.unlabelled:
        return []
    more = task.read(Path(options.unlabelled), "train", labels)
    for problem in more.problems:
        say(problem)
    return list(more.items)


def with_texts(
    batches: Batches, loaded: Loaded, adapter: Adapter, encoded: Sequence[EncodedItem], more: Sequence[Item]
) -> Batches:
    """Return the batches of a run, with batches of masked texts beside them."""
    texts = [item.examples[0] for item in (*encoded, *adapter.encode(more, learn=True).encoded)]
    return WithTexts(batches, texts, loaded.vocabulary)
