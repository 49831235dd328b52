"""Reports of a pretraining run: at its start, in `run.json`, and at its end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.config.changes import changes_of
from blankfill.config.recipe import Recipe
from blankfill.errors import UserError, setting
from blankfill.runs.folder import informing, note_facts, note_step, renew_report
from blankfill.system.console import quoted, say
from blankfill.system.reading import read_json
from blankfill.system.stopping import Stop

if TYPE_CHECKING:
    from blankfill.model.transformer import Transformer
    from blankfill.pretraining.inputs import Inputs
    from blankfill.pretraining.training import Training
    from blankfill.prompts.rows import PromptedRows
    from blankfill.runs.context import RunContext
    from blankfill.runs.start import Start
    from blankfill.training.loop import Trainer
    from blankfill.training.progress import Progress


@dataclass(frozen=True)
class RunResult:
    """The result of a run. Losses are in nats per target."""

    folder: Path
    steps: int
    tokens: int
    valid_loss: float
    baseline: float
    seconds: float
    old_loss: tuple[float, float] | None = None
    """Validation loss of the old text before and after, for a warm start with `replay`."""
    stopped: Stop | None = None
    """What stopped the run: a signal, or the end of its time. The run is saved, and can be resumed unless it was
    done."""


def finish(training: Training, done: Progress) -> RunResult:
    """Record the progress of a run, draw its losses, update its report, and print how its samples changed."""
    from blankfill.generation.hidden_words_report import lines_of
    from blankfill.generation.samples import compare
    from blankfill.runs.recorder import of_step

    out, recipe, ended = training.context.folder, training.inputs.recipe, training.stopped
    baseline, stopped = training.baselines[-1], training.context.stop_reason(ended)
    note_step(out, done, stopped if ended else None)
    draw(out, recipe, baseline)
    if ended:
        steps = recipe.train.steps
        say(f"stopped at step {done.step:,} of {steps:,}; resume with: blankfill pretrain --resume {quoted(out)}")
    compare(of_step(out / "samples.jsonl", 0), of_step(out / "samples.jsonl", done.step))
    if not ended and training.hidden_words and training.hidden_words.report:
        for line in lines_of(training.hidden_words.report):
            say(line)
    return RunResult(
        out, done.step, done.tokens, done.valid_loss, baseline, done.seconds, old_text_losses(out), stopped
    )


def finish_again(out: Path, recipe: Recipe, done: Progress) -> RunResult:
    """Return the result of a run that was finished before, from its folder; nothing is trained or loaded."""
    say(f"{out} is finished: all {recipe.train.steps:,} steps are done")
    try:
        noted = read_json(out / "run.json").get("baseline")
    except UserError:
        noted = None
    baseline = noted if isinstance(noted, float) else math.nan
    draw(out, recipe, baseline)
    return RunResult(out, done.step, done.tokens, done.valid_loss, baseline, done.seconds, old_text_losses(out))


def draw(out: Path, recipe: Recipe, baseline: float) -> None:
    """Draw the losses of a run and update its report."""
    from blankfill.report.plots import loss_plot

    with informing(out / "loss.png"):
        loss_plot(out / "metrics.jsonl", out / "loss.png", None if math.isnan(baseline) else baseline, recipe.name)
    renew_report(out)


def announce(inputs: Inputs, model: Transformer, rows: int, where: str, baseline: float) -> None:
    """Print the sizes of a run before its start, and the baseline."""
    recipe, corpus, options = inputs.recipe, inputs.corpus, inputs.recipe.train
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(
        f"{recipe.name}: {parameters:,} parameters, vocabulary {corpus.vocabulary.size:,}, "
        f"{len(corpus.train.tokens):,} training tokens, {rows:,} rows an epoch, "
        f"{options.steps:,} steps of {options.batch_size} rows, {where}"
    )
    if math.isnan(baseline):
        say(
            "there is no validation text, so no loss is compared with the baseline; set some text aside with "
            f"{setting('corpus.validation', 0.1)}, or prepare it with {setting('validation', 0.1)}"
        )
    else:
        say(f"unigram baseline on the validation targets: {baseline:.3f} nats (a model that learns falls below it)")


def announce_prompts(prompted: PromptedRows, share: float) -> None:
    """Print the prompted data sets of a run, and what is left out of each."""
    say(f"prompted data sets: {share:.1%} of the rows")
    for part in prompted.summary():
        drawn = f" of {part['of']:,}" if part["of"] > part["rows"] else ""
        left_out = [
            f"{part[name]:,} {why}"
            for name, why in (("empty", "without a text or an answer"), ("too_long", "too long"))
            if part[name]
        ]
        say(
            f"  {part['name']}: {part['rows']:,} rows{drawn}, {part['templates']} templates, {part['tokens']:,} tokens "
            f"a pass{'; left out: ' + ', '.join(left_out) if left_out else ''}"
        )


def note_run(
    inputs: Inputs,
    context: RunContext,
    start: Start,
    trainer: Trainer,
    baseline: float,
    prompted: PromptedRows | None = None,
) -> None:
    """Write facts about the run and its machine, for readers of the run folder: `run.json`."""
    from blankfill.system.environment import environment

    compared, changed = changes_of(inputs.recipe)
    noted: dict[str, Any] = {
        "baseline": None if math.isnan(baseline) else baseline,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "vocabulary": inputs.corpus.vocabulary.size,
        "changed": {"from": compared, "options": changed},
        "matmul_flops_per_s": trainer.peak,
        "computed_on": context.machine.where,
        "resumed" if start.resumed else "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "environment": environment(),
    }
    if (warm_start := inputs.warm_start) is not None:
        noted |= {
            "from": warm_start.path,
            "new_tokens": len(warm_start.new_tokens),
            "replay_ratio": warm_start.replay_ratio,
        }
    if prompted is not None:
        noted["prompts"] = prompted.summary()
    if inputs.teacher is not None:
        noted["teacher"] = str(inputs.teacher.path)
    note_facts(context.folder, noted, start.resumed)


def old_text_losses(out: Path) -> tuple[float, float] | None:
    """Return the first and the last validation loss of the old text; None for a run without old text."""
    from blankfill.runs.recorder import read_lines

    losses = [line.get("loss") for line in read_lines(out / "metrics.jsonl") if line.get("split") == "old"]
    before, after = (losses[0], losses[-1]) if losses else (None, None)
    return (before, after) if isinstance(before, float) and isinstance(after, float) else None


def forgetting(losses: tuple[float, float]) -> str:
    """Return a sentence on the old text's loss before and after."""
    before, after = losses
    change = f"{after - before:.3f} forgotten" if after >= before else f"{before - after:.3f} better"
    return f"old text: validation loss {before:.3f} nats before, {after:.3f} after ({change})"
