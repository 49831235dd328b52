"""The report of the gate: its measures, what is refused and why, and the rows of its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from blankfill.checkpoint.quantization import Quantization
from blankfill.errors import Problem, setting, template_of
from blankfill.model.quantized import TABLES
from blankfill.system.console import amount, as_json
from blankfill.tasks.metrics.intervals import Interval

Unit = Literal["bytes", "ms", "", "share"]


@dataclass(frozen=True)
class Measure:
    """A measure of both models, or of their difference.

    name: for a reader. before, after: values of the models; None for a measure of a difference, whose value is
    `change`. change: relative for bytes, times and perplexities; after − before for a task's metric. interval: of the
    change, 95%. limit: of the change, None for what does not decide. passed: whether it is within the limit.
    """

    name: str
    unit: Unit = ""
    before: float | None = None
    after: float | None = None
    change: float | None = None
    interval: Interval | None = None
    limit: float | None = None
    passed: bool = True


@dataclass(frozen=True)
class GateReport:
    """What a quantised model loses and gains.

    bits: smallest number of bits of a layer. dtype: that of the options. text: what the loss was measured on. measures:
    in the order of the table. counts: numbers of rows, targets, items and pairs of times. missing: sentences on what
    was not measured. notes: what a reader must know of the figures. remedies: settings of the quantisation that may
    make the loss smaller. refused: a sentence for each measure beyond its limit.
    """

    bits: int
    text: str
    measures: tuple[Measure, ...]
    counts: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    dtype: str = "auto"

    def values(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values: dict[str, Any] = as_json(self)
        return values


def smallest_bits(quantization: Quantization) -> int:
    """Return the smallest number of bits of a layer."""
    return min(format.bits for format in quantization.layers.values())


def remedies(quantization: Quantization) -> list[str]:
    """Return settings that a model was not quantised with, and that may lose less."""
    formats, bits = quantization.layers, smallest_bits(quantization)
    smallest = [format.group_size for format in formats.values() if format.bits == bits]
    out = []
    if quantization.activations != "keep":
        out.append(setting("activations", "keep"))
    if bits == 4:
        if quantization.method != "gptq":
            out.append(setting("method", "gptq"))
        if any(size == 0 or size > 32 for size in smallest):
            out.append(setting("group_size", 32))
        out.append(setting("bits", 8))
    else:
        if not formats.keys().isdisjoint(TABLES):
            out.append(setting("embeddings", "keep"))
        if any(size == 0 or size > 64 for size in smallest):
            out.append(setting("group_size", 64))
    return list(map(Problem, out))


def refusals(report: GateReport) -> list[str]:
    """Return a sentence for each measure beyond its limit: which it is, its value, the limit, and what would help."""
    return [_refusal(part, report) for part in report.measures if not part.passed]


def _refusal(part: Measure, report: GateReport) -> str:
    change, limit = part.change if part.change is not None else math.nan, part.limit or 0.0
    if part.unit == "ms":
        assert part.interval is not None and part.before is not None and part.after is not None
        tries = [setting("dtype", "bf16")] * (report.dtype != "bf16") + [setting("bits", 8)] * (report.bits == 4)
        return Problem(
            f"the quantised model is slower: {part.name} takes {_ms(part.after)} ms and took {_ms(part.before)} "
            f"({_times(part)}); the products of small matrices, and types for which this processor has no product of "
            f"integers, do not gain by it; {_trying(tries)}{setting('force', True)} keeps it for its size"
        )
    value, allowed = f"{change:+.2%}", f"{limit:.2%}"
    if part.name.startswith("cosine"):
        value, allowed = f"{change:.5f}", f"at least {limit:g}"
    elif part.unit == "share":
        value, allowed = f"{change:+.4f}", f"{limit:g} less at most"
    else:
        allowed = f"{allowed} at most"
    limit_of = setting("min_cosine" if part.name.startswith("cosine") else "max_loss")
    return Problem(
        f"{part.name}: {value}, and {allowed} is allowed; {_trying(report.remedies)}{limit_of} changes the limit, and "
        f"{setting('force', True)} keeps the model"
    )


def _trying(settings: Sequence[str]) -> str:
    """Return a clause that recommends settings, "" for none."""
    names = list(map(template_of, settings))
    if len(names) > 1:
        names = [", ".join(names[:-1]), names[-1]]
    return f"try {' or '.join(names)}; " if names else ""


def table_rows(report: GateReport) -> list[tuple[str, str, str, str, str]]:
    """Return the rows of the table: measure, before, after, change with its interval, limit."""
    return [_row(part) for part in report.measures]


HEADERS = ("measure", "before", "after", "change", "limit")


def _row(part: Measure) -> tuple[str, str, str, str, str]:
    def value(number: float | None) -> str:
        if number is None:
            return ""
        if part.unit == "bytes":
            return amount(number, "B")
        return _ms(number) if part.unit == "ms" else f"{number:.4f}"

    change = "" if part.change is None else f"{part.change:+.2%}"
    limit = "" if part.limit is None else f"{part.limit:.2%}"
    if part.unit == "ms":
        name, change, limit = f"ms, {part.name}", _times(part), "" if part.limit is None else "not slower"
        return name, value(part.before), value(part.after), change, limit if part.passed else f"{limit}: refused"
    if part.before is None and part.change is not None:
        change = f"{part.change:.2%}" if part.unit == "share" else f"{part.change:.3g}"
        if part.name.startswith("cosine"):
            change, limit = f"{part.change:.5f}", "" if part.limit is None else f"≥ {part.limit:g}"
    elif part.unit == "share" and part.change is not None:
        change = f"{part.change:+.4f}" + _between(part.interval, lambda k: f"{k:+.4f}")
        limit = "" if part.limit is None else f"{-part.limit:+g}"
    else:
        change += _between(part.interval, lambda k: f"{k:+.2%}")
    return part.name, value(part.before), value(part.after), change, limit if part.passed else f"{limit}: refused"


def _between(interval: Interval | None, text: Callable[[float], str]) -> str:
    return "" if interval is None else f" [{text(interval[0])}, {text(interval[1])}]"


def _times(part: Measure) -> str:
    """Return how the times compare: ×0.52 [0.50, 0.55]."""
    assert part.change is not None and part.interval is not None
    return f"×{1 + part.change:.2f} [{1 + part.interval[0]:.2f}, {1 + part.interval[1]:.2f}]"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 99.5 else f"{value:,.0f}"
