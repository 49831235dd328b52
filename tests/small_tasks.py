"""Tiny models and tasks that they can learn in seconds, for tests of whole fine-tuning runs."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.checkpoint import store
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.outcome import FinetuneResult
from blankfill.finetuning.run import finetune
from blankfill.model.config import config_values
from blankfill.tasks.options import FinetuneOptions
from generate_models import MORE, SPECIAL, objective_of, random_model, wordpiece

WORDS = [
    "the",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "mat",
    "red",
    "big",
    "play",
    "fine",
    "poor",
    "paris",
    "rome",
    "who",
    ".",
]
QUICK = FinetuneOptions(
    lr=5e-3,
    batch_size=8,
    epochs=4,
    threads=1,
    precision="fp32",
    device="cpu",
    max_length=40,
    warmup=0.1,
    allow_unknown=True,
)


def model_folder(folder: Path, name: str = "bert", sharp: float = 1.0) -> Path:
    """A random model as a folder that opens like an imported one."""
    model, objective = random_model(name, rows=48, sharp=sharp), objective_of(name)
    state = {
        "model": config_values(model.config),
        "objective": {"name": objective.name, **dataclasses.asdict(objective)},
    }
    saved = store.save(folder / "made", 0, model.state_dict(), {}, state)
    wordpiece(SPECIAL, WORDS).save(saved)
    return saved


SHARP = {"t5": 1.0, "chatglm": 3.0, "glm-130b": 3.0}
"""Factors of the weights of models whose initial weights are larger than those of the others."""


def writing_model(folder: Path, name: str = "glm", without: str = "") -> Path:
    """A random model, its weights large enough to learn quickly, as a folder that opens like an imported one."""
    model, objective = random_model(name, rows=48, sharp=SHARP.get(name, 8.0)), objective_of(name)
    state = {
        "model": config_values(model.config),
        "objective": {"name": objective.name, **dataclasses.asdict(objective)},
    }
    saved = store.save(folder / "made", 0, model.state_dict(), {}, state)
    words = [*WORDS, *MORE.get(name, [])]
    wordpiece([token if token != without else "unused" for token in SPECIAL], words).save(saved)
    return saved


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Texts of some words; the label is whether one of them is `fine` or `poor`."""
    rng = np.random.default_rng(seed)
    labelled = []
    for _ in range(count):
        words = rng.choice(WORDS[:10], int(rng.integers(2, 9))).tolist()
        label = int(rng.integers(0, 2))
        words.insert(int(rng.integers(0, len(words))), "fine" if label else "poor")
        labelled.append((" ".join(words), label))
    return labelled


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def classes(folder: Path) -> Path:
    """SST-2's files with sentences of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", 96, 1), ("dev", 40, 2)):
        rows = "".join(f"{text}\t{label}\n" for text, label in sentences(count, seed))
        (folder / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    return folder


def tags(folder: Path) -> Path:
    """Animals are tagged, in sentences with `fine`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", 160, 1), ("dev", 40, 2)):
        lines = []
        for text, label in sentences(count, seed):
            words = [*text.split(), "cat"]
            lines += [f"{word} {'B-X' if label and word in ('cat', 'dog') else 'O'}" for word in words] + [""]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def run(task: str, data: Path, model: Path, out: Path, **options: Any) -> FinetuneResult:
    return finetune(FinetuneConfig(task, data, model, dataclasses.replace(QUICK, **options)), out)


def answerable(folder: Path) -> Path:
    """SQuAD 2.0's files: the answer is `paris`, where it stands."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, count in (("train-v2.0", 96), ("dev-v2.0", 32)):
        paragraphs = []
        for k, (text, _) in enumerate(sentences(count, count)):
            words = text.split()
            place = int(rng.integers(0, len(words)))
            if k % 2:
                words.insert(place, "paris")
            start = len(" ".join(words[:place])) + (place > 0)
            answers = [{"text": "paris", "answer_start": start}] if k % 2 else []
            paragraphs.append({"context": " ".join(words), "qas": [
                {"id": str(k), "question": "who", "answers": answers, "is_impossible": not answers}]})  # fmt: skip
        data = {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}
        (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def writer(tmp_path: Path, family: str) -> Path:
    """A run that learns to write its source again."""
    rows = [{"source": f"the {word} sat", "target": f"{word} sat"} for word in ("cat", "dog", "mat", "big")] * 4
    for name in ("train", "dev"):
        write_lines(tmp_path / "data" / f"{name}.jsonl", rows)
    options = FinetuneOptions(
        lr=5e-3, batch_size=8, epochs=2, threads=1, precision="fp32", device="cpu", max_length=24, max_target_length=6
    )
    model = writing_model(tmp_path / "model", family)
    finetune(FinetuneConfig("seq2seq", tmp_path / "data", model, options), tmp_path / "run")
    return tmp_path / "run"


@contextmanager
def stopped_after(losses: int) -> Iterator[None]:
    """Let a fine-tuning stop, as by Ctrl-C, after it has computed a number of losses."""
    from blankfill.tasks.heads import models

    real, taken = models.task_losses, []

    def failing(*given: Any) -> Any:
        taken.append(1)
        if len(taken) > losses:
            raise KeyboardInterrupt
        return real(*given)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(models, "task_losses", failing)
        yield
