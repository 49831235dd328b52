"""Pretraining a model from text according to a recipe: the stages of a run, from its folder to its result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.config.recipe import Recipe, load_recipe
from blankfill.runs.folder import corpus_of, given_corpus, mend_recipe, refuse_sources, run_folder

if TYPE_CHECKING:
    from blankfill.pretraining.outcome import RunResult
    from blankfill.pretraining.warm_start import InitFrom
    from blankfill.training.faults import OnNan


def pretrain(
    paths: Sequence[str | Path],
    recipe: Recipe,
    out: str | Path,
    resume: bool = False,
    stop_after: float | None = None,
    on_nan: OnNan = "stop",
    init_from: InitFrom | None = None,
    teacher: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    verify: bool = False,
) -> RunResult:
    """Train a model on text according to a recipe, into a run folder.

    Args:
        paths: Text sources or one prepared folder; none means the embedded corpus.
        recipe: The configuration: corpus, objective, model and training.
        out: The run folder: a new one, or with `resume` that of a started run.
        resume: Whether to resume the run in `out` from its newest complete checkpoint; usually called through `resume`.
        stop_after: Seconds after which the run saves and ends, to be resumed.
        on_nan: What to do when a loss or gradient is not finite: "stop", "skip" the step, or "rollback" to the last
            checkpoint and take other rows.
        init_from: The model to start from, with its architecture and tokenizer; None draws the weights.
        teacher: The model to learn from, with the recipe's distil section; for a resumed run, its present path.
        changes: For a resumed run, changed options of `training.machine.CHANGEABLE`.
        verify: Compare all bytes of the corpus with its checksums first; otherwise sizes and samples are compared.

    Returns:
        How the run ended: steps, losses, and what stopped the run, if anything did.

    Raises:
        UserError: For any problem that the user can solve; ConfigError, with all problems, for options.
    """
    from blankfill.pretraining import inputs, model_setup, outcome
    from blankfill.pretraining.data_setup import phases
    from blankfill.pretraining.training import Training
    from blankfill.runs.context import open_context
    from blankfill.runs.start import resolve_start
    from blankfill.training.optimizer import build_optimizer

    stop_at = None if stop_after is None else time.monotonic() + stop_after
    out, recipe = Path(out), with_changes(recipe.check(), changes or {})
    refuse_sources(out, () if resume else paths)
    with run_folder(out, resume):
        start = resolve_start(out, resume, changes, init_from is not None, recipe.train.steps)
        if start.finished is not None:
            inputs.check_finished(paths, recipe, out, start, teacher, verify)
            return outcome.finish_again(out, recipe, start.finished)
        with open_context(out, start, recipe.train, stop_at) as context:
            recipe = with_changes(recipe, {"micro_batch": context.machine.micro_batch})
            data = inputs.open_inputs(paths, recipe, context, start, init_from, teacher, verify)
            rows = phases(data.corpus, data.recipe, data.old, data.replay_ratio)
            model = model_setup.build_model(data, rows, context, start)
            optimizer = build_optimizer(model, data.recipe.train)
            done, data = model_setup.restore_or_begin(data, model, optimizer, context, start)
            training = Training(data, rows, model, optimizer, context, start, done, on_nan)
            done = training.run(done)
    return outcome.finish(training, done)


def resume(
    out: str | Path,
    stop_after: float | None = None,
    on_nan: OnNan = "stop",
    teacher: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    verify: bool = False,
    paths: Sequence[str | Path] = (),
) -> RunResult:
    """Resume a run from its newest complete checkpoint, with its own recipe, corpus and teacher.

    Args:
        out: The run folder.
        stop_after: Seconds after which the run saves and ends, to be resumed again.
        on_nan: What to do when a loss or gradient is not finite; see `pretrain`.
        teacher: The present path of the run's teacher, if it was moved.
        changes: Changed options of `training.machine.CHANGEABLE`.
        verify: Compare all bytes of the corpus with its checksums first.
        paths: The present path of the run's prepared corpus, if it was moved.

    Returns:
        How the run ended; returned at once for a run whose steps are all done.

    Raises:
        UserError: For any problem that the user can solve, such as changed inputs.
    """
    out = Path(out)
    mend_recipe(out)
    corpus = given_corpus(out, paths) if paths else corpus_of(out)
    recipe = load_recipe(out / "recipe.yaml")
    return pretrain([str(corpus)], recipe, out, True, stop_after, on_nan, None, teacher, changes, verify)


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe with some options of its train section replaced. Raises ConfigError for impossible values."""
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes)).check()
