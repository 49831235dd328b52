"""The loop: what it records, that it learns, and that resuming changes nothing."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint import store
from blankfill.config.recipe import Recipe, load_recipe
from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter
from blankfill.data.batching import collate
from blankfill.data.loader import Phase, Steps, load
from blankfill.data.rows import RowSchedule
from blankfill.data.sampler import Sampler
from blankfill.errors import UserError
from blankfill.model.transformer import Transformer, build
from blankfill.training.agree import RULES, Decision
from blankfill.training.baseline import unigram_baseline
from blankfill.training.faults import NonFiniteError, OnNan
from blankfill.training.loop import Metrics, Trainer
from blankfill.training.loss import LossSums, loss_sums
from blankfill.training.optimizer import build_optimizer
from blankfill.training.progress import Progress
from blankfill.training.scaling import loss_scaler
from blankfill.types import Batch, Vocabulary

SMALL = {
    "model.hidden_size": 32, "model.num_layers": 1, "model.num_heads": 2, "model.dropout": 0.1, "objective.length": 24,
    "train.steps": 12, "train.batch_size": 4, "train.log_every": 1, "train.eval_every": 4, "train.lr": 3e-3,
    "train.embedding_lr_multiplier": 1.0,
}  # fmt: skip


class Memory:
    """A recorder that keeps what the loop records."""

    def __init__(self) -> None:
        self.lines: list[Metrics] = []
        self.events: list[tuple[int, str, str]] = []

    def record(self, metrics: Metrics) -> None:
        self.lines.append(metrics)

    def advance(self, step: int, fields: Metrics) -> None:
        self.step = step

    def event(self, step: int, kind: str, text: str) -> None:
        self.events.append((step, kind, text))

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
    optimizer = build_optimizer(model, options)
    memory = Memory()
    validation = [collate([rows.row(i) for i in range(8)], vocabulary["pad"])]

    def save(progress: Progress) -> None:
        tensors = store.optimizer_tensors(optimizer)
        store.save(folder, progress.step, model.state_dict(), tensors, {"progress": progress.state()})

    made = Trainer(
        model, optimizer, options, recipe.seed, torch.device("cpu"), torch.float32, memory, lambda step: validation,
        save, options.row_schedule,
    )  # fmt: skip
    return made, memory


def steps_of(rows: Sampler, micro: int = 4) -> Steps:
    return Steps([Phase(0, rows, micro)], RowSchedule(4))


@pytest.mark.parametrize("name", ["bert-nano", "mlm-nano", "glm-nano", "gpt-nano"])
def test_every_objective_learns_and_resumes_exactly(
    name: str, corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    recipe = load_recipe(name, SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    whole, memory = trainer(recipe, vocabulary, rows, tmp_path / "whole")
    done = whole.train(load(steps_of(rows), 0, 12), Progress())
    assert done.step == 12 and sorted(memory.losses("valid")) == [0, 4, 8, 12]
    assert memory.losses("valid")[12] < memory.losses("valid")[0] - 0.3
    first, _ = trainer(recipe, vocabulary, rows, tmp_path / "parts")
    first.train(load(steps_of(rows), 0, 8), Progress())
    checkpoint = store.newest(tmp_path / "parts")
    assert checkpoint is not None and checkpoint.step == 8
    torch.manual_seed(99)  # nothing may depend on the state of the global generator
    second, resumed = trainer(recipe, vocabulary, rows, tmp_path / "parts")
    second.model.load_state_dict(checkpoint.model)
    store.restore_optimizer(second.optimizer, checkpoint.optimizer)
    second.train(load(steps_of(rows), 8, 12), Progress.from_state(checkpoint.state["progress"]))
    for step in range(9, 13):
        assert resumed.losses("train")[step] == memory.losses("train")[step]
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_metrics_hold_what_the_readme_promises(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    recipe = load_recipe("bert-nano", {**SMALL, "train.steps": 2})
    rows = sampler(corpus, recipe, vocabulary)
    made, memory = trainer(recipe, vocabulary, rows, tmp_path)
    made.train(load(steps_of(rows), 0, 2), Progress())
    for line in memory.lines:
        assert {"step", "split", "loss", "lr", "tokens", "tokens_per_s", "next_sentence_loss"} <= set(line)
    train = [line for line in memory.lines if line["split"] == "train"]
    assert [line["lr"] for line in train] == [recipe.train.lr_at(0), recipe.train.lr_at(1)]
    assert train[1]["tokens"] == sum(batch.tokens for step in (0, 1) for batch in steps_of(rows)[step])


def test_micro_batches_change_nothing(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    recipe = load_recipe("glm-nano", {**SMALL, "model.dropout": 0.0, "train.steps": 4})
    rows = sampler(corpus, recipe, vocabulary)
    losses = []
    for micro in (4, 1):
        made, memory = trainer(recipe, vocabulary, rows, tmp_path / str(micro))
        made.train(load(steps_of(rows, micro), 0, 4), Progress())
        losses.append(list(memory.losses("train").values()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_loss_that_is_not_finite_stops_with_the_rows(
    corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    recipe = load_recipe("gpt-nano", SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    made, _ = trainer(recipe, vocabulary, rows, tmp_path)

    def poisoned() -> Iterator[tuple[int, list[Batch]]]:
        for step, batches in load(steps_of(rows), 0, 12):
            if step == 3:
                with torch.no_grad():
                    made.model.token_embeddings.weight[11:] = float("nan")
            yield step, batches

    with pytest.raises(UserError, match=r"step 3: the loss is not finite; the weights of token_embeddings\.weight"):
        made.train(poisoned(), Progress())


def test_stopping_saves_and_ends(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    recipe = load_recipe("gpt-nano", SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    made, memory = trainer(recipe, vocabulary, rows, tmp_path)
    made.stop = lambda: memory.step == 3
    assert made.train(load(steps_of(rows), 0, 12), Progress()).step == 3
    assert store.steps_in(tmp_path) == [3]


def test_unigram_baseline_by_hand() -> None:
    """Ids 0 (a mark) and 1, 2 (words seen 3 and 1 times); half of the answers are the mark."""
    vocabulary = Vocabulary(3, {"eop": 0}, frozenset({0}))
    baseline = unigram_baseline(np.array([0, 3, 1]), [np.array([0, 1])], [np.array([0, 1, 2, 1])], vocabulary)
    law = np.array([0.5, 0.5 * 4 / 6, 0.5 * 2 / 6])
    assert baseline == pytest.approx(-np.log(law[[0, 1, 2, 1]]).mean())
    assert np.isnan(unigram_baseline(np.array([0, 3, 1]), [np.array([0, 1])], [], vocabulary))


def test_gradient_checkpointing_changes_nothing(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    """Dropout included: the layer is computed again with the draws of the first time."""
    recipe = load_recipe("bert-nano", {**SMALL, "model.num_layers": 2, "train.steps": 4})
    rows = sampler(corpus, recipe, vocabulary)
    losses = []
    for recompute in (False, True):
        made, memory = trainer(recipe, vocabulary, rows, tmp_path / str(recompute))
        made.model.recompute = recompute
        made.train(load(steps_of(rows), 0, 4), Progress())
        losses.append(memory.losses("train"))
    assert losses[0] == losses[1]


def short_of_memory(made: Trainer, most: int) -> None:
    """From now on, memory suffices for only this number of rows at a time."""

    def limited(model: Transformer, batch: Batch, dtype: torch.dtype) -> LossSums:
        if model.training and len(batch.input_ids) > most:
            raise torch.OutOfMemoryError("there is none left")
        return loss_sums(model, batch, dtype)

    made.loss = limited


def test_a_resumed_run_keeps_the_rows_that_fitted(
    corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    """Memory runs out at the first step; the second sitting would have enough, and computes in halves all the same."""
    recipe = load_recipe("gpt-nano", SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    whole, memory = trainer(recipe, vocabulary, rows, tmp_path / "whole")
    short_of_memory(whole, 2)
    assert whole.train(load(steps_of(rows), 0, 12), Progress()).parts == 2
    first, _ = trainer(recipe, vocabulary, rows, tmp_path / "first")
    short_of_memory(first, 2)
    done = first.train(load(steps_of(rows), 0, 4), Progress())
    state = Progress.from_state(done.state())
    again, resumed = trainer(recipe, vocabulary, rows, tmp_path / "again")
    again.model.load_state_dict(first.model.state_dict())
    again.optimizer.load_state_dict(first.optimizer.state_dict())
    again.train(load(steps_of(rows), 4, 12), state)
    assert again.parts == 2
    assert resumed.losses("train") == {step: loss for step, loss in memory.losses("train").items() if step > 4}


def test_a_checkpoint_is_written_where_the_pace_changes(
    corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    recipe = load_recipe("gpt-nano", SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    made, _ = trainer(recipe, vocabulary, rows, tmp_path)
    paces: list[tuple[int, float, int]] = []

    def pace(step: int, seconds: float, tokens: int) -> bool:
        paces.append((step, seconds, tokens))
        return step == 3

    made.pace = pace
    made.train(load(steps_of(rows), 0, 4), Progress())
    assert 3 in store.steps_in(tmp_path)
    assert [step for step, _, _ in paces] == [1, 2, 3, 4] and all(s > 0 and t > 0 for _, s, t in paces)


def test_out_of_memory_halves_the_rows_once(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> None:
    recipe = load_recipe("bert-nano", {**SMALL, "model.dropout": 0.0, "train.steps": 4})
    rows = sampler(corpus, recipe, vocabulary)
    enough, memory = trainer(recipe, vocabulary, rows, tmp_path / "enough")
    enough.train(load(steps_of(rows), 0, 4), Progress())
    halved, recorder = trainer(recipe, vocabulary, rows, tmp_path / "halved")
    short_of_memory(halved, 2)
    halved.train(load(steps_of(rows), 0, 4), Progress())
    assert [kind for _, kind, _ in recorder.events] == ["out of memory"]
    assert "with 4 rows at a time; continuing with 2, the same but for dropout" in recorder.events[0][2]
    for split in ("train", "valid"):
        assert recorder.losses(split) == pytest.approx(memory.losses(split), abs=1e-4)


def test_out_of_memory_with_half_the_rows_is_an_error(
    corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    recipe = load_recipe("gpt-nano", SMALL)
    rows = sampler(corpus, recipe, vocabulary)
    made, _ = trainer(recipe, vocabulary, rows, tmp_path)
    short_of_memory(made, 1)
    with pytest.raises(UserError, match=r"step 0: there is not enough memory even for 2 rows at a time; lower"):
        made.train(load(steps_of(rows), 0, 4), Progress())


@pytest.mark.parametrize("name", ["bert-nano", "glm-nano", "gpt-nano"])
def test_parts_of_a_batch_are_the_rows(name: str, corpus: IndexedCorpus, vocabulary: Vocabulary) -> None:
    """A part gives the losses that the same rows give when they are collated alone."""
    recipe = load_recipe(name, {**SMALL, "model.dropout": 0.0})
    rows = sampler(corpus, recipe, vocabulary)
    model = build(recipe.model_config(vocabulary.size), 0).eval()
    batch = collate([rows.row(i) for i in range(5)], vocabulary["pad"])
    for low, high in ((0, 2), (2, 5)):
        part, alone = batch.part(low, high), collate([rows.row(i) for i in range(low, high)], vocabulary["pad"])
        assert part.tokens == alone.tokens and torch.equal(part.target_ids, alone.target_ids)
        ours, theirs = loss_sums(model, part), loss_sums(model, alone)
        assert ours.keys() == theirs.keys() and "lm" in ours
        for name in theirs:
            assert ours[name].item() == pytest.approx(theirs[name].item(), rel=1e-5)


def test_short_rows_first(corpus: IndexedCorpus, vocabulary: Vocabulary) -> None:
    recipe = load_recipe("gpt-nano", SMALL)
    long = sampler(corpus, recipe, vocabulary)
    short = Sampler(corpus, dataclasses.replace(recipe.objective, length=8), vocabulary, recipe.seed)
    later = Sampler(corpus, recipe.objective, vocabulary, recipe.seed, first=RowSchedule(4).first(3))
    steps = Steps([Phase(0, short, 4), Phase(3, later, 2)], RowSchedule(4))
    assert [max(batch.input_ids.shape[1] for batch in steps[step]) for step in range(5)] == [8, 8, 8, 24, 24]
    assert [len(steps[step]) for step in (2, 3)] == [1, 2]
    assert later.documents(12)[0].ids.tolist() != long.documents(0)[0].ids.tolist()  # an order of its own


def test_fp16_scales_its_loss_and_resumes_exactly(
    corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    recipe = load_recipe("gpt-nano", {**SMALL, "train.save_every": 4})
    rows = sampler(corpus, recipe, vocabulary)

    def half(folder: Path) -> tuple[Trainer, Memory]:
        made, memory = trainer(recipe, vocabulary, rows, folder)
        made.dtype = torch.float16
        made.scaler = loss_scaler(torch.device("cpu"), torch.float16)
        return made, memory

    whole, memory = half(tmp_path / "whole")
    whole.train(load(steps_of(rows), 0, 12), Progress())
    scales = [line["loss_scale"] for line in memory.lines if line["split"] == "train"]
    assert len(scales) == 12 and memory.losses("valid")[12] < memory.losses("valid")[0] - 0.3
    first, _ = half(tmp_path / "parts")
    first.train(load(steps_of(rows), 0, 4), Progress())
    checkpoint = store.newest(tmp_path / "parts")
    assert checkpoint is not None
    second, resumed = half(tmp_path / "parts")
    second.model.load_state_dict(checkpoint.model)
    store.restore_optimizer(second.optimizer, checkpoint.optimizer)
    progress = Progress.from_state(checkpoint.state["progress"])
    second.scaler.restore(progress.scaler)
    second.train(load(steps_of(rows), 4, 12), progress)
    assert [resumed.losses("train")[s] for s in range(5, 13)] == [memory.losses("train")[s] for s in range(5, 13)]


class Pair:
    """Two processes, of which this one is the second. The first has the values of `other`, elsewhere the same ones."""

    rank, world_size = 1, 2

    def __init__(self, **other: Any) -> None:
        self.other = {name.replace("_", " "): value for name, value in other.items()}
        self.decisions: set[str] = set()

    def gather(self, decision: Decision, value: Any) -> Sequence[Any]:
        self.decisions.add(decision)
        return [self.other.get(decision, value), value]


@pytest.fixture
def in_pair(corpus: IndexedCorpus, vocabulary: Vocabulary, tmp_path: Path) -> Callable[..., tuple[Trainer, Memory]]:
    """Trains a small model as the second of two processes; the first has these values."""

    def train(pair: Pair, on_nan: OnNan = "stop", **options: int) -> tuple[Trainer, Memory]:
        recipe = load_recipe("gpt-nano", {**SMALL, **{f"train.{name}": value for name, value in options.items()}})
        rows = sampler(corpus, recipe, vocabulary)
        made, memory = trainer(recipe, vocabulary, rows, tmp_path)
        made.group, made.on_nan = pair, on_nan
        made.train(load(steps_of(rows), 0, 12), Progress())
        return made, memory

    return train


def test_every_decision_of_the_loop_is_a_common_one(in_pair: Callable[..., tuple[Trainer, Memory]]) -> None:
    pair = Pair()
    _, memory = in_pair(pair)
    of_the_machine = {"compute type", "attention kernel"}
    assert pair.decisions == set(RULES) - of_the_machine - {"rows at once"}  # a decision for when memory runs out
    assert len(memory.losses("train")) == 12


def test_the_other_process_stops_both(in_pair: Callable[..., tuple[Trainer, Memory]]) -> None:
    made, memory = in_pair(Pair(stop=True))
    assert made.stopped and memory.step == 1


def test_both_halve_their_rows_when_the_other_runs_out_of_memory(
    in_pair: Callable[..., tuple[Trainer, Memory]],
) -> None:
    """Its memory does not suffice for the halves either, so both end in the same error."""
    with pytest.raises(UserError, match="not enough memory even for 2 rows at a time"):
        in_pair(pair := Pair(out_of_memory=True))
    assert "rows at once" in pair.decisions


def test_a_step_that_is_not_finite_in_the_other_is_left_out_by_both(
    in_pair: Callable[..., tuple[Trainer, Memory]],
) -> None:
    with pytest.raises(NonFiniteError, match="step 0"):
        in_pair(Pair(finite=False))
    with pytest.raises(NonFiniteError, match="step 9"):
        in_pair(Pair(finite=False), on_nan="skip")


def test_losses_are_means_over_the_targets_of_both(in_pair: Callable[..., tuple[Trainer, Memory]]) -> None:
    """The other has no targets, then as many again with no loss: the mean is the same, then half of it."""
    _, alone = in_pair(Pair(target_counts={}, losses={}), steps=1)
    _, halved = in_pair(Pair(losses={}), steps=1)
    assert halved.losses("train")[1] == pytest.approx(alone.losses("train")[1] / 2, rel=1e-6)


def test_the_first_process_decides_on_the_best_checkpoint_and_the_end(
    in_pair: Callable[..., tuple[Trainer, Memory]],
) -> None:
    """Its validations never get better, so both stop early, however well this process does."""
    made, memory = in_pair(Pair(validation=1.0), patience=1)
    assert [kind for _, kind, _ in memory.events] == ["early stop"] and memory.step == 4 and not made.stopped


def test_both_write_a_checkpoint_when_the_other_changes_its_threads(
    in_pair: Callable[..., tuple[Trainer, Memory]], tmp_path: Path
) -> None:
    in_pair(Pair(checkpoint_now=True), steps=3, eval_every=3)
    assert sorted(store.steps_in(tmp_path)) == [2, 3]  # two are kept
