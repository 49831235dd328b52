"""Bounds of numeric options: declared once beside the option, checked and reported in one way.

A class of options has `BOUNDS`, a bound for every field that holds numbers (a test checks the fields). NaN and
infinities are outside of every bound: comparisons with NaN are false, so a check for values outside of a range would
accept it, and the run would fail much later with a loss that is not finite.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blankfill.errors import Problem, setting

MOST = 2**31 - 1
"""The largest number of an option that has no limit of its own: it fits every library's integers."""
NATURAL = 1024
"""Limits up to this are part of an option's meaning, and every message names them; larger ones are named only when a
value exceeds them."""
STEEPEST = 100.0
"""Largest power of a length by which texts are ranked; beyond it, scores overflow a float."""
LONG = 16
"""Number of digits from which a message does not repeat a number."""


@dataclass(frozen=True)
class Bound:
    """The range of an option. above, below: whether `least` and `most` themselves are excluded. also: further allowed
    values."""

    least: float = 0
    most: float = MOST
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()

    def holds(self, value: float) -> bool:
        """Return whether a value is allowed."""
        if value in self.also:
            return True
        if isinstance(value, float) and not math.isfinite(value):
            return False
        low = value > self.least if self.above else value >= self.least
        return low and (value < self.most if self.below else value <= self.most)

    def words(self, value: float) -> str:
        """Return a phrase that says what a value must be, for a value that is not allowed."""
        low = f"above {self.least}" if self.above else f"at least {self.least}"
        high = f"below {self.most}" if self.below else f"at most {self.most}"
        if self.most <= NATURAL:
            closed = not (self.above or self.below)
            said = f"be between {self.least} and {self.most}" if closed else f"be {low} and {high}"
        elif value > self.most:
            said = f"be {high}"
        else:
            said = f"be {low}" if self.least or self.above else "not be negative"
        if self.also:
            said = f"be {' or '.join(map(str, self.also))} or {said.removeprefix('be ')}"
        return f"must {said}" if abs(value) < math.inf else f"must {said}, and a finite number"


def at_least(least: float, most: float = MOST) -> Bound:
    """Return a bound from a value on."""
    return Bound(least, most)


def above(least: float, most: float = MOST) -> Bound:
    """Return a bound above a value."""
    return Bound(least, most, above=True)


def below(most: float, least: float = 0) -> Bound:
    """Return a bound from `least` up to, but without, a value."""
    return Bound(least, most, below=True)


SHARE = Bound(0, 1)
"""A share of a whole."""
COUNT = Bound(0)
"""A number from 0; 0 usually means that the program chooses, or none."""
SOME = Bound(1)
"""One or more."""
PROCESSES = Bound(1, 1024, also=(0,))
"""Threads or processes; 0: automatic. More are a typing mistake, and some OpenMP libraries end the process."""
SEED = Bound(0, 2**32 - 1)
"""A seed that every random number generator accepts."""
COMMON: Mapping[str, Bound] = {"seed": SEED, "threads": PROCESSES, "workers": PROCESSES}
"""Options with the same meaning in all classes."""


def bounds_of(options: type) -> Mapping[str, Bound]:
    """Return the bounds of a class of options, those of the classes that it extends included."""
    bounds = dict(COMMON)
    for kind in reversed(options.__mro__):
        bounds |= vars(kind).get("BOUNDS", {})
    return bounds


def out_of_bounds(options: Any, section: str = "") -> list[str]:
    """Return a Problem for every number of some options that is outside of its bound.

    section: the path of the options in the settings.
    """
    bounds = bounds_of(type(options))
    prefix = f"{section}." if section else ""
    problems: list[str] = []
    for field in dataclasses.fields(options):
        bound = bounds.get(field.name)
        if bound is None:
            continue
        value = getattr(options, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not bound.holds(number):
                name = setting(prefix + field.name)
                problems.append(Problem(f"{name} is {_number(number)}; it {bound.words(number)}"))
    return problems


def _number(value: float) -> str:
    if isinstance(value, int) and abs(value) >= 10**LONG:
        return f"a number of more than {LONG} digits"
    return str(value)
