"""The description of a family: one `FamilySpec` with everything that the rest of the program needs to know about it.

A family is a published architecture. Its file in this folder has its spec and, if other programs have a format for its
weights, their names (`weight_names`). No code outside this folder mentions a family by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blankfill.families.weight_names import WeightNames


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """A published architecture: its preset, its weight names, and where it is used by default."""

    name: str
    """Name in recipes (`model.family`)."""
    source: str
    """Paper and released code that the preset follows."""
    preset: Mapping[str, Any]
    """Fields of `TransformerConfig` that the family fixes: norms, activation, heads, initialisation."""
    channels: tuple[str, ...] = ("pos",)
    """Names of the position channels that its models read."""
    optional_channels: tuple[str, ...] = ()
    """Names of further channels that a model may have."""
    encoder_decoder: bool = False
    """Whether its models have an encoder and a decoder."""
    causal: bool = False
    """Whether each column sees only the columns before it, whatever the objective."""
    optional_embedding_size: bool = False
    """Whether the width of the token embeddings is optional: equal to or narrower than that of the layers."""
    equal_position_tables: bool = False
    """Whether all position tables have as many rows as the first."""
    weight_names: WeightNames | None = None
    """Names of its weights in transformers; None if no other program has a format for its models."""
    default_for: tuple[str, ...] = ()
    """Names of the objectives that are measured with this family (`blankfill bench`)."""
    recipes: tuple[str, ...] = ()
    """Shipped recipes, the smallest first."""
    docs: str = ""
    """Page of the documentation, relative to `docs/`, without its suffix."""

    def fits(self, channels: int) -> bool:
        """Whether a model of the family can have this number of position channels."""
        return len(self.channels) <= channels <= len(self.channels) + len(self.optional_channels)
