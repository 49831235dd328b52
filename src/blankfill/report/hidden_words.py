"""The section of a run's page about hidden words: shares beside the baselines, and the surest answers."""

from __future__ import annotations

from collections.abc import Sequence

from blankfill.generation.hidden_words_report import AMONG, Answer, Report, rows_of, title_of
from blankfill.report.markup import attributes_of, language_of, panel, tag


def hidden_words_section(report: Report | None) -> str:
    """Return the report on hidden words as HTML, "" where the run has none."""
    if report is None:
        return ""
    rows = ""
    for name, shares in rows_of(report):
        cells = "".join(f'<td class="n">{share:.1%}</td>' for share in (shares.first, shares.among))
        rows += f"<tr>{tag('th', name, scope='row')}{cells}</tr>"
    columns = "".join(f'<th scope="col" class="n">{name}</th>' for name in ("at once", f"among {AMONG}"))
    head = f'<tr><th scope="col">named by</th>{columns}</tr>'
    drawn = f"The hidden words are drawn from the {report.covered:.0%} of words that are one token."
    sure = f"Of the {report.sure_words} surest answers {report.sure:.0%} are right."
    body = panel("", f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>")
    body += panel("", "".join(tag("p", text) for text in (report.verdict, sure, drawn)))
    body += _answers("Surest right answers", report.right) + _answers("Surest wrong answers", report.wrong)
    note = tag("span", f"{title_of(report)}; at step {report.step:,}", kind="note")
    return f'<div class="head"><h2>Hidden words</h2>{note}</div><div class="facts wide">{body}</div>'


def _answers(title: str, answers: Sequence[Answer]) -> str:
    if not answers:
        return ""
    lines = []
    for answer in answers:
        right = answer.answer == answer.word
        truth = "" if right else f"; the text has «{answer.word}»"
        mark = tag("mark", answer.answer, kind="right" if right else "")
        language = attributes_of(language_of(answer.before + answer.after))
        text = tag("span", f"{answer.before} ") + mark + tag("span", f" {answer.after}")
        lines.append(f"<li{language}>{text} {tag('span', f'{answer.probability:.0%} sure{truth}', kind='note')}</li>")
    return panel(title, f'<ul class="quotes">{"".join(lines)}</ul>')
