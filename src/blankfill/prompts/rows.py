"""Rows of prompted examples, by number, as a model reads them in training: several examples to a row.

In each pass over the data sets a template is drawn for every row of a table; the examples are packed into rows of the
recipe's length, and the rows shuffled. Seed and pass determine all of it, so a row can be looked at again by its
number, and no state is needed.

The answer is the target, as in fine-tuning: of ChatGLM and GLM-130B it is written behind the text and [gMASK], or into
the [MASK] of the text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blankfill.data.packing import best_fit
from blankfill.data.sampler import plan_generator
from blankfill.errors import UserError, setting
from blankfill.objectives import Objective
from blankfill.objectives.format import join
from blankfill.prompts.sets import PromptedSet
from blankfill.types import Example, Int32, Vocabulary

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer


KEPT = 1 << 22
"""Columns of examples that are kept in memory for further passes."""


class Encoded(NamedTuple):
    """An example as ids. after: the text behind the blank; None where the answer follows the text."""

    owner: int
    """Index of the data set."""
    template: int
    """Index of the template."""
    before: Int32
    answer: Int32
    after: Int32 | None


class Fitted(NamedTuple):
    """An example that fits into a row, and its columns."""

    item: Encoded
    columns: int


Read = Fitted | Literal["empty", "long"]
"""A row of a table by a template: an example, or why it is left out."""


@dataclass(frozen=True)
class Pass:
    """One pass over the data sets. rows: the examples of each row, in the order of the pass. empty, long: numbers of
    examples of each data set that are left out, because they lack a text or an answer, or are too long."""

    rows: Sequence[Sequence[Encoded]]
    empty: Sequence[int]
    long: Sequence[int]
    tokens: Sequence[int]
    """Columns of the examples of each data set."""


class PromptedRows:
    """Rows of prompted examples by number; has the interface of a `Sampler`.

    max_length: of an example in columns; 0 means the length of the objective. first: number of its first row, when
    another object has the rows before it (a phase of shorter rows).
    """

    def __init__(
        self,
        sets: Sequence[PromptedSet],
        objective: Objective,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        seed: int,
        max_length: int = 0,
        first: int = 0,
    ) -> None:
        """Raises UserError for an objective that writes no answers, and for data sets without any example that fits."""
        if not objective.writes_targets:
            raise UserError(
                f"{setting('prompts.files')}: models of the objective {objective.name} write no answers; choose "
                "another one (glm, chatglm, glm-130b, gpt, unilm, t5, bart), or leave the data sets out"
            )
        self.sets, self.objective, self.tokenizer, self.vocabulary = sets, objective, tokenizer, vocabulary
        self.seed, self.first = seed, first
        self.longest = min(max_length or objective.length, objective.length)
        self.format = objective.format(vocabulary)
        self._passes: dict[int, Pass] = {}
        self._kept: dict[tuple[int, int, int], Read] = {}
        """By data set, row and template, up to `KEPT` columns: small sets are passed over many times."""
        self._room = KEPT
        self._ends: list[int] = []
        if not self.rows_in_epoch(0):
            raise UserError(
                f"{setting('prompts.files')}: no example has a text and an answer that fit into {self.longest} tokens; "
                f"look at the templates, or raise {setting('objective.length')} or {setting('prompts.max_length')}"
            )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_passes": {}, "_kept": {}, "_room": KEPT}

    def rows_in_epoch(self, epoch: int) -> int:
        """Return the number of rows of pass number `epoch`."""
        return len(self.whole_pass(epoch).rows)

    def locate(self, row: int) -> tuple[int, int]:
        """Return the pass of a row, and its place in it."""
        row -= self.first
        while not self._ends or self._ends[-1] <= row:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + self.rows_in_epoch(len(self._ends)))
        number = bisect_right(self._ends, row)
        return number, row - (self._ends[number - 1] if number else 0)

    def encoded(self, row: int) -> Sequence[Encoded]:
        """Return the examples of a row as ids."""
        number, place = self.locate(row)
        return self.whole_pass(number).rows[place]

    def row(self, row: int) -> list[Example]:
        """Return the Examples of row number `row`; they share one row of a batch."""
        return [self._example(item.before, item.answer, item.after) for item in self.encoded(row)]

    def named(self, row: int) -> list[str]:
        """Return the data set and the template of each example of a row, in words."""
        return [f"{self.sets[item.owner].name}, template {item.template + 1}" for item in self.encoded(row)]

    def summary(self) -> list[dict[str, Any]]:
        """Return what the first pass has of each data set, as plain values."""
        first = self.whole_pass(0)
        return [
            {
                "name": part.name, "rows": len(part.rows), "of": part.total, "templates": len(part.templates),
                "tokens": tokens, "empty": empty, "too_long": long,
            }
            for part, tokens, empty, long in zip(self.sets, first.tokens, first.empty, first.long, strict=True)
        ]  # fmt: skip

    def whole_pass(self, number: int) -> Pass:
        """Return a pass; the last two used are kept in memory."""
        if number not in self._passes:
            if len(self._passes) >= 2:
                del self._passes[max(self._passes, key=lambda held: abs(held - number))]
            self._passes[number] = self._make(number)
        return self._passes[number]

    def _make(self, number: int) -> Pass:
        rng = plan_generator(self.seed, number, self.first)
        items: list[Encoded] = []
        empty, long, tokens = ([0] * len(self.sets) for _ in range(3))
        sizes: list[int] = []
        for owner, part in enumerate(self.sets):
            drawn = rng.integers(0, len(part.templates), len(part.rows)).tolist()
            for read in self._read(owner, list(enumerate(drawn))):
                if isinstance(read, str):
                    (empty if read == "empty" else long)[owner] += 1
                    continue
                items.append(read.item)
                sizes.append(read.columns)
                tokens[owner] += read.columns
        order = rng.permutation(len(items))
        row_of, count = best_fit(np.array(sizes, np.int64)[order], self.objective.length)
        rows: list[list[Encoded]] = [[] for _ in range(count)]
        for index, row in zip(order.tolist(), row_of.tolist(), strict=True):
            rows[row].append(items[index])
        return Pass([rows[k] for k in rng.permutation(count)], empty, long, tokens)

    def _read(self, owner: int, rows: Sequence[tuple[int, int]]) -> Iterator[Read]:
        """Yield rows of a data set, each by a template. rows: (row, template)."""
        new = [pair for pair in rows if (owner, *pair) not in self._kept]
        fresh = dict(zip(new, self._written(owner, new), strict=True))
        for pair in rows:
            read = self._kept.get((owner, *pair)) or fresh[pair]
            if pair in fresh and self._room > 0:
                self._kept[owner, *pair] = read
                self._room -= 1 if isinstance(read, str) else read.columns
            yield read

    def _written(self, owner: int, rows: Sequence[tuple[int, int]]) -> Iterator[Read]:
        """Yield rows as `_read` does, written out anew."""
        part = self.sets[owner]
        written = [part.write(row, template) for row, template in rows]
        texts = [text or "" for prompted in written if prompted is not None for text in prompted]
        encoded = iter(self._encoded(texts))
        for (_, template), prompted in zip(rows, written, strict=True):
            if prompted is None:
                yield "empty"
                continue
            before, answer, after = next(encoded)
            item = self._fitted(Encoded(owner, template, before, answer, None if prompted.after is None else after))
            if item is None:
                yield "long"
            else:
                yield Fitted(item, columns(self._example(item.before, item.answer, item.after)))

    def _encoded(self, texts: Sequence[str]) -> list[list[Int32]]:
        """Return the ids of every three texts."""
        if not texts:
            return []
        ids, lengths = self.tokenizer.encode_plain(texts)
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        parts = [ids[begin:end].astype(np.int32) for begin, end in pairwise(ends.tolist())]
        return [parts[k : k + 3] for k in range(0, len(parts), 3)]

    def _fitted(self, item: Encoded) -> Encoded | None:
        """Return an example that is not too long: a text loses its beginning; a text around a blank loses what is
        furthest from the blank. None where the answer alone is too long, or nothing of the text is left."""
        if not len(item.answer):
            return None
        excess = columns(self._example(item.before, item.answer, item.after)) - self.longest
        if excess <= 0:
            return item
        behind = 0 if item.after is None else len(item.after)
        room = len(item.before) + behind - excess
        if room < 1:
            return None
        first = min(len(item.before), max(room // 2, room - behind))
        after = None if item.after is None else item.after[: room - first]
        fitted = item._replace(before=item.before[len(item.before) - first :], after=after)
        whole = columns(self._example(fitted.before, fitted.answer, fitted.after))
        return fitted if whole <= self.longest else None  # a decoder's row is as long as before

    def _example(self, before: NDArray[Any], answer: NDArray[Any], after: NDArray[Any] | None) -> Example:
        format = self.format
        if after is not None and len(after):
            if not self.objective.writes_into_blanks or not self.objective.fills:
                raise UserError(
                    f"{setting('prompts.files')}: a template has text behind its [MASK], and models of the objective "
                    f"{self.objective.name} write behind a text; put the answer at the end of the template"
                )
            (row,) = format.blank(before, answer, after)
            return row
        role = format.default_role if after is None else "mask"
        return format.target(format.source(before, None, role), join(answer, [format.target_end]))


def columns(example: Example) -> int:
    """Return the columns of the wider side of an Example."""
    return max(len(example), len(example.context) if example.context is not None else 0)
