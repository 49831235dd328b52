"""AdamW with the papers' exclusions from weight decay.

Decay leaves out biases and norms (BERT, GLM, GPT-2); embeddings do decay, as in the original BERT. fairseq decays
everything: `decay_all`.
"""

from __future__ import annotations

import torch
from torch import nn

from blankfill.model.transformer import Transformer


def build_optimizer(
    model: Transformer,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decay_all: bool = False,
    word_lr: float = 1.0,
) -> torch.optim.AdamW:
    """AdamW over a model's parameters: decayed, spared from decay, and the word table.

    The learning rate is set at each step, for each group times its `lr_scale`: `word_lr` for the word table, 1 for the
    others. A row of that table meets a gradient only when its word is near, so in a short run it learns many times
    faster at a higher rate (docs/log.md).
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter is not model.words.weight:
            (decayed if decay_all or parameter.dim() >= 2 else spared).append(parameter)
    groups = [
        {"params": [model.words.weight], "weight_decay": weight_decay / word_lr, "lr_scale": word_lr},
        {"params": decayed, "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": spared, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
