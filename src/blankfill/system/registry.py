"""Extensible registries of named objects: built-in ones, those that a program registers, and those of installed
packages, found through entry points.

The entry points of a group are read only when a name is unknown or when all names are listed, since that takes time and
runs the code of other packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from blankfill.system.console import say

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A mapping from names to things. noun: what one of them is called in messages. group: of the entry points.

    check: raises TypeError or ValueError for what cannot be registered under a name.
    """

    def __init__(self, noun: str, group: str, built_in: Mapping[str, T], check: Callable[[str, T], None]) -> None:
        self.noun, self.group = noun, group
        self._check = check
        self._known = dict(built_in)
        self._entry_points_read = False

    def register(self, name: str, value: T) -> None:
        """Add a thing; ValueError when the name belongs to another one."""
        self._check(name, value)
        if self._known.get(name, value) is not value:
            raise ValueError(f"there is another {self.noun} named {name}; choose another name")
        self._known[name] = value

    def __getitem__(self, name: str) -> T:
        if name not in self._known:
            self._read_entry_points()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        self._read_entry_points()
        return iter(list(self._known))

    def __len__(self) -> int:
        self._read_entry_points()
        return len(self._known)

    def _read_entry_points(self) -> None:
        """Add the objects of installed packages; a message names a package whose entry point does not load."""
        if self._entry_points_read:
            return
        self._entry_points_read = True
        from importlib.metadata import entry_points

        for point in entry_points(group=self.group):
            try:
                value = point.load()
                self.register(point.name, value)
            except Exception as error:  # code of another package, which may fail in any way
                package = point.dist.name if point.dist is not None else point.value
                say(f"{package}: its {self.noun} {point.name} cannot be loaded ({error}); it is left out")
