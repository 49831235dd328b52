"""What is read from hidden states. Heads see only the target positions: M targets, D width, V vocabulary.

The word head gives what the loss multiplies with the word table (`transform`) and the table itself, never the logits of
a whole row; `logits` is for generation and evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blankfill.model.config import TransformerConfig
from blankfill.model.layers import activate


class WordHead(nn.Module):
    """Hidden states → word logits through the tied word table, with BERT's transform and bias where configured."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if config.head_transform else None
        self.norm = nn.LayerNorm(config.hidden_size, config.norm_eps) if config.head_transform else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None

    def transform(self, hidden_MD: Tensor) -> Tensor:
        """What is multiplied with the word table, [M, D]."""
        if self.dense is None or self.norm is None:
            return hidden_MD
        return self.norm(activate(self.dense(hidden_MD), self.activation))

    def logits(self, hidden_MD: Tensor, table_VD: Tensor) -> Tensor:
        """Scores of all words, [M, V]."""
        return nn.functional.linear(self.transform(hidden_MD), table_VD, self.bias)


class PairHead(nn.Module):
    """BERT's pooler and next-sentence classifier: the first column → [K, 2], index 0 = next, 1 = random."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, hidden_KD: Tensor) -> Tensor:
        return self.classifier(torch.tanh(self.pooler(hidden_KD)))
