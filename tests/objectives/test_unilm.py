"""UniLM: the mixture of modes, runs of masked tokens, lone sentences, and how transformers' BERT answers its rows."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from blankfill.data.batching import collate
from blankfill.data.sampler import Sampler
from blankfill.families.checkpoint_format import checkpoint_format_of
from blankfill.families.options import ModelOptions
from blankfill.model.transformer import build
from blankfill.objectives import Unilm
from blankfill.objectives.unilm import choose_runs, take_runs
from blankfill.types import Document, Vocabulary
from conftest import ORDINARY, covering, within, write_corpus

PAD, UNK, CLS, SEP, MASK = range(5)
MODE = {0: "both", 2: "left", 3: "right", 4: "sequence"}


def pair(first: int, second: int, label: int = 0) -> Document:
    ids = (ORDINARY + np.arange(first + second) % 40).astype(np.int32)
    return Document(ids, np.unique(np.array([0, first, first + second], np.int32)), label=label)


@given(sizes=st.tuples(st.integers(1, 40), st.integers(0, 40)), seed=st.integers(0, 999), label=st.integers(0, 1))
def test_restoring_the_targets_gives_back_the_text(
    vocabulary: Vocabulary, sizes: tuple[int, int], seed: int, label: int
) -> None:
    document = pair(*sizes, label=label if sizes[1] else 0)
    objective = Unilm(length=48)
    choice = objective.choose(document, vocabulary, np.random.default_rng(seed))
    example = objective.build(document, vocabulary, choice)
    restored = example.input_ids.copy()
    restored[example.target_index] = example.target_ids
    first, second = document.ids[slice(*choice.first)].tolist(), document.ids[slice(*choice.second)].tolist()
    tail = [*second, SEP] if second else []
    assert restored.tolist() == [CLS, *first, SEP, *tail] and len(restored) <= 48
    assert len(example.target_ids) == min(objective.budget(len(restored)), len(first) + len(second))
    first_type, two = {"both": (0, 1), "left": (2, 2), "right": (3, 3), "sequence": (4, 5)}[choice.mode]
    assert example.positions.tolist() == [
        list(range(len(restored))),
        [first_type] * (len(first) + 2) + [two] * len(tail),
    ]
    if label and second:
        assert choice.mode == "both" and example.labels == {"next_sentence": 1}
    elif choice.mode == "both" and second:
        assert example.labels == {"next_sentence": 0}
    else:
        assert example.labels == {} and (second or choice.mode != "sequence")


def test_the_published_mixture(tmp_path: Path) -> None:
    """1/3, 1/3, 1/6, 1/6 of all pairs, and half of those that are read both ways are not neighbours."""
    corpus = write_corpus(tmp_path / "c", [[6, 6, 6, 6, 6, 6, 6, 6]] * 400)
    sampler = Sampler(corpus, Unilm(length=32, short=0.0), covering(corpus), 0)
    modes, labels = Counter(), Counter()
    for i in range(sampler.rows_in_epoch(0)):
        for example in sampler.row(i):
            if np.count_nonzero(example.input_ids == SEP) == 1:
                assert example.labels == {} and example.positions[1, 0] != 4
                continue
            modes[MODE[int(example.positions[1, 0])]] += 1
            labels.update(example.labels.values())
    total = sum(modes.values())
    for mode, share in (("both", 1 / 3), ("sequence", 1 / 3), ("left", 1 / 6), ("right", 1 / 6)):
        assert within(modes[mode] / total, share, total), mode
    assert labels[0] + labels[1] == modes["both"]
    assert within(labels[1] / modes["both"], 0.5, modes["both"])


def test_one_way_of_reading_alone(vocabulary: Vocabulary, tmp_path: Path) -> None:
    objective = Unilm(length=32, both=0.0, left=0.0, right=0.0, short=0.0)
    assert objective.labels() == () and objective.packing().random_next == 0.0
    corpus = write_corpus(tmp_path / "c", [[5, 5, 5]] * 50)
    sampler = Sampler(corpus, objective, covering(corpus), 0)
    seen = [example.positions[1, 0] for i in range(sampler.rows_in_epoch(0)) for example in sampler.row(i)]
    assert set(seen) == {4}
    rng = np.random.default_rng(0)
    assert objective.choose(pair(5, 0), vocabulary, rng).mode == "both"  # nothing can be written from it


def test_runs_by_hand() -> None:
    """A run ends at a special token, at an earlier run and at the budget; one that begins in a run is passed over."""
    maskable = np.array([False, True, True, True, False, True, True, False])
    assert take_runs(maskable, np.array([3, 2, 3, 5]), np.array([3, 2, 1, 2]), 9).tolist() == [3, 2, 5, 6]
    assert take_runs(maskable, np.array([1]), np.array([3]), 2).tolist() == [1, 2]


def test_a_fifth_of_the_draws_takes_two_or_three() -> None:
    """Few runs in a long row, so that hardly two of them touch."""
    sizes: Counter[int] = Counter()
    for seed in range(40):
        index = np.sort(choose_runs(np.ones(20_000, np.bool_), 60, 0.2, np.random.default_rng(seed)))
        starts = np.flatnonzero(np.diff(index, prepend=-2) > 1)
        sizes.update(np.diff([*starts, len(index)]).tolist())
    total = sum(sizes.values())
    for size, share in ((1, 0.8), (2, 0.1), (3, 0.1)):
        assert within(sizes[size] / total, share, total), size


def test_options_that_cannot_be() -> None:
    assert "objective.left is -1.0; it must not be negative" in Unilm(left=-1.0).problems()
    assert "all 0" in Unilm(both=0, sequence=0, left=0, right=0).problems()[0]
    assert Unilm().problems() == []


@pytest.mark.parametrize("mode", ["both", "sequence", "left", "right"])
def test_transformers_bert_answers_the_same_under_the_same_mask(mode: str, vocabulary: Vocabulary) -> None:
    """Scores and gradients of every mode, by a mask for each pair of columns."""
    transformers = pytest.importorskip("transformers")
    objective = Unilm(length=24, **{name: float(name == mode) for name in ("both", "sequence", "left", "right")})
    options = ModelOptions(family="bert", hidden_size=32, num_layers=2, num_heads=4, dropout=0.0, attention_dropout=0.0)
    config = options.config(64, objective.position_sizes(), pairs=bool(objective.labels()))
    model = build(config, 3)
    form = checkpoint_format_of(config, objective, vocabulary)
    assert not isinstance(form, str)
    values = form.config_json(vocabulary)
    theirs = getattr(transformers, values["architectures"][0])(transformers.BertConfig(**values)).eval()
    left_out = theirs.load_state_dict(form.table.to_theirs(model.state_dict()), strict=False)
    assert not left_out.unexpected_keys
    rng = np.random.default_rng(0)
    rows = [[objective.example(pair(11, 10), vocabulary, rng)] for _ in range(2)]
    batch = collate(rows, PAD)
    ours = model.lm_head(model(batch).hidden, model.output_table)
    seen = torch.from_numpy(np.stack([row[0].rule.visible() for row in rows]))
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
    out = theirs(batch.input_ids, added, batch.positions[1], batch.positions[0])
    scores = out.prediction_logits if "prediction_logits" in out else out.logits
    torch.testing.assert_close(ours, scores, atol=1e-5, rtol=1e-5)
    for logits in (ours, scores):
        F.cross_entropy(logits.flatten(0, 1)[batch.target_index], batch.target_ids).backward()
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    mine = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    renamed = form.table.to_theirs(mine)
    compared = [name for name in renamed if name in expected]
    assert len(compared) >= len(expected) - 2
    for name in compared:
        torch.testing.assert_close(renamed[name], expected[name], atol=1e-5, rtol=1e-4)
