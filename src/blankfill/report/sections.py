"""The sections of a run's page below its headline, as HTML that is complete without JavaScript.

Each function returns the content of a section, "" when the run has none. The script of the page draws into `.plot` and
steps through the rows of `.sample`; everything else is static.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from blankfill.corpus.inventory import HEADERS, ReadSource, dropped_rows, table_rows
from blankfill.corpus.summary import CorpusReport
from blankfill.errors import UserError
from blankfill.generation.blanks import Blank, find_blanks
from blankfill.report.charts import Chart, tone
from blankfill.report.markup import attributes_of, language_of, pairs, panel, panels, said, tag
from blankfill.report.snapshot import Event, Sample, Snapshot, part
from blankfill.system.console import amount

MOST_SAMPLED = 40
"""Number of steps with samples shown; of more steps, this many are spread over the run, including the first and the
last."""


def curves_section(charts: Sequence[Chart]) -> str:
    """Return the charts, the first one the widest: frames that the script draws into, and tables of end values."""
    if not charts:
        return '<div class="head"><h2>Curves</h2></div><p class="panel empty">No measurements yet.</p>'
    figures = "".join(_figure(chart, k) for k, chart in enumerate(charts))
    axes = _choice("Horizontal axis", "x", {"step": "steps", "tokens": "tokens", "time": "time"})
    scales = _choice("Scale of losses and norms", "scale", {"linear": "linear", "log": "log"})
    return (
        f'<div class="head"><h2>Curves</h2></div><div class="controls">{axes}{scales}'
        '<label class="slide">Smoothing<input id="smooth" type="range" min="0" max="10" step="0.5">'
        '<output id="smoothness" for="smooth"></output></label>'
        '<button id="unzoom" type="button" hidden>Whole run</button>'
        f'<span class="hint">Drag over a curve to look closer</span></div><div class="charts">{figures}</div>'
    )


def _choice(legend: str, name: str, options: dict[str, str]) -> str:
    labels = "".join(
        f'<label><input type="radio" name="{name}" value="{value}">{text}</label>' for value, text in options.items()
    )
    return f'<fieldset class="choice"><legend>{legend}</legend>{labels}</fieldset>'


def _figure(chart: Chart, k: int) -> str:
    """Return one chart without its curves: title, legend with the newest values, and the table of ends."""
    legend, summary, rows = "", [], ""
    for series in chart.series:
        first, lowest, _, last = ((f"{step:,}", chart.write(value)) for step, value in series.ends.values())
        legend += f'<li class="{series.tone}">{escape(series.name)} <b>{last[1]}</b></li>'
        summary.append(f"{series.name} from {first[1]} to {last[1]}, lowest {lowest[1]} at step {lowest[0]}")
        cells = "".join(
            f'<td class="n">{chart.write(value)} <span class="unit">at {step:,}</span></td>'
            for step, value in series.ends.values()
        )
        rows += f"<tr>{tag('th', series.name, scope='row')}{cells}</tr>"
    if chart.reference:
        name, value = chart.reference[0], chart.write(chart.reference[1])
        legend += f'<li class="dashed">{escape(name)} <b>{value}</b></li>'
        summary.append(f"{name} {value}")
        rows += f'<tr>{tag("th", name, scope="row")}<td class="n">{value}</td><td colspan="3"></td></tr>'
    head = "".join(f'<th scope="col" class="n">{name}</th>' for name in ("first", "lowest", "highest", "last"))
    label = escape(f"{chart.title}: {'; '.join(summary)}. The arrow keys read the values.")
    return (
        f'<figure class="chart{" main" if k == 0 else ""}" data-chart="{k}"><figcaption>'
        f'<h3>{escape(chart.title)}{tag("span", chart.unit, kind="unit")}</h3><ul class="legend">{legend}</ul>'
        f'</figcaption><div class="plot"><svg role="img" aria-label="{label}"></svg></div>'
        '<details open><summary>End values</summary><div class="scroll"><table><thead><tr><th scope="col">curve</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div></details></figure>"
    )


def samples_section(samples: Sequence[Sample]) -> str:
    """Return the fixed texts with the model's answers at each step; the text shows the newest answer."""
    steps = sorted({step for sample in samples for step, _ in sample.at})
    if not steps:
        return ""
    picked = np.linspace(0, len(steps) - 1, min(len(steps), MOST_SAMPLED)).round().astype(int)
    shown = [steps[k] for k in picked.tolist()]
    last = len(shown) - 1
    key = ""
    if any(sample.answer for sample in samples):
        key = (
            '<span class="key"><span><i class="right"></i>right</span>'
            '<span><i class="among"></i>among the next</span><span><i></i>wrong</span></span>'
        )
    cards = "".join(_sample(sample, frozenset(shown)) for sample in samples)
    return (
        f'<div data-samples><div class="head"><h2>Samples</h2>{key}<span class="steps"><input type="range" min="0" '
        f'max="{last}" value="{last}" data-steps="{" ".join(map(str, shown))}" aria-label="step of the samples">'
        f'<output></output><button type="button">Play</button></span></div><div class="samples">{cards}</div></div>'
    )


def _sample(sample: Sample, steps: frozenset[int]) -> str:
    """Return one fixed text. The first answer fills the blank, or continues the prompt."""
    at = [(step, answers) for step, answers in sample.at if step in steps] or [*sample.at[-1:]]
    hits, rows = [], ""
    for step, answers in at:
        right = [is_right(answer, sample.answer) for answer in answers]
        hits.append("right" if any(right[:1]) else "among" if any(right) else "none")
        made = "".join(said("span", text, kind=f"made{' right' * ok}") for text, ok in zip(answers, right, strict=True))
        rows += (
            f'<tr data-step="{step}" data-hit="{hits[-1]}"><th scope="row" class="n">{step:,}</th><td>{made}</td></tr>'
        )
    first, *others = at[-1][1] or [""]
    blanks = _blanks(sample)
    before, after = sample.text, ""
    if len(blanks) == 1:
        before, after = sample.text[: blanks[0].start], sample.text[blanks[0].end :]
    elif blanks:  # the model's answer is then the whole text
        before = f"{sample.text}\n→ "
    mark = tag("mark", first, kind="right" if hits[-1] == "right" else "")
    language = attributes_of(language_of(sample.text + first))
    body = f'<p class="said"{language}>{escape(before)}{mark}{escape(after)}</p>'
    following = "".join(said("span", other, kind="made") for other in others)
    if sample.answer:
        count = f"right at {hits.count('right')} of {len(hits)} steps"
        body += (
            f'<p class="truth"><span>the text has {said("b", sample.answer)}</span>'
            f'<span>next <span class="others">{following}</span></span></p>'
            f'<div class="strip" role="img" aria-label="{count}" title="{count}"></div>'
        )
    elif following:
        body += f'<p class="truth"><span>next <span class="others">{following}</span></span></p>'
    kind = "panel sample" if len(blanks) == 1 else "panel sample continued"
    return (
        f'<article class="{kind}">{body}<details open><summary>All steps</summary><div class="scroll">'
        '<table><thead><tr><th scope="col" class="n">step</th><th scope="col">the model</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div></details></article>"
    )


def _blanks(sample: Sample) -> list[Blank]:
    try:
        return find_blanks(sample.text) if sample.answer is not None else []
    except UserError:
        return []


def is_right(made: str, answer: str | None) -> bool:
    """Return whether the model wrote the original text, ignoring case."""
    return bool(answer) and made.strip().casefold() == str(answer).strip().casefold()


def events_section(events: Sequence[Event], earlier: int) -> str:
    """Return the events of a run. earlier: the number of events that are not listed."""
    if not events:
        return ""
    rows = "".join(
        f'<tr><th scope="row" class="n">{event.step:,}</th>'
        f"<td>{tag('span', event.kind, kind=f'kind t-{tone(event.kind)}')}</td>"
        f"{said('td', event.text)}{tag('td', event.time[:19].replace('T', ' '), kind='note n')}</tr>"
        for event in events
    )
    note = f'<span class="note">the newest {len(events)}; {earlier:,} came before</span>' if earlier else ""
    return (
        f'<div class="head"><h2>Events</h2>{note}</div><div class="panel scroll"><table class="events"><thead><tr>'
        '<th scope="col" class="n">step</th><th scope="col">what</th><th scope="col">in words</th>'
        f'<th scope="col" class="n">when</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def recipe_section(snapshot: Snapshot) -> str:
    """Return the resolved recipe, with marks at options that differ from their defaults; the text of its file where it
    is not a valid recipe. The section `corpus` is that of the prepared text."""
    note = "every option, as this run has it"
    if snapshot.recipe:
        changed = part(snapshot.facts, "changed")
        marks: dict[str, dict[str, object]] = {}
        recipe = {**snapshot.recipe, **prepared_options(snapshot)}
        for path, default in part(changed, "options").items():
            section, _, name = path.partition(".")
            if (section, name) != ("corpus", "vocab_size") and part(recipe, section).get(name, default) != default:
                marks.setdefault(section, {})[name] = default
        if changed:
            compared = changed.get("from")
            note += f"; marked: changed from the recipe {compared}" if compared else "; marked: not the default"
        body = f'<div class="facts">{panels(recipe, "recipe", marks)}</div>'
    elif snapshot.recipe_text:
        body = panel("", tag("pre", snapshot.recipe_text))
    else:
        return ""
    return f'<div class="head"><h2>Recipe</h2>{tag("span", note, kind="note")}</div>{body}'


def prepared_options(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Return the section `corpus` of a recipe as the text was prepared, with the size of the vocabulary that the model
    has; {} where the run does not say."""
    wished = snapshot.section("corpus")
    if not wished:
        return {}
    options = dict(wished)
    if snapshot.corpus is not None:
        options |= {name: value for name, value in snapshot.corpus.config.items() if name in wished}
    if snapshot.vocabulary is not None:
        options["vocab_size"] = snapshot.vocabulary
    return {"corpus": options}


def prompts_section(sets: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of prompted data sets. sets: as `PromptedRows.summary` gives them."""
    if not sets:
        return ""
    titles = {
        "name": "data set", "rows": "rows", "of": "rows of the table", "templates": "templates",
        "tokens": "tokens in a pass", "empty": "left out: empty", "too_long": "left out: too long",
    }  # fmt: skip
    head = "".join(f'<th scope="col"{" class=n" if key != "name" else ""}>{text}</th>' for key, text in titles.items())
    body = "".join(
        f"<tr>{tag('th', values.get('name', ''), scope='row')}"
        + "".join(tag("td", _count(values.get(key)), kind="n") for key in titles if key != "name")
        + "</tr>"
        for values in sets
    )
    return (
        '<div class="head"><h2>Prompted data sets</h2></div><div class="panel scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def corpus_section(corpus: CorpusReport | None) -> str:
    """Return the report of a corpus."""
    if corpus is None:
        return ""
    sides = "".join(
        f'<tr>{tag("th", name, scope="row")}<td class="n">{getattr(corpus.train, name):,}</td>'
        f'<td class="n">{getattr(corpus.valid, name):,}</td></tr>'
        for name in ("documents", "sentences", "tokens", "characters")
    )
    head = '<tr><td></td><th scope="col" class="n">training</th><th scope="col" class="n">validation</th></tr>'
    facts: list[tuple[str, object]] = [
        ("documents read", corpus.documents),
        ("tokenizer", corpus.tokenizer),
        ("vocabulary", f"{corpus.vocabulary:,}"),
        ("characters per token", f"{corpus.characters_per_token:.2f}"),
        ("unknown tokens", f"{corpus.unknown:,} ({corpus.unknown_share:.3%} of training)"),
        ("lines in more than one document", corpus.repeated_line_count),
        ("repetitions dropped", corpus.dropped_lines),
        ("sources", amount(corpus.source_bytes, "B")),
        *((f"left out: {why}", count) for why, count in corpus.dropped.items() if count),
    ]
    body = panel("Read", _read_table(corpus.inventory)) if corpus.inventory else ""
    if left_out := dropped_rows(corpus.inventory):
        body += panel("Left out of documents", pairs(left_out))
    body += panel("", f"<table><thead>{head}</thead><tbody>{sides}</tbody></table>") + panel("", pairs(facts))
    lists = {
        "Samples of the text": corpus.samples,
        "Notes": corpus.notices,
        "Not read": corpus.skipped[:10],
        "Commonest repeated lines": [f"{text} ({count:,} documents)" for count, text in corpus.repeated_lines[:10]],
    }
    for title, texts in lists.items():
        if texts:
            body += panel(title, f'<ul class="quotes">{"".join(said("li", text) for text in texts)}</ul>')
    return f'<div class="head"><h2>Corpus</h2></div><div class="facts wide">{body}</div>'


def _read_table(lines: Sequence[ReadSource]) -> str:
    """Return the table of what was read."""
    numbers = (False, False, False, True, True)
    head = "".join(
        tag("th", name, scope="col", kind="n" if number else "") for name, number in zip(HEADERS, numbers, strict=True)
    )
    body = ""
    for row in table_rows(lines):
        cells = zip(row, numbers, strict=True)
        body += f"<tr>{''.join(tag('td', cell, kind='n' if number else '') for cell, number in cells)}</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def environment_section(snapshot: Snapshot) -> str:
    """Return the environment of the run, and the other facts of run.json."""
    environment = snapshot.facts.get("environment")
    inner = environment if isinstance(environment, dict) else {}
    memory = inner.get("memory")
    if isinstance(memory, dict):
        sizes = {name: amount(size, "B") if isinstance(size, int) else size for name, size in memory.items()}
        inner = {**inner, "memory": sizes}
    shown_elsewhere = ("changed", "vocabulary", *(["environment"] if inner else []))
    outer = {key: value for key, value in snapshot.facts.items() if key not in shown_elsewhere}
    body = panels(outer, "run") + panels(inner, "environment")
    return f'<div class="head"><h2>Environment</h2></div><div class="facts">{body}</div>' if body else ""
