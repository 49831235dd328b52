"""The sections of a page about dialogues: answers before and after the training, old text, and rows that were learnt.

Each function returns the content of a section from `results.json`, "" when the run has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blankfill.report.markup import panel, said, tag
from blankfill.report.snapshot import number, part
from blankfill.report.tuned import between, pair_of, rows, sentences, written_pair
from blankfill.report.tuned_sections import head, row, table

Values = Mapping[str, Any]


def answers_section(results: Values) -> str:
    """Return generated answers, before and after the training, with the answers of the data."""
    shown = "".join(_answer(sample) for sample in rows(results, "samples"))
    if not shown:
        return ""
    note = "generated for dialogues of the dev set, from which nothing was learnt"
    return head("Answers before and after", note) + f'<div class="samples">{shown}</div>'


def _answer(sample: Values) -> str:
    names = {"before": "before", "after": "after", "right": "in the data"}
    lines = ""
    for key, name in names.items():
        text = said("b", str(sample.get(key) or "–"), kind="right" if key == "right" else "given")
        lines += f'<p class="verdict"><span>{name} {text}</span></p>'
    note = tag("span", f"item {sample.get('id', '')}", kind="note")
    return f'<article class="panel">{said("p", str(sample.get("question", "")), kind="said")}{lines}{note}</article>'


def forgetting_section(results: Values) -> str:
    """Return the loss of old text before and after the training."""
    report = part(results, "forgetting")
    before, after, change = (number(report.get(name)) for name in ("before", "after", "change"))
    if before is None or after is None or change is None:
        return ""
    spans = between(report.get("intervals"))
    span, ratio = pair_of(report.get("interval")), number(report.get("replay_ratio")) or 0.0
    lines = row("before", [f"{before:.4f}", written_pair(spans.get("before"))])
    lines += row("after", [f"{after:.4f}", written_pair(spans.get("after"))])
    lines += row("change", [f"{change:+.4f}", written_pair(span)])
    verdict = "no clear change"
    if span is not None and span[0] > 0:
        verdict = "the model has forgotten some of it"
    elif span is not None and span[1] < 0:
        verdict = "the model knows it better than before"
    count = number(report.get("rows")) or 0
    which = (
        "held-out rows of old text"
        if report.get("held_out", True)
        else "rows of the old text, of which nothing was held out"
    )
    replayed = f"{ratio:.0%} of the rows of the training were old text" if ratio else "no old text was replayed"
    body = table(("old text", "nats per target", "95% interval"), lines)
    return head("Forgetting", f"{count:,.0f} {which}; {replayed}") + panel("", body + tag("p", verdict, kind="note"))


def examples_section(results: Values) -> str:
    """Return the first rows of the training, what is learnt between marks."""
    shown = "".join(said("p", example, kind="said") for example in sentences(results.get("examples")))
    if not shown:
        return ""
    return head("Rows", "the first ones; what is learnt stands between ⟦ and ⟧") + panel("", shown)
