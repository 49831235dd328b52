"""Running an evaluation: from a model, a task and data to figures, counts and notes on their meaning."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import Problem, UserError, setting
from blankfill.system.console import progress, say
from blankfill.system.files import disk_errors, make_folder, write_file
from blankfill.system.loader import one_of
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
    tables: TableOptions = field(default_factory=TableOptions)
    """How a table of texts is read, and the column of its text."""


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
    intervals: dict[str, Any]
    """95% bootstrap intervals of the figures that have one: over texts, passages or blanks."""
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
    """The result of a measurement.

    metrics: figures; for infilling, figures by the length of blanks in words. intervals: of the figures that have one.
    counts: sizes of the data behind the figures. notes: what a reader must know of the figures. samples: texts that the
    model generated.
    """

    metrics: dict[str, Any]
    intervals: dict[str, Any]
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
    allow_unknown: bool = False,
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
        allow_unknown: Measure although more than 5% of the tokens are unknown to the model's tokenizer.

    Returns:
        The figures, what they rest on, and notes on what they mean.

    Raises:
        UserError: There is no such measurement, the model cannot do it, the data cannot be read, or too many tokens
            are unknown.
    """
    model, data, settings = Path(model), Path(data), options or EvaluationOptions()
    from blankfill.attention.kernels import best_kernel
    from blankfill.corpus.unknown import counting
    from blankfill.evaluation.scorers import Scorer
    from blankfill.inference import load
    from blankfill.system.device import pick_device

    if task not in MEASUREMENTS:
        raise UserError(
            f"{task!r} does not measure pretrained models; give {one_of(task, list(MEASUREMENTS))}; for a fine-tuned "
            "model, score the file that `blankfill predict --data DIR --split dev` writes"
        )
    if settings.limit < 0 or settings.seed < 0:
        raise UserError(f"{setting('limit')} and {setting('seed')} must not be negative")
    where = pick_device(device)
    loaded = load(model, str(where), dtype_named(dtype), head=False, optimize=False, threads=threads).loaded
    loaded.model.use_kernel(best_kernel(where, loaded.model.dtype))
    scorer = Scorer(loaded, settings.both_ways)
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(counting("the text", allow=allow_unknown, streams=True, report=True))

        def start(total: int, unit: str) -> Callable[[int], None]:
            bar = stack.enter_context(progress(task, total, unit))
            return lambda done: bar.advance(done)

        result = MEASUREMENTS[task](scorer, data, settings, start)
    notes: list[str] = [Problem(note) for note in result.notes]
    for note in notes:
        say(note)
    return Evaluation(
        str(model.resolve()), loaded.objective.name, task, str(data.resolve()), settings, scorer.sees, scorer.length,
        result.metrics, result.intervals, result.counts, notes, result.samples, round(time.monotonic() - began, 3),
    )  # fmt: skip


def result_folder(out: Path) -> None:
    """Make the folder for the results before the computation.

    Raises UserError when the folder cannot be made, and for the folder of fine-tuning runs, whose results have the same
    file name.
    """
    if any(path.is_file() for where in (CONFIG, f"*/{CONFIG}") for path in out.glob(where)):
        raise UserError(
            f"{out} holds a fine-tuning run, whose {RESULTS} would be lost; give another folder with {setting('out')}"
        )
    with disk_errors(out, f"give another folder with {setting('out')}"):
        make_folder(out)


def write_results(result: dict[str, Any], out: Path) -> None:
    """Write `results.json` to a folder; UserError when it cannot be written."""
    text = json.dumps(finite(result), ensure_ascii=False, indent=1) + "\n"
    write_file(out / RESULTS, text, f"give another folder with {setting('out')}")


def finite(value: Any) -> Any:
    """Return the value with None in place of numbers that JSON cannot express."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _perplexity(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.texts import documents

    return _running("perplexity", scorer, list(documents(data, settings.tables)), settings, start)


def _wikitext(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    texts = task_named("wikitext2").read(data, settings.split).languages()
    measured = _running("wikitext2", scorer, texts, settings, start)
    measured.notes.append(
        f"the file has {measured.counts['words']:,} words, one of them for the end of each line; <unk> is read as "
        "text, and each article is read alone"
    )
    return measured


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
            f"the text before a window is read in both directions; {setting('both_ways', False)} reads it from left "
            "to right"
        )
    return Measured(count.metrics(), count.intervals(), count.counts(), notes)


def _pseudo(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.pseudo import pseudo_perplexity
    from blankfill.evaluation.texts import chosen, sentences

    if not scorer.hides_tokens:
        if scorer.format.reads_windows:
            raise _cannot(
                scorer, "pseudo-perplexity", f"it assigns a probability to text; use {setting('task', 'perplexity')}"
            )
        raise _cannot(scorer, "pseudo-perplexity", f"it has no scores of single masks; use {setting('task', 'infill')}")
    texts = sentences(data, settings.tables)
    count = pseudo_perplexity(scorer, [texts[k] for k in chosen(len(texts), settings.limit, settings.seed)], start)
    notes = [f"{count.in_parts:,} texts were too long and measured in parts"] if count.in_parts else []
    counts = {"texts": count.texts, "in_parts": count.in_parts, "tokens": count.tokens, "words": count.words}
    return Measured(count.metrics(), count.intervals(), counts, notes)


def _last_words(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.last_word import last_words
    from blankfill.evaluation.texts import chosen

    items = task_named("lambada").read(data, settings.split).generations()
    result = last_words(scorer, [items[k] for k in chosen(len(items), settings.limit, settings.seed)], start)
    notes = [f"{result.cut:,} passages were too long and lost their beginning"] if result.cut else []
    return Measured(result.metrics(), result.intervals(), result.counts(), notes + _length_note(scorer))


def _infill(scorer: Scorer, data: Path, settings: EvaluationOptions, start: Start) -> Measured:
    from blankfill.evaluation.infill import by_length, infill, samples
    from blankfill.evaluation.texts import LENGTHS, PASSAGE, chosen, cut_blanks, documents, passages

    texts = passages(documents(data, settings.tables))
    if not texts:
        raise UserError(f"{data} has no text of {PASSAGE} words, which a passage with a blank needs; give longer texts")
    texts = [texts[k] for k in chosen(len(texts), settings.limit, settings.seed)]
    advance = start(len(texts) * len(LENGTHS), "blanks")
    results = [infill(scorer, cut_blanks(texts, length, settings.seed), advance) for length in LENGTHS]
    left = "" if scorer.sees == "both" else "; the model sees only the text to the left of a blank"
    notes = [f"blanks are counted in words{left}", *_length_note(scorer)]
    counts = {"passages": len(texts), "words": PASSAGE}
    intervals = {str(result.words): between for result in results if (between := result.intervals())}
    return Measured(by_length(results), intervals, counts, notes, samples(scorer, [result.cuts for result in results]))


def _length_note(scorer: Scorer) -> list[str]:
    if scorer.length == "unknown":
        return []
    return ["the model was given the number of tokens of each answer: do not compare with models that were not"]


def _cannot(scorer: Scorer, task: str, remedy: str) -> UserError:
    name = scorer.loaded.objective.name
    return UserError(
        f"{scorer.loaded.path}: {setting('task', task)} is not for a model of the objective {name}: {remedy}"
    )


MEASUREMENTS: dict[str, Callable[[Scorer, Path, EvaluationOptions, Start], Measured]] = {
    "perplexity": _perplexity, "wikitext2": _wikitext, "lambada": _last_words, "pseudo-perplexity": _pseudo,
    "infill": _infill,
}  # fmt: skip
"""Measurements of a pretrained model by the name of the task."""
