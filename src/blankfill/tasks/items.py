"""The data types of fine-tuning: an item of each kind of task, and a split of a data set.

Items hold texts and answers as in the files, without tokens. Labels are indices into the split's list of label names;
None means that the file has no answer (a test set). Not here: reading items (`datasets`), or encoding them (`heads`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from blankfill.chatting.messages import Message
from blankfill.corpus.tables.columns import FieldChoice

LISTED = 3
"""Number of examples that a problem lists."""


@dataclass(frozen=True)
class TextItem:
    """A text or two texts to be classified or scored.

    label: index of its class, its score (regression), or the indices of its classes in rising order (multi-label).
    group: shared by items that a metric combines (the answers to one question of MultiRC). parts: sources of the texts,
    by their names in cloze patterns (the word in question, for WiC).
    """

    id: str
    first: str
    second: str | None = None
    label: int | float | tuple[int, ...] | None = None
    group: str = ""
    parts: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class ChoiceItem:
    """A context with several choices, of which one is right.

    label: index of the right choice (the first one when several are right). right: indices of all right choices. names:
    names of the choices in a submission, where these are not their texts (ReCoRD's entities). parts: as in `TextItem`.
    """

    id: str
    context: str
    choices: tuple[str, ...]
    label: int | None = None
    right: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class TaggedItem:
    """The words of a sentence and a BIO tag for each. document: sentences of one document share it, in order; None
    where the file does not say which sentences belong together."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    document: int | None = None


@dataclass(frozen=True)
class Answer:
    """An answer and its first character in the context; start is None where the place in the data is wrong."""

    text: str
    start: int | None


@dataclass(frozen=True)
class QuestionItem:
    """A question about a context. answers: those of annotators; empty for a question without an answer (`impossible`
    True) and in a file without answers (`impossible` None)."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    impossible: bool | None = None
    title: str = ""


@dataclass(frozen=True)
class GenerationItem:
    """A source text and its targets, each of which is right; no targets in a file without them.

    second: another given text beside the source (the answer, in question generation).
    """

    id: str
    source: str
    targets: tuple[str, ...] = ()
    second: str | None = None


@dataclass(frozen=True)
class ChatItem:
    """A dialogue: at most one message of the system, then those of the user and answers of the assistant by turns.

    It may end with a message of the user, which is to be answered. unasked: indices of answers that nothing is learnt
    from (`loss_weight` 0). later: messages of the user that follow once the one before is answered (MT-bench). line: of
    the file, 0 for a dialogue that is from none.
    """

    id: str
    messages: tuple[Message, ...]
    unasked: tuple[int, ...] = ()
    later: tuple[str, ...] = ()
    line: int = 0

    @property
    def answers(self) -> list[int]:
        """The indices of the messages that are answers."""
        return [index for index, message in enumerate(self.messages) if message.role == "assistant"]

    @property
    def open(self) -> bool:
        """Whether the dialogue ends with a message of the user."""
        return self.messages[-1].role == "user"


@dataclass(frozen=True)
class LanguageItem:
    """A text whose probability is measured. words: its number of words, for perplexity by word."""

    id: str
    text: str
    words: int


@dataclass(frozen=True)
class MixedItem:
    """An item of a mixture of tasks. task: the name of its own."""

    id: str
    task: str
    item: TextItem | ChoiceItem | TaggedItem | QuestionItem | GenerationItem | ChatItem | LanguageItem | MixedItem


Item = TextItem | ChoiceItem | TaggedItem | QuestionItem | GenerationItem | ChatItem | LanguageItem | MixedItem
T = TypeVar("T", TextItem, ChoiceItem, TaggedItem, QuestionItem, GenerationItem, ChatItem, LanguageItem)


class Remark(str):
    """A problem of the data that leaves no item out."""


@dataclass(frozen=True)
class Split:
    """One split of a data set: items in the file's order, names of labels (for tagging, of BIO tags), and problems of
    the data, one sentence each; those that leave no item out are a `Remark`. columns: those that were chosen, where the
    file is a table of the user."""

    items: Sequence[Item]
    labels: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)
    columns: tuple[FieldChoice, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.items)

    def losses(self) -> list[str]:
        """Return the problems that leave items out."""
        return [problem for problem in self.problems if not isinstance(problem, Remark)]

    def texts(self) -> list[TextItem]:
        """Return the items, which must be texts to classify or score; TypeError otherwise."""
        return _all_of(self.items, TextItem)

    def choices(self) -> list[ChoiceItem]:
        """Return the items, which must be choices; TypeError otherwise."""
        return _all_of(self.items, ChoiceItem)

    def tagged(self) -> list[TaggedItem]:
        """Return the items, which must be tagged sentences; TypeError otherwise."""
        return _all_of(self.items, TaggedItem)

    def questions(self) -> list[QuestionItem]:
        """Return the items, which must be questions; TypeError otherwise."""
        return _all_of(self.items, QuestionItem)

    def generations(self) -> list[GenerationItem]:
        """Return the items, which must be texts to rewrite; TypeError otherwise."""
        return _all_of(self.items, GenerationItem)

    def chats(self) -> list[ChatItem]:
        """Return the items, which must be dialogues; TypeError otherwise."""
        return _all_of(self.items, ChatItem)

    def languages(self) -> list[LanguageItem]:
        """Return the items, which must be texts to measure; TypeError otherwise."""
        return _all_of(self.items, LanguageItem)


def _all_of(items: Sequence[Item], kind: type[T]) -> list[T]:
    matches = [item for item in items if isinstance(item, kind)]
    if len(matches) != len(items):
        raise TypeError(f"This split does not hold {kind.__name__}s only.")
    return matches


def labelled(item: Item) -> bool:
    """Return whether the data have the answer of an item, so that predictions for it can be scored."""
    if isinstance(item, MixedItem):
        return labelled(item.item)
    if isinstance(item, TextItem | ChoiceItem):
        return item.label is not None
    if isinstance(item, TaggedItem):
        return item.tags is not None
    if isinstance(item, QuestionItem):
        return bool(item.answers) or bool(item.impossible)
    if isinstance(item, ChatItem):
        return bool(item.answers)
    return bool(item.targets) if isinstance(item, GenerationItem) else False


def duplicate_ids(items: Sequence[Item], name: str) -> list[str]:
    """Return a sentence about ids that more than one item has, or none. name: of the file."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for item in items:
        if item.id in seen:
            twice[item.id] = None
        seen.add(item.id)
    if not twice:
        return []
    return [f"{name}: {len(twice)} ids are given to more than one row, such as {listed(list(twice))}."]


def listed(values: Sequence[object], most: int = LISTED) -> str:
    """Return the first few values, for a sentence."""
    return ", ".join(str(value) for value in values[:most]) + (", …" if len(values) > most else "")
