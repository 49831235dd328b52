"""A task from outside the package: registered in Python or by an installed package, then trained and predicted."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blankfill.errors import UserError
from blankfill.finetuning.predictor import Predictor
from blankfill.tasks.datasets.registry import TASKS, register_task, task_named
from blankfill.tasks.items import Split, TextItem
from blankfill.tasks.metrics.scoring import score
from blankfill.tasks.task import Task
from small_tasks import model_folder, run, sentences

MODULE = '''
"""Sentences with `fine` or `poor`, one a line behind a sign: + or -."""

from blankfill.tasks.items import Split, TextItem
from blankfill.tasks.task import Task


def parse(path, labels):
    lines = path.read_text(encoding="utf-8").splitlines()
    items = [TextItem(str(k), line[2:], None, int(line[0] == "+")) for k, line in enumerate(lines)]
    return Split(items, labels)


POLARITY = Task(
    name="polarity", kind="classify", files={"train": ("train.sign",), "dev": ("dev.sign",)}, parse=parse,
    metrics=("accuracy",), primary_metric="accuracy", labels=("poor", "fine"),
)
'''


def parse(path: Path, labels: tuple[str, ...]) -> Split:
    lines = path.read_text(encoding="utf-8").splitlines()
    return Split([TextItem(str(k), line[2:], None, int(line[0] == "+")) for k, line in enumerate(lines)], labels)


POLARITY = Task(
    name="polarity",
    kind="classify",
    files={"train": ("train.sign",), "dev": ("dev.sign",)},
    parse=parse,
    metrics=("accuracy",),
    primary_metric="accuracy",
    labels=("poor", "fine"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count, seed in (("train", 96, 1), ("dev", 40, 2)):
        lines = [f"{'-+'[label]} {text}\n" for text, label in sentences(count, seed)]
        (folder / f"{name}.sign").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def registered() -> Iterator[Task]:
    yield register_task(POLARITY)
    del TASKS["polarity"]


def test_a_registered_task_is_trained_and_predicted(tmp_path: Path, data: Path, registered: Task) -> None:
    assert task_named("Polarity") is registered and register_task(POLARITY) is POLARITY
    result = run("polarity", data, model_folder(tmp_path), tmp_path / "run")
    assert result.score > 0.9 > result.baseline
    predictor = Predictor(tmp_path / "run", "cpu", 1)
    assert predictor.task is registered
    fine, poor = predictor.predict([TextItem("a", "the cat fine"), TextItem("b", "poor dog ran")])
    assert (fine.record["label"], poor.record["label"]) == ("fine", "poor")


def test_a_task_of_an_installed_package_is_found_by_the_commands(tmp_path: Path, data: Path) -> None:
    """As `pip install` leaves it: a module, and beside it the metadata that names the entry point."""
    site = tmp_path / "site"
    (site / "mine-1.0.dist-info").mkdir(parents=True)
    (site / "mine_tasks.py").write_text(MODULE, encoding="utf-8")
    (site / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n", "utf-8")
    points = (
        "[blankfill.tasks]\npolarity = mine_tasks:POLARITY\nbroken = mine_tasks:NOTHING\nother = mine_tasks:POLARITY\n"
    )
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(points, "utf-8")
    paths = [str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "blankfill", *arguments]
        return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)

    start, out = model_folder(tmp_path), tmp_path / "run"
    options = ["--from", str(start), "--data", str(data), "--device", "cpu", "--threads", "1", "--epochs", "1"]
    done = command("finetune", "--task", "polarity", *options, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "results.json").read_text())["task"] == "polarity"
    for name, message in (
        ("broken", "cannot be loaded: AttributeError"),
        ("other", "is not a Task of that name"),
        ("polarities", "did you mean polarity?"),
    ):
        refused = command("finetune", "--task", name, *options, "--out", str(tmp_path / name))
        assert refused.returncode == 2 and message in refused.stderr.replace("\n", " "), refused.stderr


def test_a_metric_of_ones_own_is_beside_the_others() -> None:
    items = [TextItem(str(k), "a", None, label) for k, label in enumerate((1, 1, 0, 0))]
    labels = ("poor", "fine")

    def missed(split: Split, predicted: Any) -> float:
        return sum(item.label == 1 and place == 0 for item, place in zip(split.texts(), predicted, strict=True)) / 2

    task = dataclasses.replace(
        POLARITY, metrics=("missed", "accuracy"), primary_metric="average", own_metrics={"missed": missed}
    )
    assert score(task, Split(items, labels), [0, 1, 0, 1]) == {"accuracy": 0.5, "missed": 0.5, "average": 0.5}
    alone = dataclasses.replace(task, metrics=("missed",), primary_metric="missed")
    assert score(alone, Split(items, labels), [0, 0, 0, 1]) == {"missed": 1.0}
    with pytest.raises(UserError, match="1 of 1 rows have no label"):
        score(alone, Split([dataclasses.replace(items[0], label=None)], labels), [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "SST"}, "cannot be the name of a task"),
        ({"name": "a+b"}, "cannot be the name of a task"),
        ({"name": "sst2"}, "There is a task 'sst2' already"),
        ({"kind": "guess"}, "has the kind 'guess'; the kinds are classify, regress"),
        ({"primary_metric": "f1"}, "'f1' is not one of its metrics"),
        ({"own_metrics": {"near": lambda split, predicted: 1.0}}, "own metric 'near' is not one of its metrics"),
    ],
)
def test_what_cannot_be_registered_is_refused(change: dict[str, Any], message: str) -> None:
    known = dict(TASKS)
    with pytest.raises(UserError, match=message):
        register_task(dataclasses.replace(POLARITY, **change))  # type: ignore[arg-type]
    assert known == TASKS
