"""The gate: a quantised model is measured against its original, and refused where it loses too much or is slower.

What is measured depends on the model. Pretrained models with a language-model head: perplexity, KL divergence and the
share of targets with the same first token, on rows of their own objective with the same blanks for both. Encoders: the
cosine of the vectors of sentences. Fine-tuned models: the primary metric of their task. All: bytes, and times.

The value decides, not its interval; an interval wider than the limit is reported, since more text would narrow it. A
model counts as slower only where the whole interval of the quotient says so.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from blankfill.checkpoint import store
from blankfill.checkpoint.quantization import Quantization, quantization_of
from blankfill.convert.importing import check_free
from blankfill.convert.score_change import LARGEST_LOSS, LEAST_COSINE
from blankfill.errors import Problem, UserError, setting
from blankfill.quantizing.gate_options import GateOptions
from blankfill.quantizing.gate_report import GateReport, Measure, refusals, remedies, smallest_bits
from blankfill.quantizing.run import REPORT, newest_folder, stored_bytes
from blankfill.system.console import say
from blankfill.system.files import whole_folder, write_file
from blankfill.system.marks import checksum
from blankfill.system.reading import read_json
from blankfill.tasks.metrics.intervals import Interval

if TYPE_CHECKING:
    from blankfill.inference import Model
    from blankfill.quantizing.measures.pair import Pair
    from blankfill.quantizing.measures.speed import Timing
    from blankfill.tasks.items import Item

ALL = 1 << 30
ITEMS = 8
"""Items of a task that are measured for each row of text: they are short."""
NEW, READ = 32, 8
"""Tokens that are written for a time, and those of the prompt."""
QUALITY, SPEED = 0.6, 0.4
"""Shares of the time for what the model loses, and for how fast it is."""
NO_DATA = f"{setting('data')} goes with a fine-tuned model; give text with {setting('text')}"
NO_TEXT = f"{setting('text')} goes with a pretrained model; give labelled data with {setting('data')}"


class _Report:
    """A report that is being made."""

    def __init__(self, bits: int, options: GateOptions) -> None:
        self.bits, self.options = bits, options
        self.max_loss = options.max_loss or LARGEST_LOSS[bits]
        self.min_cosine = options.min_cosine or LEAST_COSINE[bits]
        self.text = ""
        self.measures: list[Measure] = []
        self.counts: dict[str, int] = {}
        self.missing: list[str] = []
        self.notes: list[str] = []

    def judged(self, interval: Interval | None, limit: float, what: str) -> None:
        """Note an interval that is wider than a limit."""
        if interval is None:
            self.notes.append(f"{what}: there is too little text for an interval; give more")
        elif interval[1] - interval[0] > limit:
            self.notes.append(
                f"{what}: its interval is wider than the limit of {limit:.2g}, so more text is needed to be sure"
            )


def measure(original: str | Path, quantised: str | Path, options: GateOptions | None = None) -> GateReport:
    """Measure a quantised model against the model that it was made from.

    Args:
        original: A run, one of its checkpoints, or an imported model.
        quantised: The folder of the quantised model.
        options: What to measure on, and the limits; None for the usual ones.

    Returns:
        The measures, with a sentence for each that is beyond its limit.

    Raises:
        UserError: Text or data cannot be read, or the folders hold no such models.
    """
    from blankfill.finetuning.predictor import holds_fine_tuned
    from blankfill.quantizing.measures.pair import Pair

    options = options or GateOptions()
    original, quantised = store.pointed(Path(original)), Path(quantised)
    quantization = quantization_in(quantised)
    report = _Report(smallest_bits(quantization), options)
    sizes = [stored_bytes(newest_folder(path)) for path in (original, quantised)]
    report.measures.append(Measure("size", "bytes", sizes[0], sizes[1], sizes[1] / sizes[0] - 1))
    with Pair(original, quantised, options.dtype) as pair, tempfile.TemporaryDirectory() as work:
        if not pair.together:
            report.notes.append(
                "the two models do not fit into the free memory together, so they were measured one after the other"
            )
        if holds_fine_tuned(original):
            _measure_tuned(pair, original, report)
        else:
            _measure_pretrained(pair, original, report, Path(work))
    made = GateReport(
        report.bits, report.text, tuple(report.measures), report.counts, tuple(report.missing), tuple(report.notes),
        tuple(remedies(quantization)), dtype=options.dtype,
    )  # fmt: skip
    return dataclasses.replace(made, refused=tuple(refusals(made)))


def quantization_in(folder: Path) -> Quantization:
    """Return the quantised layers of a model. Raises UserError for a model that is not quantised."""
    quantization = quantization_of(store.read_state(folder)[0], folder / store.STATE)
    if quantization is None:
        raise UserError(f"{folder} is not quantised; give the folder of a quantised model")
    return quantization


def _measure_pretrained(pair: Pair, path: Path, report: _Report, work: Path) -> None:
    from blankfill.quantizing.measures.language import cosines, language
    from blankfill.quantizing.measures.text import text_of

    options, seconds = report.options, report.options.gate_seconds
    if options.data is not None:
        raise UserError(NO_DATA)
    count = options.gate_rows or ALL
    text, missing, objective, generator = pair.of_original(
        lambda model: (
            *text_of(model.loaded, path, options.text, count, work), model.loaded.objective,
            bool(model.loaded.model.config.generator_size),
        )
    )  # fmt: skip
    report.text = text.source
    if missing:
        report.missing.append(missing)
    blocks = text.batches()
    writes, has_head = objective.writes, bool(text.rows)
    name = "pseudo-perplexity" if objective.masked else "perplexity"
    if blocks:
        result = language(pair, blocks, seconds * QUALITY)
        report.counts |= {"rows": result.units, "targets": result.targets}
        if text.is_text:
            report.measures.append(
                Measure(
                    name, "", result.perplexity_before, result.perplexity_after, result.loss, result.interval,
                    report.max_loss, result.loss <= report.max_loss,
                )
            )  # fmt: skip
            report.judged(result.interval, report.max_loss, name)
        else:
            report.notes.append("KL divergence and the same first token are those of tokens drawn at random")
        report.measures += [
            Measure("KL divergence, mean", change=result.kl),
            Measure("KL divergence, 99th percentile", change=result.kl_99),
            Measure("same first token", "share", change=result.same_top),
        ]
    if not writes and text.sentences:
        try:
            vectors = cosines(pair, text.sentences)
        except UserError as error:
            report.missing.append(Problem(f"the cosine of vectors: {error.template}"))
        else:
            report.counts["sentences"] = vectors.sentences
            # tokens drawn at random are harder to keep than text, so an encoder that they pass is not a bad one
            limit = report.min_cosine if not has_head or (generator and text.is_text) else None
            passed = limit is None or vectors.mean >= limit
            report.measures += [
                Measure("cosine of vectors, mean", change=vectors.mean, limit=limit, passed=passed),
                Measure("cosine of vectors, worst", change=vectors.worst),
            ]
    _time_pretrained(pair, text.sentences, writes, seconds * SPEED, report)


class Timed(Protocol):
    """Prepares a call whose time is measured, for a model; returns it with the number of units that it works on."""

    def __call__(self, model: Any) -> tuple[Callable[[], object], int]: ...


def _time_pretrained(pair: Pair, sentences: Sequence[str], writes: bool, seconds: float, report: _Report) -> None:
    if not sentences:
        report.missing.append(Problem(f"times: {report.text} has no sentence; give other text with {setting('text')}"))
        return
    many = [sentences[k % len(sentences)] for k in range(32)]

    def reading(texts: list[str]) -> Timed:
        def prepared(model: Any) -> tuple[Callable[[], object], int]:
            embedder = model.embedder()
            return lambda: embedder.vectors(texts), 1

        return prepared

    calls: list[tuple[str, Timed, bool]] = []
    if writes:
        calls.append(("writing a token, 1 row", _writing, True))
    calls += [
        ("reading 1 sentence", reading(many[:1]), False),
        ("reading 32 sentences", reading(many), not writes),
    ]
    try:
        _time(pair, calls, seconds, report)
    except UserError as error:  # a model whose tokenizer lacks what it reads around a text
        report.missing.append(Problem(f"times: {error.template}"))


def _writing(model: Any) -> tuple[Callable[[], object], int]:
    """Return a call that writes given tokens after a short prompt, since the work does not depend on what they are, and
    their number: `NEW`, or fewer where the model has not the positions."""
    import torch

    from blankfill.generation.slots import Slots

    loaded = model.loaded
    ordinary = [k for k in range(loaded.tokenizer.size) if k not in loaded.vocabulary.special][: NEW + READ]
    ids = (ordinary * (NEW + READ))[: NEW + READ]
    context = loaded.format.continuation(ids[:READ])
    pad = loaded.vocabulary.roles.get("pad", 0)
    tokens = [torch.tensor([id]) for id in ids[READ : READ + min(NEW, context.room)]]

    def write() -> None:
        slots = Slots(loaded.model, 1, pad, len(context) + NEW)
        slots.join([context])
        for token_A in tokens:
            slots.step(token_A)

    return write, len(tokens) + 1


def _time(pair: Pair, calls: Sequence[tuple[str, Timed, bool]], seconds: float, report: _Report) -> None:
    """Time calls of both models: (name, call, whether it decides)."""
    from blankfill.quantizing.measures.speed import alternate, apart, series

    share = seconds / len(calls)
    if pair.together:
        before, after = pair.models
        made = [(*prepare(before), prepare(after)[0]) for _, prepare, _ in calls]
        timings = [(alternate(first, second, share), units) for first, units, second in made]
    else:

        def timed(model: Model) -> list[tuple[list[float], int]]:
            prepared = [prepare(model) for _, prepare, _ in calls]
            return [(series(call, share / 2), units) for call, units in prepared]

        both = zip(*pair.each(timed), strict=True)
        timings = [(apart(first, second), units) for (first, units), (second, _) in both]
    report.counts["pairs of times"] = min(timing.pairs for timing, _ in timings)
    for (name, _, decides), (timing, units) in zip(calls, timings, strict=True):
        report.measures.append(_timed(name, timing, units, decides))


def _timed(name: str, timing: Timing, units: int, decides: bool) -> Measure:
    low, high = timing.interval
    return Measure(
        name, "ms", 1000 * timing.before / units, 1000 * timing.after / units, timing.ratio - 1, (low - 1, high - 1),
        0.0 if decides else None, not (decides and timing.slower),
    )  # fmt: skip


def _measure_tuned(pair: Pair, path: Path, report: _Report) -> None:
    from blankfill.quantizing.measures.tasks import task_items, tasks

    options, seconds = report.options, report.options.gate_seconds
    if options.text:
        raise UserError(NO_TEXT)
    count = ITEMS * options.gate_rows or ALL
    try:
        items = pair.of_original(lambda model: task_items(model, path, options.data, count))
    except UserError as error:
        if options.data is not None:
            raise
        report.missing.append(Problem(f"what the task loses, and times: {error.template}"))
        return
    result = tasks(pair, items, seconds * QUALITY)
    report.text = f"the items of {result.task}"
    report.counts["items"] = result.items
    report.measures.append(
        Measure(
            f"{result.metric} of {result.task}", "share", result.before, result.after, result.change, result.interval,
            report.max_loss, result.change >= -report.max_loss,
        )
    )  # fmt: skip
    report.judged(result.interval, report.max_loss, f"{result.metric} of {result.task}")
    if (odds := result.probabilities) is not None:
        report.measures += [
            Measure("KL divergence, mean", change=odds.kl),
            Measure("KL divergence, 99th percentile", change=odds.kl_99),
            Measure("same prediction", "share", change=odds.same_top),
        ]
    _time_tuned(pair, items, seconds * SPEED, report)


def _time_tuned(pair: Pair, items: Sequence[Item], seconds: float, report: _Report) -> None:
    many = [items[k % len(items)] for k in range(32)]
    writes = pair.of_original(lambda model: model.predictor.task.writes)

    def predicting(some: list[Item]) -> Timed:
        def prepared(model: Any) -> tuple[Callable[[], object], int]:
            predictor = model.predictor
            return lambda: predictor.predict(some), 1

        return prepared

    calls: list[tuple[str, Timed, bool]] = [
        ("predicting 1 item", predicting(many[:1]), False), ("predicting 32 items", predicting(many), not writes),
    ]  # fmt: skip
    if writes:
        calls.insert(0, ("writing a token, 1 row", _writing_tuned, True))
    _time(pair, calls, seconds, report)


def _writing_tuned(model: Any) -> tuple[Callable[[], object], int]:
    """As `_writing`, with the model of a fine-tuned one."""
    from types import SimpleNamespace

    predictor = model.predictor
    format = predictor.adapter.input_format
    loaded = SimpleNamespace(
        model=predictor.model.encoder, tokenizer=predictor.adapter.tokenizer, vocabulary=format.vocabulary,
        format=format.format,
    )  # fmt: skip
    return _writing(SimpleNamespace(loaded=loaded))


def check_options(path: Path, options: GateOptions) -> None:
    """Raise UserError for text or data that is not there, or that does not go with the kind of the model: what can be
    known before a model is quantised."""
    from blankfill.finetuning.predictor import holds_fine_tuned

    path = store.pointed(path)
    if missing := [text for text in options.text if not text.exists()]:
        raise UserError(f"{setting('text', missing[0])}: there is no such file or folder")
    if options.data is not None and not options.data.exists():
        raise UserError(f"{setting('data', options.data)}: there is no such file or folder")
    if path.exists() and holds_fine_tuned(path):
        if options.text:
            raise UserError(NO_TEXT)
    elif path.exists() and options.data is not None:
        raise UserError(NO_DATA)


class HasFolder(Protocol):
    """What a function that quantises returns: a dataclass with the folder that it wrote."""

    @property
    def folder(self) -> Path: ...


Made = TypeVar("Made", bound=HasFolder)


class _RefusedError(UserError):
    def __init__(self, made: Any, report: GateReport) -> None:
        super().__init__("; ".join(report.refused))
        self.made, self.report = made, report


def through_gate(
    path: str | Path, out: str | Path, make: Callable[[Path], Made], options: GateOptions | None = None
) -> tuple[Made, GateReport]:
    """Quantise a model, measure it, and put it in its place only if it is not refused, or with `force`.

    Args:
        path: The original.
        out: The new folder; it must not exist, or be empty.
        make: Quantises the original into a folder, and returns what it made.
        options: Of the gate; None for the usual ones.

    Returns:
        What `make` returned, with `out` as its folder, and the report. A refused model is not there.

    Raises:
        UserError: `make` or `measure` raises it; then nothing is left behind.
    """
    options, out = options or GateOptions(), Path(out)
    check_free(out)
    check_options(Path(path), options)
    try:
        with whole_folder(out) as part:
            made = make(part)
            say(f"measuring what the quantised model loses and gains (at most about {options.gate_seconds:g} s)")
            report = measure(path, part, options)
            note(part, report, options.force and bool(report.refused))
            if report.refused and not options.force:
                raise _RefusedError(made, report)
    except _RefusedError as refused:
        made, report = refused.made, refused.report
    return dataclasses.replace(made, folder=out), report  # type: ignore[type-var]


def note(folder: Path, report: GateReport, forced: bool) -> None:
    """Write a report into `quantization.json` of a quantised model, and its new checksum into the state."""
    file = folder / REPORT
    values = {**read_json(file), "gate": {**report.values(), "forced": forced}}
    write_file(file, json.dumps(values, indent=1) + "\n")
    state = read_json(folder / store.STATE)
    del state[store.OWN_SUM]
    state["sha256"][REPORT] = checksum(file)
    write_file(folder / store.STATE, json.dumps({**state, store.OWN_SUM: store.sum_of(state)}, indent=1))
