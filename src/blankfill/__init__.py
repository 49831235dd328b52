"""blankfill: pretrain language models on your own text, and fill blanks with them.

    import blankfill

    recipe = blankfill.load_recipe("glm-nano", {"train.steps": 500})
    blankfill.pretrain(["texts/"], recipe, out="runs/mine")
    model = blankfill.load("runs/mine")
    print(model.fill("Paris is the [MASK] of France.").filled)

Names are imported when first used, so that `import blankfill` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blankfill._version import __version__

if TYPE_CHECKING:
    from blankfill.config.recipe import Recipe, load_recipe, recipe_names
    from blankfill.convert.exporting import export_model
    from blankfill.convert.importing import import_model
    from blankfill.corpus.options import PrepareConfig
    from blankfill.corpus.prepare import prepare
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.errors import ConfigError, UserError
    from blankfill.families import FamilySpec, register_family
    from blankfill.inference import Model, load
    from blankfill.objectives import register_objective
    from blankfill.pretraining.outcome import RunResult
    from blankfill.pretraining.run import pretrain, resume
    from blankfill.pretraining.show import ShownRow, show

__all__ = [
    "ConfigError", "FamilySpec", "Model", "PrepareConfig", "Recipe", "RunResult", "ShownRow", "Tokenizer", "UserError",
    "__version__", "export_model", "import_model", "load", "load_recipe", "prepare", "pretrain", "recipe_names",
    "register_family", "register_objective", "resume", "show",
]  # fmt: skip

_HOMES = {
    "convert.exporting": ("export_model",),
    "convert.importing": ("import_model",),
    "corpus.options": ("PrepareConfig",),
    "corpus.prepare": ("prepare",),
    "corpus.tokenizer": ("Tokenizer",),
    "errors": ("ConfigError", "UserError"),
    "families": ("FamilySpec", "register_family"),
    "inference": ("Model", "load"),
    "config.recipe": ("Recipe", "load_recipe", "recipe_names"),
    "objectives": ("register_objective",),
    "pretraining.outcome": ("RunResult",),
    "pretraining.run": ("pretrain", "resume"),
    "pretraining.show": ("ShownRow", "show"),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'blankfill' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"blankfill.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
