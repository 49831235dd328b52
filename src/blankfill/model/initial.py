"""Initial weights of a model.

Most families draw every matrix with the same standard deviation. T5 does not divide scores by √E (E width of a head);
instead it draws each matrix by the width of its input, and token embeddings with deviation 1 (Raffel et al. 2020;
tensorflow/mesh, transformer/attention.py), D width, H heads, F width inside the feed-forward part:

    queries (D·E)^-½    keys, values, inner dense D^-½    attention's output (H·E)^-½    feed-forward's output F^-½
    position bias D^-½    separate output embeddings D^-½, as large as tied ones after their scaling

DeepNorm as GLM-130B has it (Zeng et al. 2022, §2.2; Wang et al. 2022) draws the matrices of N layers as Xavier normal,
with deviation β √(2 / (inputs + outputs)) for inputs and outputs of the single matrix, not of a joint one: β is 1 for
queries and keys, and (2N)^-½ for values, attention's output and the feed-forward part. All else has `init_std`.

`initial_rules` returns the rule of each parameter, from modules that need no memory (torch's meta device), so that a
process that holds a part of a model draws only that part (`model.draw`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import nn

from blankfill.model.config import TransformerConfig
from blankfill.model.dense import Dense
from blankfill.model.draw import Rule, draw_into
from blankfill.model.heads import LMHead
from blankfill.model.locality import locality_rules
from blankfill.model.positions import RelativePositionBias
from blankfill.model.relative import TransformerXLAttention
from blankfill.model.span_boundary_head import SpanBoundaryHead

if TYPE_CHECKING:
    from blankfill.model.transformer import Transformer

RESIDUAL = ("attention.output", "cross.output", "ffn.output")
"""The dense layers whose output is added to the residual stream."""
LAYER = ("attention.qkv", "attention.output", "ffn.inner", "ffn.output")
"""The dense layers of a layer of one stack."""
ZERO, ONE = Rule("constant", 0.0), Rule("constant", 1.0)


def draw_weights(model: nn.Module, rules: Mapping[str, Rule], seed: int, prefix: str = "") -> None:
    """Draw the parameters of a module by their rules; a parameter with several names is drawn once, by its first name.

    Args:
        model: The module; parameters on the meta device stay as they are.
        rules: The rule of each parameter, by its name in the module's state dict.
        seed: The seed of the run.
        prefix: What comes before the names where the module is a part of a model.

    Raises:
        ValueError: A parameter has no rule.
    """
    for name, parameter in model.named_parameters():
        if name not in rules:
            raise ValueError(
                f"there is no rule for the initial values of {prefix}{name}; make its module of dense layers, "
                "embeddings and norms"
            )
        draw_into(parameter, seed, prefix + name, parameter.shape, rules[name])


def initial_rules(model: Transformer) -> dict[str, Rule]:
    """Return the rule of each parameter of a model, by its name: as in the family's paper, biases 0 and norms 1."""
    config = model.config
    rules: dict[str, Rule] = {}
    for name, module in model.named_modules():
        for own, rule in _module_rules(name, module, config):
            rules[f"{name}.{own}" if name else own] = rule
    if model.query is not None:
        rules["query"] = _normal(config, config.init_std)
    if config.locality:
        rules |= locality_rules(model, config.locality, rules)
    return rules


def _module_rules(name: str, module: nn.Module, config: TransformerConfig) -> Iterator[tuple[str, Rule]]:
    """Return the rules of a module's own parameters. name: of the module in the model."""
    t5_std = config.hidden_size**-0.5 if config.init == "t5" else config.init_std
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        yield from (("weight", ONE), ("bias", ZERO))
    elif isinstance(module, Dense):
        yield from (("weight", _dense_rule(name, module, config)), ("bias", ZERO))
    elif isinstance(module, TransformerXLAttention):
        for own, _ in module.named_parameters(recurse=False):
            yield own, _normal(config, config.init_std)
    elif isinstance(module, RelativePositionBias):
        yield "weight", _normal(config, t5_std)
    elif isinstance(module, nn.Embedding):
        is_position = name.startswith(("positions", "encoder.positions"))
        word_std = 1.0 if config.init == "t5" else config.init_std
        yield "weight", _normal(config, config.position_std if is_position else word_std)
    elif isinstance(module, LMHead):
        yield from (("bias", ZERO), ("table", _normal(config, t5_std)))
    elif isinstance(module, SpanBoundaryHead):
        yield "bias", ZERO


def _normal(config: TransformerConfig, std: float) -> Rule:
    return Rule("truncated_normal" if config.init == "truncated_normal" else "normal", std)


def _dense_rule(name: str, module: Dense, config: TransformerConfig) -> Rule:
    if config.init == "t5":
        queries = name.endswith(("attention.qkv", "cross.query")) and not config.scale_scores
        rows = config.attention_width if queries else 0
        return Rule("normal", module.in_features**-0.5, rows, config.head_width**-0.5)
    if config.init == "deepnorm" and name.endswith(LAYER):
        return _deepnorm_rule(name, config)
    residual = config.init_std / math.sqrt(2 * config.num_layers) if config.scaled_init else config.init_std
    return _normal(config, residual if name.endswith(RESIDUAL) else config.init_std)


def _deepnorm_rule(name: str, config: TransformerConfig) -> Rule:
    inner = config.ffn_size if ".ffn." in f".{name}" else config.attention_width
    beta, xavier = (2 * config.num_layers) ** -0.5, math.sqrt(2 / (config.hidden_size + inner))
    rows = config.attention_width + config.kv_width if name.endswith("qkv") else 0
    return Rule("normal", beta * xavier, rows, 1 / beta)
