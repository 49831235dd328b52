"""blankfill: pretrain language models on your own text, and fill blanks with them.

    import blankfill

    recipe = blankfill.load_recipe("glm-nano", {"train.steps": 500})
    blankfill.pretrain(["texts/"], recipe, out="runs/mine")
    model = blankfill.load("runs/mine")
    print(blankfill.fill(model, "Paris is the [MASK] of France.").filled)

Names are imported when first used, so that `import blankfill` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from blankfill._version import __version__

if TYPE_CHECKING:
    from blankfill.chatting.engine import Reply
    from blankfill.chatting.messages import Message
    from blankfill.chatting.options import ChatOptions
    from blankfill.chatting.templates import ChatTemplate
    from blankfill.config.recipe import Recipe, load_recipe, recipe_names
    from blankfill.corpus.options import PrepareConfig
    from blankfill.corpus.prepare import prepare
    from blankfill.corpus.tables.options import TableOptions
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.errors import ConfigError, UserError
    from blankfill.evaluation.run import Evaluation, EvaluationOptions, evaluate
    from blankfill.exporting.model import export_model, export_onnx
    from blankfill.families import FamilySpec, register_family
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.finetuning.importing import import_model
    from blankfill.finetuning.outcome import FinetuneResult
    from blankfill.finetuning.predict import Predictions, predict
    from blankfill.finetuning.run import finetune
    from blankfill.generation.blanks import FillResult
    from blankfill.generation.sampling import Sampling
    from blankfill.generation.write import Generation
    from blankfill.inference import Model, chat, embed, fill, generate, load
    from blankfill.model.heads import Head, register_head
    from blankfill.objectives import Objective, register_objective
    from blankfill.pretraining.outcome import RunResult
    from blankfill.pretraining.plan import Plan, plan
    from blankfill.pretraining.run import pretrain, resume
    from blankfill.pretraining.show import ShownRow, show
    from blankfill.pretraining.warm_start import InitFrom
    from blankfill.serving.run import serve
    from blankfill.tasks.datasets.registry import register_task
    from blankfill.tasks.options import FinetuneOptions
    from blankfill.tasks.task import Task

__all__ = [
    "ChatOptions", "ChatTemplate", "ConfigError", "Evaluation", "EvaluationOptions", "FamilySpec", "FillResult",
    "FinetuneConfig", "FinetuneOptions", "FinetuneResult", "Generation", "Head", "InitFrom", "Message", "Model",
    "Objective", "Plan", "Predictions", "PrepareConfig", "Recipe", "Reply", "RunResult", "Sampling", "ShownRow",
    "TableOptions", "Task", "Tokenizer", "UserError", "__version__", "chat", "embed", "evaluate", "export_model",
    "export_onnx", "fill", "finetune", "generate", "import_model", "load", "load_recipe", "plan", "predict",
    "prepare", "pretrain", "recipe_names", "register_family", "register_head", "register_objective", "register_task",
    "resume", "serve", "show",
]  # fmt: skip

_HOMES = {
    "chatting.engine": ("Reply",),
    "chatting.messages": ("Message",),
    "chatting.options": ("ChatOptions",),
    "chatting.templates": ("ChatTemplate",),
    "config.recipe": ("Recipe", "load_recipe", "recipe_names"),
    "corpus.options": ("PrepareConfig",),
    "corpus.prepare": ("prepare",),
    "corpus.tables.options": ("TableOptions",),
    "corpus.tokenizer": ("Tokenizer",),
    "errors": ("ConfigError", "UserError"),
    "evaluation.run": ("Evaluation", "EvaluationOptions", "evaluate"),
    "exporting.model": ("export_model", "export_onnx"),
    "families": ("FamilySpec", "register_family"),
    "finetuning.config": ("FinetuneConfig",),
    "finetuning.importing": ("import_model",),
    "finetuning.outcome": ("FinetuneResult",),
    "finetuning.predict": ("Predictions", "predict"),
    "finetuning.run": ("finetune",),
    "generation.blanks": ("FillResult",),
    "generation.sampling": ("Sampling",),
    "generation.write": ("Generation",),
    "inference": ("Model", "chat", "embed", "fill", "generate", "load"),
    "model.heads": ("Head", "register_head"),
    "objectives": ("Objective", "register_objective"),
    "pretraining.outcome": ("RunResult",),
    "pretraining.plan": ("Plan", "plan"),
    "pretraining.run": ("pretrain", "resume"),
    "pretraining.show": ("ShownRow", "show"),
    "pretraining.warm_start": ("InitFrom",),
    "serving.run": ("serve",),
    "tasks.datasets.registry": ("register_task",),
    "tasks.options": ("FinetuneOptions",),
    "tasks.task": ("Task",),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'blankfill' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"blankfill.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
