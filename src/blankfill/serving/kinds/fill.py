"""Texts with blanks."""

from __future__ import annotations

from collections.abc import Sequence

from blankfill.generation.blanks import FillResult
from blankfill.generation.fill import BlankedText, Filler
from blankfill.generation.fill_written import LONGEST_FILL
from blankfill.serving.errors import ApiError

MOST_READ = 2**18
"""Tokens that are read at most to fill the blanks of a text, which cannot be interrupted by other requests."""
MOST_SCORED = 2**12
"""Tokens at most whose scores over the vocabulary are held at a time, of models that see both sides."""
MOST_HELD = 2**15
"""Tokens at most of all beams whose keys and values are held at a time, of models that write."""
USUAL = 5
"""Candidates that are always allowed."""


class FillKind:
    """Fills the blanks of texts that `Filler.prepare` has made."""

    def __init__(self, filler: Filler) -> None:
        self.filler = filler

    @property
    def _sees_both_sides(self) -> bool:
        return self.filler.format.fill_method == "places"

    def size(self, item: BlankedText) -> int:
        """Return the largest number of tokens that are read to fill the blanks: of each beam, length and blank, so that
        a batch does not hold up others for long."""
        tokens = self.tokens(item)
        if not self._sees_both_sides:
            return item.beams * sum(tokens + most for _, most in self._ranges(item))
        beams = [sum(1 + (length - 1) * item.beams for length in range(least, most + 1)) - 1
                 for least, most in self._ranges(item)]  # fmt: skip
        rows = len(beams) + sum(count * rounds for rounds, count in enumerate(sorted(beams), 1))
        return tokens * rows

    def _ranges(self, item: BlankedText) -> list[tuple[int, int]]:
        """Return the smallest and largest number of tokens of each blank."""
        return [
            given or (1, 1 if self._sees_both_sides else LONGEST_FILL[blank.role])
            for given, blank in zip(item.ranges, item.blanks, strict=True)
        ]

    def check(self, item: BlankedText, name: str) -> None:
        """Raise ApiError (422) for a text whose blanks take too much time or memory. name: of the text."""
        longest = max(most for _, most in self._ranges(item))
        if self._sees_both_sides:
            held, most = item.beams * longest if longest > 1 else 0, MOST_SCORED
        else:
            held, most = item.beams * (self.tokens(item) + longest), MOST_HELD
        if (read := self.size(item)) > MOST_READ or (held > most and item.top_k > USUAL):
            why = f"read up to {read:,} tokens, of {MOST_READ:,}" if read > MOST_READ else (
                f"hold up to {held:,} tokens, of {most:,}"
            )  # fmt: skip
            raise ApiError(
                422, f"{name}: to fill the blanks the model would {why}; ask for fewer candidates, or give shorter "
                "lengths or a text with fewer blanks", "invalid_request", name,
            )  # fmt: skip

    def tokens(self, item: BlankedText) -> int:
        """Return the number of tokens of a text, one for each blank without a given length."""
        return sum(map(len, item.runs)) + sum(1 if given is None else given[1] for given in item.ranges)

    def compute(self, items: Sequence[BlankedText]) -> list[FillResult | Exception]:
        """Fill the blanks of texts together."""
        return self.filler.fill_blanked(items)
