"""The model section of a recipe: a family and its sizes, which together make a `TransformerConfig`.

A family fixes what its paper fixes (norms, activation, heads, initialisation); a recipe gives sizes and dropout. The
position tables come from the objective and the vocabulary from the tokenizer.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from blankfill.errors import Problem, setting
from blankfill.families.registry import FAMILIES
from blankfill.families.spec import FamilySpec
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective
from blankfill.system.bounds import Bound, at_least, below, out_of_bounds
from blankfill.system.reading import shown
from blankfill.system.schema import Option

BOTH_SIDES, BEFORE = (-1, 1, -2, 2), (-1, -2, -3, -4)
"""Relative offsets that the first heads are initialised to attend to, in bidirectional and in causal models."""

DEEPNORM = {"norm": "post", "residual_scale": 0.0, "init": "deepnorm"}

WIDEST = 2**24
"""Maximum number of rows or columns of a weight."""
DEEPEST = 10_000
"""Maximum number of layers."""


def known_families() -> Collection[str]:
    """The names of all families."""
    return FAMILIES


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model section of a recipe: a family and its sizes."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        **dict.fromkeys(("hidden_size", "num_heads", "vocab_multiple"), at_least(1, WIDEST)),
        **dict.fromkeys(("head_size", "ffn_size", "embedding_size", "positions"), at_least(0, WIDEST)),
        "num_layers": at_least(1, DEEPEST),
        "encoder_layers": at_least(0, DEEPEST),
        **dict.fromkeys(("dropout", "attention_dropout", "init_std"), below(1)),
    }

    family: Annotated[str, Option(choices=known_families)] = "bert"
    """Architecture of the model: its norms, activation, heads and initialisation."""
    hidden_size: int = 768
    """Hidden width of the model; a base model has 768."""
    num_layers: int = 12
    """Number of Transformer layers; a base model has 12. With an encoder, layers of the decoder."""
    num_heads: int = 12
    """Number of attention heads; hidden_size must be a multiple of it, unless head_size is given."""
    head_size: int = 0
    """Width of each attention head; 0: hidden_size divided by num_heads."""
    encoder_layers: int = 0
    """Number of encoder layers, for families with an encoder and a decoder; 0: equal to num_layers."""
    ffn_size: int = 0
    """Width of the feed-forward layers; 0: four times hidden_size."""
    embedding_size: int = 0
    """Width of the token embeddings, which a dense layer projects to hidden_size. 0: the family's (ALBERT: 128, others:
    hidden_size without a projection)."""
    shared: Literal["family", "none", "attention", "ffn", "all"] = "family"
    """Weights that all layers share. family: as in the family's paper."""
    norm: Literal["family", "pre", "post", "deepnorm"] = "family"
    """Position of the layer norms: before or after each sublayer. family: as in the family's paper; deepnorm: after,
    with a residual stream scaled by √(2 · num_layers) and the initial weights that go with it (GLM-130B)."""
    init: Literal["family", "locality"] = "family"
    """Initial weights. family: as in the family's paper; locality: the first heads attend to adjacent tokens, which
    speeds up short runs considerably."""
    init_std: float = 0.0
    """Standard deviation of the initial weights. 0: the family's, usually 0.02, which is small for narrow models."""
    positions: int = 0
    """Rows of the position table; 0: as many as objective.length needs."""
    dropout: float = 0.1
    """Dropout probability of embeddings and sublayer outputs; usually 0.1."""
    attention_dropout: float = 0.1
    """Dropout probability of attention weights; usually 0.1."""
    vocab_multiple: int = 1
    """The vocabulary is padded to a multiple of this number of rows (GLM: 128)."""

    def problems(self) -> list[str]:
        """Return a sentence for each problem of these options alone; `TransformerConfig.problems` finds the others."""
        problems = out_of_bounds(self, "model")
        if self.family not in FAMILIES:
            close = difflib.get_close_matches(self.family[:100], FAMILIES, 1)
            hint = f"did you mean {close[0]}?" if close else f"known families: {', '.join(FAMILIES)}"
            problems.append(Problem(f"{setting('model.family')} is {shown(self.family)}, which is not known; {hint}"))
        return problems

    @property
    def spec(self) -> FamilySpec:
        """The family's spec. Raises KeyError for an unknown family, which `problems` reports."""
        return FAMILIES[self.family]

    def config_for(self, objective: Objective, vocab_size: int) -> TransformerConfig:
        """Return the full configuration of a model that is trained by an objective."""
        config = self.config(
            vocab_size, objective.position_sizes(), bool(objective.labels()), objective.max_span_positions(),
            objective.causal,
        )  # fmt: skip
        return replace(config, **objective.model_fields(config.hidden_size))

    def _norm_fields(self, preset: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that `norm` changes. Without DeepNorm, a family that has it starts as others do."""
        if self.norm == "family":
            return {}
        if self.norm == "deepnorm":
            return DEEPNORM
        plain = {"residual_scale": 1.0, "init": "normal"} if preset.get("residual_scale") == 0 else {}
        return {"norm": self.norm, **plain}

    def config(
        self,
        vocab_size: int,
        position_sizes: tuple[int, ...],
        pairs: bool = True,
        max_span_positions: int = 0,
        causal: bool = False,
    ) -> TransformerConfig:
        """Return the full configuration. pairs: whether the objective uses the head for pairs, if the family has one;
        max_span_positions: `Objective.max_span_positions`; causal: whether each column sees only the columns before it,
        whatever the family."""
        spec = self.spec
        preset = dict(spec.preset)
        preset |= self._norm_fields(preset)
        if self.embedding_size:
            preset["embedding_size"] = self.embedding_size
        if self.init_std:
            preset["init_std"] = self.init_std
        if self.shared != "family":
            preset["shared"] = self.shared
        preset["pooler"] = bool(preset.get("pooler")) and pairs
        if self.init == "locality":
            preset["locality"] = BEFORE if causal or spec.causal else BOTH_SIDES
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
