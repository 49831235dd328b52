"""Tasks as text to text (T5, Raffel et al. 2020, arXiv 1910.10683, sections 2.4 and D).

A form defines the input (`source`, a text with places for those of the item, as in cloze patterns) and the output for a
label, a choice or a number. Shipped forms are in `tasks/text/forms/forms.yaml`; a user's file has the same keys at the
top level. A task without a form has the input `NAME sentence: …`, `NAME sentence1: … sentence2: …`, with choices
`NAME choice1: … choice2: … context: …`, a question `question: … context: …`; the output of a label is its name.

A generated text that matches no answer counts as the answer that it resembles most (`nearest`), or, for a number
without digits in the text, as 0. Not here: tokens, and the search for a text (`seq2seq`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from blankfill.errors import ConfigError, UserError, setting
from blankfill.system.reading import read_text
from blankfill.tasks.cloze.pattern import BREAK, MASK, Field, Pattern, item_fields, parts_of, yaml_values
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, QuestionItem, TextItem, listed
from blankfill.tasks.task import Task

KEYS = ("source", "labels", "choice", "step")
LIKE = {"sg-rte": "rte", "ax-b": "rte", "ax-g": "rte"}
"""Tasks with the form of another task."""
NO_ANSWER = "unanswerable"
"""Output for a question without an answer."""
NO_LABEL = "none"
"""Output for an item without labels."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class TextForm:
    """The form of a task. source: None means the usual one. labels: output of each label. choice: output of a choice;
    None for its number, counted from 1. step: numbers are rounded to multiples of it."""

    task: Task
    source: Pattern | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    choice: Pattern | None = None
    step: float = 0.1

    def read(self, item: Item) -> str:
        """Return the input of an item. Raises UserError when the item lacks a text of the form."""
        fields = item_fields(item)
        if self.source is not None:
            return "".join(piece.text for piece in self.source.pieces(fields))
        return " ".join([*self._prefix(item), *(f"{name}: {text}" for name, text in _usual(item, fields))])

    def _prefix(self, item: Item) -> list[str]:
        return [] if isinstance(item, QuestionItem | GenerationItem) else [self.task.name]

    def answers(self, item: Item) -> tuple[str, ...]:
        """Return the right outputs of an item; none for an item without an answer."""
        if isinstance(item, GenerationItem):
            return item.targets
        if isinstance(item, QuestionItem):
            texts = tuple(dict.fromkeys(answer.text for answer in item.answers))
            return texts or ((NO_ANSWER,) if item.impossible else ())
        if isinstance(item, ChoiceItem):
            return () if item.label is None else (self.choices(item)[item.label],)
        assert isinstance(item, TextItem)
        if item.label is None:
            return ()
        if self.task.kind == "regress":
            assert isinstance(item.label, int | float)
            return (self.number(item.label),)
        places = item.label if isinstance(item.label, tuple) else (int(item.label),)
        names = list(self.labels.values())
        return (", ".join(names[place] for place in places) or NO_LABEL,)

    def choices(self, item: ChoiceItem) -> list[str]:
        """Return the output for each choice of an item."""
        if self.choice is None:
            return [f"choice{k + 1}" for k in range(len(item.choices))]
        fields, names = item_fields(item), item.names or item.choices
        return [
            "".join(p.text for p in self.choice.pieces({**fields, "choice": choice, "name": name, "number": str(k)}))
            for k, (choice, name) in enumerate(zip(item.choices, names, strict=True), 1)
        ]

    def number(self, value: float) -> str:
        """Return the output for a number: the nearest multiple of `step`."""
        places = len(f"{self.step:.10f}".rstrip("0").partition(".")[2])
        return f"{round(value / self.step) * self.step:.{max(1, places)}f}"


def nearest(text: str, answers: Sequence[str]) -> int:
    """Return the index of the answer that equals a text, except for spaces and case, or resembles it most."""
    plain, known = _plain(text), [_plain(answer) for answer in answers]
    if plain in known:
        return known.index(plain)
    return max(range(len(known)), key=lambda k: SequenceMatcher(None, known[k], plain, autojunk=False).ratio())


def number_in(text: str) -> float:
    """Return the first number of a text, 0 where there is none."""
    match = _NUMBER.search(text)
    return float(match[0]) if match else 0.0


def form_text(source: str, task: str) -> tuple[str, str]:
    """Return the YAML text of a form, and its name. source: a file, or "" for the task's own, which may be "".

    Raises UserError when there is no such file.
    """
    if source:
        try:
            return read_text(Path(source)), source
        except UserError as error:
            raise UserError(f"{setting('patterns')}: {error.template}") from error
    forms = yaml_values((resources.files("blankfill.tasks.text.forms") / "forms.yaml").read_text(encoding="utf-8"), "")
    own = forms.get(LIKE.get(task, task))
    return (yaml.safe_dump(own, allow_unicode=True) if own else ""), f"the form of {task}"


def read_form(text: str, origin: str, task: Task, labels: Sequence[str]) -> TextForm:
    """Return the form of a YAML text, "" for the usual one. labels: those of the task.

    Raises ConfigError with all mistakes, UserError when the text is not YAML.
    """
    values = yaml_values(text, origin) if text else {}
    problems: list[str] = []
    if strange := sorted(values.keys() - set(KEYS)):
        problems.append(f"{origin}: {strange[0]} is not known; there are {', '.join(KEYS)}")
    source, choice = (_pattern(values.get(key), f"{origin}, {key}", problems) for key in ("source", "choice"))
    words = _labels(values.get("labels"), labels, origin, problems) if task.kind in ("classify", "multilabel") else {}
    step = _step(values.get("step", "0.1"), origin, problems)
    if problems:
        raise ConfigError(problems)
    return TextForm(task, source, words, choice, step)


def _pattern(given: Any, name: str, problems: list[str]) -> Pattern | None:
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip():
        problems.append(f"{name}: not a text")
        return None
    parts = parts_of(given, name, problems)
    if marks := [mark for mark in (MASK, BREAK) if mark in parts]:
        problems.append(f"{name}: {marks[0]} is for cloze patterns; what is written comes behind the text")
    if not any(isinstance(part, Field) for part in parts):
        problems.append(f"{name}: it has no place for a text of the item, such as {{first}}")
    return Pattern(name, parts)


def _labels(given: Any, labels: Sequence[str], origin: str, problems: list[str]) -> dict[str, str]:
    """Return the output of each label, in the labels' order; its name where the form has none."""
    words = given if isinstance(given, dict) else {}
    if strange := [label for label in words if label not in labels]:
        problems.append(f"{origin}: there is no label {strange[0]}; the labels are {listed(labels, 20)}")
    texts = {label: str(words.get(label, label)).strip() for label in labels}
    owners: dict[str, str] = {}
    for label, word in texts.items():
        if (owner := owners.setdefault(_plain(word), label)) != label:
            problems.append(f"{origin}: {owner} and {label} are written alike ({word}); give others")
    return texts


def _step(given: Any, origin: str, problems: list[str]) -> float:
    try:
        step = float(given)
    except (TypeError, ValueError):
        step = 0.0
    if not 0 < step < float("inf"):
        problems.append(f"{origin}: step is {given}; it must be a number above 0")
        return 0.1
    return step


def _usual(item: Item, fields: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the texts of an item with their names in the usual input."""
    if isinstance(item, GenerationItem):
        return [("source", item.source), *([] if item.second is None else [("second", item.second)])]
    if isinstance(item, ChoiceItem):
        return [*((f"choice{k}", choice) for k, choice in enumerate(item.choices, 1)), ("context", item.context)]
    if isinstance(item, QuestionItem):
        return [("question", item.question), ("context", item.context)]
    if "second" in fields:
        return [("sentence1", fields["first"]), ("sentence2", fields["second"])]
    return [("sentence", fields["first"])]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
