"""Cloze patterns: the sentence with a blank that expresses a task, and the words of each label.

A YAML file (shipped ones are in `tasks/patterns`, docs/cloze.md explains them):

    verbalizers: {entailment: "Yes", not_entailment: "No"}     one word or a list of words for each label
    patterns:
      - '"{second:bare}"? || [MASK], "{first}"'                a text, or a mapping with a text and its own verbalizers

`{name}` is a text of the item, truncated when the whole is too long; `{name:whole}` is never truncated. `bare` removes
the punctuation mark at its end, `lower` begins it with a small letter; several are separated by commas. `||` separates
the two segments of models with segments. In tasks whose items have their own choices, `answer` replaces `verbalizers`:
it is the text of the blank for a choice. `values` holds texts for the values of a field.

Not here: tokens (`cloze`), scores (`cloze_model`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from blankfill.errors import ConfigError, UserError, setting
from blankfill.system.reading import UnreadableError, parse_yaml, read_text
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, QuestionItem, TextItem, listed

PATTERNS = "patterns.yaml"
"""File of a run's patterns, in its folder."""
MASK, BREAK = "[MASK]", "||"
SAME = {"sg-rte": "rte", "ax-b": "rte", "ax-g": "rte", "qqp": "mrpc"}
"""Tasks with the patterns of another task."""
CHANGES = ("bare", "lower", "whole")
_TOKEN = re.compile(r"\{([^{}]*)\}|(\[MASK\])|(\|\|)")
_MARKS = " .,;:!?。，；：！？"


@dataclass(frozen=True)
class Field:
    """A place for a text of the item; changes: some of `CHANGES`."""

    name: str
    changes: tuple[str, ...] = ()

    @property
    def written(self) -> str:
        """The field as written in a pattern."""
        return f"{{{self.name}{':' if self.changes else ''}{','.join(self.changes)}}}"

    def write(self, fields: Mapping[str, str], values: Mapping[str, Mapping[str, str]]) -> str:
        """Return the text for this place. Raises KeyError when the item has no such field."""
        text = fields[self.name]
        text = values.get(self.name, {}).get(text, text)
        if "bare" in self.changes:
            text = text.rstrip(_MARKS)
        return text[:1].lower() + text[1:] if "lower" in self.changes else text


@dataclass(frozen=True)
class Piece:
    """A piece of a filled-in pattern. text: with the space before it; for a mask, only that space."""

    kind: Literal["text", "field", "mask", "break"]
    text: str = ""


@dataclass(frozen=True)
class Pattern:
    """A pattern. name: for messages. words: words of each label for the blank, empty with `answer`."""

    name: str
    parts: tuple[str | Field, ...]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    answer: tuple[str | Field, ...] = ()
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def written(self) -> str:
        """The pattern and its words, for a reader."""
        text = "".join(part if isinstance(part, str) else part.written for part in self.parts)
        words = ", ".join(f"{label}: {' or '.join(ones)}" for label, ones in self.words.items())
        return f"{text} ({words})" if words else text

    def pieces(self, fields: Mapping[str, str]) -> list[Piece]:
        """Return the pattern with an item's texts; UserError when the item lacks a text of the pattern."""
        filled: list[Piece] = []
        space, begun = "", False
        for part in self.parts:
            if part in (BREAK, MASK):
                filled.append(Piece("break") if part == BREAK else Piece("mask", space))
                space, begun = "", part == MASK
                continue
            text = space + self._written(part, fields)
            text = text if begun else text.lstrip(" ")
            cut = isinstance(part, Field) and "whole" not in part.changes
            stripped = text.rstrip(" ")
            space = " " if len(stripped) < len(text) else ""
            if stripped:
                filled.append(Piece("field" if cut else "text", stripped))
                begun = True
        return filled

    def filler(self, fields: Mapping[str, str]) -> str:
        """Return the text of `answer` for a choice, whose texts are among the fields."""
        return "".join(self._written(part, fields) for part in self.answer).strip()

    def _written(self, part: str | Field, fields: Mapping[str, str]) -> str:
        if isinstance(part, str):
            return part
        try:
            return part.write(fields, self.values)
        except KeyError as error:
            raise UserError(
                f"{self.name} uses {{{part.name}}}, but the items have {', '.join(fields)}; correct the pattern"
            ) from error


def item_fields(item: Item) -> Mapping[str, str]:
    """Return the texts of an item by the names that patterns give them. Raises TypeError for an item without such
    texts."""
    if isinstance(item, TextItem):
        return {"first": item.first, **({} if item.second is None else {"second": item.second}), **item.parts}
    if isinstance(item, ChoiceItem):
        choices = {f"choice{k}": choice for k, choice in enumerate(item.choices, 1)}
        names = {"names": ", ".join(item.names or item.choices)}
        return {"context": item.context, **choices, **names, **item.parts}
    if isinstance(item, QuestionItem):
        return {"question": item.question, "context": item.context}
    if isinstance(item, GenerationItem):
        return {"source": item.source, **({} if item.second is None else {"second": item.second})}
    raise TypeError(f"{type(item).__name__} has no texts for a pattern")


def shipped() -> list[str]:
    """Return the names of the shipped files: of tasks, and agnews."""
    files = resources.files("blankfill.tasks.cloze.patterns").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def pattern_text(source: str, task: str) -> tuple[str, str]:
    """Return the YAML text and its name. source: a file, the name of a shipped one, or "" for the task's own.

    Raises UserError when there is none.
    """
    name = SAME.get(source or task, source or task)
    if name in shipped():
        file = resources.files("blankfill.tasks.cloze.patterns") / f"{name}.yaml"
        return file.read_text(encoding="utf-8"), f"patterns of {name}"
    if not source:
        raise UserError(
            f"there are no patterns for {task}; write some and give them with {setting('patterns', 'FILE.yaml')} "
            "(docs/cloze.md); "
            f"there are some for {', '.join(shipped())}"
        )
    try:
        return read_text(Path(source)), source
    except UnreadableError as error:
        if not error.missing:
            raise
        known = ", ".join(shipped())
        raise UserError(f"{setting('patterns', source)}: no such file, and not one of {known}") from error


def read_patterns(text: str, origin: str, labels: Sequence[str] | None) -> list[Pattern]:
    """Return the patterns of a YAML text. labels: those of the task; None where items have their own choices.

    Raises ConfigError with all mistakes, UserError when the text is not YAML.
    """
    values = yaml_values(text, origin)
    problems: list[str] = []
    given = values.get("patterns")
    if strange := sorted(values.keys() - {"patterns", "verbalizers", "answer", "values"}):
        problems.append(f"{origin}: {strange[0]} is not known; there are patterns, verbalizers, answer and values")
    if not isinstance(given, list) or not given:
        raise ConfigError([*problems, f"{origin}: there is no list of patterns"])
    patterns = []
    for number, entry in enumerate(given):
        name = f"{origin}, pattern {number}"
        own = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(own, dict) or not isinstance(own.get("text"), str):
            problems.append(f"{name}: not a text, nor a mapping with a `text`")
            continue
        settings = {**values, **own}
        words: dict[str, tuple[str, ...]] = {}
        answer: tuple[str | Field, ...] = ()
        if labels is None:
            answer = _answer(settings.get("answer"), name, problems)
        else:
            words = _words(settings.get("verbalizers"), labels, name, problems)
        parts = parts_of(own["text"], name, problems)
        if (blanks := parts.count(MASK)) != 1:
            problems.append(f"{name}: it has {blanks} blanks; write [MASK] once, where the answer belongs")
        if parts.count(BREAK) > 1:
            problems.append(f"{name}: it has {parts.count(BREAK)} times || where one is allowed")
        patterns.append(Pattern(name, parts, words, answer, settings.get("values") or {}))
    if problems:
        raise ConfigError(problems)
    return patterns


def numbered(patterns: Sequence[Pattern], number: str, origin: str) -> Pattern:
    """Return the pattern of that number; UserError when there is none."""
    if not number.isdigit() or int(number) >= len(patterns):
        raise UserError(f"{setting('pattern', number)}: {origin} are numbered 0 to {len(patterns) - 1}; or give all")
    return patterns[int(number)]


def yaml_values(text: str, origin: str) -> dict[str, Any]:
    """Return the values of a YAML text, every scalar a text: a verbalizer Yes is a word, not a truth value."""
    values = parse_yaml(text, origin, texts=True)
    if not isinstance(values, dict):
        raise UserError(f"{origin}: it holds no `patterns:`; see docs/cloze.md")
    return values


def parts_of(text: str, name: str, problems: list[str]) -> tuple[str | Field, ...]:
    """Return the pieces of a pattern's text; problems of its fields are added to `problems`."""
    parts: list[str | Field] = []
    last = 0
    for match in _TOKEN.finditer(text):
        parts.append(text[last : match.start()])
        last = match.end()
        if match[1] is None:
            parts.append(match[0])
            continue
        field_name, _, more = match[1].partition(":")
        changes = tuple(change.strip() for change in more.split(",") if change.strip())
        if unknown := [change for change in changes if change not in CHANGES]:
            problems.append(
                f"{name}: {match[0]} has the unknown change {unknown[0]}; known changes: {', '.join(CHANGES)}"
            )
        parts.append(Field(field_name.strip(), changes))
    parts.append(text[last:])
    return tuple(part for part in parts if part != "")


def _answer(given: Any, name: str, problems: list[str]) -> tuple[str | Field, ...]:
    if not isinstance(given, str) or not given.strip():
        problems.append(
            f'{name}: the items have choices of their own; say what is written for one: answer: "{{choice}}"'
        )
        return ()
    return parts_of(given, name, problems)


def _words(given: Any, labels: Sequence[str], name: str, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each label, in the labels' order."""
    given = given if isinstance(given, dict) else {}
    words = {label: tuple(entry) if isinstance(entry, list) else (entry,) for label, entry in given.items()}
    if strange := [label for label in words if label not in labels]:
        problems.append(f"{name}: there is no label {strange[0]}; the labels are {listed(labels, 20)}")
    for label in labels:
        if not words.get(label) or not all(isinstance(word, str) and word.strip() for word in words[label]):
            problems.append(f"{name}: verbalizers gives no word for the label {label}")
    owners: dict[str, str] = {}
    for label, ones in words.items():
        for word in ones:
            if isinstance(word, str) and owners.setdefault(word.strip(), label) != label:
                problems.append(f"{name}: {owners[word.strip()]} and {label} have the same word {word}; give others")
    return {label: words[label] for label in labels if label in words}
