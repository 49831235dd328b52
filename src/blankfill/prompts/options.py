"""The prompts section of a recipe: which prompted data sets a run reads, and how much of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from blankfill.system.bounds import COUNT, SOME, Bound, below, out_of_bounds


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The prompts section of a recipe."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {"share": below(1), "max_rows": SOME, "max_length": COUNT}

    files: tuple[str, ...] = ()
    """YAML files that describe prompted data sets: tables, and templates that write their rows as a text and its
    answer."""
    share: float = 0.05
    """Share of the training rows that hold examples of prompted data sets (GLM-130B: 0.05)."""
    max_rows: int = 100_000
    """Maximum number of rows of a data set that are used, drawn by the seed; each data set may name its own (GLM-130B:
    100,000)."""
    max_length: int = 0
    """Maximum length of an example in tokens, special ones included (GLM-130B: 512 of 2,048); a longer text loses its
    beginning, or what is furthest from its [MASK]. 0: objective.length."""

    def problems(self) -> list[str]:
        """Return a sentence for each impossible option."""
        return out_of_bounds(self, "prompts")
