"""The approximate size of a model from its configuration alone, without building it: for lists of many models.

Only matrices are counted, not biases, norms and small heads; `planning.estimate.parameters` counts everything.
"""

from __future__ import annotations

from blankfill.model.config import PLACE_SIZE, TransformerConfig


def approximate_parameters(config: TransformerConfig) -> int:
    """Return the approximate number of weights of a model, within 3% for the shipped recipes."""
    if config.generator_size:
        return approximate_parameters(config.discriminator) + _body(config.generator)
    return _body(config) + config.vocab_size * config.word_size


def _body(config: TransformerConfig) -> int:
    """Return the number of weights beside the token embeddings."""
    D, W = config.hidden_size, config.word_size
    attention = 2 * D * (config.attention_width + config.kv_width)
    if config.position_scheme == "relative":
        attention += D * config.attention_width
    feed_forward = (3 if config.gated else 2) * D * config.ffn_size
    layers = config.num_layers
    body = attention * (1 if config.shared in ("attention", "all") else layers)
    body += feed_forward * (1 if config.shared in ("ffn", "all") else layers)
    if config.encoder_layers:
        body += attention * layers + (attention + feed_forward) * config.encoder_layers
    if config.position_scheme == "learned":
        body += sum(config.position_sizes) * W
    if config.embedding_size:
        body += W * D
    if config.lm_head:
        body += D * W if config.head_transform else 0
        body += 0 if config.tied else config.vocab_size * W
    if config.pooler:
        body += D * D
    if config.max_span_positions:  # two dense layers on both ends of a span and the place in it
        body += (2 * D + PLACE_SIZE) * D + D * W + config.max_span_positions * PLACE_SIZE
    return body
