"""UniLM v2's family (Bao et al. 2020): BERT with a relative position bias, for which transformers has no class.

The weights of a model without this bias have BERT's names.
"""

from __future__ import annotations

from blankfill.families.bert import BERT, BERT_PRESET
from blankfill.families.spec import FamilySpec

UNILM2 = FamilySpec(
    name="unilm2",
    source="Bao et al. 2020; microsoft/unilm",
    preset={**BERT_PRESET, "relative_buckets": 32},
    channels=("pos", "type"),
    weight_names=BERT.weight_names,
    default_for=("unilm2",),
    recipes=("unilm2-nano", "unilm-v2-base"),
    docs="objectives/unilm2",
)
