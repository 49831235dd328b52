"""What is read from hidden states. Heads see only the target positions: M targets, D width, V vocabulary.

The word table has W columns: D, or fewer where embeddings are factorised (ALBERT).

The word head gives what the loss multiplies with the word table (`transform`) and the table itself, never the logits of
a whole row; `logits` is for generation and evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blankfill.model.config import TransformerConfig
from blankfill.model.dense import dense
from blankfill.model.layers import activate
from blankfill.model.norms import norm


class WordHead(nn.Module):
    """Hidden states → word logits through a word table, with BERT's transform and bias where configured."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation if config.head_activation == "same" else config.head_activation
        shape, bias = (config.hidden_size, config.word_size), config.head_transform_bias
        self.dense = dense(*shape, bias) if config.head_transform else None
        self.norm = norm(config, config.word_size) if config.head_transform else None
        self.scale = config.hidden_size**-0.5 if config.scale_logits else 1.0
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        shape = (config.vocab_size, config.word_size)
        self.table = None if config.tied else nn.Parameter(torch.empty(shape))
        """The output's own word table where it is not the input's, [V, W]."""
        self.packed: tuple[Tensor, int] | None = None
        """oneDNN's copy of the output table, of the table's version so numbered (`model.layout`)."""

    def transform(self, hidden_MD: Tensor) -> Tensor:
        """What is multiplied with the word table, [M, W]."""
        if self.dense is not None and self.norm is not None:
            hidden_MD = self.norm(activate(self.dense(hidden_MD), self.activation))
        return hidden_MD if self.scale == 1 else hidden_MD * self.scale

    def logits(self, hidden_MD: Tensor, table_VW: Tensor) -> Tensor:
        """Scores of all words, [M, V]."""
        made_MW = self.transform(hidden_MD)
        if self.packed is not None and len(made_MW) > 1 and not torch.is_grad_enabled():
            copy, version = self.packed
            if version == table_VW._version:
                scores_MV: Tensor = torch.ops.mkldnn._linear_pointwise(made_MW, copy, self.bias, "none", [], "")
                return scores_MV
        return nn.functional.linear(made_MW, table_VW, self.bias)


class PairHead(nn.Module):
    """BERT's pooler and the classifier of a pair: the first column → [K, 2].

    Index 0 = as in the text, 1 = from elsewhere (BERT's next sentence) or swapped (ALBERT's sentence order).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pooler = dense(config.hidden_size, config.hidden_size)
        self.classifier = dense(config.hidden_size, 2) if config.pair_classifier else None

    def pooled(self, hidden_KD: Tensor) -> Tensor:
        """The pooler's view of first columns, [K, D]."""
        return torch.tanh(self.pooler(hidden_KD))

    def forward(self, hidden_KD: Tensor) -> Tensor:
        if self.classifier is None:
            raise ValueError("the model has a pooler but no next-sentence classifier")
        return self.classifier(self.pooled(hidden_KD))
