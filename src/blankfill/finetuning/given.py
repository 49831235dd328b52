"""Rows that a user gives to be predicted: those of a table with all its columns, of lines of text, or of a split; and
the columns that predictions add to them.

Not here: which columns of a table a task reads (`tasks.datasets.predicted`), writing tables (`corpus.tables.writing`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tables.given import given_kind
from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.reading import open_table
from blankfill.corpus.tables.writing import Column, ColumnType, columns_of, delimiter_for, free_name, table_writer
from blankfill.errors import UserError
from blankfill.finetuning.rows import FIELDS, items_of_one
from blankfill.system.console import say
from blankfill.tasks.datasets.predicted import PredictedTable, text_names
from blankfill.tasks.datasets.row_formats import NEEDED
from blankfill.tasks.datasets.tabular import NAMES, tabular_task
from blankfill.tasks.datasets.task_table import is_empty, listed_cell
from blankfill.tasks.items import ChatItem, Item, MixedItem, labelled, listed
from blankfill.tasks.task import Task
from blankfill.tasks.text.mixture import Mixture

if TYPE_CHECKING:
    from blankfill.finetuning.predictor import AnyPredictor
    from blankfill.tasks.adapter import Prediction

PREDICTION = "prediction"
"""Name of the column with the answer, whatever the task."""
MAIN: Mapping[str, tuple[str, ColumnType]] = {
    "classify": ("label", "text"), "choice": ("label", "text"), "regress": ("score", "number"),
    "multilabel": ("labels", "texts"), "tag": ("tags", "texts"), "answer": ("answer", "text"),
    "generate": ("text", "text"), "chat": ("text", "text"),
}  # fmt: skip
"""Kind of task → the value of a prediction's record that is the answer, and its type."""


@dataclass
class GivenRow:
    """A row and its items: one, or several for several questions, or none where it cannot be predicted (problem)."""

    cells: Mapping[str, Any]
    items: Sequence[Item]
    line: int = 0
    problem: str = ""


@dataclass
class GivenRows:
    """Rows of a source. columns: those of the source; None for rows that are not from a table, whose columns are the
    fields of their items. table: what it is, for the labels that it may have. delimiter: of a CSV file."""

    rows: Iterator[GivenRow]
    columns: tuple[Column, ...] | None = None
    table: PredictedTable | None = None
    delimiter: str = ","
    left_out: dict[str, list[int]] = field(default_factory=dict)


def table_form(model: AnyPredictor, path: Path, options: TableOptions) -> str:
    """Return the kind of table that a file is (`corpus.tables.reading.KINDS`), "" for lines of text."""
    task = model.task
    if task.kind == "chat":
        from blankfill.finetuning.dialogues import NAMES_OF_DIALOGUES

        return given_kind(path, options, NAMES_OF_DIALOGUES)
    if isinstance(task, Mixture):
        names = frozenset({"task"})
    elif task.name in NEEDED:
        names = frozenset(NEEDED[task.name])
    else:
        names = text_names(task.kind, model.tables)
    return given_kind(path, options, names)


def rows_of_table(model: AnyPredictor, path: Path, form: str, options: TableOptions) -> GivenRows:
    """Open a table. Raises UserError for a table that cannot be read, or has not the columns of the task."""
    task = model.task
    if task.kind == "chat":
        from blankfill.finetuning.dialogues import rows_of_dialogues

        return rows_of_dialogues(path, form, options, model.tables)
    if isinstance(task, Mixture) or task.name in NEEDED:
        return _rows_by_fields(task, path, form, options)
    table = PredictedTable(path, task.kind, form, options, model.tables)
    table.say_choices()
    given = GivenRows(iter(()), table.columns, table, delimiter_for(table.table))
    given.rows = _rows(table, given)
    return given


def _rows(table: PredictedTable, given: GivenRows) -> Iterator[GivenRow]:
    empty, count = [], 0
    for row in table.rows():
        count += 1
        if row.item is None:
            given.left_out.setdefault(row.problem, []).append(row.line)
        elif not getattr(row.item, "first", True):
            empty.append(row.line)
        yield GivenRow(row.row, [row.item] if row.item is not None else [], row.line, row.problem)
    for note in table.notes():
        say(note)
    unit = table.table.unit
    for problem, lines in given.left_out.items():
        say(
            f"{table.path}: {len(lines):,} of {count:,} rows are not predicted: each {problem} ({unit} {listed(lines)})"
        )
    if empty:
        say(
            f"{table.path}: {len(empty):,} of {count:,} rows have no text, so their predictions mean little ({unit} "
            f"{listed(empty)})"
        )


def _rows_by_fields(task: Task, path: Path, form: str, options: TableOptions) -> GivenRows:
    """Open a table whose columns have the names of the fields of a task's rows."""
    if options.columns:
        raise UserError(f"a row of {task.name} has fields of its own, whose names the columns of {path} must have")
    table = open_table(path, options, kind=form)

    def rows() -> Iterator[GivenRow]:
        number = 0
        for line, row in table.objects():
            if all(is_empty(value) for value in row.values()):
                yield GivenRow(row, [], line, "is empty")
                continue
            cells = {name: listed_cell(value) for name, value in row.items() if not is_empty(value)}
            yield GivenRow(row, items_of_one(task, number, table.where(line), cells), line)
            number += 1
        if not number:
            raise UserError(f"{path} has no rows: give a file that holds some.")

    return GivenRows(rows(), columns_of(table), None, delimiter_for(table))


def rows_of_items(items: Iterable[Item]) -> GivenRows:
    """Return rows for items that are not from a table: their ids and their fields."""
    return GivenRows(GivenRow(_cells(item), [item]) for item in items)


def _cells(item: Item) -> dict[str, Any]:
    cells: dict[str, Any] = {"id": item.id}
    if isinstance(item, MixedItem):
        return cells | {"task": item.task} | {name: cell for name, cell in _cells(item.item).items() if name != "id"}
    names = {"first": "text", "second": "second", "words": "words", "question": "question", "context": "context",
             "choices": "choices", "source": "source"}  # fmt: skip
    for own, name in names.items():
        value = getattr(item, own, None)
        if value is not None:
            cells[name] = list(value) if isinstance(value, tuple) else value
    if isinstance(item, ChatItem):
        cells["messages"] = json.dumps([message.to_json() for message in item.messages], ensure_ascii=False)
    return cells


def columns_of_rows(rows: Sequence[GivenRow]) -> tuple[Column, ...]:
    """Return the columns of rows that are not from a table."""
    cells = {name: value for row in rows for name, value in row.cells.items()}
    order = ["id", "task", "messages", *dict.fromkeys(name for fields in FIELDS.values() for name in fields)]
    return tuple(
        Column(name, "texts" if isinstance(cells[name], list) else "text")
        for name in sorted(cells, key=lambda name: order.index(name))
    )


class AnswerColumns:
    """The columns that predictions add to a table."""

    def __init__(
        self, task: Task, records: Sequence[Mapping[str, Any]], taken: Iterable[str], several: bool = False
    ) -> None:
        """records: of some predictions, by which columns there are. taken: names of the table's own columns, beside
        which a further one gets a number: `renamed`. several: whether a row may have several items, whose ids are then
        the column `item`."""
        self._task, self._several = task, several
        types: dict[str, ColumnType] = {PREDICTION: MAIN[task.kind][1] if task.kind in MAIN else "json"}
        for record in records:
            for name, value in self._flat(record).items():
                types.setdefault(name, _type_of(value))
        used = {name.lower() for name in taken}
        self._names: dict[str, str] = {}
        for name in types:
            self._names[name] = free_name(name, used)
            used.add(self._names[name].lower())
        self.columns = tuple(Column(self._names[name], kind) for name, kind in types.items())
        self.renamed = {name: free for name, free in self._names.items() if name != free}

    def cells(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cells of a prediction's record."""
        return {self._names[name]: value for name, value in self._flat(record).items() if name in self._names}

    def _flat(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a record by the names of their columns."""
        kinds = [MAIN[self._task.kind]] if self._task.kind in MAIN else list(MAIN.values())
        main = next(name for name, _ in kinds if name in record)
        flat = {PREDICTION: record[main]}
        for name, value in record.items():
            if name == "probabilities" and self._task.kind in ("classify", "multilabel"):
                flat |= {f"probability_{label}": share for label, share in value.items()}
            elif name == "id":
                flat |= {"item": value} if self._several else {}
            elif name != main:
                flat[name] = value
        return flat


def _type_of(value: Any) -> ColumnType:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "json"


def write_table(
    out: Path, task: Task, given: GivenRows, predicted: Iterator[tuple[GivenRow, dict[str, Any] | None]], most: int
) -> int:
    """Write rows with their predictions beside their own columns, `most` at a time; returns the number of predictions.

    A row without a prediction has empty cells. Raises UserError for a cell that the form cannot hold.
    """
    batch: list[tuple[GivenRow, dict[str, Any] | None]] = []
    while (pair := next(predicted, None)) is not None:
        batch.append(pair)
        if len(batch) >= most and any(record is not None for _, record in batch):
            break
    columns = columns_of_rows([row for row, _ in batch]) if given.columns is None else given.columns
    records = [record for _, record in batch if record is not None]
    several = given.columns is not None and any(len(row.items) > 1 for row, _ in batch)
    answers = AnswerColumns(task, records, [column.name for column in columns], several)
    if answers.renamed:
        renamed = ", ".join(f"{name!r} is {free!r}" for name, free in answers.renamed.items())
        say(f"{out}: the table has columns of the names of predictions, which get a number: {renamed}")
    known, count = {column.name for column in columns}, 0

    def cells(row: GivenRow, record: dict[str, Any] | None) -> dict[str, Any]:
        if given.columns is None and (more := [name for name in row.cells if name not in known]):
            raise UserError(
                f"row {row.cells['id']} is the first with {more[0]!r}, which the columns of {out} lack: write a .jsonl "
                "file, or give the rows as a table"
            )
        return {**row.cells, **(answers.cells(record) if record is not None else {})}

    with table_writer(out, (*columns, *answers.columns), given.delimiter) as write:
        while batch:
            write([cells(row, record) for row, record in batch])
            count += sum(record is not None for _, record in batch)
            batch = list(islice(predicted, most))
    return count


def say_scores_of_table(model: AnyPredictor, table: PredictedTable, scored: Sequence[tuple[Item, Prediction]]) -> None:
    """Print the scores of predictions as a notice, where the table has labels; why not, where these cannot be used."""
    from blankfill.finetuning.predict import Predictions

    where, kind = f"{table.path}: the labels in {listed(table.label)}", model.task.kind
    try:
        read = tabular_task(NAMES[kind], table.reading()).read(table.path, "dev", tuple(model.labels))
    except UserError as error:
        say(f"{where} are not scored: {error.template}")
        return
    answers = {item.id: prediction for item, prediction in scored}
    items = [item for item in read.items if item.id in answers and labelled(item)]
    if not items:
        return
    if len({item.id for item in items}) < len(items):
        say(f"{where} are not scored: several rows have one id")
        return
    scores = Predictions(model, model.task, items, [answers[item.id] for item in items]).scores()
    say(f"{where}: {scores.sentence()}")
