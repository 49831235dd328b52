"""AdamW with the papers' exclusions from weight decay.

Decay leaves out biases and norms (BERT, GLM, GPT-2); embeddings do decay, as in the original BERT. fairseq decays
everything: `decay_all`.
"""

from __future__ import annotations

import torch
from torch import nn


def build_optimizer(
    model: nn.Module,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decay_all: bool = False,
) -> torch.optim.AdamW:
    """AdamW over a model's parameters in two groups, decayed and not; the learning rate is set at each step."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in model.parameters():
        (decayed if decay_all or parameter.dim() >= 2 else spared).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
