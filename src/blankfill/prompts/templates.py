"""A template of a prompted data set: Jinja that writes a row of a table as a text and its answer.

As in PromptSource (Bach et al. 2022), `|||` separates the two, and `answer_choices` is the list of the data set's
choices: `{{ premise }} Does it follow that {{ hypothesis }}? ||| {{ answer_choices[label] }}`. The answer is written
behind the text, or into the one [MASK] of the text. Both signs count in the template only, never in a cell. White space
at the ends of both is removed.

A template runs in a sandbox with limits (`system.sandbox`) and sees one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from blankfill.errors import UserError

ANSWER, MASK = "|||", "[MASK]"
_ANSWER, _MASK = "\ufdd0", "\ufdd1"
"""Noncharacters of Unicode in place of both, which no cell has."""


class Prompted(NamedTuple):
    """A row of a table as a text with a blank, and the answer. after: the text behind the blank; None where the answer
    follows the text."""

    before: str
    answer: str
    after: str | None = None


class PromptTemplate:
    """A compiled template. where: its place, for messages."""

    def __init__(self, source: str, where: str, choices: Sequence[str] = ()) -> None:
        """Raises UserError for a template that is not Jinja, or has no answer, or several blanks."""
        from jinja2 import StrictUndefined

        from blankfill.system.sandbox import LimitedEnvironment

        self.source, self.where, self.choices = source, where, list(choices)
        text, sign, answer = source.partition(ANSWER)
        if not sign or ANSWER in answer:
            raise UserError(
                f"{where}: the sign {ANSWER}, which separates the text and its answer, must be there once; write "
                f"`{{{{ question }}}} {ANSWER} {{{{ answer }}}}`"
            )
        if text.count(MASK) > 1:
            raise UserError(
                f"{where}: the text has several {MASK}; the answer is written into one, so leave out others"
            )
        environment = LimitedEnvironment(undefined=StrictUndefined)  # a name that the row lacks is an error
        self._template = environment.compiled(text.replace(MASK, _MASK) + _ANSWER + answer, where)

    def write(self, row: Mapping[str, Any], place: str) -> Prompted | None:
        """Write a row; None where its text or its answer is empty. place: of the row, for messages. Raises UserError
        for a row that the template cannot write."""
        from jinja2 import UndefinedError

        from blankfill.system.sandbox import limited

        try:
            with limited():
                whole: str = self._template.render({**row, "answer_choices": self.choices})
        except UndefinedError as error:
            columns = ", ".join(map(str, row)) or "none"
            raise UserError(f"{self.where}: {error.message} in {place}; the columns are {columns}") from None
        except Exception as error:  # whatever an expression of the template may do wrong
            what = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{self.where} fails on {place} ({type(error).__name__}: {what}); correct either") from None
        for sign, written in ((ANSWER, _ANSWER), (MASK, _MASK)):
            if whole.count(written) > 1:
                raise UserError(f"{self.where} writes several {sign} on {place}; one is enough, outside of a loop")
        text, _, answer = whole.partition(_ANSWER)
        before, blank, after = text.strip().partition(_MASK)
        answer = answer.strip()
        if not answer or not (before + after).strip():
            return None
        return Prompted(before.rstrip() if not blank else before, answer, after if blank else None)
