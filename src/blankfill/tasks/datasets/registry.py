"""Every task by name."""

from __future__ import annotations

import difflib

from blankfill.errors import UserError
from blankfill.tasks.datasets.choices import CHOICES
from blankfill.tasks.datasets.conll import TAGGED
from blankfill.tasks.datasets.generation import GENERATION
from blankfill.tasks.datasets.glue import CHNSENTICORP, GLUE
from blankfill.tasks.datasets.squad import QUESTIONS
from blankfill.tasks.datasets.superglue import CLUE, SUPERGLUE
from blankfill.tasks.datasets.tabular import TABULAR
from blankfill.tasks.task import Task
from blankfill.tasks.text.mixture import JOIN, mixture_of

TASKS: dict[str, Task] = {
    task.name: task
    for task in (*GLUE, *SUPERGLUE, CHNSENTICORP, *CLUE, *QUESTIONS, *CHOICES, *TAGGED, *GENERATION, *TABULAR)
}
"""Every task by its name."""


def task_named(name: str) -> Task:
    """The task of that name, in any case, or a mixture of those named with plus signs between; UserError that lists the
    names."""
    if JOIN in name:
        return mixture_of([task_named(one.strip()) for one in name.split(JOIN)])
    if name.lower() not in TASKS:
        close = difflib.get_close_matches(name.lower()[:100], TASKS, 1)
        hint = f"did you mean {close[0]}? The" if close else "the"
        raise UserError(f"There is no task {name!r}: {hint} tasks are {', '.join(TASKS)}.")
    return TASKS[name.lower()]
