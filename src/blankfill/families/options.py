"""The model section of a recipe: a family and its sizes, which together make a `TransformerConfig`.

A family fixes what its paper fixes (norms, activation, heads, initialisation); a recipe gives sizes and dropout. The
position tables come from the objective and the vocabulary from the tokenizer.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from blankfill.families.registry import FAMILIES
from blankfill.families.spec import FamilySpec
from blankfill.model.config import TransformerConfig
from blankfill.system.bounds import Bound, at_least, below, out_of_bounds
from blankfill.system.reading import shown

BOTH_SIDES, BEFORE = (-1, 1, -2, 2), (-1, -2, -3, -4)
"""Neighbours that the first heads begin with, for models that read both ways and for those that read one."""

WIDEST = 2**24
"""The largest size of a table's or a layer's side."""
DEEPEST = 10_000
"""The most layers."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model section of a recipe: a family and its sizes."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("hidden_size", "num_heads", "vocab_multiple"), at_least(1, WIDEST)),
        **dict.fromkeys(("head_size", "ffn_size", "embedding_size", "positions"), at_least(0, WIDEST)),
        "num_layers": at_least(1, DEEPEST),
        "encoder_layers": at_least(0, DEEPEST),
        **dict.fromkeys(("dropout", "attention_dropout"), below(1)),
    }

    family: str = "bert"
    """Architecture preset: norms, activation, heads, initialisation."""
    hidden_size: int = 768
    """Width of the model."""
    num_layers: int = 12
    """Transformer layers."""
    num_heads: int = 12
    """Attention heads; they divide the width, unless they have a width of their own."""
    head_size: int = 0
    """Width of a head; 0 means the model's, divided by the heads."""
    encoder_layers: int = 0
    """Layers of the encoder, in families that have one (t5, t5-v1.1, bart); 0 means as many as num_layers."""
    ffn_size: int = 0
    """Width inside the feed-forward part; 0 means four times the width."""
    embedding_size: int = 0
    """Width of the word and position tables, before a dense layer; 0 means the family's: 128 for ALBERT, the model's
    own width, without that layer, for the others."""
    shared: Literal["family", "none", "attention", "ffn", "all"] = "family"
    """Which weights all layers have in common, when it should differ from the family's."""
    norm: Literal["family", "pre", "post"] = "family"
    """Where the norms stand, when it should differ from the family's."""
    start: Literal["family", "neighbours"] = "family"
    """Weights as the family's paper draws them, or with heads that begin by looking at the neighbours: short runs
    learn much faster."""
    positions: int = 0
    """Rows of the first position table; 0 means as many as the objective's length needs."""
    dropout: float = 0.1
    """On embeddings and sublayer outputs."""
    attention_dropout: float = 0.1
    """On attention weights."""
    vocab_multiple: int = 1
    """The word table is padded to a multiple of this (GLM: 128)."""

    def problems(self) -> list[str]:
        """What is wrong with these options alone, a sentence each; `TransformerConfig.problems` tells the rest."""
        problems = out_of_bounds(self, "model.")
        if self.family not in FAMILIES:
            close = difflib.get_close_matches(self.family[:100], FAMILIES, 1)
            hint = f"did you mean {close[0]}?" if close else f"known families: {', '.join(FAMILIES)}"
            problems.append(f"model.family is {shown(self.family)}, which is not known; {hint}")
        return problems

    @property
    def spec(self) -> FamilySpec:
        """The family's spec. Raises KeyError for an unknown family, which `problems` reports."""
        return FAMILIES[self.family]

    def config(
        self,
        vocab_size: int,
        position_sizes: tuple[int, ...],
        pairs: bool = True,
        max_span_positions: int = 0,
        causal: bool = False,
    ) -> TransformerConfig:
        """The full configuration. pairs: whether the objective uses the head for pairs, if the family has one;
        max_span_positions: `Objective.max_span_positions`; causal: whether each column sees only the columns before it,
        whatever the family."""
        spec = self.spec
        preset = dict(spec.preset)
        if self.norm != "family":
            preset["norm"] = self.norm
        if self.embedding_size:
            preset["embedding_size"] = self.embedding_size
        if self.shared != "family":
            preset["shared"] = self.shared
        preset["pooler"] = bool(preset.get("pooler")) and pairs
        if self.start == "neighbours":
            preset["neighbours"] = BEFORE if causal or spec.causal else BOTH_SIDES
        first = max(self.positions, position_sizes[0]) if self.positions else position_sizes[0]
        sizes = (first,) * len(position_sizes) if spec.equal_position_tables else (first, *position_sizes[1:])
        return TransformerConfig(
            vocab_size=-(-vocab_size // self.vocab_multiple) * self.vocab_multiple,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_size=0 if self.head_size * self.num_heads == self.hidden_size else self.head_size,
            encoder_layers=(self.encoder_layers or self.num_layers) if spec.encoder_decoder else 0,
            ffn_size=self.ffn_size or 4 * self.hidden_size,
            position_sizes=sizes,
            max_span_positions=max_span_positions,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            **preset,
        )
