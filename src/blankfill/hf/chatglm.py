"""ChatGLM-6B for transformers: our Transformer with the module names of the original code (THUDM/chatglm-6b).

`ChatGLMForConditionalGeneration` opens the released checkpoints and the exports of this program, quantised ones too,
without code from the folder. A row is `prompt [gMASK] <sop> answer`; the columns before `<sop>` see one another.

Shapes: B rows, T columns, H heads, E width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig

from blankfill.families.chatglm import IMAGES, ChatGlmNames
from blankfill.hf.glm import BlankFilling
from blankfill.kernels.integers import WeightFormat
from blankfill.model.dense import Dense
from blankfill.model.io import Inputs
from blankfill.model.layers import KeyValues, Layer
from blankfill.model.quantized import make_quantized, quantizable
from blankfill.model.transformer import Transformer

FIRST_RELEASE = 150528
"""Size of the vocabulary of the first release, whose config.json does not name the masks."""
TOKENS = {"mask_token_id": 130000, "gmask_token_id": 130001, "bos_token_id": 130004}
"""Ids of the released vocabulary, where config.json does not have them."""


class ChatGlmConfig(PreTrainedConfig):
    """The settings of the original, under its own names; a token that the model does not have is None."""

    model_type = ChatGlmNames.model_type
    attribute_map = {"num_hidden_layers": "num_layers", "intermediate_size": "inner_hidden_size"}  # noqa: RUF012

    def __init__(
        self,
        vocab_size: int = 130528,
        hidden_size: int = 4096,
        num_layers: int = 28,
        num_attention_heads: int = 32,
        inner_hidden_size: int = 16384,
        max_sequence_length: int = 2048,
        layernorm_epsilon: float = 1e-5,
        position_encoding_2d: bool = True,
        quantization_bit: int = 0,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.inner_hidden_size = inner_hidden_size
        self.max_sequence_length = max_sequence_length
        self.layernorm_epsilon = layernorm_epsilon
        self.position_encoding_2d = position_encoding_2d
        self.quantization_bit = quantization_bit
        images = IMAGES if vocab_size == FIRST_RELEASE else 0
        ids = {key: number + images for key, number in TOKENS.items()}
        self.mask_token_id: int | None = others.pop("mask_token_id", ids["mask_token_id"])
        self.gmask_token_id: int | None = others.pop("gmask_token_id", ids["gmask_token_id"])
        super().__init__(**{"tie_word_embeddings": True, "bos_token_id": ids["bos_token_id"], **others})


class ByHead(nn.Module):
    """A dense layer of queries, keys and values that has the rows of a head together, and gives ours: all queries, all
    keys, all values."""

    def __init__(self, dense: Dense, heads: int) -> None:
        super().__init__()
        self.dense, self.heads = dense, heads

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Compute the layer, and reorder its output."""
        made_BTHXE: Tensor = self.dense(x_BTD).unflatten(-1, (self.heads, 3, -1))
        return made_BTHXE.transpose(-3, -2).flatten(-3)


class ChatGLMForConditionalGeneration(BlankFilling):
    """ChatGLM-6B with its language-model head."""

    config_class = ChatGlmConfig
    _tied_weights_keys = {"lm_head.weight": "transformer.word_embeddings.weight"}  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012

    def __init__(self, config: ChatGlmConfig) -> None:
        super().__init__(config)
        values = {**config.to_dict(), "tie_word_embeddings": True}  # the head is a module of its own here
        model = Transformer(ChatGlmNames().read(values, ()))
        if config.quantization_bit:
            make_quantized(model, dict.fromkeys(quantizable(model), WeightFormat(config.quantization_bit)))
        self.transformer = original_tree(model)
        self.lm_head = Dense(config.hidden_size, config.vocab_size, bias=False)
        self._model = [model]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a weight that the folder lacks."""
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, Dense | nn.Embedding) and module.weight.is_floating_point():
            module.weight.data.normal_(std=0.02)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.transformer.get_submodule("word_embeddings")

    def get_output_embeddings(self) -> nn.Module:
        """Return the head."""
        return self.lm_head

    def row_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the positions of the original; see `positions`."""
        return positions(input_ids, attention_mask, self.config)

    def scores(self, inputs: Inputs, cache: list[KeyValues] | None) -> Tensor:
        """Return the scores of all columns, [B, T, V]."""
        scores_BTV: Tensor = self.lm_head(self._model[0](inputs, self.dtype, cache=cache).hidden)
        return scores_BTV


def original_tree(model: Transformer) -> nn.Module:
    """Return the parts of our model in the module tree of the original code; both share the modules.

    The norm before a layer is ours after the layer before it; that before the first is the norm of the embeddings.
    """
    tree, heads = nn.Module(), model.config.num_heads
    tree.add_module("word_embeddings", model.token_embeddings)
    layers = nn.ModuleList()
    before: nn.Module | None = model.embedding_norm
    for layer in model.layers:
        assert isinstance(layer, Layer) and layer.attention is not None and layer.ffn is not None
        block, attention, mlp = nn.Module(), nn.Module(), nn.Module()
        joint = layer.attention.qkv
        layer.attention.add_module("qkv", ByHead(joint, heads))
        attention.add_module("query_key_value", joint)
        attention.add_module("dense", layer.attention.output)
        mlp.add_module("dense_h_to_4h", layer.ffn.inner)
        mlp.add_module("dense_4h_to_h", layer.ffn.output)
        block.add_module("input_layernorm", before)
        block.add_module("attention", attention)
        block.add_module("post_attention_layernorm", layer.attention_norm)
        block.add_module("mlp", mlp)
        layers.append(block)
        before = layer.ffn_norm
    tree.add_module("layers", layers)
    tree.add_module("final_layernorm", before)
    return tree


def positions(input_ids: Tensor, attention_mask: Tensor | None, config: ChatGlmConfig) -> Tensor:
    """Compute the two positions of rows, int64[B, 2, T]: 0, 1, 2, … and 0 in the prompt; from `<sop>` on, the position
    of the mask ([gMASK], else [MASK]) and 1, 2, 3, …

    Padding is on the left. A row without `<sop>` is all prompt.
    """
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].long()
    place = (real.cumsum(-1) - 1).clamp(min=0)
    sop, gmask, mask = (
        -1 if id is None else id for id in (config.bos_token_id, config.gmask_token_id, config.mask_token_id)
    )
    written = (input_ids.eq(sop).cumsum(-1) > 0).long() * real
    is_gmask, is_mask = input_ids.eq(gmask), input_ids.eq(mask)
    is_mask = torch.where(is_gmask.any(-1, keepdim=True), is_gmask, is_mask)
    first = (is_mask & (real > 0)).long().argmax(-1, keepdim=True)
    return torch.stack([torch.where(written > 0, place.gather(-1, first), place), written.cumsum(-1) * written], dim=1)


AutoConfig.register(ChatGlmConfig.model_type, ChatGlmConfig, exist_ok=True)
AutoModelForCausalLM.register(ChatGlmConfig, ChatGLMForConditionalGeneration, exist_ok=True)
AutoModel.register(ChatGlmConfig, ChatGLMForConditionalGeneration, exist_ok=True)  # as the released config.json has it
