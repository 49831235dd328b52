"""Loading a trained model with its tokenizer and objective from any folder that holds one.

The folder is a run, one of its checkpoints, an imported model, or a folder of transformers or of the original GLM code.
Weights stay memory-mapped where their format allows it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from blankfill.checkpoint import store
from blankfill.checkpoint.dtypes import name_of
from blankfill.checkpoint.hf_loading import ExternalCheckpoint, is_external, open_external
from blankfill.checkpoint.hf_words import read_tokenizer, roles_unsaid
from blankfill.checkpoint.missing import check_exists, nearby
from blankfill.checkpoint.quantization import Quantization
from blankfill.corpus.identity import check_tokenizer
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.model.config import TransformerConfig
from blankfill.model.quantized import prepare
from blankfill.model.replaced_tokens import discriminator_of, generator_of
from blankfill.model.transformer import Transformer
from blankfill.objectives import Format, Objective
from blankfill.objectives.base import Use
from blankfill.system.console import say
from blankfill.system.device import pick_device
from blankfill.system.reading import field
from blankfill.types import Vocabulary


@dataclass(frozen=True)
class TrainedHead:
    """A fine-tuned head. kind: of its task. labels: in the order of its scores. state: its weights by name."""

    kind: str
    labels: tuple[str, ...]
    state: Mapping[str, torch.Tensor]


@dataclass
class Loaded:
    """A model ready for inference. embedding_lr_multiplier: the setting of the run that pretrained it."""

    model: Transformer
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    objective: Objective
    path: Path
    embedding_lr_multiplier: float = 1.0
    head: TrainedHead | None = None
    """The head of a fine-tuned model, with which fine-tuning can continue."""
    quantization: Quantization | None = None
    """The quantised layers of the model, if any."""

    @property
    def format(self) -> Format:
        """The format in which the model reads text."""
        return self.objective.format(self.vocabulary, self.model.config.position_sizes)

    def check_tokens(self, use: Use, why: str) -> None:
        """Raise UserError when the tokenizer lacks a token that a use needs. why: a clause, such as "which an answer
        needs"."""
        objective = self.objective
        if missing := self.vocabulary.missing(objective.required_roles(use), objective.required_sentinels(use)):
            raise UserError(
                f"{self.path}: the tokenizer has no token for {', '.join(missing)}, {why}; use the "
                "tokenizer that the model was trained with"
            )

    @cached_property
    def language_model(self) -> Transformer:
        """The model that predicts tokens: of a model with a generator, the generator, with the same weights."""
        return generator_of(self.model)

    @cached_property
    def encoder(self) -> Transformer:
        """The model that reads texts for a task: of a model with a generator, the discriminator alone."""
        return discriminator_of(self.model)


def load_model(path: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Loaded:
    """Open a run folder (its newest complete checkpoint), RUN/best, RUN/latest, a checkpoint folder, an imported model,
    a transformers folder, or a checkpoint of the original GLM code.

    dtype: type of the weights and of the computation; None keeps the stored type. Training needs float32. Raises
    UserError when something is missing, the device included.
    """
    path, device = store.pointed(Path(path)), str(pick_device(device))
    check_exists(path, "a run, an imported model or a transformers folder")
    if (path / store.STATE).exists():
        return _from_checkpoint(store.read(path, with_optimizer=False, dtype=dtype), tokenizer_folder(path), device)
    if not (path / "checkpoints").exists() and is_external(path):
        return _from_external(open_external(path, dtype=dtype), device)
    if not path.is_dir():
        raise UserError(f"{path}: not a model; give a run folder, an imported model or a transformers folder")
    damaged: list[str] = []
    newest = store.newest(path / "checkpoints", with_optimizer=False, damaged=damaged, dtype=dtype)
    if newest is None:
        more = f" ({damaged[0]})" if damaged else ""
        raise UserError(
            f"{path}: there is no checkpoint in this folder{more}; train one with `blankfill pretrain`, or give a "
            f"transformers folder with config.json and its weights{nearby(path)}"
        )
    for sentence in damaged:
        say(f"skipped: {sentence}; the checkpoint of step {newest.step} is used instead")
    return _from_checkpoint(newest, path, device)


def tokenizer_folder(checkpoint: Path) -> Path:
    """Return the folder of the tokenizer: the run's folder, or the folder of the weights of an imported model."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / "tokenizer.json").exists() else checkpoint


def _from_checkpoint(checkpoint: store.Checkpoint, folder: Path, device: str) -> Loaded:
    where = checkpoint.path / store.STATE
    if "task" in checkpoint.state:
        name = field(field(checkpoint.state, "task", dict, where), "name", str, where)
        raise UserError(
            f"{checkpoint.path}: this model was fine-tuned for {name}; use it with `blankfill predict`, or give the "
            "pretrained model that it was made from"
        )
    config, objective = (
        store.model_of(checkpoint.state, checkpoint.path),
        store.objective_of(checkpoint.state, checkpoint.path),
    )
    embedding_lr_multiplier = field(checkpoint.state, "embedding_lr_multiplier", float, where, 1.0)
    tokenizer = Tokenizer.load(folder)
    check_tokenizer(checkpoint.state, tokenizer, folder, checkpoint.path)
    vocabulary = with_roles_of(tokenizer.vocabulary(), store.roles_of(checkpoint.state, checkpoint.path))
    loaded = _loaded(
        config, checkpoint.model, tokenizer, vocabulary, objective, checkpoint.path, device, checkpoint.quantization
    )
    return dataclasses.replace(loaded, embedding_lr_multiplier=embedding_lr_multiplier)


def _from_external(checkpoint: ExternalCheckpoint, device: str) -> Loaded:
    tokenizer = read_tokenizer(checkpoint)
    if checkpoint.weights.converted:
        dtype = name_of(checkpoint.weights.target)
        say(f"{checkpoint.path}: {checkpoint.weights.converted} weights are converted to {dtype}")
    vocabulary = with_roles_of(tokenizer.vocabulary(), roles_unsaid(checkpoint, tokenizer.vocabulary()))
    return _loaded(
        checkpoint.checkpoint_format.config,
        checkpoint.state(),
        tokenizer,
        vocabulary,
        checkpoint.objective,
        checkpoint.path,
        device,
        checkpoint.quantization,
    )


def _loaded(
    config: TransformerConfig,
    state: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    objective: Objective,
    path: Path,
    device: str,
    quantization: Quantization | None,
) -> Loaded:
    check_vocabulary(vocabulary, config, path)
    if objective.causal and "pad" not in vocabulary.roles and "eos" in vocabulary.roles:
        # GPT-2's own tokenizer has no padding token; padded columns are never read, so any token serves
        vocabulary = dataclasses.replace(vocabulary, roles={**vocabulary.roles, "pad": vocabulary["eos"]})
    with torch.device("meta"):
        model = Transformer(config)
    if quantization is not None:
        quantization.apply(model)
    store.put_weights(model, state, path, assign=True)
    model.to(device).eval()
    if quantization is not None:
        prepare(model, model.dtype)
    return Loaded(model, tokenizer, vocabulary, objective, path, quantization=quantization)


def weights_checksum(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a model's weights by name, independent of the file format, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(memoryview(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def with_roles_of(vocabulary: Vocabulary, roles: Mapping[str, int]) -> Vocabulary:
    """Return a vocabulary with the roles that a checkpoint stores; they override the roles by token names."""
    return dataclasses.replace(vocabulary, roles={**vocabulary.roles, **roles})


def check_vocabulary(vocabulary: Vocabulary, config: TransformerConfig, path: Path) -> None:
    """Raise UserError when a tokenizer has ids for which a model has no embedding."""
    if vocabulary.size > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {vocabulary.size} tokens and the model {config.vocab_size}; "
            "they do not belong together; give the model's own tokenizer"
        )
    if missing := [role for role, id in vocabulary.roles.items() if id >= config.vocab_size]:
        raise UserError(
            f"{path}: the {missing[0]} token has the id {vocabulary[missing[0]]}, for which there is no row"
        )
