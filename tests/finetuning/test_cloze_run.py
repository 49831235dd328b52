"""Cloze runs from end to end with tiny models: it learns, predicts, resumes, all patterns together, every error."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.checkpoint import store
from blankfill.cli.main import main
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import ConfigError, UserError
from blankfill.finetuning.config import FinetuneConfig, read_config
from blankfill.finetuning.data import read_splits
from blankfill.finetuning.pet import run_pet, unlabelled, untrained
from blankfill.finetuning.predictor import Predictor, open_predictor
from blankfill.finetuning.run import finetune
from blankfill.runs.folder import noted_machine
from blankfill.tasks.cloze.soft_labels import combined
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.heads import models
from blankfill.tasks.items import TextItem
from blankfill.tasks.run_files import RESULTS
from blankfill.training.machine import settle
from small_tasks import QUICK, classes, model_folder, sentences

OWN = """verbalizers: {"1": big, "0": red}
patterns:
  - '{first} . the cat ran on the [MASK] .'
  - text: 'the dog sat . {first} . [MASK]'
    verbalizers: {"1": big mat, "0": red}
"""


@pytest.fixture
def config_for(tmp_path: Path) -> Any:
    """Makes the config of a cloze run on sentences with `fine` or `poor`."""
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    data = classes(tmp_path / "data")

    def made(name: str = "bert", task: str = "sst2", **options: Any) -> FinetuneConfig:
        given = {"method": "cloze", "patterns": str(tmp_path / "own.yaml"), "epochs": 10, **options}
        folder = tmp_path / name / "made" / "step-0"
        start = folder if folder.exists() else model_folder(tmp_path / name, name)
        return FinetuneConfig(task, data, start, dataclasses.replace(QUICK, **given))

    return made


@pytest.mark.parametrize(("name", "pattern"), [("bert", "0"), ("mlm", "1"), ("glm", "1"), ("gpt", "0")])
def test_it_learns_and_predicts(name: str, pattern: str, config_for: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = finetune(config_for(name, pattern=pattern), out)
    assert result.score >= 0.8 > result.baseline + 0.2
    (tmp_path / "own.yaml").unlink()  # the folder is enough alone
    predictions = Predictor(out).predict([TextItem("0", "the dog sat fine"), TextItem("1", "poor big cat")])
    assert [prediction.record["label"] for prediction in predictions] == ["1", "0"]
    first = json.loads((out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["step"] == 0 and 0.2 < first["accuracy"] < 0.8


def test_masked_texts_are_learnt_beside(config_for: Any, tmp_path: Path) -> None:
    more = tmp_path / "more.tsv"
    more.write_text("sentence\n" + "the cat sat on the big mat\n" * 40, encoding="utf-8")
    config = config_for(mlm_weight=0.2, unlabelled=str(more), epochs=2)
    finetune(config, tmp_path / "run")
    metrics = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    texts = [row["text_loss"] for row in metrics if row["split"] == "train"]
    assert texts[-1] < texts[0]
    with pytest.raises(ConfigError, match="mlm_weight is for models that were trained with masks"):
        finetune(config_for("glm", mlm_weight=0.2), tmp_path / "other")


def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    config_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal in its seventh step, the patterns gone since."""
    config = config_for(mlm_weight=0.1, epochs=1, eval_every=6)
    whole = finetune(config, tmp_path / "whole")
    real, taken, caught = models.task_losses, [], []

    def counting(*given: Any) -> Any:
        taken.append(1)
        if len(taken) == 14:  # two batches a step, one of them of texts
            caught.append(15)
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr("blankfill.runs.context.stop_signals", lambda: contextlib.nullcontext(caught))
        patched.setattr(models, "task_losses", counting)
        finetune(config, tmp_path / "part")
    stopped = store.newest(tmp_path / "part" / "checkpoints")
    assert stopped is not None and stopped.step == 7 < whole.steps
    (tmp_path / "own.yaml").unlink()
    again = finetune(config, tmp_path / "part", resume=True)
    ends = [store.newest(tmp_path / name / "checkpoints") for name in ("whole", "part")]
    assert again.score == whole.score and ends[0] is not None and ends[1] is not None
    assert all(np.array_equal(ends[0].model[key], ends[1].model[key]) for key in ends[0].model)


def test_all_patterns_and_their_say_together(
    config_for: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = config_for(), tmp_path / "all"
    argv = ["finetune", "--task", "sst2", "--data", str(config.data), "--from", str(config.model), "--out", str(out)]
    argv += ["--method", "cloze", "--patterns", str(tmp_path / "own.yaml"), "--pattern", "all", "--lr", "5e-3"]
    argv += ["--batch-size", "8", "--epochs", "5", "--threads", "1", "--precision", "fp32", "--device", "cpu"]
    assert main(argv) == 0
    assert "all patterns, weighted: accuracy" in capsys.readouterr().out
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert [run["folder"] for run in results["patterns"]] == ["pattern-0", "pattern-1"]
    assert all(0 <= run["untrained"] <= 1 for run in results["patterns"])
    settled = noted_machine(out)
    assert settled is not None and settled.threads == 1
    assert [noted_machine(out / f"pattern-{k}") for k in (0, 1)] == [settled, settled]
    assert results["together"]["alike"]["score"] > 0.6
    rows = [
        [json.loads(line) for line in (out / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("pattern-0", "pattern-1", ".")
    ]
    weights = [run["untrained"] for run in results["patterns"]]
    for actual, other, together in zip(*rows, strict=True):
        logs = [np.log(np.maximum(list(row["probabilities"].values()), 5e-7)) for row in (actual, other)]
        mean = np.average(logs, axis=0, weights=weights)
        wanted = np.exp(mean) / np.exp(mean).sum()
        assert list(together["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=1e-4)
    before = (out / "pattern-0" / "finetune.json").stat().st_mtime_ns
    assert main(argv) == 0 and (out / "pattern-0" / "finetune.json").stat().st_mtime_ns == before
    assert main([*argv, "--num-seeds", "2"]) == 2


def test_a_head_learns_what_all_patterns_say(
    config_for: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The texts have no labels that are looked at; the ensemble's folder answers together, the last step's as a run."""
    config, out = config_for(), tmp_path / "all"
    more = tmp_path / "more.tsv"
    more.write_text("sentence\n" + "".join(f"{text}\n" for text, _ in sentences(80, 7)), encoding="utf-8")
    argv = ["finetune", "--task", "sst2", "--data", str(config.data), "--from", str(config.model), "--out", str(out)]
    argv += ["--method", "cloze", "--patterns", str(tmp_path / "own.yaml"), "--pattern", "all", "--lr", "5e-3"]
    argv += ["--batch-size", "8", "--epochs", "8", "--threads", "1", "--precision", "fp32", "--device", "cpu"]
    assert main([*argv, "--distil", str(more), "--distil-epochs", "5"]) == 0
    assert "learnt from all patterns: accuracy" in capsys.readouterr().out
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert results["complete"] and results["together"]["distilled"]["score"] > 0.75
    rows = [json.loads(line) for line in (out / "soft_labels.jsonl").read_text(encoding="utf-8").splitlines()]
    new = [TextItem(str(k), text) for k, (text, _) in enumerate(sentences(80, 7))]
    together = open_predictor(out, "cpu", 1)
    for row, actual in zip(rows, together.predict(new), strict=True):
        scores = np.exp(np.array(list(row["scores"].values())))
        assert list(actual.record["probabilities"].values()) == pytest.approx(
            (scores / scores.sum()).tolist(), abs=1e-4
        )
    learnt = Predictor(out / "distilled", "cpu", 1)
    assert learnt.options.method == "head"
    same = [a.value == b.value for a, b in zip(learnt.predict(new), together.predict(new), strict=True)]
    assert np.mean(same) > 0.75
    dev = read_splits(config.build_task(), config.data, config.options)[1]
    labels = [
        json.loads(line)["label"] for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [prediction.record["label"] for prediction in together.predict(dev.items)] == labels
    assert "distilled/report.html" in (out / "report.html").read_text(encoding="utf-8")
    again_config = read_config(out / "distilled")
    assert again_config.soft_labels is not None and again_config.soft_labels.texts == more.resolve()
    (out / "soft_labels.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"soft_labels.jsonl: not the scores of the texts in .*more.tsv"):
        finetune(again_config, tmp_path / "again")


def test_texts_that_cannot_be_read_are_refused_before_anything_is_written(config_for: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tsv"
    broken.write_text("no such column\nx\n", encoding="utf-8")
    for path, message in ((tmp_path / "none.tsv", "none.tsv does not exist"), (broken, "broken.tsv")):
        with pytest.raises(UserError, match=message):
            finetune(config_for(mlm_weight=0.1, unlabelled=str(path)), tmp_path / "a")
        with pytest.raises(UserError, match=message):
            list(run_pet(config_for(pattern="all", distil=str(path)), tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="distil learns from all patterns; add method=cloze pattern=all"):
        finetune(config_for(distil=str(broken)), tmp_path / "a")
    with pytest.raises(UserError, match="copa: distil is for tasks with labels"):
        unlabelled(config_for(task="copa", pattern="all", distil=str(broken)), task_named("copa"), ())


@pytest.mark.parametrize(
    ("name", "token"), [("bert", "[MASK]"), ("glm", "<|startofpiece|>"), ("glm", "<|endofpiece|>")]
)
def test_a_tokenizer_without_the_tokens_of_blanks(name: str, token: str, config_for: Any, tmp_path: Path) -> None:
    config = config_for(name)
    vocabulary = Tokenizer.load(config.model).vocabulary()
    role = next(role for role, id in vocabulary.roles.items() if Tokenizer.load(config.model).token(id) == token)
    text = (config.model / "tokenizer.json").read_text(encoding="utf-8")
    renamed = text.replace(json.dumps(token)[1:-1], "[unused9]")
    (config.model / "tokenizer.json").write_text(renamed, encoding="utf-8")
    (config.model / "tokenizer_config.json").unlink()  # it would say that the token is still the mask
    with pytest.raises(UserError, match=f"the tokenizer has no token for {role}, without which"):
        finetune(config, tmp_path / "run")


def test_lora_changes_nothing_before_it_has_learnt(config_for: Any) -> None:
    """Every pattern is tried on one and the same model, which must not gather thin matrices."""
    plain, thin = (
        [config_for(pattern=pattern, lora_rank=rank) for pattern in ("0", "1")] for rank in (0, 2)
    )  # fmt: skip
    train, _, _ = read_splits(plain[0].build_task(), plain[0].data, plain[0].options)
    machine = settle(plain[0].options).machine
    assert untrained(thin, train, machine) == untrained(plain, train, machine)


def test_models_that_were_all_wrong_count_alike() -> None:
    logs = np.log([[0.9, 0.1], [0.2, 0.8]])
    assert combined(logs, [0.0, 0.0]).tolist() == combined(logs).tolist() == logs.mean(0).tolist()
    assert combined(logs, [1.0, 0.0]).tolist() == logs[0].tolist()


def test_tasks_and_models_that_do_not_fit(config_for: Any, tmp_path: Path) -> None:
    numbers = config_for(task="stsb")
    (tmp_path / "numbers").mkdir()
    for name in ("train", "dev"):
        text = "index\tsentence1\tsentence2\tscore\n0\tthe cat\tthe dog\t2.5\n1\tbig\tred\t1.0\n"
        (tmp_path / "numbers" / f"{name}.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="stsb is a task of kind regress, not one of labels; leave out method=cloze"):
        finetune(dataclasses.replace(numbers, data=tmp_path / "numbers"), tmp_path / "a")
    saved = config_for().model
    state = json.loads((saved / store.STATE).read_text(encoding="utf-8"))
    headless = dict(store.read(saved, with_optimizer=False).state)
    headless["model"] = {**headless["model"], "lm_head": False}
    assert state["model"]["lm_head"] is True
    bare = store.save(
        tmp_path / "bare", 0, store.read(saved, with_optimizer=False).model, {},
        {name: headless[name] for name in ("model", "objective")},
    )  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(saved / name, bare / name)
    with pytest.raises(
        UserError, match=r"a bare encoder without a language-model head, so it cannot fill blanks; give a model"
    ):
        finetune(dataclasses.replace(config_for(), model=bare), tmp_path / "b")
    with pytest.raises(UserError, match=r"pattern=7: .*own.yaml are numbered 0 to 1"):
        finetune(config_for(pattern="7"), tmp_path / "c")
    with pytest.raises(UserError, match=r"pattern 0 uses \{second\}, but the items have first"):
        (tmp_path / "two.yaml").write_text(OWN.replace("{first}", "{second}"), encoding="utf-8")
        finetune(config_for(patterns=str(tmp_path / "two.yaml")), tmp_path / "d")


WIC = {"word": "cat", "sentence1": "the cat sat .", "sentence2": "big cat ran ."}
RECORD = {"passage": "the cat sat on mat", "entities": ["cat", "mat"], "query": "the @placeholder ran"}
COPA = {"premise": "the cat sat .", "choice1": "the mat", "choice2": "the dog", "question": "cause"}
OF_PARTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, list[str]]] = {
    "wic": (
        WIC, {"start1": 4, "end1": 7, "start2": 4, "end2": 7, "label": True},
        """verbalizers: {"true": big, "false": red}\npatterns: ['{word:whole} {sentence1} {sentence2} [MASK]']\n""",
        ["true", "false"],
    ),
    "record": (
        RECORD, {"passage": {"text": RECORD["passage"], "entities": [{"start": 4, "end": 6}, {"start": 15, "end": 17}]},
                 "qas": [{"idx": 0, "query": RECORD["query"], "answers": [{"text": "cat"}]}]},
        """answer: '{name}'\npatterns: ['{context} {before} [MASK] {after}']\n""",
        ["cat", "mat"],
    ),
    "copa": (
        COPA, {"label": 0}, """answer: '{choice:bare}'\npatterns: ['{premise} {question} [MASK]']\n""",
        ["the mat", "the dog"],
    ),
}  # fmt: skip
"""A flat row of a task, what the benchmark's own has besides, a pattern of its parts, what may be answered."""


@pytest.mark.parametrize("method", ["head", "cloze"])
@pytest.mark.parametrize("task", OF_PARTS)
def test_rows_of_superglue_are_predicted(
    task: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat, more, pattern, answers = OF_PARTS[task]
    (tmp_path / "own.yaml").write_text(pattern, encoding="utf-8")
    rows = [{**flat, **more, "idx": k} for k in range(4)]
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    patterns = str(tmp_path / "own.yaml") if method == "cloze" else ""
    options = dataclasses.replace(QUICK, epochs=1, method=method, patterns=patterns)
    finetune(FinetuneConfig(task, tmp_path, model_folder(tmp_path / "m", "bert"), options), tmp_path / "run")
    given = tmp_path / "given.jsonl"
    given.write_text(json.dumps({**flat, "id": "mine"}) + "\n", encoding="utf-8")
    assert main(["predict", "--model", str(tmp_path / "run"), str(given), "--threads", "1", "--device", "cpu"]) == 0
    [lines] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines["id"] == "mine" and lines["choice" if "choice" in lines else "label"] in answers
    first = json.loads((tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert lines["probabilities"] == pytest.approx(first["probabilities"], abs=1e-5)
