"""How the weights of a fresh model are drawn.

Most families draw every matrix with one deviation. T5 divides no scores by √E (E width of a head) and draws each matrix
by the width of what it reads instead, words with deviation 1 (Raffel et al. 2020; tensorflow/mesh,
transformer/attention.py), D width, H heads, F width inside the feed-forward part:

    queries (D·E)^-½    keys, values, inner dense D^-½    attention's output (H·E)^-½    feed-forward's output F^-½
    table of distances D^-½    an output table of its own D^-½, as large as the tied one is once it is scaled
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blankfill.model.config import TransformerConfig
from blankfill.model.dense import Dense
from blankfill.model.positions import RelativePositionBias
from blankfill.model.relative import TransformerXLAttention

if TYPE_CHECKING:
    from blankfill.model.transformer import Transformer

RESIDUAL = ("attention.output", "cross.output", "ffn.output")
"""The dense layers whose output is added to the residual stream."""


@torch.no_grad()
def draw_weights(model: Transformer, config: TransformerConfig, generator: torch.Generator) -> None:
    """Draw all weights as the family's paper does. Biases start at 0, norms at 1."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.weight.fill_(1.0)
            if isinstance(module, nn.LayerNorm) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, Dense):
            _draw_dense(name, module, config, generator)
        elif isinstance(module, TransformerXLAttention):
            for parameter in module.parameters(recurse=False):
                draw(parameter, config.init_std, config, generator)
        elif isinstance(module, RelativePositionBias):
            std = config.hidden_size**-0.5 if config.init == "t5" else config.init_std
            draw(module.weight, std, config, generator)
        elif isinstance(module, nn.Embedding):
            is_position = name.startswith(("positions", "encoder.positions"))
            draw(module.weight, config.position_std if is_position else _word_std(config), config, generator)
    if model.lm_head.bias is not None:
        model.lm_head.bias.zero_()
    if model.span_boundary_head is not None:
        model.span_boundary_head.bias.zero_()
    if model.lm_head.table is not None:
        std = config.hidden_size**-0.5 if config.init == "t5" else config.init_std
        draw(model.lm_head.table, std, config, generator)
    if model.query is not None:
        draw(model.query, config.init_std, config, generator)


def _word_std(config: TransformerConfig) -> float:
    return 1.0 if config.init == "t5" else config.init_std


def _draw_dense(name: str, module: Dense, config: TransformerConfig, generator: torch.Generator) -> None:
    residual = config.init_std / math.sqrt(2 * config.num_layers) if config.scaled_init else config.init_std
    if config.init == "t5":
        draw(module.weight, module.in_features**-0.5, config, generator)
        if name.endswith(("attention.qkv", "cross.query")) and not config.scale_scores:
            module.weight[: config.attention_width] *= config.head_width**-0.5
    else:
        draw(module.weight, residual if name.endswith(RESIDUAL) else config.init_std, config, generator)
    if module.bias is not None:
        module.bias.zero_()


def draw(weight: Tensor, std: float, config: TransformerConfig, generator: torch.Generator) -> None:
    """Draw a weight from a normal distribution, cut off at two deviations where the configuration says so."""
    weight.normal_(std=std, generator=generator)
    if config.init != "truncated_normal":
        return
    flat = weight.view(-1)
    outside = (flat.abs() > 2 * std).nonzero().squeeze(1)
    while len(outside):  # several times as fast as torch's trunc_normal_, which inverts the error function everywhere
        flat[outside] = torch.empty(len(outside), device=flat.device).normal_(std=std, generator=generator)
        outside = outside[flat[outside].abs() > 2 * std]
