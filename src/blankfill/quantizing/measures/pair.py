"""The two models that are compared, in memory together where they fit, else one after the other."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from blankfill.system.environment import usable_memory

if TYPE_CHECKING:
    from blankfill.inference import Model

T = TypeVar("T")
REST = 1 << 30
"""Bytes that are left free beside two models in memory together: for scores, and for other programs."""


class Pair:
    """The original and the quantised model of it.

    together: whether both are in memory at the same time. Without it, a model is opened for each measure again.
    """

    def __init__(self, original: Path, quantised: Path, dtype: str = "auto", together: bool | None = None) -> None:
        """dtype: type of the weights of pretrained models, as in `inference.load`. together: None decides by the free
        memory."""
        self.paths, self.dtype = (original, quantised), dtype
        if together is None:
            from blankfill.quantizing.run import newest_folder, stored_bytes

            need = sum(stored_bytes(newest_folder(path)) for path in self.paths) * (2 if dtype == "fp32" else 1)
            together = 1.3 * need + REST < usable_memory()
        self.together = together
        self._opened: list[Model] = []

    def __enter__(self) -> Pair:
        if self.together:
            self._opened = [self._open(path) for path in self.paths]
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.clear()
        gc.collect()  # the folder of an open model cannot be renamed everywhere

    @property
    def models(self) -> tuple[Model, Model]:
        """Both models, where they are in memory together."""
        before, after = self._opened
        return before, after

    def each(self, measured: Callable[[Model], T]) -> tuple[T, T]:
        """Return what a function returns for the original and for the quantised model."""
        if self.together:
            before, after = self.models
            return measured(before), measured(after)
        first = self._alone(0, measured)
        return first, self._alone(1, measured)

    def of_original(self, measured: Callable[[Model], T]) -> T:
        """Return what a function returns for the original."""
        return measured(self._opened[0]) if self.together else self._alone(0, measured)

    def of_quantised(self, measured: Callable[[Model], T]) -> T:
        """Return what a function returns for the quantised model."""
        return measured(self._opened[1]) if self.together else self._alone(1, measured)

    def _alone(self, k: int, measured: Callable[[Model], T]) -> T:
        try:
            return measured(self._open(self.paths[k]))
        finally:
            gc.collect()

    def _open(self, path: Path) -> Model:
        from blankfill.finetuning.predictor import holds_fine_tuned
        from blankfill.inference import load

        dtype = None if self.dtype == "auto" or holds_fine_tuned(path) else self.dtype
        return load(path, dtype=dtype)  # type: ignore[arg-type]
