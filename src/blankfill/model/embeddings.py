"""Tables of embeddings."""

from __future__ import annotations

import torch
from torch import nn


def table(rows: int, width: int) -> nn.Embedding:
    """Make an embedding without torch's own initialisation, which on the meta device takes a second for its imports."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))
