"""GLM-130B's names (THUDM/SwissArmyTransformer `glm130B_model.py`; Zeng et al. 2022).

Against ChatGLM-6B, rotary positions have one axis, and the feed-forward part is gated. The original multiplies the
first half of the inner layer with the activation of the second half; here the first half is activated. The original has
no config.json; ours has the keys of ChatGLM-6B's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from blankfill.families.chatglm_layout import (
    is_gated,
    is_sat,
    read_sizes,
    sizes_from_shapes,
    weight_table,
    written_sizes,
)
from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import HalvesSwapped, Table, WeightNames
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Glm130b, Objective

PRESET: dict[str, Any] = {
    "norm": "post", "norm_eps": 1e-5, "embedding_norm": True, "residual_scale": 0.0, "activation": "gelu",
    "gated": True, "position_scheme": "rotary", "init": "deepnorm",
}  # fmt: skip


class Glm130bNames(WeightNames):
    """GLM-130B, whose output embeddings are its token embeddings."""

    name = "glm-130b"
    model_type = "glm-130b"
    objective = Glm130b
    inputs = ("input_ids", "position_ids", "attention_mask")

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json."""
        return TransformerConfig(**PRESET | read_sizes(values, 0.0, "none", channels=1))

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of config.json."""
        return {
            "architectures": ["GLM130B"],
            "model_type": self.model_type,
            **written_sizes(config, 0.0, "none"),
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return SwissArmyTransformer's names, for a model whose tensor-parallel parts are joined."""
        return weight_table(config, HalvesSwapped)

    def values_from_shapes(self, shapes: Mapping[str, tuple[int, ...]], heads: int | None) -> dict[str, Any] | None:
        """Return the sizes of a checkpoint of SwissArmyTransformer."""
        if not is_sat(shapes) or not is_gated(shapes):
            return None
        return {"model_type": self.model_type, **sizes_from_shapes(shapes, heads)}

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: the rest of a text, and blanks in it, in rows as long as the positions."""
        return Glm130b(config.position_sizes[0])

    def token_ids(self, roles: Mapping[str, int]) -> dict[str, int | list[int] | None]:
        """Return the ids of the tokens of blanks, and of the end of the text."""
        ids: dict[str, int | list[int] | None] = {
            f"{role}_token_id": roles.get(role) for role in ("mask", "gmask", "smask", "sop", "eop")
        }
        return {**ids, "bos_token_id": roles.get("sop"), "eos_token_id": roles.get("eos")}


GLM_130B = FamilySpec(
    name="glm-130b",
    source="Zeng et al. 2022; THUDM/SwissArmyTransformer glm130B_model.py",
    preset=PRESET,
    channels=Glm130b.channels,
    weight_names=Glm130bNames(),
    default_for=("glm-130b",),
    recipes=("glm-130b-nano", "glm-130b"),
    docs="chatglm",
)
