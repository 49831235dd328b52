"""What each family reads when it fills blanks or writes on: rows framed as in training.

Two stacks. *T5* reads the text with a numbered sentinel for each blank, and writes each sentinel with what stands in
its place; it has written `<extra_id_0> … <extra_id_k>` when it comes to blank k. *BART* reads the text with a mask for
each blank and writes all of it again, so the text before a blank is what it has written when it comes to it.

Not here: the search for what is written (`fill`, `write`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blankfill.errors import UserError
from blankfill.objectives import T5, Bart, Glm, Gpt, MaskWriter, Objective, Xlnet
from blankfill.objectives.two_stacks import two_stack_input
from blankfill.types import DecoderInput, Vocabulary

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

Writes = Gpt | Glm | MaskWriter | T5 | Bart
"""Objectives whose models write from left to right."""


def fills(objective: Objective) -> bool:
    """Whether models of an objective can fill blanks: they have learnt what a blank is, and what stood there."""
    if isinstance(objective, T5):
        return objective.variant in ("spans", "iid")
    if isinstance(objective, Bart):
        return objective.replace == "span"
    return objective.masked or isinstance(objective, Glm | Gpt | Xlnet)


def writes_on(objective: Objective) -> bool:
    """Whether models of an objective can continue a text."""
    if isinstance(objective, T5):
        return fills(objective) or objective.variant == "prefix-lm"
    return fills(objective) if isinstance(objective, Bart) else isinstance(objective, Gpt | Glm | MaskWriter)


def needed_roles(objective: Objective) -> tuple[str, ...]:
    """The special tokens without which a model cannot write."""
    if isinstance(objective, Gpt):
        return ("eos",)
    if isinstance(objective, MaskWriter):
        return ("cls", "sep", objective.query_role)
    return ("cls", "mask", "sop", "eop", "eos") if isinstance(objective, Glm) else objective.roles


def end_tokens(objective: Objective, vocabulary: Vocabulary) -> list[int]:
    """What ends a text."""
    if isinstance(objective, MaskWriter | Bart):
        return [vocabulary["sep"]]
    if isinstance(objective, T5):
        return [vocabulary["eos"], *(vocabulary.sentinels if fills(objective) else ())]
    return [vocabulary["eos"], *([] if isinstance(objective, Gpt) else [vocabulary["eop"]])]


def parting_token(loaded: Loaded) -> int | None:
    """The token that stands for blanks in a text that is encoded: the mask, of a T5 the first sentinel."""
    sentinels, mask = loaded.vocabulary.sentinels, loaded.vocabulary.roles.get("mask")
    if sentinels and (mask is None or loaded.objective.blank_is_sentinel):
        return sentinels[0]
    return mask


def own_mask(loaded: Loaded) -> str:
    """How the tokenizer writes its mask; "" where it has none."""
    mask = loaded.vocabulary.roles.get("mask")
    return "" if mask is None else loaded.tokenizer.token(mask)


def longest_role(objective: Glm) -> str:
    """The kind of blank for writing at length: the longest that the model was trained on."""
    if objective.document > 0:
        return "gmask"
    return "smask" if objective.sentence > 0 else "mask"


def glm_part_a(
    loaded: Loaded, objective: Glm, runs: Sequence[Sequence[int]], roles: Sequence[str]
) -> tuple[list[int], list[int]]:
    """GLM's Part A of a text with blanks, and the columns of its masks.

    runs: the ids between the blanks. A kind of mask that training never used becomes [MASK]. The row ends in the
    end-of-text token, as a whole document does in training, unless it ends in a document blank, which writes it.
    """
    vocabulary = loaded.vocabulary
    used = {"mask"}
    if objective.task_mask:
        used |= {role for role, weight in (("smask", objective.sentence), ("gmask", objective.document)) if weight > 0}
    row = [vocabulary["cls"], *runs[0]]
    places = []
    for role, run in zip(roles, runs[1:], strict=True):
        places.append(len(row))
        row += [vocabulary[role if role in used and role in vocabulary.roles else "mask"], *run]
    to_end = bool(roles) and not runs[-1] and roles[-1] == "gmask" and objective.document > 0
    return (row if to_end else [*row, vocabulary["eos"]]), places


def t5_context(vocabulary: Vocabulary, runs: Sequence[Sequence[int]], written: Sequence[Sequence[int]]) -> DecoderInput:
    """A T5 that is about to write a blank. runs: the ids between the blanks; written: those of the blanks before it.

    Raises UserError for more blanks than there are sentinels.
    """
    blanks = len(runs) - 1
    if blanks > len(vocabulary.sentinels):
        raise UserError(
            f"the text has {blanks} blanks and the tokenizer {len(vocabulary.sentinels)} sentinels; "
            "fill fewer blanks at a time"
        )
    source = [*runs[0]]
    for sentinel, run in zip(vocabulary.sentinels, runs[1:], strict=False):
        source += [sentinel, *run]
    begun = [vocabulary["pad"]]
    for k, ids in enumerate([*written, ()]):
        begun += [vocabulary.sentinels[k], *ids]
    return two_stack_input([*source, vocabulary["eos"]], begun)


def t5_ends(vocabulary: Vocabulary, place: int, blanks: int) -> list[int]:
    """What ends the fill of a blank: the next sentinel; for the last blank the end of the text as well."""
    following = list(vocabulary.sentinels[place + 1 : place + 2])
    return following if place < blanks - 1 else [vocabulary["eos"], *following]


def bart_context(loaded: Loaded, runs: Sequence[Sequence[int]], begun: Sequence[int]) -> DecoderInput:
    """A BART that has written `begun` of a text. runs: the ids between the blanks of the text that it reads.

    Raises UserError when the model has no positions for either.
    """
    vocabulary, objective = loaded.vocabulary, loaded.objective
    assert isinstance(objective, Bart)
    source = [vocabulary["cls"], *runs[0]]
    for run in runs[1:]:
        source += [vocabulary["mask"], *run]
    source.append(vocabulary["sep"])
    (table,), first = loaded.model.config.position_sizes, objective.position_offset
    check_room(max(len(source), 2 + len(begun)), table - first)
    return two_stack_input(source, [vocabulary["sep"], vocabulary["cls"], *begun], first, table)


def check_room(tokens: int, limit: int) -> None:
    """Raise UserError when a text has more tokens than a model has positions."""
    if tokens > limit:
        raise UserError(
            f"the text has {tokens} tokens with its special tokens and blanks, and the model reads at most {limit}; "
            "shorten it"
        )
