"""ChatGLM-6B's names and config.json (THUDM/chatglm-6b `modeling_chatglm.py`; its block is that of GLM-130B)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from blankfill.errors import UserError
from blankfill.families.chatglm_layout import (
    is_gated,
    is_sat,
    read_sizes,
    sizes_from_shapes,
    weight_table,
    written_sizes,
)
from blankfill.families.spec import FamilySpec
from blankfill.families.weight_names import WHERE, Rule, Table, WeightNames, flag, number, refuse_options
from blankfill.model.config import TransformerConfig
from blankfill.objectives import ChatGlm, Objective
from blankfill.types import RotaryRounding

ALPHA = math.sqrt(2 * 28)
"""Factor of the residual stream in the original code, whatever the number of layers."""
ROUNDING: RotaryRounding = "frequencies"
"""The original rounds the frequencies to fp16, in every type of weights."""
IMAGES, SLIM_PAD = 20000, 3
"""Number of image tokens of the first release, and the padding of the later, slim vocabulary without them."""
SUCCESSORS = ("multi_query_attention", "ffn_hidden_size", "padded_vocab_size", "rmsnorm")
"""Keys of the config.json of ChatGLM2-6B and later models, whose `model_type` is the same."""
PRESET: dict[str, Any] = {
    "norm": "post", "norm_eps": 1e-5, "embedding_norm": True, "residual_scale": 0.0, "activation": "gelu_tanh",
    "position_scheme": "rotary_2d", "init": "deepnorm",
}  # fmt: skip


class ChatGlmNames(WeightNames):
    """ChatGLM-6B with its language-model head, tied or not."""

    name = "chatglm"
    model_type = "chatglm"
    own_class = "ChatGLMForConditionalGeneration"
    released_prefix = True
    objective = ChatGlm
    inputs = ("input_ids", "position_ids", "attention_mask")
    quantization_key = "quantization_bit"
    fixed_ids = writes_copies = True
    token_roles = {  # noqa: RUF012
        "bos_token_id": "sop", "eos_token_id": "eop", "mask_token_id": "mask", "gmask_token_id": "gmask",
    }  # fmt: skip

    def read(self, values: Mapping[str, Any], names: Collection[str]) -> TransformerConfig:
        """Read sizes from config.json."""
        if later := [key for key in SUCCESSORS if key in values]:
            raise UserError(
                f"{WHERE}: model_type is chatglm with {later[0]}, which is ChatGLM2-6B or a later model; "
                "only ChatGLM-6B is known here"
            )
        refuse_options(values, {"position_encoding_2d": True})
        sizes = read_sizes(values, ALPHA, ROUNDING, channels=2)
        return TransformerConfig(**PRESET | sizes, tied=flag(values, "tie_word_embeddings", True))

    def write(self, config: TransformerConfig, shift: int = 0) -> dict[str, Any]:
        """Return the values of the original's `ChatGLMConfig`, and those that only this program reads."""
        return {
            "architectures": [self.own_class],
            "model_type": self.model_type,
            **written_sizes(config, ALPHA, ROUNDING),
            "position_encoding_2d": True,
            "use_cache": True,
            "tie_word_embeddings": config.tied,
        }

    def table(self, config: TransformerConfig, shift: int = 0) -> Table:
        """Return the original's names."""
        return weight_table(config, Rule, "lm_head.weight")

    def values_from_shapes(self, shapes: Mapping[str, tuple[int, ...]], heads: int | None) -> dict[str, Any] | None:
        """Return the sizes of a checkpoint of SwissArmyTransformer."""
        if not is_sat(shapes) or is_gated(shapes):
            return None
        return {"model_type": self.model_type, **sizes_from_shapes(shapes, heads)}

    def image_rows(self, values: Mapping[str, Any]) -> int:
        """Return the image tokens of the first release, which stand before the pieces of text."""
        slim = values.get("pad_token_id") == SLIM_PAD or number(values, "vocab_size") <= IMAGES
        return 0 if slim else IMAGES

    def without_image_rows(self, values: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """Return the values with smaller ids; the padding is that of the slim layout."""
        moved = {key: values[key] - rows for key in ("vocab_size", *self.token_roles) if key in values}
        return {**values, **moved, "pad_token_id": SLIM_PAD}

    def default_objective(self, config: TransformerConfig, values: Mapping[str, Any]) -> Objective:
        """Return the objective: the rest of a text, and blanks in it, in rows as long as the positions."""
        return ChatGlm(config.position_sizes[0])


CHATGLM = FamilySpec(
    name="chatglm",
    source="THUDM/chatglm-6b modeling_chatglm.py; Zeng et al. 2022 (GLM-130B)",
    preset=PRESET,
    channels=ChatGlm.channels,
    equal_position_tables=True,  # what is written can be as long as the context
    weight_names=ChatGlmNames(),
    default_for=("chatglm",),
    recipes=("chatglm-nano", "chatglm-6b"),
    docs="chatglm",
)
