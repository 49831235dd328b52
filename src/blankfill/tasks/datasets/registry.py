"""All tasks by name: those of this package, and those that users register.

A user's task is registered by `register_task`, or by an installed package with an entry point of the group
`blankfill.tasks`, which is loaded when its name is used:

    [project.entry-points."blankfill.tasks"]
    polarity = "my_package.tasks:POLARITY"
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import get_args

from blankfill.errors import UserError
from blankfill.tasks.datasets.chat import CHAT
from blankfill.tasks.datasets.choices import CHOICES
from blankfill.tasks.datasets.conll import TAGGED
from blankfill.tasks.datasets.generation import GENERATION
from blankfill.tasks.datasets.glue import CHNSENTICORP, GLUE
from blankfill.tasks.datasets.squad import QUESTIONS
from blankfill.tasks.datasets.superglue import CLUE, SUPERGLUE
from blankfill.tasks.datasets.tabular import TABULAR
from blankfill.tasks.task import Kind, Task
from blankfill.tasks.text.mixture import JOIN, mixture_of

GROUP = "blankfill.tasks"
"""The group of the entry points of tasks."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (*GLUE, *SUPERGLUE, CHNSENTICORP, *CLUE, *QUESTIONS, *CHOICES, *TAGGED, CHAT, *GENERATION, *TABULAR)
}
"""All tasks by name."""


def register_task(task: Task) -> Task:
    """Register a task under its name for `finetune`, `predict` and `evaluate` in this process.

    Args:
        task: The task. Its kind determines the adapter that encodes its items and the head that predicts, see `Task`.

    Returns:
        The same task.

    Raises:
        UserError: The name is taken or cannot be a name, the kind is unknown, or the primary metric or a
            metric of its own is not one of the metrics.
    """
    kinds = [kind for kind in get_args(Kind) if kind != "mixture"]
    if task.name != task.name.lower().strip() or JOIN in task.name or not task.name:
        raise UserError(
            f"{task.name!r} cannot be the name of a task; use lower case, without {JOIN} and spaces around it"
        )
    if TASKS.get(task.name, task) != task:
        raise UserError(f"There is a task {task.name!r} already; give yours another name.")
    if task.kind not in kinds:
        raise UserError(f"{task.name} has the kind {task.kind!r}; the kinds are {', '.join(kinds)}.")
    if task.primary_metric not in (*task.metrics, "average"):
        raise UserError(f"{task.name}: its primary metric {task.primary_metric!r} is not one of its metrics.")
    if strange := [name for name in task.own_metrics if name not in task.metrics]:
        raise UserError(f"{task.name}: its own metric {strange[0]!r} is not one of its metrics.")
    TASKS[task.name] = task
    return task


def task_named(name: str) -> Task:
    """Return the task of a name, in any case, or the mixture of several names with plus signs between them.

    Args:
        name: As on the command line.

    Raises:
        UserError: No task has this name; the message lists the names.
    """
    if JOIN in name:
        return mixture_of([task_named(part.strip()) for part in name.split(JOIN)])
    if name.lower() in TASKS:
        return TASKS[name.lower()]
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name.lower() in installed:
        return _load(installed[name.lower()])
    names = [*TASKS, *installed]
    close = difflib.get_close_matches(name.lower()[:100], names, 1)
    hint = f"did you mean {close[0]}? The" if close else "the"
    raise UserError(f"There is no task {name!r}: {hint} tasks are {', '.join(names)}.")


def task_names() -> list[str]:
    """Return the names of all tasks, those of installed packages included."""
    return list(dict.fromkeys([*TASKS, *(point.name for point in entry_points(group=GROUP))]))


def _load(point: EntryPoint) -> Task:
    """Register the task of an installed package."""
    origin = f"the entry point {point.name} = {point.value} of the group {GROUP}"
    try:
        task = point.load()
    except Exception as error:
        raise UserError(f"{origin} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(task, Task) or task.name != point.name:
        raise UserError(f"{origin} is not a Task of that name")
    return register_task(task)
