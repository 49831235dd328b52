"""The sections of a fine-tuning run's page: scores, confusions, classes, entities, questions, numbers, mistakes.

Each function returns the content of a section from `results.json`, "" when the run has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from blankfill.report.figures import scatter
from blankfill.report.markup import attributes_of, language_of, pairs, panel, said, tag
from blankfill.report.snapshot import number, part
from blankfill.report.tuned import Tuned, between, numbers, pair_of, rows, written_pair
from blankfill.tasks.options import FinetuneOptions

MOST_CLASSES = 20
"""Largest number of classes in a confusion matrix; of more, the most frequent confusions are listed."""
MOST_LISTED = 20
BESIDE = 4
"""Largest number of classes with which two tables fit beside each other."""

CHIPS = {"right": "made right", "given": "made"}

Values = Mapping[str, Any]


def head(title: str, note: str = "") -> str:
    """Return the heading of a section."""
    return f'<div class="head"><h2>{title}</h2>{tag("span", note, kind="note") if note else ""}</div>'


def table(columns: Sequence[str], body: str, kind: str = "", words: int = 0) -> str:
    """Return a table: the first column names the rows, the others hold numbers, the last `words` of them text. body:
    its rows, as HTML."""
    numbers = range(1, len(columns) - words)
    heads = "".join(tag("th", name, scope="col", kind="n" if k in numbers else "") for k, name in enumerate(columns))
    return (
        f'<div class="scroll"><table{attributes_of({"kind": kind})}><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def row(name: str, cells: Sequence[str]) -> str:
    """Return a row of a table: its name and its numbers."""
    return f"<tr>{said('th', name, scope='row')}{''.join(tag('td', cell, kind='n') for cell in cells)}</tr>"


def verdict_section(tuned: Tuned) -> str:
    """Return the warnings of a run that is no better than the baseline, and what to try."""
    if not tuned.warnings:
        return ""
    signs = "".join(said("p", f"{sentence[:1].upper()}{sentence[1:]}.", kind="warning") for sentence in tuned.warnings)
    hints = "".join(said("li", sentence) for sentence in tuned.advice)
    listed = f"<p>To try:</p><ul>{hints}</ul>" if hints else ""
    return head("Not learnt", "what the scores say about this run") + panel("", signs + listed)


def scores_section(tuned: Tuned) -> str:
    """Return every metric with its interval beside its baseline without reading the items; then the test set's."""
    baseline, known = tuned.baseline, tuned.intervals
    lines = "".join(
        _score_row(name, value, known.get(name), baseline.get(name), name == tuned.primary_metric)
        for name, value in tuned.metrics.items()
    )
    if not lines:
        return ""
    columns = ("metric", "this run", "95% interval", tuned.compared_with, "difference")
    count = number(part(tuned.results, "items").get("dev"))
    of_dev = f"Dev set, {count:,.0f} examples" if count else "Dev set"
    note = "without reading: the most frequent class, the mean, each word's usual tag"
    if tuned.from_start:
        note = "before: the model before its fine-tuning"
    body = panel(of_dev, table(columns, lines) + _comparison(part(tuned.results, "baseline"), _chosen(tuned)))
    if tuned.test:
        plain = numbers(part(tuned.test, "baseline").get("metrics"))
        known = between(tuned.test.get("intervals"))
        lines = "".join(
            _score_row(name, value, known.get(name), plain.get(name))
            for name, value in numbers(tuned.test.get("metrics")).items()
        )
        count = number(tuned.test.get("items")) or 0
        about = _comparison(part(tuned.test, "baseline"), "It chose nothing and was scored once, at the end.")
        body += panel(f"Test set, {count:,.0f} examples", table(columns, lines) + about)
    return head("Scores", note) + f'<div class="stack">{body}</div>'


def _score_row(
    name: str, value: float, span: tuple[float, float] | None, plain: float | None, chooses: bool = False
) -> str:
    cells = [f"{value:.4f}", written_pair(span)]
    cells += ["–", "–"] if plain is None else [f"{plain:.4f}", f"{value - plain:+.4f}"]
    return row(f"{name} (chooses the checkpoint)" if chooses else name, cells)


def _chosen(tuned: Tuned) -> str:
    """Return a sentence on the choice of the checkpoint, "" where there was none."""
    count = int(number(tuned.results.get("evaluations")) or 0)
    if count < 2:
        return ""
    return f"This set chose the checkpoint among {count:,} evaluations, so its scores are slightly optimistic."


def _comparison(baseline: Values, more: str) -> str:
    """Return sentences on the difference from the baseline. more: a further sentence."""
    span, texts = pair_of(baseline.get("interval")), []
    if span is not None:
        better = "clearly better" if baseline.get("better") is True else "not clearly better"
        better = "clearly worse" if span[1] < 0 else better
        texts.append(
            f"The difference from the baseline lies from {span[0]:+.4f} to {span[1]:+.4f} (95% bootstrap interval of "
            f"the primary metric): {better}."
        )
    return "".join(tag("p", text, kind="note") for text in [*texts, *([more] if more else [])])


def confusions_section(results: Values) -> str:
    """Return the confusions, and precision and recall of each class."""
    labels, counts = results.get("labels"), results.get("confusions")
    body = ""
    if isinstance(labels, list) and _is_table(counts, len(labels)):
        names = [str(label) for label in labels]
        body = confusions(names, names, counts) if len(names) <= MOST_CLASSES else most_confused(names, counts)
    classes = class_table(rows(results, "classes"), "class")
    if not body and not classes:
        return ""
    title = "Confusions" if body else "Labels"
    narrow = isinstance(labels, list) and len(labels) <= BESIDE
    return head(title) + f'<div class="{"facts wide" if narrow else "stack"}">{body}{classes}</div>'


def confusions(names: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix of counts, each with its share of the row."""
    lines = ""
    for name, line in zip(names, counts, strict=True):
        total, cells = sum(line), ""
        for other, count in zip(columns, line, strict=True):
            share = count / total if total else 0.0
            kind = "n hit" if other == name else "n"
            unit = tag("span", f"{share:.0%}", kind="unit")
            cells += f'<td class="{kind}" style="--share:{share:.3f}">{count:,} {unit}</td>'
        lines += f'<tr>{said("th", name, scope="row")}{cells}<td class="n all">{total:,}</td></tr>'
    return panel("Right in rows, given in columns", table(("right", *columns, "all"), lines, "heat"))


def most_confused(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return the most frequent confusions of many classes."""
    pairs_of_classes = [
        (count, names[r], names[c], count / sum(line))
        for r, line in enumerate(counts)
        for c, count in enumerate(line)
        if r != c and count
    ]
    lines = "".join(
        row(f"{right} → {given}", [f"{count:,}", f"{share:.0%}"])
        for count, right, given, share in sorted(pairs_of_classes, key=lambda entry: -entry[0])[:MOST_LISTED]
    )
    note = f"The most frequent of {len(names)} classes"
    return panel(note, table(("right → given", "items", "of the right class"), lines)) if lines else ""


def class_table(classes: Sequence[Values], what: str) -> str:
    """Return precision, recall and F1 of each class."""
    lines = ""
    for entry in classes:
        shares = [number(entry.get(name)) or 0.0 for name in ("precision", "recall", "f1")]
        cells = "".join(f'<td class="n bar" style="--share:{share:.3f}">{share:.1%}</td>' for share in shares)
        sizes = "".join(tag("td", f"{int(number(entry.get(name)) or 0):,}", kind="n") for name in ("support", "given"))
        lines += f"<tr>{said('th', str(entry.get('name', '')), scope='row')}{cells}{sizes}</tr>"
    columns = (what, "precision", "recall", "F1", "items", "given")
    return panel(f"Scores of each {what}", table(columns, lines)) if lines else ""


def entities_section(results: Values) -> str:
    """Return the scores of each type of entity, and the confusions between types with their places."""
    taken = part(results, "taken_for")
    types = class_table(rows(results, "types"), "type")
    if not types:
        return ""
    counts = taken.get("counts")
    names, columns = ([str(name) for name in taken.get(side) or ()] for side in ("rows", "columns"))
    heat = ""
    if 0 < len(columns) <= MOST_CLASSES and _is_table(counts, len(names), len(columns)):
        heat = confusions(names, columns, counts)
    shown = "".join(_confused(confusion) for confusion in rows(results, "confused"))
    more = f'<h3 class="between">The most frequent confusions</h3><div class="samples">{shown}</div>' if shown else ""
    return head("Entities") + f'<div class="stack">{types}{heat}</div>{more}'


def _confused(confusion: Values) -> str:
    examples = "".join(
        f"<li{attributes_of(language_of(str(place.get('entity', ''))))}>{_plain(place.get('before'))} "
        f"{tag('mark', place.get('entity', ''))} {_plain(place.get('after'))}</li>"
        for place in rows(confusion, "examples")
    )
    times = int(number(confusion.get("count")) or 0)
    count = f"{times:,} time{'s' * (times != 1)}"
    verdict = _verdict(confusion, tag("span", count, kind="note"))
    return f'<article class="panel">{verdict}<ul class="quotes">{examples}</ul></article>'


def questions_section(results: Values) -> str:
    """Return the scores of answers by the first word of the question."""
    lines = ""
    for entry in rows(results, "questions"):
        exact, f1 = (number(entry.get(name)) or 0.0 for name in ("exact", "f1"))
        cells = "".join(f'<td class="n bar" style="--share:{v:.3f}">{v:.1%}</td>' for v in (exact, f1))
        count = tag("td", f"{int(number(entry.get('count')) or 0):,}", kind="n")
        lines += f"<tr>{said('th', str(entry.get('name', '')), scope='row')}{count}{cells}</tr>"
    if not lines:
        return ""
    note = "by the first word of the question, in Chinese by the interrogative"
    return head("Questions", note) + panel("", table(("question", "items", "exact", "F1"), lines))


def numbers_section(results: Values) -> str:
    """Return a plot of predicted against true numbers."""
    given = results.get("scatter")
    points = [
        pair for pair in given
        if isinstance(pair, list) and len(pair) == 2 and all(number(value) is not None for value in pair)
    ] if isinstance(given, list) else []  # fmt: skip
    if not points:
        return ""
    error = sum(abs(a - b) for a, b in points) / len(points)
    summary = f"{len(points):,} items; the mean distance between true and predicted is {error:.3f}"
    return head("Predicted against true", summary) + panel(
        "", scatter(points, f"Predicted against true numbers: {summary}.")
    )


MISTAKES = {
    "surest_mistakes": ("Surest mistakes", "wrong answers with the highest probability"),
    "wrong_answers": ("Wrong answers", "items whose output differs from the target"),
    "largest_errors": ("Largest errors", "predicted numbers with the largest errors"),
    "most_wrong": ("Most wrong", "items with most labels wrong"),
    "misses": ("Misses", "answers that do not match, from the worst to the nearest"),
}


def mistakes_section(results: Values) -> str:
    """Return the most informative mistakes, with their texts."""
    for name, (title, note) in MISTAKES.items():
        if shown := "".join(_mistake(mistake) for mistake in rows(results, name)):
            return head(title, note) + f'<div class="samples">{shown}</div>'
    return ""


def _mistake(mistake: Values) -> str:
    sure = number(mistake.get("probability"))
    f1 = number(mistake.get("f1"))
    note = f"{sure:.1%} sure" if sure is not None else f"F1 {f1:.2f}" if f1 else ""
    texts = said("p", str(mistake.get("text", "")), kind="said")
    if mistake.get("second") is not None:
        texts += said("p", str(mistake["second"]), kind="said second")
    notes = tag("span", note, kind="note") + tag("span", f"item {mistake.get('id', '')}", kind="note")
    return f'<article class="panel">{texts}{_verdict(mistake, notes)}</article>'


def _verdict(mistake: Values, more: str) -> str:
    """Return the target and the prediction."""
    right, given = (said("b", str(mistake.get(name, "")), kind=kind) for name, kind in CHIPS.items())
    return f'<p class="verdict"><span>right {right}</span><span>given {given}</span>{more}</p>'


def settings_section(tuned: Tuned) -> str:
    """Return the settings: task, data, model, and the options, changed options first."""
    config = tuned.config
    defaults = {field.name: field.default for field in dataclasses.fields(FinetuneOptions)}
    changed = {k: v for k, v in tuned.options.items() if v != defaults.get(k)}
    unchanged = {k: v for k, v in tuned.options.items() if k not in changed}
    named = {name: value for name, value in part(config, "tables").items() if value}
    facts = [("task", tuned.task), ("data", config.get("data", "")), ("model", config.get("from", "")), *named.items()]
    items = part(tuned.snapshot.facts, "items")
    facts += [(f"{name} items", value) for name, value in items.items()]
    body = panel("Run", pairs(facts))
    if changed:
        body += panel("Changed options", pairs(changed.items()))
    if unchanged:
        body += panel("Options with default values", pairs(unchanged.items()))
    return head("Settings") + f'<div class="facts">{body}</div>'


def _plain(value: object) -> str:
    return tag("span", "" if value is None else value)


def _is_table(value: object, height: int, width: int | None = None) -> TypeGuard[list[list[int]]]:
    return (
        isinstance(value, list) and len(value) == height
        and all(isinstance(line, list) and len(line) == (width or height) for line in value)
        and all(isinstance(cell, int) for line in value for cell in line)
    )  # fmt: skip
