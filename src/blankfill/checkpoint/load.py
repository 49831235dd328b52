"""A trained model from any folder that holds one: weights, tokenizer and objective together.

A run, one of its checkpoints, an imported model, or a folder of transformers or of the original GLM code as it is.
Weights stay memory-mapped where their form allows it.
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
from blankfill.checkpoint.hf_loading import Foreign, is_foreign, open_foreign
from blankfill.checkpoint.hf_words import read_tokenizer, roles_unsaid
from blankfill.corpus.identity import check_tokenizer
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.model.config import TransformerConfig
from blankfill.model.replaced_tokens import discriminator_of, generator_of
from blankfill.model.transformer import Transformer
from blankfill.objectives import Format, Objective
from blankfill.system.console import say
from blankfill.system.device import pick_device
from blankfill.system.reading import field
from blankfill.types import Vocabulary


@dataclass
class Loaded:
    """A model ready to answer. embedding_lr_multiplier: that of the run which pretrained it."""

    model: Transformer
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    objective: Objective
    path: Path
    embedding_lr_multiplier: float = 1.0

    @property
    def format(self) -> Format:
        """How the model reads text."""
        return self.objective.format(self.vocabulary, self.model.config.position_sizes)

    @cached_property
    def language_model(self) -> Transformer:
        """The model that predicts tokens: of a model with a generator, the generator, with the same weights."""
        return generator_of(self.model)

    @cached_property
    def encoder(self) -> Transformer:
        """The model that reads texts for a task: of a model with a generator, the discriminator alone."""
        return discriminator_of(self.model)


def load_model(path: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Loaded:
    """Open a run folder (its newest whole checkpoint), RUN/best, RUN/latest, a checkpoint folder, an imported model, a
    transformers folder, or a checkpoint of the original GLM code.

    dtype: of the weights, and so of what is computed with them; None keeps the type that they are stored in. A model
    that is to learn needs float32. UserError says what is missing, the device included.
    """
    path, device = Path(path), str(pick_device(device))
    if path.is_file() and path.name in ("best", "latest"):
        path = store.named_by(path)
    if not path.exists():
        raise UserError(f"{path}: no such folder; give a run folder made by `blankfill pretrain`, or an imported model")
    if (path / store.STATE).exists():
        return _from_checkpoint(store.read(path, with_optimizer=False), _tokenizer_folder(path), device, dtype)
    if not (path / "checkpoints").exists() and is_foreign(path):
        return _from_foreign(open_foreign(path, dtype=dtype), device)
    if not path.is_dir():
        raise UserError(f"{path}: not a model; give a run folder, an imported model or a transformers folder")
    damaged: list[str] = []
    newest = store.newest(path / "checkpoints", with_optimizer=False, damaged=damaged)
    if newest is None:
        more = f" ({damaged[0]})" if damaged else ""
        raise UserError(
            f"{path}: there is no checkpoint in this folder{more}; train one with `blankfill pretrain`, or give a "
            "transformers folder with config.json and its weights"
        )
    for sentence in damaged:
        say(f"passed over: {sentence}; the checkpoint of step {newest.step} answers in its place")
    return _from_checkpoint(newest, path, device, dtype)


def _tokenizer_folder(checkpoint: Path) -> Path:
    """A run's tokenizer lies in its folder; that of an imported model beside the weights."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == "checkpoints" and (run / "tokenizer.json").exists() else checkpoint


def _from_checkpoint(found: store.Checkpoint, folder: Path, device: str, dtype: torch.dtype | None) -> Loaded:
    where = found.path / store.STATE
    if "task" in found.state:
        name = field(field(found.state, "task", dict, where), "name", str, where)
        raise UserError(
            f"{found.path}: this model was fine-tuned for {name} and answers that alone, with "
            "`blankfill predict`; give the pretrained model that it began from"
        )
    config, objective = store.model_of(found.state, found.path), store.objective_of(found.state, found.path)
    embedding_lr_multiplier = field(found.state, "embedding_lr_multiplier", float, where, 1.0)
    tokenizer = Tokenizer.load(folder)
    check_tokenizer(found.state, tokenizer, folder, found.path)
    vocabulary = with_roles_of(tokenizer.vocabulary(), store.roles_of(found.state, found.path))
    loaded = _loaded(config, in_type(found.model, dtype), tokenizer, vocabulary, objective, found.path, device)
    return dataclasses.replace(loaded, embedding_lr_multiplier=embedding_lr_multiplier)


def _from_foreign(found: Foreign, device: str) -> Loaded:
    tokenizer = read_tokenizer(found)
    if found.weights.converted:
        say(f"{found.path}: {found.weights.converted} weights are converted to {name_of(found.weights.target)}")
    vocabulary = with_roles_of(tokenizer.vocabulary(), roles_unsaid(found, tokenizer.vocabulary()))
    return _loaded(found.form.config, found.state(), tokenizer, vocabulary, found.objective, found.path, device)


def _loaded(
    config: TransformerConfig,
    state: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    objective: Objective,
    path: Path,
    device: str,
) -> Loaded:
    check_vocabulary(vocabulary, config, path)
    if objective.causal and "pad" not in vocabulary.roles and "eos" in vocabulary.roles:
        # GPT-2's own tokenizer has no padding; padded columns are never read, so any token will do
        vocabulary = dataclasses.replace(vocabulary, roles={**vocabulary.roles, "pad": vocabulary["eos"]})
    with torch.device("meta"):
        model = Transformer(config)
    store.put_weights(model, state, path, assign=True)
    return Loaded(model.to(device).eval(), tokenizer, vocabulary, objective, path)


def in_type(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """The tensors with floats in a type; None leaves them. Each is let go as soon as it is converted."""
    if dtype is None:
        return tensors
    out = {}
    for name in list(tensors):
        tensor = tensors.pop(name)
        out[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return out


def weights_checksum(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights by their names, whatever file they lie in, in hexadecimal."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        found.update(memoryview(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def with_roles_of(vocabulary: Vocabulary, roles: Mapping[str, int]) -> Vocabulary:
    """A vocabulary in which tokens have the roles that a checkpoint gives them, over those of their names."""
    return dataclasses.replace(vocabulary, roles={**vocabulary.roles, **roles})


def check_vocabulary(vocabulary: Vocabulary, config: TransformerConfig, path: Path) -> None:
    """UserError when a tokenizer has ids that a model has no row for."""
    if vocabulary.size > config.vocab_size:
        raise UserError(
            f"{path}: the tokenizer has {vocabulary.size} tokens and the model {config.vocab_size}; "
            "they do not belong together; give the model's own tokenizer"
        )
    if missing := [role for role, id in vocabulary.roles.items() if id >= config.vocab_size]:
        raise UserError(
            f"{path}: the {missing[0]} token has the id {vocabulary[missing[0]]}, for which there is no row"
        )
