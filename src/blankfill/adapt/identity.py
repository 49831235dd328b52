"""The identity of a base model, which an adapter records, so that it is not used beside another model.

It holds the sizes of the model, and a sample of its weights. The sample allows for conversions to other number types,
and leaves out weights that are quantised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blankfill.errors import UserError
from blankfill.model.transformer import Transformer
from blankfill.system.loader import fitting
from blankfill.system.reading import field

SIZES = (
    "vocab_size", "hidden_size", "num_layers", "encoder_layers", "num_heads", "kv_heads", "head_width", "ffn_size",
    "position_scheme", "norm",
)  # fmt: skip
"""What must be equal of two models that one adapter fits."""
SAMPLED = 32
"""Numbers of a weight in the sample."""
ALIKE = 0.01
"""Largest mean difference of two samples of one weight, as a share of its mean size; conversion to bf16 gives 0.002."""


def identity_of(model: Transformer, path: Path) -> dict[str, Any]:
    """Return the identity of a model without adapters as JSON values. path: its folder."""
    sizes = {name: getattr(model.config, name) for name in SIZES}
    return {"name": path.resolve().name, "sizes": sizes, "sample": _sample(model)}


def check_identity(model: Transformer, path: Path, noted: Mapping[str, Any], where: Path) -> None:
    """Compare a model with the identity that an adapter records.

    Args:
        model: The model, without adapters.
        path: Its folder.
        noted: The identity, as read.
        where: The adapter's file.

    Raises:
        UserError: The adapter belongs to another model.
    """
    name = field(noted, "name", str, where)
    sizes = field(noted, "sizes", dict, where)
    for size, was in sizes.items():
        if (now := getattr(model.config, size, was)) != was:
            raise UserError(
                f"{where.parent} is an adapter of another model ({name}), whose {size} is {was}; that of {path} is "
                f"{now}; give the model that it was trained with"
            )
    samples = fitting(field(noted, "sample", dict, where), dict[str, list[float]], f"{where}: `sample`")
    own = _sample(model)
    for weight in samples.keys() & own.keys():
        was_N, now_N = torch.tensor(samples[weight]), torch.tensor(own[weight])
        if was_N.shape != now_N.shape or bool((was_N - now_N).abs().mean() > ALIKE * was_N.abs().mean()):
            raise UserError(
                f"{where.parent} is an adapter of another model ({name}): {path} has the same sizes and other weights; "
                "give the model that it was trained with"
            )


def _sample(model: Transformer) -> dict[str, list[float]]:
    """Return evenly spaced numbers of the token embeddings and of the matrices of the first and the last layer."""
    names = ["token_embeddings.weight"]
    for k in sorted({0, len(model.layers) - 1}):
        names += [f"layers.{k}.{part}.weight" for part in ("attention.output", "ffn.output")]
    weights, sample = dict(model.named_parameters()), {}
    for name in names:
        weight = weights.get(name)
        if weight is not None and weight.is_floating_point() and not weight.is_meta:
            flat = weight.detach().reshape(-1)
            places = torch.linspace(0, len(flat) - 1, SAMPLED, dtype=torch.float64).long()
            sample[name] = [float(f"{value:.6g}") for value in flat[places.to(flat.device)].float().tolist()]
    return sample
