"""What a model can do over HTTP; it follows from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from blankfill.errors import UserError
from blankfill.inference import Model


class Ability(Enum):
    """A use of a model; the values stand in the answers of `/v1/models`."""

    COMPLETE = "complete"
    CHAT = "chat"
    FILL = "fill"
    EMBED = "embed"
    RERANK = "rerank"
    SCORE = "score"
    CLASSIFY = "classify"
    TAG = "tag"
    ANSWER = "answer"
    TOKENIZE = "tokenize"


TASK_ABILITIES: Mapping[str, Ability] = {
    "classify": Ability.CLASSIFY,
    "regress": Ability.CLASSIFY,
    "multilabel": Ability.CLASSIFY,
    "choice": Ability.CLASSIFY,
    "tag": Ability.TAG,
    "answer": Ability.ANSWER,
    "chat": Ability.CHAT,
    "generate": Ability.CHAT,
}
"""The ability of a fine-tuned model, by the kind of its task."""


def abilities_of(model: Model) -> frozenset[Ability]:
    """Return what a model can do."""
    abilities = {Ability.TOKENIZE}
    if model.is_fine_tuned and model.task.kind in TASK_ABILITIES:
        abilities.add(TASK_ABILITIES[model.task.kind])
        if model.task.kind == "regress" or (model.task.kind == "classify" and len(model.labels) == 2):
            abilities.add(Ability.RERANK)
    if model.is_pretrained:
        objective = model.loaded.objective
        abilities.add(Ability.EMBED)
        abilities.add(Ability.RERANK)
        if objective.writes:
            abilities |= {Ability.COMPLETE, Ability.CHAT}
        if _can(lambda: model.filler):
            abilities |= {Ability.FILL, Ability.SCORE}
    return frozenset(abilities)


def _can(use: object) -> bool:
    assert callable(use)
    try:
        use()
    except UserError:
        return False
    return True
