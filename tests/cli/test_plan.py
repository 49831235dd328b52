"""`blankfill plan`: figures that agree with a run, honest words about what is not known, and refusals with remedies."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blankfill.cli import main as cli
from blankfill.cli import plan
from blankfill.config.recipe import load_recipe
from blankfill.corpus.prepare import PrepareConfig, prepare
from blankfill.corpus.tokenizer_train import automatic_size
from blankfill.model.transformer import count_parameters
from blankfill.objectives import T5
from blankfill.planning import estimate, fit_check
from blankfill.pretraining.data_setup import open_corpus, phases

SMALL = [
    "--model.hidden-size", "32", "--model.num-layers", "2", "--model.num-heads", "2", "--objective.length", "32",
]  # fmt: skip
WORDS = ["river", "summer", "water", "stone", "bridge", "light", "morning", "under", "between", "garden", "window"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small prepared corpus."""
    folder = tmp_path_factory.mktemp("plan")
    rng = np.random.default_rng(3)
    lines = [" ".join(rng.choice(WORDS, 12)).capitalize() + "." for _ in range(600)]
    paragraphs = ["\n".join(lines[k : k + 20]) for k in range(0, 600, 20)]
    (folder / "text.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    config = PrepareConfig(documents="paragraphs", vocab_size=128, vocab_exact=False, validation=0.1, workers=1)
    prepare([str(folder / "text.txt")], folder / "corpus", config)
    return folder / "corpus"


def planned(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["plan", "--json", "--no-measure", *arguments]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_prepared_corpus_is_looked_at(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--train.steps", "50", "--train.batch-size", "8"]
    found = planned(capsys, str(corpus), "--recipe", "gpt-nano", *arguments)
    recipe = load_recipe("gpt-nano", {
        "model.hidden_size": 32, "model.num_layers": 2, "model.num_heads": 2, "objective.length": 32,
        "train.steps": 50, "train.batch_size": 8,
    })  # fmt: skip
    opened = open_corpus([str(corpus)], recipe, corpus)
    (rows,) = phases(opened, recipe)
    assert found["parameters"]["total"] == count_parameters(recipe.model_config(opened.vocabulary.size))
    assert found["run"]["rows"] == 400
    assert found["run"]["epochs"] == pytest.approx(400 / rows.train.rows_in_epoch(0))
    assert found["run"]["epochs_exact"]
    # the mean tokens of all rows of an epoch, not of those 64 that were looked at
    every = [sum(map(len, rows.train.row(i))) for i in range(rows.train.rows_in_epoch(0))]
    assert found["run"]["tokens"] == pytest.approx(400 * np.mean(every), rel=0.05)
    assert found["disk"]["token_files"] == sum(path.stat().st_size for path in corpus.glob("*.bin"))
    assert found["time"] is None


@pytest.mark.parametrize("name", ["bert-large", "glm-large", "gpt2", "roberta-base"])
def test_published_recipes(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_check, "room", lambda device, out: fit_check.Room(10**13, 10**13, 10**13))
    recipe = load_recipe(name)
    found = planned(capsys, "--recipe", name)
    config = recipe.model_config(recipe.corpus.vocab_size)
    assert found["parameters"]["total"] == count_parameters(config)
    options = recipe.train
    assert found["run"]["rows"] == options.row_schedule.first(options.steps)
    assert found["rows"][-1]["at_a_time"] == options.micro_batch
    length = recipe.objective.length
    assert 0.9 * length <= found["rows"][-1]["tokens"] <= 1.2 * length
    # 6·N operations a token for the layers, at least; half as much again covers attention and the answers
    layers = found["parameters"]["layers"]
    per_token = found["run"]["flops_per_step"] / found["run"]["tokens_per_step"]
    assert 6 * layers < per_token < 1.5 * 6 * (layers + found["parameters"]["words"])
    assert found["problems"] == []


def test_two_phases_and_a_ramp(capsys: pytest.CaptureFixture[str]) -> None:
    """30 steps: rows 4, 5, 6, 7 and then 8; the first 20 steps at length 16, the rest at 48."""
    found = planned(
        capsys, "--recipe", "gpt-nano", *SMALL, "--objective.length", "48", "--train.steps", "30",
        "--train.batch-size", "8", "--train.batch-size-start", "4", "--train.batch-size-warmup", "4",
        "--train.micro-batch", "2",
        "--train.phase1-length", "16", "--train.phase1-steps", "20",
    )  # fmt: skip
    short, full = found["rows"]
    assert (short["rows"], full["rows"]) == (4 + 5 + 6 + 7 + 16 * 8, 10 * 8)
    assert (short["columns"], full["columns"]) == (16, 48)
    assert (short["at_a_time"], full["at_a_time"]) == (6, 2)
    tokens = short["rows"] * short["tokens"] + full["rows"] * full["tokens"]
    assert found["run"]["tokens"] == pytest.approx(tokens)


def test_text_that_is_not_prepared(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = corpus.parent / "text.txt"
    found = planned(capsys, str(text), "--recipe", "gpt-nano", *SMALL)
    size = text.stat().st_size
    assert f"{size:,} bytes of text, not prepared yet; very roughly {size // 4:,} tokens" in found["text"]
    assert found["run"]["epochs"] == pytest.approx(found["run"]["tokens"] / (size // 4))
    assert not found["run"]["epochs_exact"]
    chosen = planned(capsys, str(text), "--corpus.vocab-size", "0", *SMALL)
    assert f"vocabulary {automatic_size(size):,}" in chosen["text"]


def test_a_given_tokenizer_decides_the_vocabulary(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = corpus.parent / "text.txt"
    found = planned(capsys, str(text), "--recipe", "gpt-nano", *SMALL, "--corpus.tokenizer", str(corpus))
    opened = open_corpus([str(corpus)], load_recipe("gpt-nano"), corpus)
    assert found["parameters"]["words"] == 32 * opened.vocabulary.size


def test_left_to_right_models_are_held_against_chinchilla(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--recipe", "gpt-nano", *SMALL)
    ratio = found["run"]["tokens"] / found["parameters"]["total"]
    assert any(remark.startswith(f"{ratio:,.1f} tokens a parameter") for remark in found["remarks"])
    assert not any("tokens a parameter" in one for one in planned(capsys, "--recipe", "bert-nano", *SMALL)["remarks"])


def test_a_run_that_does_not_fit_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_check, "room", lambda device, out: fit_check.Room(8 * 10**9, 8 * 10**9, 10**9))
    assert cli.main(["plan", "--no-measure", "--recipe", "gpt2"]) == 2
    told = capsys.readouterr()
    assert "Parameters" in told.out  # the figures are shown all the same
    memory, disk = told.err.splitlines()
    assert re.match(r"blankfill: with 12 rows of 1,024 tokens at a time .* train\.micro_batch \d+ fits", memory)
    assert re.match(r"blankfill: the checkpoints of this run take up to .* on disk", disk)
    (rows,) = re.findall(r"train\.micro_batch (\d+) fits and", memory)
    assert cli.main(["plan", "--no-measure", "--recipe", "gpt2", "--train.micro-batch", rows]) == 2
    assert "of memory" not in capsys.readouterr().err  # the advice helps; the disk is as small as before
    problems = planned(capsys, "--recipe", "gpt2", code=2)["problems"]
    assert [f"blankfill: {problem}" for problem in problems] == [memory, disk.replace("--out", "out")]


def test_token_files_of_another_tokenizer(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id past the vocabulary that no row looked at holds is found all the same, in the counts."""
    for path in corpus.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    counts = np.load(tmp_path / "unigram.npy")
    np.save(tmp_path / "unigram.npy", np.append(counts, [0, 0, 1]))
    report = json.loads((tmp_path / "corpus.json").read_text(encoding="utf-8"))
    del report["files"]  # as an earlier version prepared it: the files are not compared with what they were
    (tmp_path / "corpus.json").write_text(json.dumps(report), encoding="utf-8")
    assert cli.main(["plan", str(tmp_path), "--recipe", "gpt-nano", *SMALL]) == 2
    assert f"hold the id {len(counts) + 2:,} and the tokenizer has only {len(counts):,}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-"], "plan cannot look at standard input"),
        (["nowhere.txt"], "nowhere.txt"),
        (["--corpus.tokenizer", "nowhere"], "nowhere"),
        (["--recipe", "gpt3"], "no recipe named gpt3"),
        (["--train.steps", "0"], "train.steps is 0"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--no-measure", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_steps_are_timed(corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SECONDS", 0.5)
    arguments = [str(corpus), "--recipe", "gpt-nano", *SMALL, "--train.batch-size", "8", "--train.threads", "1"]
    assert cli.main(["plan", "--json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    time = found["time"]
    (one,) = time["measured"]
    (trial,) = one["trials"]
    assert (trial["layers"], trial["rows"]) == (2, 8)
    assert time["step"] == pytest.approx(trial["seconds"] + trial["update"])
    assert time["training"] == pytest.approx(found["run"]["steps"] * time["step"])
    assert time["tokens_per_second"] == pytest.approx(found["run"]["tokens"] / time["training"])
    assert cli.main(["plan", *arguments]) == 0
    told = capsys.readouterr().out
    assert re.search(r"timed: 2 of 2 layers, rows at a time 8, steps \d+: ", told)
    assert "tokens a second" in told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0123, "12.3 ms"), (75, "75 s"), (3600, "60 min"), (36000, "10 hours"), (864000, "10 days"),
     (3.2e8, "10.1 years")],
)  # fmt: skip
def test_times_are_told_in_the_unit_that_fits(seconds: float, told: str) -> None:
    assert plan.spoken(seconds) == told


def test_made_up_rows_are_those_of_the_objective(tmp_path: Path) -> None:
    recipe = load_recipe("glm-nano")
    vocabulary = plan.expected_vocabulary(recipe, None)
    assert vocabulary.size == recipe.corpus.vocab_size
    (sampler,) = plan.made_up(recipe, vocabulary, tmp_path)
    shape = estimate.row_shape(estimate.sampled_rows(sampler), vocabulary["pad"])
    assert shape.columns >= recipe.objective.length
    assert shape.ids <= vocabulary.size
    assert all(
        0 < size <= table for size, table in zip(shape.positions, recipe.objective.position_sizes(), strict=True)
    )


def test_sentinels_stand_behind_the_vocabulary(tmp_path: Path) -> None:
    recipe = dataclasses.replace(load_recipe("gpt-nano"), objective=T5(length=64))
    vocabulary = plan.expected_vocabulary(recipe, None)
    size = recipe.corpus.vocab_size
    assert vocabulary.sentinels == tuple(range(size + 99, size - 1, -1))
    assert vocabulary.size == size + 100
    (sampler,) = plan.made_up(recipe, vocabulary, tmp_path)
    (example,) = sampler.row(0)
    assert example.context is not None
    assert example.target_ids[0] == vocabulary.sentinels[0]


def test_its_flags_are_frozen() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "blankfill", "plan", "--help"], capture_output=True, text=True, check=True
    )
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)(?![\w.-])", run.stdout))
    assert flags == {"recipe", "out", "teacher", "measure", "no-measure", "json", "no-json", "threads", "seed", "help"}
