"""Mixtures: several tasks in one fine-tuning run (T5, Raffel et al. 2020, arXiv 1910.10683, 3.5.2).

The name of a mixture joins its members with plus signs, `rte+cola+scitldr`. Its items keep their task, its labels are
`task:label`, its metrics `task metric`; the mean of the members' primary metrics chooses the best checkpoint.
Not here: the members' sampling rates (`mixing`), and their encoding (`mixture_text`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blankfill.errors import UserError
from blankfill.system.reading import read_text
from blankfill.tasks.items import MixedItem, Split
from blankfill.tasks.task import Task

JOIN = "+"
"""Separator of the members' names."""


@dataclass(frozen=True)
class Mixture(Task):
    """Tasks of one run. members: two at least."""

    members: tuple[Task, ...] = ()

    def read(self, path: str | Path, split: str = "train", labels: tuple[str, ...] = ()) -> Split:
        """Return the items of a split of all members; see `Task.read`. path: as `places` takes it."""
        places = self.places(Path(path))
        return self.mixed(
            [member.read(places[member.name], split, self.labels_of(member, labels)) for member in self.members]
        )

    def splits(self, path: str | Path) -> list[str]:
        """Return the splits that every member has."""
        places = self.places(Path(path))
        splits = [member.splits(places[member.name]) for member in self.members]
        return [name for name in splits[0] if all(name in names for names in splits)]

    def mixed(self, parts: Sequence[Split]) -> Split:
        """Join the members' splits into one, in the members' order."""
        items = [
            MixedItem(item.id, member.name, item)
            for member, part in zip(self.members, parts, strict=True)
            for item in part.items
        ]
        labels = tuple(
            f"{member.name}:{label}"
            for member, part in zip(self.members, parts, strict=True)
            for label in member.labels or part.labels
        )
        return Split(items, labels, [problem for part in parts for problem in part.problems])

    def labels_of(self, member: Task, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels of a member among those of the mixture."""
        begin = f"{member.name}:"
        return member.labels or tuple(label.removeprefix(begin) for label in labels if label.startswith(begin))

    def places(self, data: Path) -> Mapping[str, Path]:
        """Return the path of each member's files: one folder, or those in a YAML file of `task: folder`.

        Raises UserError when that file does not name them all.
        """
        if data.suffix not in (".yaml", ".yml"):
            return dict.fromkeys((member.name for member in self.members), data)
        from blankfill.tasks.cloze.pattern import yaml_values

        values = yaml_values(read_text(data), str(data))
        if missing := [member.name for member in self.members if not isinstance(values.get(member.name), str)]:
            raise UserError(f"{data}: it does not say where {missing[0]} is; write a line {missing[0]}: FOLDER")
        return {member.name: data.parent / values[member.name] for member in self.members}


def mixture_of(members: Sequence[Task]) -> Mixture:
    """Return the mixture of these tasks. Raises UserError for fewer than two, or one twice."""
    names = [member.name for member in members]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"{JOIN.join(names)}: a mixture is of two tasks or more, each named once")
    splits = dict.fromkeys(split for member in members for split in member.files)
    metrics = tuple(f"{member.name} {metric}" for member in members for metric in member.metrics)
    return Mixture(
        JOIN.join(names), "mixture", dict.fromkeys(splits, ()), members[0].parse, metrics, "average",
        members=tuple(members),
    )  # fmt: skip
