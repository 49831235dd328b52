"""The loop: what it records, that it learns, and that resuming changes nothing."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from blankfill.checkpoint import store
from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter
from blankfill.data.loader import Steps, load
from blankfill.data.packing import collate
from blankfill.data.sampler import Sampler
from blankfill.errors import UserError
from blankfill.model.transformer import build
from blankfill.recipe import Recipe, load_recipe
from blankfill.train.baseline import unigram_baseline
from blankfill.train.loop import Metrics, Progress, Trainer
from blankfill.train.optimizer import build_optimizer
from blankfill.types import Batch, Vocabulary

SMALL = {
    "model.hidden_size": 32, "model.num_layers": 1, "model.num_heads": 2, "model.dropout": 0.1, "objective.length": 24,
    "train.steps": 12, "train.batch_size": 4, "train.log_every": 1, "train.eval_every": 4, "train.lr": 3e-3,
}  # fmt: skip


class Memory:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[Metrics] = []

    def record(self, metrics: Metrics) -> None:
        self.lines.append(metrics)

    def advance(self, step: int, fields: Metrics) -> None:
        self.step = step

    def losses(self, split: str) -> dict[int, float]:
        return {int(line["step"]): float(line["loss"]) for line in self.lines if line["split"] == split}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> IndexedCorpus:
    """A text with a pattern to learn: each id is mostly followed by the next one."""
    rng = np.random.default_rng(0)
    prefix = tmp_path_factory.mktemp("corpus") / "train"
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(40):
            steps = np.where(rng.random(60) < 0.9, 1, rng.integers(0, 53, 60))
            ids = 11 + np.cumsum(steps) % 53
            writer.add_document(ids, [6] * 10)
    return IndexedCorpus(prefix)


def sampler(corpus: IndexedCorpus, recipe: Recipe, vocabulary: Vocabulary) -> Sampler:
    return Sampler(corpus, recipe.objective, vocabulary, recipe.seed)


def trainer(recipe: Recipe, vocabulary: Vocabulary, rows: Sampler, folder: Path) -> tuple[Trainer, Memory]:
    model = build(recipe.model_config(vocabulary.size), recipe.seed)
    options = recipe.train
    optimizer = build_optimizer(model, (options.beta1, options.beta2), options.eps, options.weight_decay)
    memory = Memory()
    validation = [collate([rows.row(i) for i in range(8)], vocabulary["pad"])]

    def save(progress: Progress) -> None:
        store.save(folder, progress.step, model.state_dict(), optimizer, {"progress": dataclasses.asdict(progress)})

    made = Trainer(
        model, optimizer, options, recipe.seed, torch.device("cpu"), torch.float32, memory, validation, save
    )  # fmt: skip
    return made, memory


@pytest.mark.parametrize("name", ["bert-nano", "mlm-nano", "glm-nano", "gpt-nano"])
def test_every_objective_learns_and_resumes_exactly(
    name: str, corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    recipe = load_recipe(name, SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    whole, memory = trainer(recipe, vocabulary, rows, tmp_path / "whole")
    done = whole.train(load(Steps(rows, 4, 4), 0, 12), Progress())
    assert done.step == 12 and sorted(memory.losses("valid")) == [0, 4, 8, 12]
    assert memory.losses("valid")[12] < memory.losses("valid")[0] - 0.3
    first, _ = trainer(recipe, vocabulary, rows, tmp_path / "parts")
    first.train(load(Steps(rows, 4, 4), 0, 8), Progress())
    checkpoint = store.newest(tmp_path / "parts")
    assert checkpoint is not None and checkpoint.step == 8
    torch.manual_seed(99)  # nothing may depend on the state of the global generator
    second, resumed = trainer(recipe, vocabulary, rows, tmp_path / "parts")
    second.model.load_state_dict(checkpoint.model)
    store.restore_optimizer(second.optimizer, checkpoint.optimizer)
    second.train(load(Steps(rows, 4, 4), 8, 12), Progress(**checkpoint.state["progress"]))
    for step in range(9, 13):
        assert resumed.losses("train")[step] == memory.losses("train")[step]
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_metrics_hold_what_the_readme_promises(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    recipe = load_recipe("bert-nano", {**SMALL, "train.steps": 2})
    rows = sampler(corpus, recipe, vocabulary)
    made, memory = trainer(recipe, vocabulary, rows, tmp_path)
    made.train(load(Steps(rows, 4, 4), 0, 2), Progress())
    for line in memory.lines:
        assert {"step", "split", "loss", "lr", "tokens", "tokens_per_s", "next_sentence_loss"} <= set(line)
    train = [line for line in memory.lines if line["split"] == "train"]
    assert [line["lr"] for line in train] == [recipe.train.lr_at(0), recipe.train.lr_at(1)]
    assert train[1]["tokens"] == sum(batch.tokens for step in (0, 1) for batch in Steps(rows, 4, 4)[step])


def test_micro_batches_change_nothing(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    recipe = load_recipe("glm-nano", {**SMALL, "model.dropout": 0.0, "train.steps": 4})
    rows = sampler(corpus, recipe, vocabulary)
    losses = []
    for micro in (4, 1):
        made, memory = trainer(recipe, vocabulary, rows, tmp_path / str(micro))
        made.train(load(Steps(rows, 4, micro), 0, 4), Progress())
        losses.append(list(memory.losses("train").values()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_loss_that_is_not_finite_stops_with_the_rows(
    corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    recipe = load_recipe("gpt-nano", SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    made, _ = trainer(recipe, vocabulary, rows, tmp_path)

    def poisoned() -> Iterator[tuple[int, list[Batch]]]:
        for step, batches in load(Steps(rows, 4, 4), 0, 12):
            if step == 3:
                with torch.no_grad():
                    made.model.words.weight[11:] = float("nan")
            yield step, batches

    with pytest.raises(UserError, match=r"step 3: the loss is not finite.*Rows 12 to 15"):
        made.train(poisoned(), Progress())


def test_stopping_saves_and_ends(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    recipe = load_recipe("gpt-nano", SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    made, memory = trainer(recipe, vocabulary, rows, tmp_path)
    made.stop = lambda: memory.step == 3
    assert made.train(load(Steps(rows, 4, 4), 0, 12), Progress()).step == 3
    assert store.steps_in(tmp_path) == [3]


def test_unigram_baseline_by_hand() -> None:
    """Ids 0 (a mark) and 1, 2 (words seen 3 and 1 times); half of the answers are the mark."""
    vocabulary = Vocabulary(3, {"eop": 0}, frozenset({0}))
    baseline = unigram_baseline(np.array([0, 3, 1]), [np.array([0, 1])], [np.array([0, 1, 2, 1])], vocabulary)
    law = np.array([0.5, 0.5 * 4 / 6, 0.5 * 2 / 6])
    assert baseline == pytest.approx(-np.log(law[[0, 1, 2, 1]]).mean())
    assert np.isnan(unigram_baseline(np.array([0, 3, 1]), [np.array([0, 1])], [], vocabulary))
