"""SpanBERT's names: BERT's, since transformers has no class of its own for it (Joshi et al. 2019).

The encoder and the language-model head are BERT's without pairs. transformers has no class with the span-boundary
head: a checkpoint has it in a separate file (`Table.apart`), and an export leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from blankfill.families.bert import BertNames
from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import Table
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective, SpanBert


class SpanBertNames(BertNames):
    """A model trained on spans, as transformers' BERT."""

    name = "spanbert"
    objective: ClassVar[type[Objective]] = SpanBert
    kin: ClassVar[tuple[type[Objective], ...]] = ()
    apart = frozenset({"max_span_positions"})

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return BERT's names, the span-boundary head apart."""
        return replace(super().table(config, shift), apart=("span_boundary_head.",))

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: spans over all positions, without the span-boundary head, which its files do not
        have."""
        return SpanBert(config.position_sizes[0], boundary=0)


SPANBERT = FamilySpec(
    name="spanbert",
    source="Joshi et al. 2019; facebookresearch/SpanBERT",
    preset={
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "activation": "gelu",
        "head_transform": True,
        "head_bias": True,
    },
    channels=("pos", "type"),
    weight_names=SpanBertNames(),
    default_for=("spanbert",),
    recipes=("spanbert-nano", "spanbert-base", "spanbert-large"),
    docs="objectives/spanbert",
)
