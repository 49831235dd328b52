"""The options of a recipe that differ from the defaults: those of the shipped recipe with its name, else their own."""

from __future__ import annotations

import dataclasses
from typing import Any

from blankfill.config.recipe import SECTIONS, Recipe, load_recipe, recipe_names
from blankfill.system.schema import fields_of


def changes_of(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """Return what a recipe is compared with, and the default of each option that differs, by its dotted name.

    A recipe with the name of a shipped one is compared with it, unless it has another objective; any other with the
    defaults of the options, and the first result is then "".
    """
    base = load_recipe(recipe.name) if recipe.name in recipe_names() else None
    if base is not None and type(base.objective) is not type(recipe.objective):
        base = None
    changed: dict[str, Any] = {}
    for section in SECTIONS:
        now = getattr(recipe, section)
        before = None if base is None else getattr(base, section)
        for field in fields_of(type(now)):
            default = field.default if before is None else getattr(before, field.name)
            if default is not dataclasses.MISSING and default != getattr(now, field.name):
                changed[f"{section}.{field.name}"] = default
    return (recipe.name if base is not None else ""), changed
