"""How other programs name weights: one small file for each family, and which model each can say.

`Form` is a model written in a family's names; `form_of` finds the one for a run, or tells why there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blankfill.checkpoint.names.albert import AlbertNames
from blankfill.checkpoint.names.bart import BartNames
from blankfill.checkpoint.names.base import Family, Table
from blankfill.checkpoint.names.bert import BertNames
from blankfill.checkpoint.names.distilbert import DistilbertNames
from blankfill.checkpoint.names.ernie import ErnieNames
from blankfill.checkpoint.names.glm import GlmNames
from blankfill.checkpoint.names.gpt2 import Gpt2Names
from blankfill.checkpoint.names.roberta import RobertaNames
from blankfill.checkpoint.names.spanbert import SpanBertNames
from blankfill.checkpoint.names.t5 import T5Names
from blankfill.checkpoint.names.xlnet import XlnetNames
from blankfill.errors import UserError
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective
from blankfill.system.reading import field, shown
from blankfill.types import Vocabulary

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        BertNames(),
        DistilbertNames(),
        RobertaNames(),
        AlbertNames(),
        SpanBertNames(),
        ErnieNames(),
        Gpt2Names(),
        GlmNames(),
        XlnetNames(),
        T5Names(),
        BartNames(),
    )
}

MODEL_TYPES: dict[str, Family] = {
    # of two of a type the one that bears its name
    **{family.model_type: FAMILIES.get(family.model_type, family) for family in FAMILIES.values()},
    "glm": FAMILIES["glm"],
}
"""By what config.json calls a family."""

MOST_SHIFTED = 64
"""A position table may grow by so many rows; beyond, the padding's id is no sensible first position."""


@dataclass(frozen=True)
class Form:
    """A model in the names of a family. shift: see `Family.table`."""

    family: Family
    config: TransformerConfig
    shift: int = 0

    @property
    def table(self) -> Table:
        """The name table."""
        return self.family.table(self.config, self.shift)

    def config_json(self, vocabulary: Vocabulary, dtype: str = "float32") -> dict[str, Any]:
        """The values of config.json, with the token ids that transformers needs. dtype: of the weights beside it."""
        roles = vocabulary.roles
        ids: dict[str, int | list[int] | None] = {"pad_token_id": roles.get("pad")}
        if self.family.name == "gpt2":
            ids |= {"bos_token_id": roles.get("eos"), "eos_token_id": roles.get("eos")}
        elif self.family.name == "glm":
            ids |= {f"{role}_token_id": roles.get(role) for role in ("mask", "gmask", "smask", "sop", "eop")}
            ends = [roles[role] for role in ("eop", "eos") if role in roles]  # of a blank, and of the text
            ids |= {"bos_token_id": roles.get("cls"), "eos_token_id": ends}
        elif self.family.name == "t5":
            ids |= {"eos_token_id": roles.get("eos"), "decoder_start_token_id": roles.get("pad")}
        elif self.family.name == "bart":
            end = roles.get("sep")
            ids |= {"bos_token_id": roles.get("cls"), "eos_token_id": end, "decoder_start_token_id": end}
            ids |= {"forced_eos_token_id": end}
        else:
            ids |= {"bos_token_id": roles.get("cls"), "eos_token_id": roles.get("sep")}
        return {**self.family.write(self.config, self.shift), **ids, "torch_dtype": dtype}

    def state(self) -> dict[str, Any]:
        """What a checkpoint's state.json says of its names."""
        return {"family": self.family.name, "shift": self.shift}


def form_of(config: TransformerConfig, objective: Objective, vocabulary: Vocabulary) -> Form | str:
    """The form of a run's model in transformers' names, or a sentence that says why it has none."""
    refused = f"transformers has no family that is trained as {objective.name}"
    for family in FAMILIES.values():
        if not family.trained_as(objective):
            continue
        if lacking := family.differences(config):
            told = ", ".join(f"model.{name} = {getattr(config, name)}" for name in lacking)
            refused = f"transformers' {family.model_type} has no {told}"
            continue
        shift = family.shift(objective, vocabulary.roles.get("pad", 0))
        if shift > MOST_SHIFTED:
            return (
                f"transformers' {family.model_type} numbers positions from the padding's id + 1, "
                f"and here that id is {vocabulary.roles['pad']}"
            )
        return Form(family, config, shift)
    return refused


def form_from_state(names: Mapping[str, Any], config: TransformerConfig, where: object) -> Form:
    """The form that a checkpoint's state.json, `where`, names (`Form.state`). Raises UserError for an unknown one."""
    family, shift = field(names, "family", str, where), field(names, "shift", int, where)
    if family not in FAMILIES or not -MOST_SHIFTED <= shift <= MOST_SHIFTED:
        raise UserError(f"{where}: its weights are named as {shown(family)}, moved by {shift}, which is not known here")
    return Form(FAMILIES[family], config, shift)


def family_of(model_type: object, where: str) -> Family:
    """The family that a config.json names; UserError lists the known ones."""
    if isinstance(model_type, str) and model_type in MODEL_TYPES:
        return MODEL_TYPES[model_type]
    raise UserError(f"{where}: model_type is {shown(model_type)}, which is not known; known: {', '.join(MODEL_TYPES)}")
