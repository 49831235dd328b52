"""Position tables, and their sum with the words.

Shapes: B rows, T columns, P position channels, W columns of the tables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blankfill.model.config import TransformerConfig


def table(rows: int, width: int) -> nn.Embedding:
    """An embedding without torch's own initialisation, which on the meta device takes a second for its imports."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


def position_tables(config: TransformerConfig) -> nn.ModuleList:
    """The learned tables of a configuration, one for each channel; none where positions are told otherwise."""
    sizes = config.position_sizes if config.position_scheme == "learned" else ()
    return nn.ModuleList(table(size, config.word_size) for size in sizes)


def summed(words_BTW: Tensor, tables: nn.ModuleList, positions: Tensor) -> Tensor:
    """The words with their rows of every table added; positions int64[P, B, T]. Without tables, the words."""
    for position_table, channel in zip(tables, positions if len(tables) else (), strict=True):
        words_BTW = words_BTW + position_table(channel)
    return words_BTW
