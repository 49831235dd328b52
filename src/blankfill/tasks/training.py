"""Training parts of fine-tuning: the groups of its optimiser, and its evaluation on a dev set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from blankfill.adapt.prefix import NAME as PREFIX_NAME
from blankfill.errors import ConfigError, setting
from blankfill.model.config import TransformerConfig
from blankfill.tasks.adapter import Adapter, EncodedSet, HeadAdapter, Prediction, Scores
from blankfill.tasks.batching import ANSWER, EvaluationBatches
from blankfill.tasks.heads.models import AnswerModel, ScoreModel
from blankfill.tasks.options import FinetuneOptions
from blankfill.training.loop import Metrics
from blankfill.training.loss import counts
from blankfill.training.optimizer import named_group
from blankfill.training.options import TrainOptions
from blankfill.training.precision import computing

PREFIX = f"encoder.{PREFIX_NAME}."
"""Names of the weights of a prefix begin with this."""


def task_optimizer(
    model: AnswerModel, options: FinetuneOptions, train: TrainOptions, embedding_lr_multiplier: float = 1.0
) -> torch.optim.Optimizer:
    """Build AdamW over the trained weights, without frozen ones; layers have the rates of `layer_decay`, the token
    embeddings `embedding_lr_multiplier` times that of their layer."""
    below = model.encoder.config.encoder_layers
    top = below + (0 if model.encoder_only else model.encoder.config.num_layers) + 1
    groups: dict[tuple[int, bool, float], list[tuple[str, torch.nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        depth = depth_of(name, top, below)
        frozen = (options.freeze == -1 or options.features != "none") and name.startswith("encoder.")
        if options.lora_rank:
            frozen = name.startswith("encoder.") and not name.endswith((".down", ".up"))
        elif options.prefix_length:
            frozen = name.startswith("encoder.") and not name.startswith(PREFIX)
        if model.encoder_only and name.startswith("encoder."):  # the decoder is not run
            frozen = frozen or not name.startswith(("encoder.encoder.", "encoder.token_embeddings.", PREFIX))
        parameter.requires_grad_(not frozen and not (options.freeze > 0 and depth <= options.freeze))
        if parameter.requires_grad:
            faster = embedding_lr_multiplier if name == "encoder.token_embeddings.weight" else 1.0
            decayed = parameter.dim() >= 2 and not name.startswith(PREFIX)
            groups.setdefault((depth, decayed, faster), []).append((name, parameter))
    given = [
        named_group(
            parameters,
            weight_decay=options.weight_decay / faster if decayed else 0.0,
            lr_scale=options.layer_decay ** (top - depth) * faster,
        )
        for (depth, decayed, faster), parameters in groups.items()
    ]
    return torch.optim.AdamW(given, lr=0.0, betas=(train.beta1, train.beta2), eps=train.eps, fused=True)


def check_layers(config: TransformerConfig, options: FinetuneOptions) -> None:
    """Raise ConfigError for rates and freezing by layer in a model whose layers share weights."""
    options_set = [(setting("layer_decay"), options.layer_decay < 1), (setting("freeze"), options.freeze > 0)]
    if config.shared != "none" and (given := [flag for flag, is_given in options_set if is_given]):
        raise ConfigError(
            [
                f"{flag} distinguishes layers, and the layers of this model share weights "
                f"({config.shared}); leave it out, or freeze the whole encoder with {setting('freeze', -1)}"
                for flag in given
            ]
        )


def depth_of(name: str, top: int, below: int = 0) -> int:
    """Return the depth of a weight: 0 for embeddings, 1 for the lowest layer, `top` for weights above the layers.
    below: layers of an encoder, which count as the lowest; its final norm has the depth of the last of them."""
    if not name.startswith("encoder."):
        return top
    part = name.removeprefix("encoder.")
    reads, part = part.startswith("encoder."), part.removeprefix("encoder.")
    kind, _, rest = part.partition(".")
    if kind in ("token_embeddings", "positions", "embedding_norm", "embedding_projection", "position_bias"):
        return 0
    if kind == "layers":
        return int(rest.split(".")[0]) + 1 + (0 if reads else below)
    return below if reads else top


def balanced(counts_C: Sequence[int]) -> list[float]:
    """Return weights that balance the classes, 1 on average over the items; 0 for a class without items."""
    present = sum(count > 0 for count in counts_C)
    return [sum(counts_C) / (present * count) if count else 0.0 for count in counts_C]


class HeadEvaluator:
    """A set of items on which a model is evaluated repeatedly.

    least: 1 − the best score so far. best: the predictions of the best score that `examine` found above it, or None.
    """

    def __init__(
        self, adapter: Adapter, encoded_set: EncodedSet, pad: int, least: float = math.inf, flat: bool = False
    ) -> None:
        """flat: see `tasks.batching.pack`."""
        assert isinstance(adapter, HeadAdapter)
        self.adapter, self.encoded_set, self.least = adapter, encoded_set, least
        self.batches = EvaluationBatches(encoded_set.encoded, pad, flat=flat)
        self.best: list[Prediction] | None = None

    def examine(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> tuple[float, Metrics]:
        """Return 1 − the primary metric, so that less is better, and the mean loss with all metrics."""
        predictions, loss = self.predict(model, device, dtype)
        self.adapter.tune(self.encoded_set.items, predictions)
        metrics = self.adapter.measure(self.encoded_set.items, predictions)
        missing = 1 - metrics[self.adapter.task.primary_metric]
        if missing < self.least:
            self.least, self.best = missing, predictions
        return missing, {"loss": loss, **metrics}

    @torch.no_grad()
    def predict(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> tuple[list[Prediction], float]:
        """Return the predictions for all items, and the mean loss (without meaning for items without answers)."""
        assert isinstance(model, ScoreModel)
        model.eval()
        scores: list[list[Scores]] = [[] for _ in self.encoded_set.encoded]
        total, count = 0.0, 0
        for packed in self.batches:
            batch = packed.batch.to(device)
            with computing(device, dtype):
                scores_KC = model.scores(batch, dtype)
            sizes = counts(batch)
            for name, part in model.losses(scores_KC, batch.labels[ANSWER][1]).items():
                if name in sizes:
                    total, count = total + float(part), count + sizes[name]
            table, owners = scores_KC.cpu().numpy(), packed.items.numpy()
            edges = np.flatnonzero(np.diff(owners)) + 1
            for owner, part_of in zip(owners[[0, *edges]], np.split(table, edges), strict=True):
                scores[owner].append(part_of)
        model.train()
        joined = [np.concatenate(parts) for parts in scores]
        return self.adapter.predict(self.encoded_set, joined), total / count if count else math.nan
