"""Texts with blanks."""

from __future__ import annotations

from collections.abc import Sequence

from blankfill.generation.blanks import FillResult
from blankfill.generation.fill import BlankedText, Filler


class FillKind:
    """Fills the blanks of texts that `Filler.prepare` has made."""

    def __init__(self, filler: Filler) -> None:
        self.filler = filler

    def size(self, item: BlankedText) -> int:
        """Return the number of tokens that are read: of each beam, where fills are written one text after another, so
        that a batch of such texts does not hold up others for long."""
        tokens = self.tokens(item)
        return tokens if self.filler.format.fill_method == "places" else tokens * item.beams

    def tokens(self, item: BlankedText) -> int:
        """Return the number of tokens of a text, one for each blank without a given length."""
        return sum(map(len, item.runs)) + sum(1 if given is None else given[1] for given in item.ranges)

    def compute(self, items: Sequence[BlankedText]) -> list[FillResult | Exception]:
        """Fill the blanks of texts together."""
        return self.filler.fill_blanked(items)
