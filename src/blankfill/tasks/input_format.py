"""Texts as a model was trained to read them: special tokens around them, positions, who sees whom.

bert   `[CLS] a [SEP]`, `[CLS] a [SEP] b [SEP]`, token type 1 from b on (Devlin et al. 2019), read at [CLS]
mlm    the same without types, its positions counted from the objective's offset; RoBERTa's `<s> a </s></s> b </s>`
glm    `[CLS] a [SEP] b <eos>`, every column at its own place, all visible to all, read at [CLS]
gpt    `a <eos> b <eos>`, left to right, read at the last column (Radford et al. 2018)
xlnet  `a [SEP] [CLS]`, `a [SEP] b [SEP] [CLS]`, segments 0, 1 and 2, read at [CLS] (Yang et al. 2019)
bart   `<s> a </s>`, `<s> a </s></s> b </s>`, read at the last column (Lewis et al. 2020, section 3)
t5     `a </s>`, `a </s> b </s>`, read at the last column, as transformers has it

The encoder of a model of two stacks reads the whole row, and so does the decoder, a column later: its first column
holds what it starts with, and column j, which pretraining asks for token j, stands for token j. Or the encoder reads
it alone (`alone`): each column stands for its token, the whole is read at bart's first and t5's last column.

What a tokenizer has no token for is left out. A text that is too long loses its end; of a pair the longer one does, a
token at a time, as the original BERT cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from blankfill.errors import UserError
from blankfill.objectives import T5, Bart, Glm, Gpt, Mlm, Objective, Xlnet
from blankfill.objectives.format import join
from blankfill.tasks.options import Stack
from blankfill.tasks.task import Task
from blankfill.types import AttentionRule, Example, Int32, Vocabulary

NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True)
class FramedText:
    """A text or two as the model reads them.

    read: the column that stands for the whole. first and second: where the columns of the two texts begin and end,
    equal numbers where there is none. cut: how many tokens were left out.
    """

    example: Example
    read: int
    first: tuple[int, int]
    second: tuple[int, int]
    cut: int


class InputFormat:
    """Adds special tokens to texts for a model. length: the most columns, special tokens included."""

    def __init__(
        self,
        objective: Objective,
        vocabulary: Vocabulary,
        positions: int,
        length: int,
        inside: int = 0,
        alone: bool = False,
    ) -> None:
        """positions: rows of the model's position table; inside: of that of places inside a blank (GLM); alone: of a
        model of two stacks only the encoder reads. Raises UserError when `length` is more than they allow."""
        self.objective, self.vocabulary, self.alone = objective, vocabulary, alone
        self.offset = objective.position_offset if isinstance(objective, Mlm | Bart) else 0
        self.most = most = positions - self.offset
        if length > most and not isinstance(objective, Xlnet | T5):  # whose distances have no end
            raise UserError(f"--max-length {length} is more than the model's {most} positions; give at most {most}")
        self.length, self.inside = length or most, inside
        self.channels = len(objective.position_sizes())
        self.before, self.between, self.after = _specials(objective, vocabulary)

    def room(self, pair: bool) -> int:
        """How many tokens of text fit."""
        return self.length - len(self.before) - len(self.after) - (len(self.between) if pair else 0)

    def frame(self, first: Sequence[int] | Int32, second: Sequence[int] | Int32 | None = None) -> FramedText:
        """One text or a pair, as tokens without special ones."""
        pair = second is not None
        a, b = np.asarray(first, np.int32), np.asarray(second if pair else (), np.int32)
        keep_a, keep_b = truncate_pair(len(a), len(b), self.room(pair))
        cut = len(a) - keep_a + len(b) - keep_b
        parts = [self.before, a[:keep_a], self.between if pair else NOTHING, b[:keep_b], self.after]
        edges = np.cumsum([0, *map(len, parts)])
        ids = np.concatenate(parts).astype(np.int32)
        size = len(ids)
        positions = np.zeros((self.channels, size), np.int32)
        positions[0] = np.arange(self.offset, self.offset + size)
        if self.objective.masked and self.channels > 1 and pair:
            positions[1, edges[3] :] = 1
        if isinstance(self.objective, Xlnet):
            positions[1, edges[3] :] = int(pair)
            positions[1, -1] = 2
        answers = self.objective.two_sided and not self.alone
        causal = answers or isinstance(self.objective, Gpt)
        rule = AttentionRule.causal(size) if causal else AttentionRule.full(size)
        example = Example(ids, positions, rule, NOTHING, NOTHING)
        if answers:
            start = self.vocabulary[self.objective.decoder_start]
            context = replace(example, rule=AttentionRule.full(size))
            example = replace(example, input_ids=join([start], ids[:-1]), context=context)
        spans = ((int(edges[1]), int(edges[2])), (int(edges[3]), int(edges[4])))
        last = causal or isinstance(self.objective, Xlnet | T5)
        return FramedText(example, size - 1 if last else 0, *spans, cut)


def reads_alone(objective: Objective, stack: Stack, task: Task) -> bool:
    """Whether the encoder of a model of two stacks reads an item alone, by what was asked for. Raises UserError where
    there is nothing to choose."""
    if stack == "auto":
        return objective.two_sided and task.kind == "tag"
    if not objective.two_sided:
        raise UserError(
            f"--stack says which stack of a T5 or BART a head reads, and a {objective.name} model has one; leave it out"
        )
    if task.kind == "generate":
        raise UserError(f"{task.name} is written by the decoder; leave out --stack")
    return stack == "encoder"


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of a pair are kept: the longer one loses tokens until both fit (of two as long, the second)."""
    over = first + second - room
    if over <= 0:
        return first, second
    longer_by = abs(first - second)
    if over <= longer_by:
        return (first - over, second) if first > second else (first, second - over)
    shorter = min(first, second)
    rest = over - longer_by  # both are as long as the shorter one now; the second goes first
    return max(0, shorter - rest // 2), max(0, shorter - (rest - rest // 2))


def _specials(objective: Objective, vocabulary: Vocabulary) -> tuple[Int32, Int32, Int32]:
    """What stands before, between and after texts."""
    roles = vocabulary.roles

    def tokens(*names: str) -> Int32:
        return np.array([roles[name] for name in names if name in roles], np.int32)

    if isinstance(objective, Gpt):
        return NOTHING, tokens("eos"), tokens("eos")
    if isinstance(objective, Glm):
        return tokens("cls"), tokens("sep"), tokens("eos")
    if isinstance(objective, Xlnet):
        return NOTHING, tokens("sep"), tokens("sep", "cls")
    if isinstance(objective, T5):
        return NOTHING, tokens("eos"), tokens("eos")
    # RoBERTa closes the first text and opens the second with the same token, which is its end of text as well
    twice = isinstance(objective, Mlm | Bart) and roles.get("sep", -1) == roles.get("eos", -2)
    return tokens("cls"), tokens("sep", "sep") if twice else tokens("sep"), tokens("sep")
