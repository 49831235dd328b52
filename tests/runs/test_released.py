"""What a run leaves in memory: not its trainer, even before the collector of reference cycles runs."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import blankfill
from blankfill.finetuning import training as finetuning
from blankfill.pretraining import training as pretraining
from blankfill.training.loop import Trainer
from small_run import SMALL, texts_in
from small_tasks import classes, model_folder, run


def trainers_left(module: ModuleType, work: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Do some work twice, into folders of two names, and return what is left of each trainer of the second time."""
    trainers: list[weakref.ref[Trainer]] = []

    def trainer(*given: Any, **more: Any) -> Trainer:
        made = Trainer(*given, **more)
        trainers.append(weakref.ref(made))
        return made

    monkeypatch.setattr(module, "Trainer", trainer)
    work("first")  # imports of other packages leave tracebacks, which hold the frames above them
    trainers.clear()
    gc.collect()
    gc.disable()
    try:
        work("second")
        return [made() for made in trainers]
    finally:
        gc.enable()


def test_pretraining_frees_its_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "texts").mkdir()
    texts, recipe = texts_in(folder, 30), blankfill.load_recipe("bert-nano", SMALL)
    work = lambda name: blankfill.pretrain([str(texts)], recipe, tmp_path / name)  # noqa: E731
    assert trainers_left(pretraining, work, monkeypatch) == [None]


def test_fine_tuning_frees_its_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path, "bert")
    work = lambda name: run("sst2", data, model, tmp_path / name, epochs=1)  # noqa: E731
    assert trainers_left(finetuning, work, monkeypatch) == [None]
