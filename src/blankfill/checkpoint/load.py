"""A trained model from a run folder or one of its checkpoints: weights, tokenizer and objective together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blankfill.checkpoint import store
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer
from blankfill.objectives import OBJECTIVES, Objective
from blankfill.types import Vocabulary


@dataclass
class Loaded:
    """A model ready to answer."""

    model: Transformer
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    objective: Objective
    path: Path


def load_model(path: str | Path, device: str = "cpu") -> Loaded:
    """Open a run folder (its newest whole checkpoint), RUN/best, RUN/latest or a checkpoint folder.

    UserError says what is missing.
    """
    path = Path(path)
    if path.is_file() and path.name in ("best", "latest"):
        path = path.parent / "checkpoints" / path.read_text(encoding="utf-8").strip()
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a run folder made by `blankfill pretrain`")
    if (path / store.STATE).exists():
        found, run = store.read(path, with_optimizer=False), path.parent.parent
    else:
        run = path
        damaged: list[str] = []
        newest = store.newest(path / "checkpoints", with_optimizer=False, damaged=damaged)
        if newest is None:
            more = f" ({damaged[0]})" if damaged else ""
            raise UserError(f"{path}: there is no checkpoint in this folder{more}; train one with `blankfill pretrain`")
        found = newest
    tokenizer = Tokenizer.load(run)
    config = model_config(found.state["model"])
    objective_values = dict(found.state["objective"])
    objective = OBJECTIVES[objective_values.pop("name")](**objective_values)
    vocabulary = tokenizer.vocabulary()
    if vocabulary.size > config.vocab_size:
        raise UserError(
            f"{run}: the tokenizer has {vocabulary.size} tokens and the model {config.vocab_size}; "
            "they do not belong together"
        )
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(found.model, strict=True, assign=True)
    return Loaded(model.to(device).eval(), tokenizer, vocabulary, objective, found.path)


def model_config(values: dict[str, Any]) -> TransformerConfig:
    """The configuration saved in a checkpoint's state."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return TransformerConfig(**fields)
