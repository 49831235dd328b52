"""The losses of a student: worked out by hand, against torch's own, and in the loop."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blankfill.data.batching import collate
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.objectives import Bert, Mlm, Unilm2
from blankfill.training import distil
from blankfill.training.distil import HIDDEN, SOFT, Distillation, soft_loss
from blankfill.training.loop import evaluate
from blankfill.training.options import DistilOptions
from blankfill.types import Batch
from conftest import VECTORS, make_document, make_vocabulary

V = 64
CONFIG = TransformerConfig(
    vocab_size=V, hidden_size=8, num_layers=2, num_heads=2, ffn_size=12, position_sizes=(32, 2), norm="post",
    embedding_norm=True, head_transform=True, head_bias=True, dropout=0.1, attention_dropout=0.1, init_std=0.5,
)  # fmt: skip
STUDENT = dataclasses.replace(CONFIG, num_layers=1, position_sizes=(32,), dropout=0.0, attention_dropout=0.0)


def biased(config: TransformerConfig, seed: int) -> Transformer:
    """A model whose output bias is drawn too, so that a forgotten one shows."""
    model = build(config, seed)
    torch.nn.init.normal_(model.lm_head.bias, generator=torch.Generator().manual_seed(seed))
    return model


def batch_of(objective: Bert | Mlm | Unilm2, rng: np.random.Generator, lengths: tuple[int, ...] = (20, 11)) -> Batch:
    vocabulary = make_vocabulary(V)
    rows = [[objective.example(make_document(length), vocabulary, rng)] for length in lengths]
    return collate(rows, vocabulary["pad"])


@pytest.fixture
def batch() -> Batch:
    """Two texts of unlike length: there is padding."""
    return batch_of(Mlm(32, position_offset=0, across_documents=False), np.random.default_rng(1))


def plain_losses(student: Transformer, teacher: Transformer, batch: Batch, masked: bool, T: float) -> tuple[Any, Any]:
    """(mean T²·KL, mean 1 − cosine), by torch's functions on all scores at once."""
    types = torch.zeros_like(batch.positions)
    with torch.no_grad():
        seen = teacher(dataclasses.replace(batch, positions=torch.cat([batch.positions, types]))).hidden
        wished = teacher.lm_head(seen, teacher.output_table).flatten(0, 1)
    hidden = student(batch).hidden
    given = student.lm_head(hidden, student.output_table).flatten(0, 1)
    real = (batch.segment >= 0).flatten()
    at = batch.target_index if masked else real.nonzero()[:, 0]
    soft = F.kl_div(
        F.log_softmax(given[at] / T, -1), F.softmax(wished[at] / T, -1), reduction="batchmean"
    )  # fmt: skip
    same = torch.ones(int(real.sum()))
    return soft * T**2, F.cosine_embedding_loss(hidden.flatten(0, 1)[real], seen.flatten(0, 1)[real], same)


@pytest.mark.parametrize(("over", "temperature", "columns"), [("all", 2.0, 1 << 24), ("masked", 3.0, 1024)])
def test_losses_and_gradients_are_torchs(
    batch: Batch, over: Any, temperature: float, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when only a few tokens' scores are at work at a time."""
    monkeypatch.setattr(distil, "SCORES", columns)
    teacher, student = biased(CONFIG, 1).eval(), biased(STUDENT, 2)
    losses = Distillation(teacher, DistilOptions(over=over, temperature=temperature))
    counts, sums = losses.counts(batch), losses(student, batch)
    means = {name: total / counts[name] for name, total in sums.items()}
    soft, hidden = plain_losses(student, teacher, batch, over == "masked", temperature)
    torch.testing.assert_close(means[SOFT], soft, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(means[HIDDEN], hidden, atol=1e-6, rtol=1e-5)
    given = student.lm_head(student(batch).hidden, student.output_table).flatten(0, 1)
    words = F.cross_entropy(given[batch.target_index], batch.target_ids)
    weights = losses.weights
    sum(weights[name] * mean for name, mean in means.items()).backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    (5 * soft + 2 * words + hidden).backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(
            gradients[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.data
@pytest.mark.skipif(not VECTORS.exists(), reason="the worked cases lie beside the project and are absent")
def test_the_worked_case() -> None:
    """Scores are made by the identity as word table, so that hidden states are the scores."""
    case = json.loads(VECTORS.read_text(encoding="utf-8"))["distilbert_loss"]
    given, expect = case["given"], case["expect"]
    config = TransformerConfig(vocab_size=3, hidden_size=3, num_layers=1, num_heads=1, ffn_size=3)
    models = [build(config, seed) for seed in (1, 2)]
    for model in models:
        torch.nn.init.eye_(model.token_embeddings.weight)
    student, teacher = (torch.tensor([given[f"{who}_logits"]]) for who in ("student", "teacher"))
    soft = soft_loss(models[0], student, models[1], teacher, given["T"])
    words = F.cross_entropy(student, torch.tensor([given["gold"]]))
    seen = [torch.tensor([given[f"{who}_hidden"]]) for who in ("student", "teacher")]
    hidden = 1 - F.cosine_similarity(*seen)
    options = DistilOptions(temperature=given["T"])
    total = (options.soft_weight * soft + options.lm_weight * words + options.hidden_weight * hidden[0]).detach()
    assert float(soft.detach()) == pytest.approx(0.241076, abs=1e-6)
    assert float(total) == pytest.approx(2.420592, abs=1e-5)
    assert expect["total"] == pytest.approx(float(total), abs=1e-5)


def test_the_teacher_sees_of_pseudo_masks_what_the_student_sees() -> None:
    same = dataclasses.replace(CONFIG, position_sizes=(32, 2), dropout=0.0, attention_dropout=0.0)
    batch = batch_of(Unilm2(32), np.random.default_rng(1))
    losses_found = Distillation(biased(same, 1), DistilOptions())(biased(same, 1), batch)
    assert float(losses_found[SOFT].detach().sum()) == pytest.approx(0, abs=1e-4)
    assert float(losses_found[HIDDEN].detach().sum()) == pytest.approx(0, abs=1e-4)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(batch: Batch) -> None:
    """Nothing but the words; and the teacher, whose dropout is on when it trains, gives the same answers each time."""
    same = dataclasses.replace(CONFIG, position_sizes=(32,))
    teacher = biased(same, 1).eval()
    losses = Distillation(teacher, DistilOptions())
    means = evaluate(biased(same, 1), [batch], torch.device("cpu"), torch.float32, losses, losses.counts)
    assert means[SOFT] == pytest.approx(0, abs=1e-6)
    assert means[HIDDEN] == pytest.approx(0, abs=1e-6)
    assert means["lm"] > 1


@pytest.mark.parametrize(("own", "theirs", "shift"), [
    (Mlm(32, position_offset=0, across_documents=False), (34,), 2),
    (Mlm(32, position_offset=2, across_documents=False), (32,), -2),
    (Bert(32, next_sentence=False), (34,), 2),
    (Bert(32, next_sentence=False), (32, 2), 0),
])  # fmt: skip
def test_the_teacher_reads_positions_as_it_learnt_them(own: Any, theirs: tuple[int, ...], shift: int) -> None:
    """Numbered from its own first one, with token types or without."""
    batch = batch_of(own, np.random.default_rng(3))
    teacher = biased(dataclasses.replace(CONFIG, position_sizes=theirs), 1).eval()
    read = Distillation(teacher, DistilOptions(), shift).translated(batch)
    assert len(read.positions) == len(theirs)
    first = {34: 2, 32: 0}[theirs[0]]
    assert read.positions[0, 0, :22].tolist() == list(range(first, first + 22))
    if len(theirs) == 2:
        assert read.positions[1].tolist() == batch.positions[1].tolist()
    teacher(read)  # every position has a row, that of the padding too


def test_what_is_left_out_costs_nothing(batch: Batch) -> None:
    losses = Distillation(biased(CONFIG, 1).eval(), DistilOptions(soft_weight=0.0, hidden_weight=0.0))
    assert losses.counts(batch) == {"lm": len(batch.target_ids)}
    assert losses(biased(STUDENT, 2), batch).keys() == {"lm"}


def test_parts_of_a_batch_add_up(batch: Batch) -> None:
    teacher, student = biased(CONFIG, 1).eval(), biased(STUDENT, 2)
    losses = Distillation(teacher, DistilOptions())
    whole, parts = losses(student, batch), [losses(student, batch.part(k, k + 1)) for k in (0, 1)]
    for name, total in whole.items():
        torch.testing.assert_close(total, sum(part[name] for part in parts), atol=1e-4, rtol=1e-5)
    assert losses.counts(batch)[SOFT] == batch.tokens == sum(losses.counts(batch.part(k, k + 1))[SOFT] for k in (0, 1))
