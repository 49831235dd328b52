"""The families that this program knows, by name; `register_family` adds one of the user's own.

An installed package offers its families by entry points of the group `blankfill.families`: the name is the family's,
the object is its `FamilySpec`.
"""

from __future__ import annotations

from dataclasses import fields

from blankfill.errors import UserError
from blankfill.families.albert import ALBERT
from blankfill.families.bart import BART
from blankfill.families.bert import BERT
from blankfill.families.chatglm import CHATGLM
from blankfill.families.distilbert import DISTILBERT
from blankfill.families.electra import ELECTRA
from blankfill.families.ernie import ERNIE
from blankfill.families.glm import GLM
from blankfill.families.glm_130b import GLM_130B
from blankfill.families.gpt2 import GPT2
from blankfill.families.modernbert import MODERNBERT
from blankfill.families.roberta import ROBERTA
from blankfill.families.spanbert import SPANBERT
from blankfill.families.spec import FamilySpec
from blankfill.families.t5 import T5_SPEC, T5_V1_1_SPEC
from blankfill.families.unilm2 import UNILM2
from blankfill.families.weight_names import WeightNames
from blankfill.families.xlnet import XLNET
from blankfill.model.config import TransformerConfig
from blankfill.system.reading import shown
from blankfill.system.registry import Registry


def _check(name: str, spec: FamilySpec) -> None:
    """Raise TypeError for an object that is not a family, ValueError for a family of another name."""
    if not isinstance(spec, FamilySpec):
        raise TypeError(f"a family is described by a FamilySpec, not by {type(spec).__name__}")
    if name != spec.name:
        raise ValueError(f"the family {spec.name} cannot be registered as {name}")
    known = {field.name for field in fields(TransformerConfig)}
    if unknown := sorted(set(spec.preset) - known):
        raise ValueError(f"the preset of the family {name} has no field {unknown[0]} of TransformerConfig")


_BUILT_IN = (
    BERT, DISTILBERT, ROBERTA, ALBERT, SPANBERT, ERNIE, UNILM2, GPT2, GLM, XLNET, T5_SPEC, T5_V1_1_SPEC, BART,
    MODERNBERT, ELECTRA, CHATGLM, GLM_130B,
)  # fmt: skip

FAMILIES: Registry[FamilySpec] = Registry(
    "family", "blankfill.families", {spec.name: spec for spec in _BUILT_IN}, _check
)


def register_family(spec: FamilySpec) -> None:
    """Register a family of the user's own under its name, for recipes, checkpoints and exports in this process.

    Args:
        spec: The family.

    Raises:
        ValueError: Another family has the name, or the preset names no field of `TransformerConfig`.
        TypeError: The argument is not a `FamilySpec`.
    """
    FAMILIES.register(getattr(spec, "name", ""), spec)


def default_family(objective: str) -> str:
    """Return the name of the family with which an objective is measured; UserError for an objective without one."""
    for name, spec in FAMILIES.items():
        if objective in spec.default_for:
            return name
    raise UserError(f"no family says that it is the default for the objective {shown(objective)}")


def weight_names() -> dict[str, WeightNames]:
    """Return the weight names of all families that transformers has a form for, by their own name, in the families'
    order."""
    names = (spec.weight_names for spec in FAMILIES.values())
    return {family.name: family for family in names if family is not None}


def own_classes() -> frozenset[str]:
    """Return the names of the classes of `blankfill.hf`, which stand in for those that transformers lacks."""
    return frozenset(family.own_class for family in weight_names().values() if family.own_class)


def weight_names_by_type() -> dict[str, WeightNames]:
    """Return the weight names by the name of a family in config.json (`model_type`).

    Of several families with one type, this is the family whose name is the type.
    """
    known = weight_names()
    by_type = {family.model_type: known.get(family.model_type, family) for family in known.values()}
    return by_type | {also: family for family in known.values() for also in family.also_reads}
