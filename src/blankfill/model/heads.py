"""Heads: modules on the hidden states of a model, and their losses.

Heads see only the target columns. Each loss has a name, under which a batch holds its targets (`Batch.labels`, or for
`lm` and `span_boundary` fields of their own), and a function that computes it with the head's modules. `register_head`
adds one; a model has its modules when its configuration names it (`TransformerConfig.heads`). Losses are computed
inside `Transformer.forward`, so that wrappers that hook it see every use of every weight.

Shapes: N columns of a batch, M or K target columns, D width, W columns of the token embeddings (D, or fewer where they
are factorised), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.masks import Masks
from blankfill.kernels.lm_loss import lm_loss
from blankfill.model.config import Activation, TransformerConfig
from blankfill.model.dense import dense
from blankfill.model.layers import activate
from blankfill.model.norms import norm
from blankfill.model.quantized import OutputTable, QuantizedTable, table_scores
from blankfill.types import Batch

if TYPE_CHECKING:
    from blankfill.model.transformer import Transformer

LM, SPAN_BOUNDARY = "lm", "span_boundary"
"""The losses whose targets have fields of their own in a batch: `target_ids`, and `span_boundary_targets`."""


def lm_head_activation(config: TransformerConfig) -> Activation:
    """The activation of the transform of the language-model head."""
    return config.activation if config.head_activation == "same" else config.head_activation


class LMHead(nn.Module):
    """Hidden states → scores of all tokens, with BERT's transform and bias where configured."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = lm_head_activation(config)
        shape, bias = (config.hidden_size, config.word_size), config.head_transform_bias
        self.dense = dense(*shape, bias) if config.head_transform else None
        self.norm = norm(config, config.word_size) if config.head_transform else None
        self.scale = config.hidden_size**-0.5 if config.scale_logits else 1.0
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        shape = (config.vocab_size, config.word_size)
        self.table: nn.Parameter | QuantizedTable | None
        self.table = None if config.tied else nn.Parameter(torch.empty(shape))
        """Output embeddings [V, W]; None if they are the token embeddings."""
        self.packed: tuple[Tensor, int] | None = None
        """oneDNN's copy of the output embeddings, with the version of the table from which it was made
        (`model.layout`)."""

    def forward(
        self,
        hidden_MD: Tensor,
        table_VW: OutputTable,
        target_M: Tensor | None = None,
        smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> Tensor:
        """Return scores [M, V], or with targets the summed loss (`kernels.lm_loss`), without a table of all scores."""
        made_MW = self.transform(hidden_MD)
        if target_M is not None:
            return lm_loss(made_MW, table_VW, self.bias, target_M, smoothing, z_loss)
        if self.packed is not None and len(made_MW) > 1 and not torch.is_grad_enabled():
            copy, version = self.packed
            if isinstance(table_VW, Tensor) and version == table_VW._version:
                scores_MV: Tensor = torch.ops.mkldnn._linear_pointwise(made_MW, copy, self.bias, "none", [], "")
                return scores_MV
        return table_scores(made_MW, table_VW, self.bias)

    def transform(self, hidden_MD: Tensor) -> Tensor:
        """Return the vectors that are multiplied with the output embeddings, [M, W]."""
        if self.dense is not None and self.norm is not None:
            hidden_MD = self.norm(activate(self.dense(hidden_MD), self.activation))
        return hidden_MD if self.scale == 1 else hidden_MD * self.scale


class Pooler(nn.Module):
    """BERT's pooler: a dense layer and a tanh on first columns, [K, D] → [K, D]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = dense(config.hidden_size, config.hidden_size)

    def forward(self, hidden_KD: Tensor) -> Tensor:
        """Return the pooled first columns, [K, D]."""
        return torch.tanh(self.dense(hidden_KD))


HeadLoss = Callable[["Transformer", Tensor, Batch], Tensor]
"""The loss of a head from (model, hidden states [N, D] of all columns, batch), summed over its targets."""

Prepare = Callable[["Transformer", Batch, Masks, bool], tuple[Batch, Mapping[str, Tensor]]]
"""Computation of a head before the model reads a batch with its targets: (model, batch, masks, ordered) → the batch
that the model reads instead, and by the names of losses the hidden states [N, ..] from which they are computed."""


@dataclass(frozen=True)
class Head:
    """An entry of the registry of heads.

    build: makes its module, which the model holds as `heads[name]`, from dense layers, embeddings and norms, for which
    `model.initial` has rules; None for a head whose modules every model holds as attributes. count: returns the number
    of its targets in a batch; None: the number of the batch's labels of its name. prepare: see `Prepare`. scores:
    hidden states [.., D] → scores, for a head that scores each column, as its class in transformers returns them.
    """

    name: str
    loss: HeadLoss
    build: Callable[[TransformerConfig], nn.Module] | None = None
    count: Callable[[Batch], int] | None = None
    prepare: Prepare | None = None
    scores: Callable[[Transformer, Tensor], Tensor] | None = None


HEADS: dict[str, Head] = {}
"""All heads by the name of their loss."""


def register_head(head: Head) -> Head:
    """Register a head under its name, for models whose configuration names it (`heads`).

    Args:
        head: The head: its name, its module and its loss.

    Returns:
        The same head.

    Raises:
        ValueError: Another head has the name.
    """
    if head.name in HEADS:
        raise ValueError(f"there is a head named {head.name!r} already; give yours another name")
    HEADS[head.name] = head
    return head


def extra_heads(config: TransformerConfig) -> nn.ModuleDict:
    """Return the modules of the registered heads that a configuration names."""
    modules: dict[str, nn.Module] = {}
    for name in config.heads:
        head = HEADS.get(name)
        if head is None or head.build is None:
            raise ValueError(f"the model has a head named {name!r}, and none is registered under that name")
        modules[name] = head.build(config)
    return nn.ModuleDict(modules)


def counts(batch: Batch) -> dict[str, int]:
    """Return the number of targets of each loss that has any in a batch: the divisors of the sums."""
    sizes = {LM: len(batch.target_ids), **{name: len(value) for name, (_, value) in batch.labels.items()}}
    for name, head in HEADS.items():
        if head.count is not None:
            sizes[name] = head.count(batch)
    return {name: size for name, size in sizes.items() if size}


def head_losses(
    model: Transformer,
    hidden_ND: Tensor,
    batch: Batch,
    replaced: Mapping[str, HeadLoss] | None = None,
    hidden: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the losses of a batch by name, each summed over its targets; losses without targets are absent.

    replaced: functions in place of the registered ones. hidden: by the names of losses, hidden states in place of
    `hidden_ND`. Raises ValueError for targets for which the model has no head.
    """
    losses: dict[str, Tensor] = {}
    for name in counts(batch):
        states = hidden_ND if hidden is None else hidden.get(name, hidden_ND)
        if replaced is not None and name in replaced:
            losses[name] = replaced[name](model, states, batch)
        elif name in HEADS:
            losses[name] = HEADS[name].loss(model, states, batch)
        else:
            raise ValueError(f"the batch has targets for {name!r}, and no head is registered under that name")
    return losses


class BatchLosses:
    """The losses of a batch, computed inside a model's forward pass: passed to it as `read`, and as `prepare` if
    `prepares` is true."""

    def __init__(self, batch: Batch, replaced: Mapping[str, HeadLoss] | None = None) -> None:
        """replaced: as in `head_losses`."""
        self.batch, self.replaced, self.hidden = batch, replaced, dict[str, Tensor]()

    @property
    def prepares(self) -> bool:
        """Whether a head has work to do before the model reads the batch."""
        return any(head.prepare for name in self.batch.labels if (head := HEADS.get(name)) is not None)

    def prepare(self, model: Transformer, batch: Batch, masks: Masks, ordered: bool) -> Batch:
        """Let the heads prepare the batch; return the batch that the model reads."""
        self.batch = batch
        for name in batch.labels:
            head = HEADS.get(name)
            if head is not None and head.prepare is not None:
                self.batch, hidden = head.prepare(model, self.batch, masks, ordered)
                self.hidden |= hidden
        return self.batch

    def __call__(self, model: Transformer, hidden_ND: Tensor) -> dict[str, Tensor]:
        """Return the losses by name, from the hidden states of all columns."""
        return head_losses(model, hidden_ND, self.batch, self.replaced, self.hidden)


def lm_head_loss(
    model: Transformer, hidden_ND: Tensor, batch: Batch, smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """Return the language-model loss over `Batch.target_ids`; smoothing, z_loss: as in `kernels.lm_loss`."""
    hidden_MD = hidden_ND[batch.target_index]
    loss: Tensor = model.lm_head(hidden_MD, model.output_table, batch.target_ids, smoothing, z_loss)
    return loss


def pair_loss(name: str) -> HeadLoss:
    """Return the loss of a binary classifier of pooled first columns, with the labels of a name.

    Label 0: as in the text; 1: from another place (BERT's next sentence), or swapped (ALBERT's sentence order).
    """

    def loss(model: Transformer, hidden_ND: Tensor, batch: Batch) -> Tensor:
        index_K, target_K = batch.labels[name]
        if model.pooler is None:
            raise ValueError(f"the batch has targets for {name!r}, but the model has no pooler")
        if model.classifier is None:
            raise ValueError("the model has a pooler but no next-sentence classifier")
        scores_K2 = model.classifier(model.pooler(hidden_ND[index_K]))
        return F.cross_entropy(scores_K2.float(), target_K, reduction="sum")

    return loss


def span_boundary_loss(model: Transformer, hidden_ND: Tensor, batch: Batch) -> Tensor:
    """The loss over `Batch.span_boundary_targets`."""
    if model.span_boundary_head is None:
        raise ValueError("the batch has span-boundary targets, but the model has no span-boundary head")
    assert batch.span_boundary_targets is not None
    left, right, place, target = batch.span_boundary_targets
    loss: Tensor = model.span_boundary_head(hidden_ND[left], hidden_ND[right], place, model.output_table, target)
    return loss


def _span_boundary_count(batch: Batch) -> int:
    return 0 if batch.span_boundary_targets is None else batch.span_boundary_targets.shape[1]


register_head(Head(LM, lm_head_loss, count=lambda batch: len(batch.target_ids)))
register_head(Head("next_sentence", pair_loss("next_sentence")))
register_head(Head("sentence_order", pair_loss("sentence_order")))
register_head(Head(SPAN_BOUNDARY, span_boundary_loss, count=_span_boundary_count))
