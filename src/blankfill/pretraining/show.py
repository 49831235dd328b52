"""One row of the training examples of a recipe, by its number: the function behind `blankfill show`.

Not here: drawing rows (`report.picture`, `report.drawing`), and making them (`data.sampler`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blankfill.config.recipe import Recipe
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError, setting
from blankfill.objectives import Objective, ShownColumn
from blankfill.report.picture import channel_names, example_text, join_row
from blankfill.report.plane import plane_text, sentence_of
from blankfill.report.strip import strip_text
from blankfill.system.files import write_file
from blankfill.types import Example

if TYPE_CHECKING:
    from blankfill.types import Vocabulary

BLANKS = ("mask", "gmask", "smask", "dblock", "pseudo")
"""Roles of tokens that represent blanked text."""


@dataclass(frozen=True)
class ShownRow:
    """A row of a run: its Examples, its place in the run, and the means to draw it.

    title: recipe, seed and number. epoch: counted from 0. place: the place of the row in its epoch, from 0. rows: the
    number of rows in this epoch. channels: names of the position channels. window: attention window of the model's
    local layers, 0 without local layers.
    """

    title: str
    epoch: int
    place: int
    rows: int
    examples: Sequence[Example]
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    channels: Sequence[str]
    window: int = 0
    further: Sequence[ShownColumn] = ()
    """Columns of the objective beside the tokens."""
    objective: str = ""
    """Name of the objective."""
    explanation: str = ""
    """What the objective hides and how it is predicted, in one sentence."""
    notes: Sequence[str] = ()
    """Sentences about this row, such as that a text was cut."""
    scheme: str = ""
    """Position scheme of the model, as in `TransformerConfig`; rotary positions are drawn."""

    @property
    def heading(self) -> str:
        """Title of the row, and its place in the run if it is a row of a run."""
        if not self.rows:
            return self.title
        return f"{self.title} (epoch {self.epoch}, {self.place + 1:,} of {self.rows:,} rows)"

    def text(self, width: int = 120, plain: bool = False) -> str:
        """Return the row as a table with a line for each column, and the attention grid; below it the plane of
        two-dimensional rotary positions.

        Args:
            width: the width of the output in characters.
            plain: use 0, 1 and + for the grid instead of block characters.

        Returns:
            The lines of the table.
        """
        row = join_row(self.examples)
        rotary = sentence_of(self.scheme, channel_names(self.channels, len(row.positions)))
        table = example_text(
            self.examples, speller(self.tokenizer), channels=self.channels, width=width, plain=plain,
            window=self.window, further=self.further, notes=[rotary] if rotary else (),
        )  # fmt: skip
        plane = plane_text(row, self.scheme, self.channels, width, plain)
        return f"{table}\n{plane}" if plane else table

    def strip(self, width: int = 120) -> str:
        """Return the row as lines of tokens with their targets and positions below them.

        Args:
            width: the width of the output in characters.

        Returns:
            The lines.
        """
        return strip_text(self.examples, speller(self.tokenizer), self.channels, width)

    @property
    def blanks(self) -> set[int]:
        """Ids of the tokens that stand for blanked text."""
        roles = self.vocabulary.roles
        return {roles[role] for role in BLANKS if role in roles} | {*self.vocabulary.sentinels}

    def html(self, path: str | Path) -> None:
        """Write the row as a page to explore: its tokens, and which of them see each other.

        Args:
            path: the file to write.

        Raises:
            UserError: when the file cannot be written.
        """
        write_html([self], path)

    def values(self) -> dict[str, Any]:
        """Return the row as plain values for `json.dumps`: its place in the run, and the tokens, positions and targets
        of each of its examples."""
        examples = [example_values(example, self.tokenizer, self.channels) for example in self.examples]
        return {
            "title": self.title, "epoch": self.epoch, "place": self.place, "rows": self.rows, "examples": examples
        }  # fmt: skip

    def png(self, path: str | Path, font: Path | None = None) -> str:
        """Draw the row to a PNG file.

        Args:
            path: the file to write.
            font: a font file to try first.

        Returns:
            The characters for which no font has a glyph, "" when all are drawn.

        Raises:
            UserError: when the file cannot be written or the font cannot be read.
        """
        from blankfill.report.drawing import example_png

        return example_png(
            self.examples, speller(self.tokenizer), Path(path), channels=self.channels, blanks=self.blanks,
            title=self.title, font=font, window=self.window,
        )  # fmt: skip


def show(recipe: Recipe, paths: Sequence[str | Path] = (), example: int = 0, out: str | Path | None = None) -> ShownRow:
    """Return a row of a run, exactly as the run trains on it.

    Args:
        recipe: the recipe of the run; its seed and its objective determine the row.
        paths: text, or a folder made by `prepare`, as for `pretrain`; by default the documentation of this Python.
        example: the number of the row in the run, from 0.
        out: a folder for the corpus if the text has to be prepared; by default a temporary folder.

    Returns:
        The row, with methods that write it as text and draw it as a picture.

    Raises:
        UserError: when the run has no row of this number, or the text cannot be prepared.
    """
    from blankfill.pretraining import data_setup

    count = recipe.train.row_schedule.first(recipe.train.steps)
    if not 0 <= example < count:
        raise UserError(f"{setting('example')} is {example}; a run of this recipe has the rows 0 to {count - 1:,}")
    with tempfile.TemporaryDirectory(prefix="blankfill-", ignore_cleanup_errors=True) as temporary:
        corpus = data_setup.open_corpus(paths, recipe, Path(out or temporary))
        phases = data_setup.phases(corpus, recipe)
        step = recipe.train.row_schedule.step_of(example)
        phase = [phase for phase in phases if phase.start <= step][-1]
        rows, number = phase.source(example)
        epoch, place = rows.locate(number)
        examples = rows.row(number)
        notes = [f"prompted examples: {'; '.join(rows.named(number))}"] if rows is phase.prompted else []
        row = ShownRow(
            title=f"{recipe.name}, seed {recipe.seed}, row {example}", epoch=epoch, place=place,
            rows=rows.rows_in_epoch(epoch), examples=examples, tokenizer=corpus.tokenizer,
            vocabulary=corpus.vocabulary, channels=recipe.objective.channels,
            window=int(recipe.model.spec.preset.get("window", 0)),
            scheme=str(recipe.model.spec.preset.get("position_scheme", "")),
            further=further_columns(recipe.objective, examples, corpus.unigram), objective=recipe.objective.name,
            explanation=recipe.objective.explanation, notes=notes,
        )  # fmt: skip
        del corpus, phases, phase, rows  # their files are open, and Windows removes no open files
    return row


def write_html(rows: Sequence[ShownRow], path: str | Path, title: str = "") -> None:
    """Write a page of rows to explore.

    Args:
        rows: the rows, each a section of the page.
        path: the file to write.
        title: title of the page; by default that of the only row.

    Raises:
        UserError: when the file cannot be written.
    """
    from blankfill.report.example_page import ShownExample, page_of

    shown = [
        ShownExample(
            row.objective or row.title, row.heading, row.explanation, row.notes, row.examples, speller(row.tokenizer),
            row.channels, row.blanks, row.window, row.further, row.scheme,
        )
        for row in rows
    ]  # fmt: skip
    page = page_of(shown, title or rows[0].title, datetime.now().astimezone())
    write_file(Path(path), page.encode("utf-8", "replace"), "name a file in a folder that exists")


def example_values(example: Example, tokenizer: Tokenizer, channels: Sequence[str]) -> dict[str, Any]:
    """Return an example as plain values. channels: names of the position channels."""
    targets = zip(example.target_index.tolist(), example.target_ids.tolist(), strict=True)
    ids = example.input_ids.tolist()
    values: dict[str, Any] = {
        "tokens": [tokenizer.token(number) for number in ids],
        "ids": ids,
        "positions": dict(zip(channels, example.positions.tolist(), strict=False)),
        "targets": [{"column": at, "id": number, "token": tokenizer.token(number)} for at, number in targets],
        "labels": dict(example.labels),
    }
    if example.context is not None:
        values["context"] = example_values(example.context, tokenizer, channels)
    return values


def further_columns(
    objective: Objective, examples: Sequence[Example], unigram: NDArray[np.int64]
) -> tuple[ShownColumn, ...]:
    """The columns that an objective shows of a row of Examples. unigram: int64[V], how often each token occurs."""
    columns = zip(*(objective.shown_columns(example, unigram) for example in examples), strict=True)
    return tuple(parts[0]._replace(values=np.concatenate([part.values for part in parts])) for parts in columns)


def speller(tokenizer: Tokenizer) -> Callable[[int], str]:
    """Return a function from an id to its string; for byte-level vocabularies to the text of its bytes, ␣ for a space.

    A token that is only a part of a character keeps its own string.
    """
    if tokenizer.id("Ġ") is None:
        return tokenizer.token

    def spell(id: int) -> str:
        text = tokenizer.decode([id], skip_special=False)
        return tokenizer.token(id) if not text or "\ufffd" in text else text.replace(" ", "␣")

    return spell
