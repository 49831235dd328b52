"""Warm start: a run that begins with a trained model, new tokens, and the heads that the model lacks.

The architecture and the tokenizer are the model's. A recipe's own values for them are ignored where they are defaults,
and rejected where the user gave them; the recipe decides how the model is trained (dropout, learning rate, objective).
Old tokens keep their rows. A new token starts at the mean of the pieces into which it was split before, in every table
with a row for each token and in the output's bias, so that the model at first reads and predicts it much like its
pieces.

`warm_start.json` in the run folder holds everything that a resumed run needs, so that the model is read only once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.config.recipe import Recipe
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import ConfigError, UserError, setting
from blankfill.families import FAMILIES
from blankfill.model.config import TransformerConfig, config_from_values, config_values
from blankfill.system.console import say
from blankfill.system.files import path_from, path_seen_from
from blankfill.system.loader import fitting
from blankfill.system.reading import field, read_json, read_text

if TYPE_CHECKING:
    import torch

    from blankfill.checkpoint.load import Loaded
    from blankfill.model.transformer import Transformer

FILE = "warm_start.json"
TYPE_TABLE = "positions.1.weight"
GIVEN = {
    "model": (
        "family",
        "hidden_size",
        "num_layers",
        "num_heads",
        "head_size",
        "encoder_layers",
        "ffn_size",
        "embedding_size",
        "shared",
        "norm",
        "init",
        "init_std",
        "positions",
    ),
    "corpus": ("tokenizer", "vocab_size", "lowercase"),
}
"""Options whose values come from the model of a warm start."""


@dataclass(frozen=True)
class InitFrom:
    """The model that a run starts from, and additions to it.

    model: a run, a checkpoint, an imported model or a transformers folder. new_tokens: words to add to its vocabulary.
    replay: old text, whose loss is measured during training; replay_ratio: its share of the rows. explicit_options:
    dotted options of the recipe that the user gave; they must agree with the model.
    """

    model: str | Path
    new_tokens: Sequence[str] = ()
    replay: str | None = None
    replay_ratio: float = 0.0
    explicit_options: Sequence[str] = ()

    def check(self) -> None:
        """Raise ConfigError for settings that exclude each other."""
        if not 0 <= self.replay_ratio < 1:
            raise ConfigError([f"{setting('replay_ratio')} is {self.replay_ratio}; it must be at least 0 and below 1"])
        if self.replay_ratio and self.replay is None:
            raise ConfigError([f"{setting('replay_ratio')} needs the old text; name it with {setting('replay')}"])


@dataclass(frozen=True)
class WarmStart:
    """The start of a run. pieces: for each new token its id, and the ids into which it was split before."""

    path: str
    config: TransformerConfig
    tokenizer: Tokenizer
    new_tokens: Sequence[str]
    replay: str | None
    replay_ratio: float
    state: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    pieces: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)
    types_like: Sequence[int] = ()
    """See `Objective.types_like`."""
    original_tokenizer: Tokenizer | None = None
    """The model's tokenizer without the new tokens; None in a resumed run."""

    def build(self, seed: int, device: torch.device | str) -> Transformer:
        """Make the model to train: old weights, new tokens at the mean of their pieces, all other weights from the
        seed."""
        import torch

        from blankfill.model.transformer import build, word_tables

        model = build(self.config, seed, device)
        if self.original_tokenizer is None:
            return model
        tables = word_tables(self.config)
        with torch.no_grad():
            for name, drawn in model.state_dict().items():
                if name not in self.state:
                    continue
                old = self.state[name].to(drawn.device, drawn.dtype)
                if name in tables:
                    drawn[: self.original_tokenizer.size] = old[: self.original_tokenizer.size]
                    for row, pieces in self.pieces.items():
                        drawn[row] = old[list(pieces)].mean(0)
                elif name.startswith("lm_head.") and old.shape != drawn.shape:
                    continue  # a head on layers of another width: with a generator, or without the one there was
                elif name == TYPE_TABLE and len(drawn) > len(old):
                    drawn.copy_(old[[min(like, len(old) - 1) for like in self.types_like]])
                else:
                    drawn.copy_(old)
        return model

    def write(self, out: Path, replay_corpus: Path | None) -> str:
        """Return the text of `warm_start.json`. replay_corpus: the folder of the prepared old text."""
        noted = {
            "from": self.path,
            "new_tokens": list(self.new_tokens),
            "replay": None if replay_corpus is None else path_from(out, replay_corpus),
            "replay_ratio": self.replay_ratio,
            "model": config_values(self.config),
        }
        return json.dumps(noted, indent=1, ensure_ascii=False) + "\n"


def read_warm_start(out: Path) -> WarmStart | None:
    """Read the warm start of a run folder, without weights; None for a run from drawn weights."""
    path = out / FILE
    if not path.exists():
        return None
    try:
        noted = read_json(path)
        replay = None if noted.get("replay") is None else str(path_seen_from(out, field(noted, "replay", str, path)))
        words = fitting(field(noted, "new_tokens", list, path), list[str], f"{path}: `new_tokens`")
        config = config_from_values(field(noted, "model", dict, path), path)
        start, ratio = field(noted, "from", str, path), field(noted, "replay_ratio", float, path)
    except UserError as error:
        raise UserError(f"{error.template}; train again from the model, into another {setting('out')}") from error
    return WarmStart(start, config, Tokenizer.load(out), words, replay, ratio)


def open_warm_start(init_from: InitFrom, recipe: Recipe) -> tuple[WarmStart, Recipe]:
    """Open the model of a warm start; returns it, and the recipe with the model's sizes.

    UserError or ConfigError when the recipe and the model do not fit.
    """
    from blankfill.checkpoint.load import load_model

    init_from.check()
    loaded = load_model(init_from.model)
    if loaded.quantization is not None:
        raise UserError(
            f"{init_from.model}: the weights are quantised, so that they cannot learn; give the model that it was made "
            "from"
        )
    recipe = fitted(recipe, loaded, init_from)
    tokenizer = loaded.tokenizer
    needed = recipe.objective.roles, recipe.objective.sentinels()
    if lacking := tokenizer.vocabulary().missing(*needed):
        say(f"{init_from.model} has no token for {', '.join(lacking)}; added at the end of its vocabulary, as drawn")
        tokenizer = tokenizer.with_roles(*needed)
    first = tokenizer.size
    tokenizer = tokenizer.with_words(init_from.new_tokens)
    words = [tokenizer.token(row) for row in range(first, tokenizer.size)]
    pieces = {first + k: loaded.tokenizer.encode(word) for k, word in enumerate(words)}
    if init_from.new_tokens:
        known = len(set(init_from.new_tokens)) - len(words)
        say(f"{len(words)} new words" + (f"; {known} are words of the model already" if known else ""))
    config = grown(loaded.model.config, recipe, tokenizer.size, str(init_from.model))
    warm_start = WarmStart(
        str(init_from.model), config, tokenizer, words, init_from.replay, init_from.replay_ratio,
        loaded.model.state_dict(), pieces, recipe.objective.types_like, loaded.tokenizer,
    )  # fmt: skip
    return warm_start, recipe


def fitted(recipe: Recipe, loaded: Loaded, init_from: InitFrom) -> Recipe:
    """Return the recipe with the model's architecture in its model section; ConfigError when they contradict."""
    config, where = loaded.model.config, str(init_from.model)
    problems = []
    families = families_of(config)
    if recipe.model.family not in families:
        remedy = "no family here is like it"
        if families:
            remedy = f"take a recipe of the family {' or '.join(families)}, or leave out {setting('recipe')}"
        problems.append(f"the recipe {recipe.name} is of the family {recipe.model.family} and {where} is not; {remedy}")
    objective = recipe.objective.numbered_as(loaded.objective)
    endless = config.position_scheme != "learned"
    for k, (needed, rows) in enumerate(zip(objective.position_sizes(), config.position_sizes, strict=False)):
        if needed > rows and not endless and not (k and objective.types_like):
            most = objective.length - (needed - rows)
            problems.append(
                f"{setting('objective.length')} is {objective.length} and {where} has {rows} positions; lower it to "
                f"{most} at most"
            )
            break
    values: dict[str, Any] = {
        "family": recipe.model.family, "hidden_size": config.hidden_size, "num_layers": config.num_layers,
        "num_heads": config.num_heads, "ffn_size": config.ffn_size,
        "positions": 0 if endless else config.position_sizes[0],
        "norm": "family" if recipe.model.spec.preset["norm"] == config.norm else config.norm, "init": "family",
        "init_std": 0.0,
        "embedding_size": config.embedding_size, "shared": config.shared, "head_size": config.head_size,
        "encoder_layers": config.encoder_layers,
    }  # fmt: skip
    for option in init_from.explicit_options:
        section, _, name = option.partition(".")
        if section == "model" and name in values:
            wished = getattr(recipe.model, name)
            if wished != values[name] and not (name in ("ffn_size", "head_size", "encoder_layers") and wished == 0):
                problems.append(f"{option} is {wished} and that of {where} is {values[name]}; leave it out")
        elif name in GIVEN.get(section, ()):
            problems.append(f"{option} cannot be chosen: the tokenizer is that of {where}; leave it out")
    if problems:
        raise ConfigError(problems)
    return dataclasses.replace(
        recipe, objective=objective, model=dataclasses.replace(recipe.model, **values)
    ).check()  # fmt: skip


def families_of(config: TransformerConfig) -> list[str]:
    """Return the possible families of a model, from its norms, embeddings, stacks and number of position tables."""
    return [
        name
        for name, spec in FAMILIES.items()
        for preset in (spec.preset,)
        if preset.get("norm", "pre") == config.norm
        and bool(preset.get("embedding_norm")) == config.embedding_norm
        and (spec.optional_embedding_size or bool(preset.get("embedding_size")) == bool(config.embedding_size))
        and preset.get("position_scheme", "learned") == config.position_scheme
        and spec.encoder_decoder == bool(config.encoder_layers)
        and preset.get("gated", False) == config.gated
        and spec.fits(len(config.position_sizes))
    ]


def grown(config: TransformerConfig, recipe: Recipe, words: int, where: str) -> TransformerConfig:
    """Return the model's configuration with `words` tokens, the objective's heads, and the recipe's dropout."""
    options, preset = recipe.model, recipe.model.spec.preset
    rows = -(-words // options.vocab_multiple) * options.vocab_multiple
    changes: dict[str, Any] = {
        "vocab_size": max(config.vocab_size, rows),
        "dropout": options.dropout,
        "attention_dropout": options.attention_dropout,
    }
    if config.position_scheme != "learned":
        changes["position_sizes"] = recipe.objective.position_sizes()
    if recipe.objective.types_like:
        wanted = recipe.objective.position_sizes()[1]
        changes["position_sizes"] = (config.position_sizes[0], max(config.position_sizes[1], wanted))
    lacking: list[str] = []
    changes |= {"heads": (), **recipe.objective.model_fields(config.hidden_size)}  # no other head would be trained
    if config.generator_size and not changes.get("generator_size"):
        config = config.discriminator
    elif config.generator_size:
        changes["generator_size"] = config.generator_size
    elif changes.get("generator_size"):
        lacking.append("generator")
    if not config.lm_head:
        changes |= {"lm_head": True, "tied": True}
        changes |= {name: bool(preset.get(name)) for name in ("head_transform", "head_bias")}
        if changes["head_transform"]:
            lacking.append("language-model head")
    if recipe.objective.labels():
        if not (config.pooler and config.pair_classifier):
            lacking.append(f"{recipe.objective.labels()[0].replace('_', '-')} head")
        changes |= {"pooler": True, "pair_classifier": True}
    places = recipe.objective.max_span_positions()
    if places and not config.max_span_positions:
        lacking.append("span-boundary head")
    if 0 < config.max_span_positions < places:
        raise ConfigError([
            f"{setting('objective.boundary')} is {places} and the head of {where} has {config.max_span_positions} "
            "places; lower it to that"
        ])  # fmt: skip
    changes["max_span_positions"] = max(places, config.max_span_positions) if places else 0
    if lacking:
        say(f"{where} has no {' and no '.join(lacking)}; the missing weights are drawn from the seed")
    return dataclasses.replace(config, **changes)


def new_tokens_from(given: str) -> list[str]:
    """Read the words of `--add-tokens`: a file with one on each line, or a list with commas. UserError without
    words."""
    path = Path(given)
    if path.is_file():
        try:
            words = read_text(path).splitlines()
        except UserError as error:
            raise UserError(
                f"{setting('add_tokens', given)}: {error.template}; give a UTF-8 file with a word on each line"
            ) from error
    elif "/" in given or path.suffix == ".txt":
        raise UserError(
            f"{setting('add_tokens', given)}: there is no such file; give a file with a word on each line, or words "
            "with commas"
        )
    else:
        words = given.replace("，", ",").split(",")
    words = [word.strip() for word in words if word.strip()]
    if not words:
        raise UserError(f"{setting('add_tokens', given)}: there are no words in it; give one on each line")
    return words
