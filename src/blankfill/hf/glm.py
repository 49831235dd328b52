"""GLM for transformers: our Transformer with the module names of the original code (THUDM/GLM).

`GlmForBlankFilling` loads the weights of the released checkpoints. The columns before the start token (`sop`) are Part
A, with bidirectional attention; the columns after it are the predicted text of the mask, one token at a time, with
GLM's two positions: the position of the mask, and the position inside the blank. With several masks, the first one is
filled. `BlankFilling` is what ChatGLM-6B has in common with it.

Shapes: B rows, T columns, S columns in the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedConfig
from transformers import PreTrainedModel as PreTrained
from transformers.modeling_outputs import CausalLMOutputWithPast

from blankfill.attention.masks import Mask, lower
from blankfill.errors import UserError
from blankfill.families.glm import PARTS, GlmNames
from blankfill.model.dense import Dense
from blankfill.model.io import Inputs
from blankfill.model.layers import KeyValues, Layer
from blankfill.model.transformer import Transformer
from blankfill.types import PADDING


class GlmConfig(PreTrainedConfig):
    """The settings of the original GLM; `max_position_embeddings` counts the rows of each position table."""

    model_type = GlmNames.model_type

    def __init__(
        self,
        vocab_size: int = 30592,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        max_position_embeddings: int = 513,
        hidden_act: str = "gelu_new",
        layer_norm_eps: float = 1e-5,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        initializer_range: float = 0.02,
        mask_token_id: int | None = None,
        gmask_token_id: int | None = None,
        smask_token_id: int | None = None,
        sop_token_id: int | None = None,
        eop_token_id: int | None = None,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.mask_token_id = mask_token_id
        self.gmask_token_id = gmask_token_id
        self.smask_token_id = smask_token_id
        self.sop_token_id = sop_token_id
        self.eop_token_id = eop_token_id
        super().__init__(**{"tie_word_embeddings": True, **others})


class BlankFilling(PreTrained, GenerationMixin):
    """A model that writes after its prompt, whose columns see one another, with two positions."""

    base_model_prefix = ""
    _supports_sdpa = True
    _model: list[Transformer]
    """In a list, so that its parts are registered once, under the original names."""

    def row_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the positions of rows, int64[B, 2, T]; the second is 0 in the prompt."""
        raise NotImplementedError

    def scores(self, inputs: Inputs, cache: list[KeyValues] | None) -> Tensor:
        """Return the scores of all columns, [B, T, V]."""
        logits = self._model[0](inputs, self.dtype, cache=cache, logits_at="all").logits
        assert isinstance(logits, Tensor)
        return logits

    @property
    def most_positions(self) -> int:
        """The number of positions."""
        return self._model[0].config.position_sizes[0]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **ignored: Any,
    ) -> CausalLMOutputWithPast:
        """Compute scores [B, T, V], and the mean loss over `labels`, int64[B, T], with -100 for columns without a
        target.

        position_ids: int64[B, 2, T], computed from the special tokens when absent; labels hold the target of each
        column, not shifted. attention_mask: [B, S + T], 0 for padding. With a cache, one column at a time.
        """
        if position_ids is None:
            position_ids = self.row_positions(input_ids, attention_mask)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        mask = rows_mask(position_ids[:, 1], attention_mask, seen, self.dtype)
        self._model[0].train(self.training)
        cache: list[KeyValues] | None = None
        if past_key_values is not None:
            cache = [Borrowed(past_key_values, k) for k in range(self._model[0].config.num_layers)]
        inputs = Inputs(input_ids, position_ids.transpose(0, 1), mask)
        logits_BTV = self.scores(inputs, cache)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1).float(), labels.flatten())
        return CausalLMOutputWithPast(loss, logits_BTV, past_key_values)  # 5.24 renames the cache's field

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: DynamicCache | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Return the columns that the cache lacks, with their positions."""
        position_ids = self.row_positions(input_ids, attention_mask)
        if int(position_ids.max()) >= self.most_positions:
            raise UserError(
                f"the text and the generated tokens need more than the model's {self.most_positions} "
                "positions; lower max_new_tokens or shorten the text"
            )
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        return {
            "input_ids": input_ids[:, seen:],
            "position_ids": position_ids[:, :, seen:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": others.get("use_cache"),
        }


class GlmForBlankFilling(BlankFilling):
    """GLM with its language-model head, whose weights are the token embeddings."""

    config_class = GlmConfig

    def __init__(self, config: GlmConfig) -> None:
        super().__init__(config)
        model = Transformer(GlmNames().read(config.to_dict(), ()))
        self.word_embeddings = model.token_embeddings
        self.transformer = original_tree(model)
        self._model = [model]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a weight that the folder lacks."""
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, Dense | nn.Embedding):
            module.weight.data.normal_(std=self.config.initializer_range)
            if isinstance(module, Dense):
                module.bias.data.zero_()

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings."""
        return self.word_embeddings

    def row_positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return GLM's positions; see `positions`."""
        return positions(input_ids, attention_mask, self.config)


class Borrowed(KeyValues):
    """One layer of transformers' cache, with the interface of `KeyValues`."""

    def __init__(self, cache: DynamicCache, layer: int) -> None:
        self.cache, self.layer = cache, layer

    def append(self, both_2BHQE: Tensor) -> tuple[Tensor, ...]:
        """Add the keys and values of new columns; returns those of all columns."""
        extended: tuple[Tensor, Tensor] = self.cache.update(*both_2BHQE, self.layer)
        return extended


def original_tree(model: Transformer) -> nn.Module:
    """Return the parts of our model in the module tree of the original code; both share the modules."""
    tree = nn.Module()
    tree.position_embeddings, tree.block_position_embeddings = model.positions
    tree.layers = nn.ModuleList()
    for layer in model.layers:
        assert isinstance(layer, Layer)
        branch = nn.Module()
        for mine, other in PARTS.items():
            parent, _, leaf = other.rpartition(".")
            if parent and not hasattr(branch, parent):
                branch.add_module(parent, nn.Module())
            branch.get_submodule(parent).add_module(leaf, layer.get_submodule(mine))
        tree.layers.append(branch)
    tree.add_module("final_layernorm", model.final_norm)
    return tree


def positions(input_ids: Tensor, attention_mask: Tensor | None, config: GlmConfig) -> Tensor:
    """Compute GLM's two positions of rows, int64[B, 2, T]: 0, 1, 2, … and 0 in Part A; from `sop` on, the position of
    the mask and 1, 2, 3, …

    Padding may be on the left. A row without `sop` is all Part A.
    """
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].long()
    place = (real.cumsum(-1) - 1).clamp(min=0)
    is_sop = input_ids.eq(-1 if config.sop_token_id is None else config.sop_token_id)
    part_b = (is_sop.cumsum(-1) > 0).long() * real
    masks = [config.mask_token_id, config.gmask_token_id, config.smask_token_id]
    is_mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for number in masks:
        if number is not None:
            is_mask |= input_ids == number
    first = (is_mask & (part_b == 0) & (real > 0)).long().argmax(-1, keepdim=True)
    where = place.gather(-1, first)
    return torch.stack([torch.where(part_b > 0, where, place), part_b.cumsum(-1) * part_b], dim=1)


def rows_mask(block: Tensor, attention_mask: Tensor | None, seen: int, dtype: torch.dtype) -> Mask:
    """Make the attention mask. block: int64[B, T], second position of the new columns, 0 in Part A; seen: cached
    columns."""
    B, T = block.shape
    if seen and T == 1 and attention_mask is None:
        return Mask("none")
    if seen and T > 1:
        raise ValueError("with a cache, columns are added one at a time")
    real = torch.ones(B, seen + T, device=block.device) if attention_mask is None else attention_mask
    segment = torch.where(real > 0, 0, PADDING).int()
    if seen:  # a new column sees everything before it
        zeros = torch.zeros_like(segment)
        return lower("rule", (zeros[:, -1:], zeros[:, -1:]), (segment, zeros), dtype)
    rank = (block > 0).int().cumsum(-1).int()
    return lower("rule", (segment, rank), (segment, rank), dtype)


def blank_inputs(model: GlmForBlankFilling, tokenizer: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """Prepare rows for `generate`: each text with the special tokens of training, padded on the left, then `sop`.

    A text has one mask ([MASK], [sMASK] or [gMASK]); after a [gMASK] at its end the row has no end-of-text token.
    Raises UserError for a text without a mask, or a model whose tokenizer lacks GLM's tokens.
    """
    config = model.config
    start, sop, ends = config.bos_token_id, config.sop_token_id, config.eos_token_id
    if start is None or sop is None or not ends:
        raise UserError("config.json names no bos_token_id, sop_token_id or eos_token_id, which GLM's rows need")
    masks = {config.mask_token_id, config.gmask_token_id, config.smask_token_id} - {None}
    rows = []
    for text in texts:
        inner = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not masks.intersection(inner):
            raise UserError(f"{text[:60]!r} has no [MASK], [sMASK] or [gMASK]; put one where text should be written")
        to_end = inner[-1] == config.gmask_token_id
        rows.append([start, *inner, *([] if to_end else [ends[-1]]), sop])
    width = max(map(len, rows))
    padded = [[config.pad_token_id or 0] * (width - len(row)) + row for row in rows]
    real = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    where = model.device
    return {"input_ids": torch.tensor(padded, device=where), "attention_mask": torch.tensor(real, device=where)}


AutoConfig.register(GlmConfig.model_type, GlmConfig, exist_ok=True)
AutoModelForCausalLM.register(GlmConfig, GlmForBlankFilling, exist_ok=True)
