"""What holds for every task."""

import pytest

from blankfill.tasks.datasets.chat import CHAT
from blankfill.tasks.datasets.choices import CHOICES
from blankfill.tasks.datasets.conll import TAGGED
from blankfill.tasks.datasets.generation import GENERATION
from blankfill.tasks.datasets.glue import CHNSENTICORP, GLUE
from blankfill.tasks.datasets.registry import TASKS, task_named
from blankfill.tasks.datasets.squad import QUESTIONS
from blankfill.tasks.datasets.superglue import CLUE, SUPERGLUE
from blankfill.tasks.datasets.tabular import TABULAR
from blankfill.tasks.task import Task
from conftest import DATA

METRICS = {
    "classify": {"accuracy", "f1", "macro-f1", "mcc", "group-exact", "parity"},
    "regress": {"pearson", "spearman", "mse"},
    "multilabel": {"micro-f1", "macro-f1", "exact"},
    "choice": {"accuracy", "exact", "f1"},
    "tag": {"precision", "recall", "f1"},
    "answer": {"exact", "f1", "has-answer-exact", "has-answer-f1", "no-answer-exact", "no-answer-f1"},
    "generate": {"rouge1", "rouge2", "rougeL", "bleu"},
    "chat": {"log-likelihood", "perplexity", "rouge1", "rouge2", "rougeL", "bleu"},
    "language": {"perplexity"},
    "last-word": {"accuracy"},
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_is_whole(task: Task) -> None:
    """Its metrics are of its kind; one of them, or their average where there are several, chooses the best epoch."""
    assert set(task.metrics) <= METRICS[task.kind]
    assert task.primary_metric in task.metrics or (task.primary_metric == "average" and len(task.metrics) > 1)
    assert len(set(task.labels)) == len(task.labels)
    assert task.name == task.name.lower()
    assert set(task.others) <= set(task.files)
    assert task_named(task.name.upper()) is task


def test_no_task_hides_another() -> None:
    families = (GLUE, SUPERGLUE, (CHNSENTICORP, CHAT), CLUE, QUESTIONS, CHOICES, TAGGED, GENERATION, TABULAR)
    assert len(TASKS) == sum(map(len, families))


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the real data sets lie beside the project and are absent")
def test_splits_are_those_whose_files_are_there() -> None:
    assert TASKS["sst2"].splits(DATA / "glue") == ["train", "dev", "test"]
    assert TASKS["stsb"].splits(DATA / "glue") == ["train", "dev"]
    assert TASKS["cmrc2018"].splits(DATA) == ["dev", "trial"]
    assert TASKS["weibo"].splits(DATA) == ["train", "dev", "test"]
