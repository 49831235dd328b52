"""The configuration of a fine-tuning run, and its file `finetune.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError, setting
from blankfill.system.files import write_file
from blankfill.system.loader import build
from blankfill.system.reading import UnreadableError, field, read_json
from blankfill.tasks.cloze.soft_labels import SoftLabels
from blankfill.tasks.datasets.chat import CHAT, chat_task
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.datasets.tabular import TABULAR, tabular_task
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.run_files import CONFIG, RESULTS

if TYPE_CHECKING:
    from blankfill.tasks.task import Task


@dataclass(frozen=True)
class FinetuneConfig:
    """The configuration of a fine-tuning run.

    task: name of the task. data: folder of the task, or of its benchmark. model: the pretrained model to start from.
    tables: how the user's own tables are read, with the columns of each role. soft_labels: file that replaces the
    labels of the training data.
    """

    task: str
    data: Path
    model: Path
    options: FinetuneOptions = dataclasses.field(default_factory=FinetuneOptions)
    tables: TableOptions = dataclasses.field(default_factory=TableOptions)
    soft_labels: SoftLabels | None = None

    def __post_init__(self) -> None:
        for name in ("data", "model"):  # both may be strings
            object.__setattr__(self, name, Path(getattr(self, name)))
        if not self.options.lr:
            object.__setattr__(self, "options", self.options.for_kind("chat" if self.task == CHAT.name else ""))

    def build_task(self) -> Task:
        """Return the task. Raises UserError for an unknown name, and for options of tables with a task whose files
        have a form of their own."""
        return task_with(self.task, self.tables)

    def values(self) -> dict[str, Any]:
        """Return the configuration as JSON values, with absolute paths."""
        paths = {"data": str(self.data.resolve()), "model": str(self.model.resolve())}
        tables = dataclasses.asdict(self.tables) | {"columns": list(self.tables.columns)}
        parts = {"tables": tables, "options": dataclasses.asdict(self.options)}
        soft_labels = {} if self.soft_labels is None else {"soft_labels": self.soft_labels.values()}
        return {"task": self.task, **paths, **parts, **soft_labels}


def task_with(name: str, tables: TableOptions) -> Task:
    """Return the task of a name, which reads tables with these options. Raises UserError for an unknown name, and for
    options of tables with a task whose files have a form of their own."""
    task = task_named(name)
    if tables == TableOptions():
        return task
    if task == CHAT:
        return chat_task(tables)
    if task not in TABULAR:
        names = ", ".join(table.name for table in (*TABULAR, CHAT))
        raise UserError(f"{task.name} knows the form of its files; {tables.given_names()} is for {names} only")
    return tabular_task(task.name, tables)


def write_config(out: Path, config: FinetuneConfig) -> None:
    """Write `finetune.json` completely."""
    write_file(out / CONFIG, json.dumps(config.values(), indent=1) + "\n")


def read_config(out: Path) -> FinetuneConfig:
    """Read the configuration of a run. Raises UserError for a folder that is not a fine-tuning run, or is damaged."""
    file = out / CONFIG
    try:
        values = read_json(file)
    except UnreadableError as error:
        if not error.missing:
            raise
        if not out.exists():
            raise UserError(f"{out} does not exist; give the folder of a run that was begun") from error
        if (out / RESULTS).exists():
            raise UserError(f"{out} holds several runs; repeat the command that began them to continue") from error
        raise UserError(f"{out}: not a fine-tuning run ({CONFIG} is missing)") from error
    if "model" not in values and "from" in values:
        raise UserError(
            f"{file} is of version 0.1, whose runs cannot be resumed; train again into another {setting('out')}"
        )
    soft_labels = None
    if "soft_labels" in values:
        soft = field(values, "soft_labels", dict, file)
        soft_labels = SoftLabels(Path(field(soft, "texts", str, file)), Path(field(soft, "scores", str, file)))
    return FinetuneConfig(
        field(values, "task", str, file), Path(field(values, "data", str, file)),
        Path(field(values, "model", str, file)),
        build(FinetuneOptions, field(values, "options", dict, file), f"{file}: `options`"),
        _tables(values, file), soft_labels,
    )  # fmt: skip


def _tables(values: dict[str, Any], file: Path) -> TableOptions:
    """Return the options of tables of a run; runs of version 0.2 have names of columns only."""
    if "tables" in values:
        return build(TableOptions, field(values, "tables", dict, file), f"{file}: `tables`")
    columns = field(values, "columns", dict, file)
    given = {role: columns.get(role) or [] for role in ("text", "label", "id", "start")}
    names = {role: [value] if isinstance(value, str) else value for role, value in given.items()}
    return TableOptions(columns=tuple(f"{role}={','.join(name)}" for role, name in names.items() if name))
