"""The recipe that continues a trained model, where the user names none.

A run of our own continues with its own recipe. For another model it is the smallest recipe of its family and objective,
with those options of the objective in which the model differs from the usual ones, such as BERT without pairs. The
learning rate is a tenth of the recipe's, which is for random initial weights, and the token embeddings learn no faster
than the other weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.config.recipe import Recipe, load_recipe, recipe_names
from blankfill.errors import UserError, setting
from blankfill.families import FAMILIES
from blankfill.pretraining.warm_start import families_of
from blankfill.system.console import is_json, output_mode
from blankfill.system.reading import field

if TYPE_CHECKING:
    from blankfill.model.config import TransformerConfig
    from blankfill.objectives import Objective

GENTLER = 10
"""Divisor of the learning rate of a recipe for random initial weights."""


def recipe_for(model: str | Path) -> Recipe:
    """Return the recipe that continues a model.

    Args:
        model: A run, a checkpoint, an imported model or a transformers folder.

    Returns:
        The recipe, at a tenth of its learning rate.

    Raises:
        UserError: There is no model in the folder, it was fine-tuned, or no recipe continues it.
    """
    return chosen_recipe(Path(model))[0]


def chosen_recipe(path: Path) -> tuple[Recipe, str]:
    """Return the recipe that continues a model, and which it is, in words."""
    recipe, which = _own_recipe(path) or _recipe_of_family(path)
    train = dataclasses.replace(recipe.train, lr=recipe.train.lr / GENTLER, embedding_lr_multiplier=1.0)
    return dataclasses.replace(recipe, train=train), which


def announcement(path: Path, which: str, recipe: Recipe) -> str:
    """Return the notice on a chosen recipe. recipe: as it is used, with the options of the user."""
    return (
        f"{path} continues with {which}: {recipe.train.steps:,} steps, learning rate {recipe.train.lr:g}; "
        f"{setting('recipe')} chooses another, {setting('train.steps')} and {setting('train.lr')} change these"
    )


def _own_recipe(path: Path) -> tuple[Recipe, str] | None:
    """Return the recipe of the run that a path belongs to; None outside a run."""
    folder = path.parent if path.is_file() else path
    for run in (folder, folder.parent.parent):
        file = run / "recipe.yaml"
        if file.is_file() and (run / "checkpoints").is_dir():
            recipe = load_recipe(file)
            return recipe, f"its own recipe {recipe.name} (objective {recipe.objective.name})"
    return None


def _recipe_of_family(path: Path) -> tuple[Recipe, str]:
    config, objective, known = _described(path)
    families = [name for name in families_of(config) if known in ("", name)] or families_of(config)
    shipped = [name for family in families for name in FAMILIES[family].recipes]
    for name in dict.fromkeys([*shipped, *sorted(recipe_names(), key=lambda name: ("nano" not in name, len(name)))]):
        recipe = load_recipe(name)
        if recipe.model.family in families and recipe.objective.name == objective.name:
            recipe = dataclasses.replace(recipe, objective=_fitted(recipe.objective, objective))
            return recipe, f"the recipe {name} (family {recipe.model.family}, objective {objective.name})"
    family = " or ".join(families) or "none that is known here"
    raise UserError(
        f"{path}: no recipe is for the objective {objective.name} and the family of the model ({family}); name one "
        f"with {setting('recipe')}"
    )


def _fitted(own: Objective, models: Objective) -> Objective:
    """Return an objective with the model's options where those are not the usual ones, and rows no longer than the
    model's."""
    usual = type(models)()
    changes: dict[str, Any] = {
        part.name: getattr(models, part.name)
        for part in dataclasses.fields(models)
        if getattr(models, part.name) != getattr(usual, part.name)
    }
    return dataclasses.replace(own, **{**changes, "length": min(own.length, models.length)})


def _described(path: Path) -> tuple[TransformerConfig, Objective, str]:
    """Return the configuration and the objective of a model, and the name of its family where it is noted."""
    from blankfill.checkpoint import store
    from blankfill.checkpoint.hf_loading import is_external, open_external
    from blankfill.checkpoint.missing import check_exists, nearby

    if not (path / store.STATE).is_file() and not (path / "checkpoints").exists() and is_external(path):
        with output_mode(is_json(), quiet=True):  # its notices come when it is opened for the run
            source = open_external(path)
        return source.checkpoint_format.config, source.objective, source.checkpoint_format.family.name
    if steps := store.steps_in(path / "checkpoints"):
        path = path / "checkpoints" / f"step-{max(steps)}"
    check_exists(path, "a run, an imported model or a transformers folder")
    if not (path / store.STATE).is_file():
        raise UserError(
            f"{path}: there is no model to start from; give a run, an imported model or a transformers folder"
            f"{nearby(path)}"
        )
    state, _ = store.read_state(path)
    if "task" in state:
        raise UserError(
            f"{path}: this model was fine-tuned; continue it with `blankfill finetune`, or give the pretrained model"
        )
    names = field(state, "names", dict, path / store.STATE, {})
    known = field(names, "family", str, path / store.STATE, "")
    return store.model_of(state, path), store.objective_of(state, path), known
