"""`blankfill tasks`: the tasks that models are fine-tuned on and measured with, their files and their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.system.console import quoted, show, table
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.tasks.task import Task

KINDS: Mapping[str, str] = {
    "classify": "a label for a text or a pair of texts",
    "regress": "a number for a text or a pair of texts",
    "multilabel": "any number of labels for a text",
    "choice": "the right one of several choices",
    "tag": "a tag for each word",
    "answer": "the answer to a question, as a span of a context",
    "generate": "a new text from a text",
    "chat": "the answers of a dialogue",
    "language": "the probability of a text",
    "last-word": "the last word of a text",
}
"""What is predicted, by the kind of a task."""
TABLES = ("classify", "regress", "multilabel", "tag", "qa", "choice", "seq2seq", "chat")
"""The tasks on tables of the user's own."""


def known_tasks() -> list[str]:
    """Return the names of all tasks, those of installed packages included."""
    from blankfill.tasks.datasets.registry import task_names

    return task_names()


@dataclass(frozen=True, kw_only=True)
class TasksArguments:
    """List the tasks, or show the files of one and the form of its rows."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill tasks", "blankfill tasks classify")

    task: Annotated[str, Option(positional=True, suggestions=known_tasks, metavar="[NAME]")] = ""
    """Name of a task; without it, all tasks are listed."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    from blankfill.tasks.datasets.registry import task_named

    args = parsed(TasksArguments, argv, "tasks")
    if not args.task:
        rows = [summary(task_named(name)) for name in known_tasks()]
        return Result(values={"tasks": rows}, show=lambda: show_list(rows), is_output=True)
    values = details(task_named(args.task))
    return Result(values=values, show=lambda: show_task(values), is_output=True)


def summary(task: Task) -> dict[str, Any]:
    """Return what the list has about a task."""
    return {
        "name": task.name,
        "kind": task.kind,
        "own_table": task.name in TABLES,
        "metrics": list(task.metrics),
        "primary_metric": task.primary_metric,
        "files": {split: list(names) for split, names in task.files.items()},
    }


def details(task: Task) -> dict[str, Any]:
    """Return what is shown about one task."""
    from blankfill.tasks.datasets.examples import example_file

    name, text = example_file(task)
    more = {"folders": list(task.folders), "labels": list(task.labels)}
    return {**summary(task), **more, "example": {"file": name, "text": text} if text else None}


def show_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print tables of the tasks: those of benchmarks, then those on tables of the user's own."""
    headers = ("task", "kind", "metrics", "files")
    for title, own in (("Tasks of benchmarks", False), ("Tables of your own", True)):
        cells = [
            (row["name"], row["kind"], ", ".join(row["metrics"]), ", ".join(first_files(row["files"], own)))
            for row in rows if row["own_table"] == own
        ]  # fmt: skip
        table(title, cells, headers)
    show("Files and rows of a task: blankfill tasks NAME")


def first_files(files: Mapping[str, Sequence[str]], short: bool) -> list[str]:
    """Return the likeliest name of each split's file; of many splits the first ones. short: without the ending."""
    names = [split if short else names[0] for split, names in files.items()]
    return names if len(names) <= 5 else [*names[:3], f"… ({len(names)} splits)"]


def show_task(values: Mapping[str, Any]) -> None:
    """Print the kind, the metrics, the files and the form of a task."""
    kind = values["kind"]
    facts = [("kind", f"{kind}: {KINDS.get(kind, kind)}"), ("metrics", ", ".join(values["metrics"]))]
    if values["primary_metric"] not in values["metrics"][:1]:
        facts.append(("best checkpoint by", values["primary_metric"]))
    labels = values["labels"]
    if labels:
        facts.append(("labels", ", ".join(labels[:20]) + (" …" if len(labels) > 20 else "")))
    if values["folders"]:
        facts.append(("folder", " or ".join(values["folders"])))
    table(f"Task {values['name']}", facts)
    shown = {split: shown_names(names) for split, names in values["files"].items()}
    table("Files", [(split, ", ".join(names)) for split, (names, _) in shown.items()])
    if endings := next((endings for _, endings in shown.values() if endings), ""):
        show(f"ENDING is one of {endings}\n")
    if values["example"]:
        show(f"{values['example']['file']}, for example:")
        for line in values["example"]["text"].splitlines():
            show(f"  {line}".rstrip())
        show("")
    if "train" in values["files"]:
        show(f"Train: blankfill finetune --task {quoted(values['name'])} --data FOLDER --from MODEL --out RUN")
    else:
        show(f"Measure: blankfill evaluate --task {quoted(values['name'])} --data FOLDER --model MODEL")


def shown_names(names: Sequence[str]) -> tuple[list[str], str]:
    """Return the possible names of a file, those of many endings as one with ENDING, and these endings, "" for none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        stem, _, ending = name.rpartition(".")
        groups.setdefault(stem, []).append(ending)
    many = next((endings for endings in groups.values() if len(endings) > 1), [])
    shown = [
        f"{stem}.ENDING" if endings == many else ", ".join(f"{stem}.{ending}" for ending in endings)
        for stem, endings in groups.items()
    ]
    return shown, ", ".join(many)
