"""The checkpoint format of a model in other programs: the family whose weight names and config.json can express it.

`CheckpointFormat` is a model in the names of a family; `checkpoint_format_of` returns the format of a run, or why
there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blankfill.errors import UserError
from blankfill.families.registry import weight_names, weight_names_by_type
from blankfill.families.weight_names import Table, WeightNames
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective
from blankfill.system.reading import field, shown
from blankfill.types import Vocabulary

MOST_SHIFTED = 64
"""Largest number of rows by which a position table may grow for the padding's id."""


@dataclass(frozen=True)
class CheckpointFormat:
    """A model in the names of a family. shift: see `WeightNames.table`."""

    family: WeightNames
    config: TransformerConfig
    shift: int = 0

    @property
    def table(self) -> Table:
        """The name table."""
        return self.family.table(self.config, self.shift)

    def config_json(self, vocabulary: Vocabulary, dtype: str = "float32") -> dict[str, Any]:
        """Return the values of config.json, with the token ids that transformers needs. dtype: type of the weights."""
        roles = vocabulary.roles
        ids = {"pad_token_id": roles.get("pad"), **self.family.token_ids(roles)}
        return {**self.family.write(self.config, self.shift), **ids, "torch_dtype": dtype}

    def state(self) -> dict[str, Any]:
        """Return the entry on weight names in a checkpoint's state.json."""
        return {"family": self.family.name, "shift": self.shift}


def checkpoint_format_of(
    config: TransformerConfig, objective: Objective, vocabulary: Vocabulary
) -> CheckpointFormat | str:
    """Return the format of a run's model in transformers, or a sentence that says why it has none."""
    refused = f"transformers has no family that is trained as {objective.name}"
    for family in weight_names().values():
        if not family.trained_as(objective):
            continue
        if lacking := family.differences(config):
            fields = ", ".join(f"model.{name} = {getattr(config, name)}" for name in lacking)
            refused = f"transformers' {family.model_type} has no {fields}"
            continue
        shift = family.shift(objective, vocabulary.roles.get("pad", 0))
        if shift > MOST_SHIFTED:
            return (
                f"transformers' {family.model_type} numbers positions from the padding's id + 1, "
                f"and here that id is {vocabulary.roles['pad']}"
            )
        return CheckpointFormat(family, config, shift)
    return refused


def checkpoint_format_from_state(
    names: Mapping[str, Any], config: TransformerConfig, where: object
) -> CheckpointFormat:
    """Build the format named in a checkpoint's state.json (`CheckpointFormat.state`); UserError for an unknown one."""
    family, shift = field(names, "family", str, where), field(names, "shift", int, where)
    known = weight_names()
    if family not in known or not -MOST_SHIFTED <= shift <= MOST_SHIFTED:
        raise UserError(f"{where}: its weights are named as {shown(family)}, moved by {shift}, which is not known here")
    return CheckpointFormat(known[family], config, shift)


def family_of(model_type: object, where: str) -> WeightNames:
    """Return the weight names of the family that a config.json names; UserError lists the known ones."""
    known = weight_names_by_type()
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    raise UserError(f"{where}: model_type is {shown(model_type)}, which is not known; known: {', '.join(known)}")
