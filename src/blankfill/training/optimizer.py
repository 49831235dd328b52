"""The choice of a run's optimiser and of its parameter groups. `optimizers` has the update rules that torch lacks.

adamw      Loshchilov & Hutter 2019: decoupled decay, bias correction.
adam       as google-research/bert ran it (`AdamWeightDecayOptimizer`): decoupled decay, no bias correction, so that
           the first steps are up to (1 - β₁) / √(1 - β₂) times the learning rate.
sgd        heavy-ball momentum; the decay is coupled, a part of the gradient, so it gathers momentum too.
adafactor  Shazeer & Stern 2018: the learning rate is relative to the size of each weight tensor.
lamb       You et al. 2020: the length of each tensor's step is relative to its norm.

Weight decay leaves out biases and norms (BERT, GLM, GPT-2) and includes embeddings, as in the original BERT. fairseq
decays everything: `decay_all`. The training loop clips the gradient and sets the learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from blankfill.kernels.capability import plain_weights
from blankfill.model.transformer import Transformer
from blankfill.training.optimizers import Adafactor, Lamb
from blankfill.training.options import TrainOptions

SETTLED = 2.0**24
"""A step count at which Adam's bias corrections are 1; adding 1 to it in fp32 does not change it."""


def build_optimizer(model: Transformer, options: TrainOptions) -> torch.optim.Optimizer:
    """Build the optimiser that `options` names, with groups for token embeddings, decayed and undecayed weights.

    The learning rate is set in each step, for each group times its `lr_scale`: `embedding_lr_multiplier` for the token
    embeddings, 1 for the others. A row of that table gets a gradient only when its token occurs, so a short run learns
    much faster with a higher rate (docs/log.md). Its weight decay is divided by the same factor, so that it decays at
    the same rate as the other weights.
    """
    groups = parameter_groups(model, options)
    betas = (options.beta1, options.beta2)
    if options.optimizer == "adafactor":
        return Adafactor(groups)
    if options.optimizer == "lamb":
        *adapted, spared = groups
        return Lamb([*adapted, {**spared, "adapt": False}], betas=betas, eps=options.eps)
    if options.optimizer == "sgd":
        return sgd(groups, options.momentum)
    adam = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=options.eps, fused=fusible(groups))
    if options.optimizer == "adam":
        leave_bias(adam)
    return adam


def parameter_groups(model: Transformer, options: TrainOptions) -> list[dict[str, Any]]:
    """Return groups of token embeddings, decayed and undecayed weights, each with its decay and `lr_scale`."""
    words: list[tuple[str, nn.Parameter]] = []
    decayed: list[tuple[str, nn.Parameter]] = []
    spared: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter is model.token_embeddings.weight:
            words.append((name, parameter))
        else:
            (decayed if options.decay_all or parameter.dim() >= 2 else spared).append((name, parameter))
    decay, multiplier = options.weight_decay, options.embedding_lr_multiplier
    return [
        named_group(words, weight_decay=decay / multiplier, lr_scale=multiplier),
        named_group(decayed, weight_decay=decay, lr_scale=1.0),
        named_group(spared, weight_decay=0.0, lr_scale=1.0),
    ]


def named_group(named: Iterable[tuple[str, nn.Parameter]], **settings: float) -> dict[str, Any]:
    """Return a parameter group with parameter names, by which a checkpoint stores their state; it may be empty."""
    pairs = list(named)
    return {"params": [parameter for _, parameter in pairs], "param_names": [name for name, _ in pairs], **settings}


def fusible(groups: list[dict[str, Any]]) -> bool | None:
    """Return True when a fused kernel may update all weights, which are then plain tensors; None leaves it to torch."""
    return plain_weights(weight for group in groups for weight in group["params"]) or None


def leave_bias(adam: torch.optim.AdamW) -> None:
    """Turn a new AdamW into one without bias correction, as in the original BERT.

    With its count at `SETTLED`, the corrections 1 - βᵗ are 1 from the first step on; nothing else depends on the count.
    """
    for group in adam.param_groups:
        for weight in group["params"]:
            adam.state[weight] = {
                "step": torch.tensor(SETTLED, dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
            }


def sgd(groups: list[dict[str, Any]], momentum: float) -> torch.optim.SGD:
    """Build SGD, fused where possible: v ← momentum · v + g + decay · w, then w ← w - lr · v."""
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=momentum, fused=fusible(groups))
    if momentum:
        # torch's kernel fails when some weights have a velocity and others get their first gradient
        for group in optimizer.param_groups:
            for weight in group["params"]:
                optimizer.state[weight] = {"momentum_buffer": torch.zeros_like(weight, requires_grad=False)}
    return optimizer
