"""The definition of a task: its files, their reader, its labels and its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from blankfill.errors import UserError
from blankfill.tasks.datasets.files import find_file
from blankfill.tasks.items import Item, Split

Kind = Literal[
    "classify",
    "regress",
    "multilabel",
    "choice",
    "tag",
    "answer",
    "generate",
    "chat",
    "language",
    "last-word",
    "mixture",
]


class Parse(Protocol):
    """Reads one file. labels: known names (the task's, or those of its training split), or none."""

    def __call__(self, path: Path, labels: tuple[str, ...]) -> Split: ...


class Metric(Protocol):
    """Scores predictions as a number, the higher the better. predicted: as `metrics.scoring.score` takes them."""

    def __call__(self, split: Split, predicted: Any) -> float: ...


class RowReader(Protocol):
    """Reads one JSON object. labels: as in `Parse`. Raises UnusableError for an unusable object."""

    def __call__(self, row: dict[str, Any], labels: tuple[str, ...]) -> Iterable[Item]: ...


@dataclass(frozen=True)
class Task:
    """A fine-tuning task.

    kind: the kind of prediction, which decides about head and items: "classify", "regress" and "multilabel" (TextItem),
    "choice" (ChoiceItem), "tag" (TaggedItem), "answer" (a span of the context, QuestionItem), "generate"
    (GenerationItem), "chat" (the answers of a dialogue, ChatItem), "last-word" (the one word that ends a text,
    GenerationItem), "language" (a text's probability,
    LanguageItem). files: possible file names of each split, the likeliest first. folders: names of the task's folder in
    its benchmark's. labels: in the order of their numbers; () when the data define them. metrics: the official ones;
    primary_metric: the one that chooses the best checkpoint ("average" is the mean of the metrics, as on leaderboards).
    by_characters: words are characters (Chinese), for metrics and for joining words.
    """

    name: str
    kind: Kind
    files: Mapping[str, tuple[str, ...]]
    parse: Parse
    metrics: tuple[str, ...]
    primary_metric: str
    folders: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    by_characters: bool = False
    others: Mapping[str, Parse] = field(default_factory=dict)
    """Splits whose file has another format than that of `parse`."""
    own_metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Metrics of the user's own: for names in `metrics` that no metric of this package has, the function."""
    row: RowReader | None = None
    """Reader of one JSON object in the benchmark's own form, for tasks with such files."""

    @property
    def writes(self) -> bool:
        """Whether predictions are texts that a model writes, without a head of the task."""
        return self.kind in ("generate", "chat")

    def read(self, path: str | Path, split: str = "train", labels: tuple[str, ...] = ()) -> Split:
        """Return the items of a split.

        path: the task's folder, its benchmark's, or the file itself. labels: those of the training split, for a task
        without labels of its own; other labels are then errors. Raises UserError for a missing file and for a file in
        another format.
        """
        file = self.file(path, split)
        return self.others.get(split, self.parse)(file, labels=self.labels or labels)

    def file(self, path: str | Path, split: str) -> Path:
        """Return the file of a split. Raises UserError for a missing file."""
        if split not in self.files:
            raise UserError(f"{self.name} has no split {split!r}: it has {', '.join(self.files)}.")
        return find_file(Path(path), self.folders, self.files[split], f"{split} file of {self.name}")

    def splits(self, path: str | Path) -> list[str]:
        """Return the splits whose file exists."""
        present = []
        for split, names in self.files.items():
            try:
                find_file(Path(path), self.folders, names, f"{split} file of {self.name}")
            except UserError:
                continue
            present.append(split)
        return present
