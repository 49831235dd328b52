"""Replaced-token detection (Clark et al. 2020; google-research/electra): a small generator inside the model.

The generator reads the masked row and predicts the masked tokens. A sample of each prediction takes the token's place,
and the model, the discriminator, predicts for each column whether its token differs from the text's. Both read the same
embeddings, up to the norm; the generator has a projection to its own width, layers and the language-model head.
No gradient passes through the samples.

    masked row ─ generator ─ scores of the targets ─ + Gumbel noise, largest ─ replaced row ─ discriminator ─ labels
                                   └ language-model loss                                        └ binary loss

The noise of an Example comes from a generator with the Example's own seed, which the objective has drawn (in
`Batch.labels`, under the name of this head). So samples depend neither on the micro-batch nor on what was drawn before.

Shapes: B rows, T columns, N = B·T, M targets, D width, G width of the generator, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.masks import Masks
from blankfill.model.config import TransformerConfig
from blankfill.model.dense import dense
from blankfill.model.heads import LM, Head, register_head
from blankfill.model.layers import activate
from blankfill.model.norms import norm
from blankfill.model.positions import attention_scheme, terms_of
from blankfill.model.quantized import QuantizedDense, make_quantized, matrix_names, quantized_matrices
from blankfill.model.stack import layer_kinds, layer_modules, run_layers
from blankfill.types import PADDING, Batch

if TYPE_CHECKING:
    from blankfill.model.transformer import Transformer

NAME = "replaced_tokens"
"""The head, its loss and its labels: in the batch of an objective the seeds of Examples, at their first columns; in the
batch that the discriminator reads, 1 for a replaced token and 0 for the text's own, at all columns but padding."""
LEAST = 2.0**-26
"""Smallest exponential variate, so that a draw of 0 does not make its token the sample whatever its score."""


class Generator(nn.Module):
    """Projection and layers of the generator; its embeddings and its language-model head are the model's."""

    def __init__(self, config: TransformerConfig) -> None:
        """config: of the generator."""
        super().__init__()
        size = config.embedding_size
        self.embedding_projection = dense(size, config.hidden_size) if size else None
        self.layers = layer_modules(config, config.num_layers)
        self.kinds = layer_kinds(config, config.num_layers)
        self.final_norm = norm(config, config.hidden_size) if config.norm == "pre" else None
        self.attention_scheme = attention_scheme(config)

    def forward(
        self, embedded_BTW: Tensor, positions: Tensor, masks: Masks, ordered: bool, recompute: bool = False
    ) -> Tensor:
        """Hidden states [B, T, G] of embedded rows; masks, ordered: as in `Transformer.forward`."""
        project, schemes = self.embedding_projection, [self.attention_scheme] if self.attention_scheme else []
        hidden_BTG = embedded_BTW if project is None else project(embedded_BTW)
        terms = terms_of(schemes, positions, sorted(set(self.kinds)), ordered)
        hidden_BTG = run_layers(self.layers, self.kinds, hidden_BTG, masks, terms, recompute=recompute)
        return hidden_BTG if self.final_norm is None else self.final_norm(hidden_BTG)


class ReplacedTokens(nn.Module):
    """The discriminator's head, and the generator of a model that has one."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = dense(config.hidden_size, config.hidden_size)
        self.prediction = dense(config.hidden_size, 1)
        self.generator = Generator(config.generator) if config.generator_size else None

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """The log-odds that each column's token is replaced, [N]."""
        scores: Tensor = self.prediction(activate(self.dense(hidden_ND), self.activation)).squeeze(-1)
        return scores


def head_of(model: Transformer) -> ReplacedTokens:
    """Return the head of a model; ValueError if it has none."""
    if NAME not in model.heads:
        raise ValueError(f"the batch has targets for {NAME!r}, and the model no head for them")
    head = model.heads[NAME]
    assert isinstance(head, ReplacedTokens)
    return head


def replace_tokens(model: Transformer, batch: Batch, masks: Masks, ordered: bool) -> tuple[Batch, Mapping[str, Tensor]]:
    """Let the generator sample the targets of a batch.

    Returns:
        The batch that the discriminator reads, with the samples and their labels, and the generator's hidden states
        [N, G], which the language-model head reads.
    """
    generator = head_of(model).generator
    if generator is None:
        raise ValueError("the batch needs replaced tokens, and the model has no generator to sample them")
    embedded_BTW = model.embed(model.look_up(batch.input_ids), batch.positions)
    hidden_NG = generator(embedded_BTW, batch.positions, masks, ordered, model.recompute and model.training)
    hidden_NG = hidden_NG.flatten(0, 1)
    with torch.no_grad():
        index_M, target_M = batch.target_index, batch.target_ids
        sampled_M = torch.cat([target_M[:0], *(
            sample(model.lm_head(hidden_NG[at], model.output_table), seed) for at, seed in of_each_example(batch)
        )])  # fmt: skip
        ids_N, replaced_N = batch.input_ids.flatten().clone(), torch.zeros_like(batch.input_ids).flatten()
        ids_N[index_M] = sampled_M
        replaced_N[index_M] = (sampled_M != target_M).long()
        real_N = (batch.segment.flatten() != PADDING).nonzero().squeeze(1)
    labels = {**batch.labels, NAME: (real_N, replaced_N[real_N])}
    return replace(batch, input_ids=ids_N.view_as(batch.input_ids), labels=labels), {LM: hidden_NG}


def of_each_example(batch: Batch) -> list[tuple[Tensor, int]]:
    """The flat columns of the targets of each Example, int64, and the Example's seed."""
    starts, seeds = batch.labels[NAME]
    counts = torch.bincount(torch.bucketize(batch.target_index, starts, right=True), minlength=len(starts) + 1)[1:]
    return list(zip(batch.target_index.split(counts.tolist()), seeds.tolist(), strict=True))


def sample(scores_MV: Tensor, seed: int) -> Tensor:
    """Draw a token for each row of scores from their softmax, int64[M]: the largest score with Gumbel noise added.

    The noise is −log E, E exponential, which is Gumbel's −log(−log U).
    """
    generator = torch.Generator(scores_MV.device).manual_seed(seed)
    noise_MV = torch.empty_like(scores_MV, dtype=torch.float32).exponential_(generator=generator)
    return (scores_MV.float() - noise_MV.clamp_(min=LEAST).log_()).argmax(-1)


def replaced_tokens_loss(model: Transformer, hidden_ND: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy of all columns but padding, summed."""
    index_K, label_K = batch.labels[NAME]
    scores_K = head_of(model)(hidden_ND[index_K])
    return F.binary_cross_entropy_with_logits(scores_K.float(), label_K.float(), reduction="sum")


register_head(
    Head(
        NAME, replaced_tokens_loss, ReplacedTokens, lambda batch: batch.tokens if NAME in batch.labels else 0,
        prepare=replace_tokens, scores=lambda model, hidden_ND: head_of(model)(hidden_ND),
    )
)  # fmt: skip


def generator_of(model: Transformer) -> Transformer:
    """Return the language model in a model: its generator, or the model itself if it has none. The weights are
    shared."""
    return _part(model, model.config.generator) if model.config.generator_size else model


def discriminator_of(model: Transformer) -> Transformer:
    """Return a model without its generator and head, or the model itself if it has none. The weights are shared."""
    return _part(model, model.config.discriminator) if model.config.generator_size else model


def _part(model: Transformer, config: TransformerConfig) -> Transformer:
    """A model of its own, made of parameters of another one: the generator's where it has one of that name."""
    own: dict[str, Tensor] = dict(model.named_buffers()) | dict(model.named_parameters())
    with torch.device("meta"):
        part = type(model)(config)
    prefix = f"heads.{NAME}.generator." if config == model.config.generator else ""
    quantized = dict(quantized_matrices(model))
    names = {name: f"{prefix}{name}" if f"{prefix}{name}.weight" in own else name for name in matrix_names(part)}
    matrices = {name: quantized[other] for name, other in names.items() if other in quantized}
    kinds = {type(matrix) for matrix in matrices.values() if isinstance(matrix, QuantizedDense)}
    make_quantized(part, {name: matrix.format for name, matrix in matrices.items()}, next(iter(kinds), None))
    names = {name: f"{prefix}{name}" if f"{prefix}{name}" in own else name for name in part.state_dict()}
    part.load_state_dict({name: own[other] for name, other in names.items()}, assign=True)
    for name, matrix in quantized_matrices(part):
        matrix.kernel = matrices[name].kernel
    part.recompute = model.recompute
    for mine, theirs in zip(part.all_layers[:1], model.all_layers[:1], strict=True):
        if mine.attention is not None and theirs.attention is not None:
            part.use_kernel(theirs.attention.kernel)
    return part.train(model.training)
