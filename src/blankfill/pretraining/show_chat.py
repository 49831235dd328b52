"""A dialogue as the rows that a model learns to chat from: the functions behind `blankfill show --chat`.

The rows are those of `finetune --task chat` (`tasks.chat.rows`): which tokens are targets, to which round a column
belongs, and what sees what. Not here: rows of pretraining (`show`), and files of dialogues (`tasks.datasets.chat`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from blankfill.chatting.templates import ChatTemplate
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError, setting
from blankfill.objectives import Objective, ShownColumn
from blankfill.pretraining.show import ShownRow
from blankfill.pretraining.show_text import word_tokenizer
from blankfill.tasks.chat.adapter import USUAL_ANSWER
from blankfill.tasks.chat.rows import ChatRows, ChatWriting
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import ChatItem
from blankfill.types import Example, Int32

JOINED = (
    "All answers of a dialogue are learnt in one row, from left to right; what the user says is read and not learnt."
)
APART = (
    "Each answer is learnt behind the rounds before it, all of which see each other; the rows of the answers do not "
    "see each other."
)


def show_chat(
    dialogue: ChatItem,
    objective: Objective,
    template: ChatTemplate,
    tokenizer: Tokenizer | None = None,
    *,
    position_sizes: Sequence[int] = (),
    title: str = "",
    scheme: str = "",
) -> ShownRow:
    """Return a dialogue as the rows of `finetune --task chat`, one behind the other.

    Args:
        dialogue: The dialogue; at least one of its messages is an answer.
        objective: The objective of the model, whose format lays the rows out.
        template: The chat template that writes the rounds out.
        tokenizer: The tokenizer; None makes one whose tokens are the words of the dialogue (`word_tokenizer`).
        position_sizes: Rows of the model's position tables; by default those of the objective.
        title: Title of the row.
        scheme: Position scheme of the model, as in `TransformerConfig`.

    Returns:
        The rows, with methods that write them as text, as HTML and as a picture.

    Raises:
        UserError: The dialogue has no answer that is learnt, or the objective does not write texts.
    """
    if not objective.writes_targets:
        raise UserError(
            f"objective `{objective.name}` does not write texts, so its models learn no answers; show another "
            f"{setting('recipe')} or {setting('model')}"
        )
    whole = template.render(dialogue.messages, add_generation_prompt=False)
    tokenizer = (tokenizer or word_tokenizer(whole)).with_roles(objective.roles, objective.sentinels())
    vocabulary = tokenizer.vocabulary()
    form = objective.format(vocabulary, position_sizes or objective.position_sizes())
    layout = InputFormat(form)
    longest = min(USUAL_ANSWER, form.target_room(layout.length)[1])
    rows = ChatRows(ChatWriting(layout, longest), tokenizer, template)
    examples = rows.rows(dialogue, learn=True)
    if not examples:
        raise UserError(f"dialogue {dialogue.id} has no answer that is learnt; show another one")
    learnt = [index for index in dialogue.answers if index not in dialogue.unasked]
    notes = [str(remark) for remark in rows.remarks()]
    if dialogue.open:
        notes.append("the last message of the user has no answer, and nothing is learnt from it")
    return ShownRow(
        title=title or f"dialogue {dialogue.id}", epoch=0, place=0, rows=0, examples=examples, tokenizer=tokenizer,
        vocabulary=vocabulary, channels=objective.channels, further=round_columns(rows, dialogue, examples, learnt),
        objective=objective.name, explanation=JOINED if form.joins_rounds else APART, notes=tuple(notes), scheme=scheme,
    )  # fmt: skip


def round_columns(
    rows: ChatRows, dialogue: ChatItem, examples: Sequence[Example], learnt: Sequence[int]
) -> tuple[ShownColumn, ...]:
    """Return the round of each column, from 1, as a column of the picture; none for models with an encoder.

    Where the prompt was cut, or the template writes an earlier round in another way than before, only the columns with
    a target have a round. learnt: the indices of the answers that are learnt, in order.
    """
    if any(example.context is not None for example in examples):
        return ()
    number = {answer: 1 + k for k, answer in enumerate(dialogue.answers)}
    values = []
    for example, answers in zip(examples, answers_of(rows, examples, learnt), strict=True):
        of_columns = np.full(len(example), -1, np.int32)
        ids = prompt_of(rows, dialogue, answers[-1])
        ends = None if ids is None else round_ends(rows, dialogue, answers[-1], ids)
        place = None if ids is None else find(example.input_ids, ids)
        if ends is None or place is None:
            runs = np.split(example.target_index, np.flatnonzero(np.diff(example.target_index) > 1) + 1)
            for answer, columns in zip(answers, runs, strict=True):
                of_columns[columns] = number[answer]
        else:
            for k, (begin, end) in enumerate(pairwise([0, *ends])):
                of_columns[place + begin : place + end] = 1 + k
            of_columns[place + (ends[-1] if ends else 0) :] = number[answers[-1]]
        values.append(of_columns)
    note = "round: a message of the user and its answer, counted from 1"
    return (ShownColumn("round", np.concatenate(values), False, note),)


def answers_of(rows: ChatRows, examples: Sequence[Example], learnt: Sequence[int]) -> list[list[int]]:
    """Return the indices of the answers that each Example learns."""
    if not rows.format.joins_rounds:
        return [[index] for index in learnt]
    shared, left = [], list(learnt)
    for example in examples:
        runs = 1 + int((np.diff(example.target_index) > 1).sum())
        shared.append(left[:runs])
        left = left[runs:]
    return shared


def prompt_of(rows: ChatRows, dialogue: ChatItem, answer: int) -> Int32 | None:
    """Return the prompt of an answer, None where something of it was cut. answer: its index."""
    ids = rows.tokenizer.encode_plain([dialogue.messages[answer].content])[0]
    prompt = rows.prompt(dialogue.messages[:answer], rows.room(min(len(ids), rows.longest)))
    return None if prompt.start or not prompt.system else np.asarray(prompt.ids, np.int32)


def round_ends(rows: ChatRows, dialogue: ChatItem, last: int, ids: Int32) -> list[int] | None:
    """Return where the rounds before an answer end in its prompt, in tokens; None where the template writes an earlier
    round in another way than before. last: index of the answer. ids: its prompt."""
    ends, special = [], rows.tokenizer.special_tokens
    for answer in [index for index in dialogue.answers if index < last]:
        text = rows.template.render(dialogue.messages[: answer + 1], add_generation_prompt=False)
        names_special = any(name in text for name in special)
        before = rows.tokenizer.encode(text) if names_special else rows.tokenizer.encode_plain([text])[0].tolist()
        if before != ids[: len(before)].tolist():
            return None
        ends.append(len(before))
    return ends


def find(row: Int32, part: Int32) -> int | None:
    """Return where a sequence of ids begins in a row, None where it does not."""
    for place in range(len(row) - len(part) + 1):
        if np.array_equal(row[place : place + len(part)], part):
            return place
    return None
