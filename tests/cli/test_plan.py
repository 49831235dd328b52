"""`blankfill plan`: figures that agree with a run, honest words about what is not known, and refusals with remedies."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blankfill
from blankfill.cli import main as cli
from blankfill.cli import plan
from blankfill.config.recipe import load_recipe
from blankfill.corpus.prepare import PrepareConfig, prepare
from blankfill.corpus.tokenizer_train import automatic_size
from blankfill.model.transformer import count_parameters
from blankfill.objectives import T5
from blankfill.planning import estimate, fit_check
from blankfill.planning.estimate import Memory, PlannedPhase, RowShape
from blankfill.planning.fit_check import AvailableSpace
from blankfill.planning.timing import Timing, Trial
from blankfill.pretraining import plan_text
from blankfill.pretraining.data_setup import open_corpus, phases
from blankfill.pretraining.plan import Plan, PlannedDisk, PlannedTime, PlannedWork
from blankfill.system.console import amount

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
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)
    return figures


def test_a_prepared_corpus_is_looked_at(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--train.steps", "50", "--train.batch-size", "8"]
    figures = planned(capsys, str(corpus), "--recipe", "gpt-nano", *arguments)
    recipe = load_recipe("gpt-nano", {
        "model.hidden_size": 32, "model.num_layers": 2, "model.num_heads": 2, "objective.length": 32,
        "train.steps": 50, "train.batch_size": 8,
    })  # fmt: skip
    opened = open_corpus([str(corpus)], recipe, corpus)
    (rows,) = phases(opened, recipe)
    assert figures["parameters"]["total"] == count_parameters(recipe.model_config(opened.vocabulary.size))
    assert figures["work"]["rows"] == 400
    assert figures["work"]["epochs"] == pytest.approx(400 / rows.train.rows_in_epoch(0))
    assert figures["work"]["epochs_exact"]
    # the mean tokens of all rows of an epoch, not of those 64 that were looked at
    every = [sum(map(len, rows.train.row(i))) for i in range(rows.train.rows_in_epoch(0))]
    assert figures["work"]["tokens"] == pytest.approx(400 * np.mean(every), rel=0.05)
    assert figures["disk"]["token_files"] == sum(path.stat().st_size for path in corpus.glob("*.bin"))
    assert figures["time"] is None


@pytest.mark.parametrize("name", ["bert-large", "glm-large", "gpt2", "roberta-base"])
def test_published_recipes(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fit_check, "available_space", lambda device, out: fit_check.AvailableSpace(10**13, 10**13, 10**13)
    )
    recipe = load_recipe(name)
    figures = planned(capsys, "--recipe", name)
    config = recipe.model_config(recipe.corpus.vocab_size)
    assert figures["parameters"]["total"] == count_parameters(config)
    options = recipe.train
    assert figures["work"]["rows"] == options.row_schedule.first(options.steps)
    assert figures["phases"][-1]["micro_batch"] == options.micro_batch
    length = recipe.objective.length
    assert 0.9 * length <= figures["phases"][-1]["shape"]["tokens"] <= 1.2 * length
    # 6·N operations a token for the layers, at least; half as much again covers attention and the answers
    layers = figures["parameters"]["layers"]
    per_token = figures["work"]["flops_per_step"] / figures["work"]["tokens_per_step"]
    assert 6 * layers < per_token < 1.5 * 6 * (layers + figures["parameters"]["token_embeddings"])
    assert figures["problems"] == []


def test_two_phases_and_a_ramp(capsys: pytest.CaptureFixture[str]) -> None:
    """30 steps: rows 4, 5, 6, 7 and then 8; the first 20 steps at length 16, the rest at 48."""
    figures = planned(
        capsys, "--recipe", "gpt-nano", *SMALL, "--objective.length", "48", "--train.steps", "30",
        "--train.batch-size", "8", "--train.batch-size-start", "4", "--train.batch-size-warmup", "4",
        "--train.micro-batch", "2",
        "--train.phase1-length", "16", "--train.phase1-steps", "20",
    )  # fmt: skip
    short, full = figures["phases"]
    assert (short["rows"], full["rows"]) == (4 + 5 + 6 + 7 + 16 * 8, 10 * 8)
    assert (short["shape"]["columns"], full["shape"]["columns"]) == (16, 48)
    assert (short["micro_batch"], full["micro_batch"]) == (6, 2)
    tokens = short["rows"] * short["shape"]["tokens"] + full["rows"] * full["shape"]["tokens"]
    assert figures["work"]["tokens"] == pytest.approx(tokens)


def test_text_that_is_not_prepared(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = corpus.parent / "text.txt"
    figures = planned(capsys, str(text), "--recipe", "gpt-nano", *SMALL)
    size = text.stat().st_size
    assert f"{size:,} bytes of text, not prepared yet; very roughly {size // 4:,} tokens" in figures["text"]
    assert figures["work"]["epochs"] == pytest.approx(figures["work"]["tokens"] / (size // 4))
    assert not figures["work"]["epochs_exact"]
    chosen = planned(capsys, str(text), "--corpus.vocab-size", "0", *SMALL)
    assert f"vocabulary {automatic_size(size):,}" in chosen["text"]


def test_a_given_tokenizer_decides_the_vocabulary(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = corpus.parent / "text.txt"
    figures = planned(capsys, str(text), "--recipe", "gpt-nano", *SMALL, "--corpus.tokenizer", str(corpus))
    opened = open_corpus([str(corpus)], load_recipe("gpt-nano"), corpus)
    assert figures["parameters"]["token_embeddings"] == 32 * opened.vocabulary.size


def test_left_to_right_models_are_held_against_chinchilla(capsys: pytest.CaptureFixture[str]) -> None:
    figures = planned(capsys, "--recipe", "gpt-nano", *SMALL)
    ratio = figures["work"]["tokens"] / figures["parameters"]["total"]
    assert any(note.startswith(f"{ratio:,.1f} tokens per parameter") for note in figures["notes"])
    assert not any("tokens per parameter" in note for note in planned(capsys, "--recipe", "bert-nano", *SMALL)["notes"])


def test_a_run_that_does_not_fit_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fit_check, "available_space", lambda device, out: fit_check.AvailableSpace(8 * 10**9, 8 * 10**9, 10**9)
    )
    assert cli.main(["plan", "--no-measure", "--recipe", "gpt2"]) == 2
    message = capsys.readouterr()
    assert "Parameters" in message.out  # the figures are shown all the same
    memory, disk = message.err.splitlines()
    assert re.match(r"blankfill: with 12 rows of 1,024 tokens at a time .* --train\.micro-batch \d+ fits", memory)
    assert re.match(r"blankfill: the checkpoints of this run take up to .* on disk", disk)
    (rows,) = re.findall(r"train\.micro-batch (\d+) fits and", memory)
    assert cli.main(["plan", "--no-measure", "--recipe", "gpt2", "--train.micro-batch", rows]) == 2
    assert "of memory" not in capsys.readouterr().err  # the advice helps; the disk is as small as before
    problems = planned(capsys, "--recipe", "gpt2", code=2)["problems"]
    assert f"train.micro_batch={rows} fits" in problems[0]  # stored sentences name settings by keys
    assert problems[1] == disk.removeprefix("blankfill: ").replace("--out", "out")


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
    ("arguments", "message"),
    [
        (["-"], "plan cannot read standard input"),
        (["nowhere.txt"], "nowhere.txt"),
        (["--corpus.tokenizer", "nowhere"], "nowhere"),
        (["--recipe", "gpt3"], "no recipe named gpt3"),
        (["--train.steps", "0"], "train.steps is 0"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--no-measure", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_steps_are_timed(corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SECONDS", 0.5)
    arguments = [str(corpus), "--recipe", "gpt-nano", *SMALL, "--train.batch-size", "8", "--train.threads", "1"]
    assert cli.main(["plan", "--json", *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    time = figures["time"]
    (timing,) = time["timings"]
    (trial,) = timing["trials"]
    assert (trial["layers"], trial["rows"]) == (2, 8)
    assert time["step"] == pytest.approx(trial["seconds"] + trial["update"])
    assert time["training"] == pytest.approx(figures["work"]["steps"] * time["step"])
    assert time["tokens_per_second"] == pytest.approx(figures["work"]["tokens"] / time["training"])
    assert cli.main(["plan", *arguments]) == 0
    message = capsys.readouterr().out
    assert re.search(r"timed: 2 of 2 layers, rows per micro-batch 8, steps \d+: ", message)
    assert "tokens per second" in message


def test_the_command_prints_what_the_function_returns(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"model.hidden_size": 32, "model.num_layers": 2, "model.num_heads": 2, "objective.length": 32}
    result = blankfill.plan(load_recipe("gpt-nano", settings), [corpus])
    printed = planned(capsys, str(corpus), "--recipe", "gpt-nano", *SMALL)
    returned = json.loads(json.dumps(result.values()))
    for values in (printed, returned):
        values["available"] = {}  # other programs take and free memory meanwhile
    assert printed == returned and result.fits and result.time is None
    assert cli.main(["plan", "--no-measure", str(corpus), "--recipe", "gpt-nano", *SMALL]) == 0
    tables = capsys.readouterr().out
    for size in (result.memory.peak, result.memory.activations, result.disk.checkpoints):
        assert amount(size, "B") in tables
    for name, count in result.parameters.items():
        assert re.search(rf"{name.replace('_', ' ')} +{count:,}\n", tables)
    assert f"{result.work.tokens:,.0f}" in tables and all(note in tables for note in result.notes)


@pytest.mark.parametrize(
    "kind", [Plan, PlannedDisk, PlannedTime, PlannedWork, PlannedPhase, Memory, RowShape, AvailableSpace, Timing, Trial]
)
def test_each_field_of_a_plan_is_documented(kind: type) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for field, after in itertools.pairwise([*tree.body, None]):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), ast.unparse(field)


@pytest.mark.parametrize(
    ("seconds", "message"),
    [(0.0123, "12.3 ms"), (75, "75 s"), (3600, "60 min"), (36000, "10 hours"), (864000, "10 days"),
     (3.2e8, "10.1 years")],
)  # fmt: skip
def test_times_are_shown_in_the_unit_that_fits(seconds: float, message: str) -> None:
    assert plan.spoken(seconds) == message


def test_made_up_rows_are_those_of_the_objective(tmp_path: Path) -> None:
    recipe = load_recipe("glm-nano")
    vocabulary = plan_text.expected_vocabulary(recipe, None)
    assert vocabulary.size == recipe.corpus.vocab_size
    (sampler,) = plan_text.random_rows(recipe, vocabulary, tmp_path)
    shape = estimate.row_shape(estimate.sampled_rows(sampler), vocabulary["pad"])
    assert shape.columns >= recipe.objective.length
    assert shape.ids <= vocabulary.size
    assert all(
        0 < size <= table for size, table in zip(shape.positions, recipe.objective.position_sizes(), strict=True)
    )


def test_sentinels_stand_behind_the_vocabulary(tmp_path: Path) -> None:
    recipe = dataclasses.replace(load_recipe("gpt-nano"), objective=T5(length=64))
    vocabulary = plan_text.expected_vocabulary(recipe, None)
    size = recipe.corpus.vocab_size
    assert vocabulary.sentinels == tuple(range(size + 99, size - 1, -1))
    assert vocabulary.size == size + 100
    (sampler,) = plan_text.random_rows(recipe, vocabulary, tmp_path)
    (example,) = sampler.row(0)
    assert example.context is not None
    assert example.target_ids[0] == vocabulary.sentinels[0]


def test_its_flags_are_frozen() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "blankfill", "plan", "--help"], capture_output=True, text=True, check=True
    )
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)(?![\w.-])", run.stdout))
    own = {"recipe", "out", "teacher", "measure", "no-measure", "threads", "seed"}
    assert flags == own | {"help", "json", "quiet", "debug"}  # those of every command
