"""GLUE (arXiv 1804.07461) and ChnSentiCorp from their TSV files, and GLUE's submission files.

The files have a header, except CoLA's train and dev; columns are found by name, so that MNLI's files of 10, 12 and 16
columns are one case. MRPC is read in GLUE's form and as Microsoft distributes it (msr_paraphrase_*.txt, with
mrpc_dev_ids.tsv for the dev split).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from blankfill.errors import UserError
from blankfill.tasks.datasets.files import Faults, find_file, label_place, tab_rows, wants
from blankfill.tasks.items import Split, TextItem, duplicate_ids
from blankfill.tasks.task import Task

COLA = ("source", "label", "mark", "sentence")
"""Columns of CoLA's train and dev files, which have no header."""
_INDEX = ("index", "id")


def read_table(
    path: Path,
    labels: tuple[str, ...],
    first: str,
    second: str | None = None,
    label: str = "label",
    headless: Sequence[str] = (),
    lowest: float = 0.0,
    highest: float = 5.0,
) -> Split:
    """Return a split from a literal TSV file.

    first, second, label: names of columns; a file without the label's column is a test set. headless: the columns of a
    file whose first line does not name `first`. labels: the names of the classes; () reads scores from `lowest` to
    `highest`. Rows that are too short or have another label are left out and reported in `problems`. Raises UserError
    for a missing column, or when many rows are faulty.
    """
    header, rows = _header(path, (first, *([second] if second else [])), headless)
    at = {name: place for place, name in enumerate(header)}
    index = next((at[name] for name in _INDEX if name in at), None)
    faults, items, count = Faults(path), [], 0
    for line, cells in rows:
        count += 1
        if len(cells) < len(header):
            faults.add(line, f"has {len(cells)} columns where {len(header)} are wanted")
            continue
        value: int | float | None = None
        if label in at:
            value = label_place(labels, cells[at[label]]) if labels else _score(cells[at[label]], lowest, highest)
            if value is None:
                known = wants(labels) if labels else f"scores lie from {lowest:g} to {highest:g}"
                faults.add(line, f"has the label {cells[at[label]]!r} ({known})")
                continue
        other = cells[at[second]].strip() if second else None
        number = cells[index].strip() if index is not None else str(count - 1)
        items.append(TextItem(number, cells[at[first]].strip(), other, value))
    if not count:
        raise UserError(f"{path} has no rows: copy or download it again.")
    return Split(items, labels, faults.sentences(count) + duplicate_ids(items, str(path)))


def _header(
    path: Path, needed: Sequence[str], headless: Sequence[str]
) -> tuple[Sequence[str], Iterator[tuple[int, list[str]]]]:
    """Return the names of the columns, and the rows below them."""
    rows = tab_rows(path)
    _, cells = next(rows, (0, [""]))
    names = [cell.strip() for cell in cells]
    missing = [name for name in needed if name not in names]
    if not missing:
        return names, rows
    if headless:
        return headless, tab_rows(path)
    raise UserError(
        f"{path} has no column {missing[0]!r}: its first line names {', '.join(name[:30] for name in names)}."
    )


def _score(text: str, lowest: float, highest: float) -> float | None:
    try:
        score = float(text)
    except ValueError:
        return None
    return score if math.isfinite(score) and lowest <= score <= highest else None


def read_mrpc(path: Path, labels: tuple[str, ...], split: str = "train") -> Split:
    """Read MRPC in GLUE's form, or as Microsoft distributes it: then mrpc_dev_ids.tsv beside it separates train from
    dev."""
    split_of_file = read_table(path, labels, first="#1 String", second="#2 String", label="Quality")
    if path.name != "msr_paraphrase_train.txt" or split == "test":
        return split_of_file
    chosen = find_file(path.parent, (), ("mrpc_dev_ids.tsv",), "list of the pairs that are MRPC's dev split")
    pairs = {tuple(cells[:2]) for _, cells in tab_rows(chosen)}
    header, rows = _header(path, ("#1 ID", "#2 ID"), ())
    first, second = header.index("#1 ID"), header.index("#2 ID")
    of_dev = {str(k) for k, (_, cells) in enumerate(rows) if (cells[first], cells[second]) in pairs}
    items = [item for item in split_of_file.items if (item.id in of_dev) == (split == "dev")]
    return Split(items, labels, split_of_file.problems)


def _tsv(name: str) -> tuple[str, ...]:
    return (f"{name}.tsv",)


_FILES = {split: _tsv(split) for split in ("train", "dev", "test")}
_pair = partial(read_table, first="sentence1", second="sentence2")
_TWO = ("0", "1")
_ENTAILED = ("entailment", "not_entailment")

GLUE = (
    Task(
        "cola", "classify", _FILES, partial(read_table, first="sentence", headless=COLA), ("mcc",), "mcc",
        folders=("CoLA",), labels=_TWO,
    ),
    Task(
        "sst2", "classify", _FILES, partial(read_table, first="sentence"), ("accuracy",), "accuracy",
        folders=("SST-2",), labels=_TWO,
    ),
    Task(
        "mrpc", "classify",
        {
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "dev": ("dev.tsv", "msr_paraphrase_train.txt"),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
        read_mrpc, ("f1", "accuracy"), "average", folders=("MRPC",), labels=_TWO,
        others={"dev": partial(read_mrpc, split="dev"), "test": partial(read_mrpc, split="test")},
    ),
    Task(
        "stsb", "regress", _FILES, partial(_pair, label="score"), ("pearson", "spearman"), "average",
        folders=("STS-B",),
    ),
    Task(
        "qqp", "classify", _FILES,
        partial(read_table, first="question1", second="question2", label="is_duplicate"), ("f1", "accuracy"),
        "average", folders=("QQP",), labels=_TWO,
    ),
    Task(
        "mnli", "classify",
        {
            "train": _tsv("train"), "dev": _tsv("dev_matched"), "dev_mismatched": _tsv("dev_mismatched"),
            "test": _tsv("test_matched"), "test_mismatched": _tsv("test_mismatched"),
        },
        partial(_pair, label="gold_label"), ("accuracy",), "accuracy", folders=("MNLI",),
        labels=("entailment", "neutral", "contradiction"),
    ),
    Task(
        "qnli", "classify", _FILES, partial(read_table, first="question", second="sentence"), ("accuracy",),
        "accuracy", folders=("QNLI",), labels=_ENTAILED,
    ),
    Task(
        "rte", "classify", _FILES, _pair, ("accuracy",), "accuracy", folders=("RTE",),
        labels=_ENTAILED,
    ),
    Task(
        "wnli", "classify", _FILES, _pair, ("accuracy",), "accuracy", folders=("WNLI",),
        labels=_TWO,
    ),
)  # fmt: skip

CHNSENTICORP = Task(
    "chnsenticorp", "classify", _FILES, partial(read_table, first="text_a"), ("accuracy",), "accuracy",
    folders=("chnsenticorp", "ChnSentiCorp"), labels=_TWO, by_characters=True,
)  # fmt: skip

_SUBMISSION = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI-m", "qnli": "QNLI",
    "rte": "RTE", "wnli": "WNLI",
}  # fmt: skip


def submission_name(task: str, split: str = "test") -> str:
    """Return the name of a task's file in a GLUE submission: MNLI has two."""
    return "MNLI-mm.tsv" if task == "mnli" and split.endswith("mismatched") else f"{_SUBMISSION[task]}.tsv"


def submission_lines(task: Task, items: Sequence[TextItem], predicted: Sequence[int | float]) -> list[str]:
    """Return the lines of a task's file in a GLUE submission: `index<TAB>prediction`, labels by name, scores within 0
    to 5."""
    lines = ["index\tprediction"]
    for item, value in zip(items, predicted, strict=True):
        answer = task.labels[int(value)] if task.labels else f"{min(max(float(value), 0.0), 5.0):.3f}"
        lines.append(f"{item.id}\t{answer}")
    return lines
