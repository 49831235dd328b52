"""Prompted data sets: a YAML file that names tables and templates, and the rows that are used of each.

    boolq:
      data: boolq/train.jsonl          any table that `prepare` reads; relative to this file
      choices: ["No", "Yes"]           `answer_choices` of the templates
      templates:
        - "{{ passage }}\\n{{ question }}? ||| {{ answer_choices[label] }}"
      max_rows: 50000

Not here: tokens, and rows of a model (`prompts.rows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator, Philox

from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.reading import Table, open_table
from blankfill.errors import ConfigError, UserError
from blankfill.prompts.options import PromptOptions
from blankfill.prompts.templates import Prompted, PromptTemplate
from blankfill.system.loader import load
from blankfill.system.marks import Mark, mark
from blankfill.system.reading import parse_yaml, read_text

LONGEST = 1 << 22
"""Largest size in bytes of a file of prompted data sets."""


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """A data set in a file of prompted data sets."""

    data: str
    """Table, relative to the file."""
    templates: tuple[str, ...]
    """Templates of the rows, one of which is drawn for a row each time that it is read."""
    choices: tuple[str, ...] = ()
    """Texts of `answer_choices` in the templates."""
    max_rows: int = 0
    """Maximum number of rows; 0: that of the recipe."""
    encoding: str | None = None
    """Encoding of the table; without it, detected."""
    delimiter: str | None = None
    """Character between cells; without it, detected."""
    sheet: str | None = None
    """Sheet of a spreadsheet; without it, the first one."""


@dataclass(frozen=True)
class PromptedSet:
    """A prompted data set. rows: those that are used, each with its place, for messages. total: rows of the table."""

    name: str
    path: Path
    templates: tuple[PromptTemplate, ...]
    rows: Sequence[tuple[str, Mapping[str, Any]]]
    total: int

    def write(self, row: int, template: int) -> Prompted | None:
        """Write a row by a template; None where its text or its answer is empty. Raises UserError."""
        place, cells = self.rows[row]
        return self.templates[template].write(cells, place)


def read_sets(options: PromptOptions, seed: int) -> list[PromptedSet]:
    """Read the data sets of a recipe. seed: draws the rows of a table that has more than are used.

    Raises UserError, or ConfigError with all problems of a file.
    """
    sets: list[PromptedSet] = []
    for path, described in _described(options):
        for name, given in described.items():
            templates, table = _opened(path, name, given)
            rows, total = _rows(table, given.max_rows or options.max_rows, seed, len(sets))
            sets.append(PromptedSet(name, path.parent / given.data, templates, rows, total))
    return sets


def check_sets(options: PromptOptions) -> None:
    """Raise UserError or ConfigError for a file, a template or a table that `read_sets` would refuse, as far as can be
    known without reading all rows."""
    for path, described in _described(options):
        for name, given in described.items():
            _opened(path, name, given)


def marks_of(options: PromptOptions) -> dict[str, Mark]:
    """Return the marks of all files of the data sets, by path. Raises UserError."""
    marks = {}
    for path, described in _described(options):
        marks[str(path)] = mark(path)
        marks |= {str(path.parent / given.data): mark(path.parent / given.data) for given in described.values()}
    return marks


def _described(options: PromptOptions) -> list[tuple[Path, dict[str, SetOptions]]]:
    """Return the data sets of each file, by name."""
    names: set[str] = set()
    files = []
    for text in options.files:
        path = Path(text)
        described = _described_in(path)
        if twice := names & described.keys():
            raise UserError(f"{path}: another file has a data set {min(twice)} too; rename one of them")
        names |= described.keys()
        files.append((path, described))
    return files


def _described_in(path: Path) -> dict[str, SetOptions]:
    values = parse_yaml(read_text(path, LONGEST), str(path), texts=True)
    if not isinstance(values, dict) or not values or not all(isinstance(value, dict) for value in values.values()):
        raise UserError(
            f"{path}: a file of prompted data sets is a list of names, each with `data`, a table, and `templates`"
        )
    problems: list[str] = []
    described: dict[str, SetOptions] = {}
    for key, value in values.items():
        name = str(key)
        entry: list[str] = []
        given = load(SetOptions, value, entry, name, texts=True)
        if given is not None and (not given.templates or given.max_rows < 0):
            entry.append(f"{name} needs at least one template, and a max_rows that is not negative")
        if given is not None and not entry:
            described[name] = given
        problems += [f"{path}: {sentence}" for sentence in entry]
    if problems:
        raise ConfigError(problems)
    return described


def _opened(path: Path, name: str, given: SetOptions) -> tuple[tuple[PromptTemplate, ...], Table]:
    """Return the templates of a data set, and its table. path: the file that describes it."""
    templates = tuple(
        PromptTemplate(text, f"{path}, {name}, template {k}", given.choices)
        for k, text in enumerate(given.templates, 1)
    )
    data = path.parent / given.data
    options = TableOptions(encoding=given.encoding, delimiter=given.delimiter, sheet=given.sheet)
    if problems := options.table_problems():
        raise ConfigError([f"{data}: {problem}" for problem in problems])
    return templates, open_table(data, options)


def _rows(table: Table, most: int, seed: int, number: int) -> tuple[list[tuple[str, Mapping[str, Any]]], int]:
    """Return at most `most` rows of a table in their order, and the number of all rows. number: of the data set."""
    rng = Generator(Philox(key=np.array([seed, number], np.uint64)))
    picked: list[tuple[int, tuple[str, Mapping[str, Any]]]] = []
    total = 0
    for line, cells in table.objects():
        entry = (total, (table.where(line), cells))
        if total < most:
            picked.append(entry)
        elif (place := int(rng.integers(0, total + 1))) < most:  # reservoir sampling: each row is as likely
            picked[place] = entry
        total += 1
    if not total:
        raise UserError(f"{table.path} has no rows; give a table that has some, or leave the data set out")
    return [row for _, row in sorted(picked, key=lambda entry: entry[0])], total
