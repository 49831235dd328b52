"""The wiring of an evaluation: a model, a task, data in; figures, counts and what they mean out."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.errors import Problem, UserError, setting
from blankfill.system.console import progress, say
from blankfill.system.files import disk_errors, make_folder, write_file
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.run_files import CONFIG, RESULTS

if TYPE_CHECKING:
    from blankfill.evaluation.answers import Start
    from blankfill.evaluation.scorers import Scorer
    from blankfill.tasks.items import LanguageItem


@dataclass(frozen=True)
class EvaluationOptions:
    """How to measure a pretrained model."""

    split: str = "test"
    """Split of a task that has several."""
    window: int = 0
    """Tokens of a window of running text; 0: as many as the model reads."""
    stride: int = 0
    """Tokens by which the window moves; 0: a whole window."""
    both_ways: bool = True
    """Whether GLM reads the text before a window with attention both ways (Part A) or from left to right."""
    limit: int = 0
    """Number of texts, passages or sentences to measure, drawn by seed; 0: all."""
    seed: int = 0
    """Seed of that draw."""


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation; `values` is ready for `json.dumps`."""

    model: str
    """Absolute path of the model."""
    objective: str
    """Name of the model's objective."""
    task: str
    """Name of the measurement."""
    data: str
    """Absolute path of the data."""
    settings: EvaluationOptions
    """The options of the measurement."""
    sees: str
    """Which sides of a token the model sees: "both" or "left"."""
    length: str
    """Whether the model knows the length of a blank: "given" or "unknown"."""
    metrics: dict[str, Any]
    """Figures by name; for infilling, figures by the length of blanks in words."""
    counts: dict[str, Any]
    """Number of tokens, texts or answers that the figures rest on."""
    notes: list[str]
    """Sentences about what the figures mean."""
    samples: Sequence[dict[str, Any]]
    """Examples of what the model predicted."""
    seconds: float
    """Duration of the measurement."""

    def values(self) -> dict[str, Any]:
        """Return the fields as JSON values, without samples where there are none."""
        values = asdict(self)
        if not self.samples:
            del values["samples"]
        return values


@dataclass(frozen=True)
class Measured:
    """What an evaluation found. metrics: figures; for infilling, figures by the blanks' length in words. counts: how
    much they rest on. notes: what must be known beside them. samples: for a reader, what the model wrote."""

    metrics: dict[str, Any]
    counts: dict[str, Any]
    notes: list[str]
    samples: Sequence[dict[str, Any]] = ()


def evaluate(
    model: str | Path,
    task: str,
    data: str | Path,
    options: EvaluationOptions | None = None,
    *,
    device: str = "auto",
    threads: int = 0,
    dtype: WeightType = "auto",
) -> Evaluation:
    """Measure a pretrained model on text that it has not seen.

    Args:
        model: A run, one of its checkpoints, an imported model or a transformers folder.
        task: The measurement: "perplexity", "pseudo-perplexity", "infill", "wikitext2" or "lambada".
        data: The text, or the folder of the data set.
        options: How to measure; None for the usual options.
        device: Where to compute: "auto", "cpu", "cuda", "cuda:1", "mps".
        threads: CPU threads; 0 for the usual number.
        dtype: Type of the weights, such as "bf16"; "auto" leaves them as they are stored.

    Returns:
        The figures, what they rest on, and notes on what they mean.

    Raises:
        UserError: There is no such measurement, the model cannot do it, or the data cannot be read.
    """
    model, data, settings = Path(model), Path(data), options or EvaluationOptions()
    from blankfill.attention.kernels import best_kernel
    from blankfill.evaluation.scorers import Scorer
    from blankfill.inference import load
    from blankfill.system.device import pick_device

    if task not in MEASUREMENTS:
        raise UserError(
            f"a pretrained model is not measured by {task!r}; give one of {', '.join(MEASUREMENTS)} (a fine-tuned one: "
            "score the file that `blankfill predict --data DIR --split dev` writes)"
        )
    if settings.limit < 0 or settings.seed < 0:
        raise UserError(f"{setting('limit')} and {setting('seed')} are 0 or more")
    where = pick_device(device)
    loaded = load(model, str(where), dtype_named(dtype), head=False, optimize=False, threads=threads).loaded
    loaded.model.use_kernel(best_kernel(where, loaded.model.token_embeddings.weight.dtype))
    scorer = Scorer(loaded, settings.both_ways)
    began = time.monotonic()
    with ExitStack() as stack:

        def start(total: int, unit: str) -> Callable[[int], None]:
            bar = stack.enter_context(progress(task, total, unit))
            return lambda done: bar.advance(done)

        result = MEASUREMENTS[task](scorer, data, settings, start)
    notes: list[str] = [Problem(note) for note in result.notes]
    for note in notes:
        say(note)
    return Evaluation(
        str(model.resolve()), loaded.objective.name, task, str(data.resolve()), settings, scorer.sees, scorer.length,
        result.metrics, result.counts, notes, result.samples, round(time.monotonic() - began, 3),
    )  # fmt: skip


def result_folder(out: Path) -> None:
    """Make the folder of the results, before anything is computed.

    Raises UserError when it cannot be, and for the folder of a fine-tuning run or of several, whose results have the
    same name.
    """
    if any(found.is_file() for where in (CONFIG, f"*/{CONFIG}") for found in out.glob(where)):
        raise UserError(
            f"{out} holds a fine-tuning run, whose {RESULTS} would be lost; give another folder with {setting('out')}"
        )
    with disk_errors(out, f"give another folder with {setting('out')}"):
        make_folder(out)


def write_results(result: dict[str, Any], out: Path) -> None:
    """`results.json` in a folder; UserError when it cannot be written."""
    text = json.dumps(finite(result), ensure_ascii=False, indent=1) + "\n"
    write_file(out / RESULTS, text, f"give another folder with {setting('out')}")


def finite(value: Any) -> Any:
    """The value with None for numbers that JSON has no form for."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _perplexity(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.texts import documents

    return _running("perplexity", scorer, list(documents(data)), settings, start)


def _wikitext(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    texts = task_named("wikitext2").read(data, settings.split).languages()
    found = _running("wikitext2", scorer, texts, settings, start)
    found.notes.append(
        f"words are the file's own, the end of a line being one: {found.counts['words']:,}; each <unk> among them is "
        "read as it is written; articles are read apart"
    )
    return found


def _running(
    task: str, scorer: Scorer, texts: Sequence[LanguageItem], settings: EvaluationOptions, start: Start
) -> Measured:
    from blankfill.evaluation.perplexity import perplexity
    from blankfill.evaluation.texts import chosen

    if not scorer.format.reads_windows:
        instead = (
            f"{setting('task', 'pseudo-perplexity')}, or {setting('task', 'infill')}"
            if scorer.hides_tokens
            else setting("task", "infill")
        )
        raise _cannot(scorer, task, f"it has no perplexity; use {instead}")
    picked = [texts[k] for k in chosen(len(texts), settings.limit, settings.seed)]
    count = perplexity(scorer, picked, settings.window, settings.stride, start)
    notes = list(count.notes)
    if scorer.both_ways:
        notes.append(
            f"the text before a window is read both ways; {setting('both_ways', False)} makes the model a "
            "left-to-right one"
        )
    return Measured(count.metrics(), count.counts(), notes)


def _pseudo(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.pseudo import pseudo_perplexity
    from blankfill.evaluation.texts import chosen, sentences

    if not scorer.hides_tokens:
        if scorer.format.reads_windows:
            raise _cannot(
                scorer, "pseudo-perplexity", f"it gives text a probability; use {setting('task', 'perplexity')}"
            )
        raise _cannot(scorer, "pseudo-perplexity", f"it has no scores of single masks; use {setting('task', 'infill')}")
    texts = sentences(data)
    count = pseudo_perplexity(scorer, [texts[k] for k in chosen(len(texts), settings.limit, settings.seed)], start)
    notes = [f"{count.parted:,} texts were too long and measured in parts"] if count.parted else []
    counts = {"texts": count.texts, "parted": count.parted, "tokens": count.tokens, "words": count.words}
    return Measured(count.metrics(), counts, notes)


def _last_words(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.last_word import last_words
    from blankfill.evaluation.texts import chosen

    items = task_named("lambada").read(data, settings.split).generations()
    found = last_words(scorer, [items[k] for k in chosen(len(items), settings.limit, settings.seed)], start)
    notes = [f"{found.cut:,} passages were too long and lost their beginning"] if found.cut else []
    return Measured(found.metrics(), found.counts(), notes + _told_length(scorer))


def _infill(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.infill import by_length, infill, samples
    from blankfill.evaluation.texts import LENGTHS, PASSAGE, chosen, cut_blanks, documents, passages

    texts = passages(documents(data))
    if not texts:
        raise UserError(f"{data} has no text of {PASSAGE} words, in which blanks are cut; give a longer one")
    texts = [texts[k] for k in chosen(len(texts), settings.limit, settings.seed)]
    advance = start(len(texts) * len(LENGTHS), "blanks")
    found = [infill(scorer, cut_blanks(texts, length, settings.seed), advance) for length in LENGTHS]
    left = "" if scorer.sees == "both" else "; the model sees what is to the left of a blank alone"
    notes = [f"blanks are counted in words{left}", *_told_length(scorer)]
    counts = {"passages": len(texts), "words": PASSAGE}
    return Measured(by_length(found), counts, notes, samples(scorer, [result.cuts for result in found]))


def _told_length(scorer: Scorer) -> list[str]:
    if scorer.length == "unknown":
        return []
    return ["the model was told how many tokens each answer has: do not compare with models that were not"]


def _cannot(scorer: Scorer, task: str, remedy: str) -> UserError:
    name = scorer.loaded.objective.name
    return UserError(
        f"{scorer.loaded.path}: {setting('task', task)} is not for a model of the objective {name}: {remedy}"
    )


MEASUREMENTS: dict[str, Callable[[Scorer, Path, EvaluationOptions, Start], Measured]] = {
    "perplexity": _perplexity, "wikitext2": _wikitext, "lambada": _last_words, "pseudo-perplexity": _pseudo,
    "infill": _infill,
}  # fmt: skip
"""What a pretrained model is measured by, by the name of the task."""
