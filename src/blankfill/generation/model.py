"""A trained model as a user holds it: `load(path)`, then `fill` and `generate`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from blankfill.checkpoint.dtypes import WeightType, dtype_named
from blankfill.checkpoint.load import Loaded, load_model
from blankfill.generation.blanks import FillResult
from blankfill.generation.fill import Filler
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import generate
from blankfill.model.layout import optimize_for_inference


class Model:
    """A model with its tokenizer and objective (`loaded`), ready to answer."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    @cached_property
    def _filler(self) -> Filler:
        return Filler(self.loaded)

    def fill(self, text: str, top_k: int = 5, lengths: str | None = None, length_penalty: float = 0.0) -> FillResult:
        """Fill the blanks of a text, written [MASK], ____ or [MASK:3]; see `generate.fill.Filler.fill`."""
        return self._filler.fill(text, top_k, lengths, length_penalty)

    def generate(self, prompt: str, max_tokens: int = 100, slide: bool = False, **sampling: Any) -> Iterator[str]:
        """Continue a text, piece by piece as it is written.

        sampling: the fields of `generation.sampling.Sampling`, e.g. temperature, top_k, top_p, repetition_penalty,
        seed. slide: go on past the position table by forgetting the older half (GPT).
        """
        optimize_for_inference(self.loaded.model)
        return generate(self.loaded, prompt, max_tokens, Sampling(**sampling), slide)


def load(path: str | Path, device: str = "cpu", dtype: WeightType = "auto") -> Model:
    """Open a run folder or one of its checkpoints.

    dtype: of the weights, and so of what is computed with them; auto keeps the type that they are stored in.
    """
    return Model(load_model(path, device, dtype_named(dtype)))
