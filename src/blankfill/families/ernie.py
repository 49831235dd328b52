"""ERNIE's names and config.json (transformers' `ernie`; Sun et al. 2019): BERT's, and a table of tasks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from blankfill.families.bert import BertNames
from blankfill.families.spec import FamilySpec
from blankfill.families.task_heads import TaskHeads
from blankfill.families.weight_names import Table, number, plain
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Ernie, Objective


class ErnieNames(BertNames):
    """ERNIE 1.0, and the encoders of 2.0 and 3.0, which have transformers' use_task_id."""

    name = "ernie"
    model_type = "ernie"
    title = "Ernie"
    task_heads = TaskHeads("Ernie", "ernie.", "ernie.pooler.dense")
    objective: ClassVar[type[Objective]] = Ernie
    kin: ClassVar[tuple[type[Objective], ...]] = ()

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes as for BERT, with a third position table for tasks."""
        config = super().read(values, names)
        if not values.get("use_task_id"):
            return config
        return replace(config, position_sizes=(*config.position_sizes, number(values, "task_type_vocab_size")))

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of transformers' `ErnieConfig`."""
        sizes = config.position_sizes
        values = super().write(replace(config, position_sizes=sizes[:2]), shift)
        tasks = {"use_task_id": True, "task_type_vocab_size": sizes[2]} if len(sizes) > 2 else {"use_task_id": False}
        return {**values, **tasks}

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return BERT's names after `ernie.`, and the table of tasks."""
        table = super().table(config, shift)
        if len(config.position_sizes) < 3:
            return table
        base = "ernie." if config.lm_head or (config.pooler and config.pair_classifier) else ""
        tasks = plain({"positions.2.weight": f"{base}embeddings.task_type_embeddings.weight"})
        return replace(table, rules=(*table.rules, *tasks))

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: masked words over all positions, with pairs if the model has their classifier."""
        sizes = config.position_sizes
        return Ernie(
            sizes[0],
            next_sentence=config.pooler and config.pair_classifier,
            task_types=sizes[2] if len(sizes) > 2 else 0,
        )


ERNIE = FamilySpec(
    name="ernie",
    source="Sun et al. 2019; PaddlePaddle/ERNIE",
    preset={
        "norm": "post",
        "norm_eps": 1e-12,
        "embedding_norm": True,
        "activation": "relu",
        "head_transform": True,
        "head_bias": True,
        "pooler": True,
        "init": "truncated_normal",
    },
    channels=("pos", "type"),
    optional_channels=("task",),
    weight_names=ErnieNames(),
    default_for=("ernie",),
    recipes=("ernie-nano", "ernie-base"),
    docs="objectives/ernie",
)
