"""Heads and their losses against the same thing written out, and rows that are shared against rows of one's own."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blankfill.tasks.batching import ANSWER, ITEM, pack
from blankfill.tasks.heads.models import (
    HeadKind,
    TaskModel,
    candidate_loss,
    empty_head,
    grouped,
    new_head,
    soft_label_loss,
    task_losses,
)
from generate_models import random_model
from task_items import some_items

OUTPUTS: dict[HeadKind, int] = {"class": 3, "number": 1, "set": 3, "choice": 1, "span": 2}


def model_for(kind: HeadKind, class_weights: list[float] | None = None) -> TaskModel:
    encoder = random_model("bert")
    head = new_head(encoder, kind, OUTPUTS[kind], kind != "span", 1)
    torch.nn.init.normal_(head.output.weight, generator=torch.Generator().manual_seed(2))
    return TaskModel(encoder, head, class_weights)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_shared_rows_change_neither_scores_nor_losses(kind: HeadKind) -> None:
    model, items = model_for(kind).eval(), some_items(kind)
    together = pack(items, 0)
    assert len(together.batch.input_ids) < len(items)
    scores = model.scores(together.batch)
    totals: dict[str, float] = {}
    for k, item in enumerate(items):
        alone = pack([item], 0).batch
        torch.testing.assert_close(scores[together.items == k], model.scores(alone), atol=1e-5, rtol=1e-5)
        for name, loss in task_losses(model, alone).items():
            totals[name] = totals.get(name, 0.0) + float(loss.detach())
    losses = task_losses(model, together.batch)
    assert losses.keys() == totals.keys() == {ITEM if items[0].candidates else ANSWER}
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(totals[name], rel=1e-5)
    parts = [together.batch.part(r, r + 1) for r in range(len(together.batch.input_ids))]
    assert sum(task_losses(model, part)[name].item() for part in parts) == pytest.approx(totals[name], rel=1e-5)


def test_losses_are_those_of_the_textbook() -> None:
    for kind in ("class", "number", "set"):
        model, batch = model_for(kind).eval(), pack(some_items(kind), 0).batch
        scores, answer = model.scores(batch), batch.labels[ANSWER][1]
        expected = {
            "class": lambda s, a: F.cross_entropy(s, a, reduction="sum"),
            "number": lambda s, a: ((s[:, 0] - a) ** 2).sum(),
            "set": lambda s, a: sum(F.binary_cross_entropy_with_logits(x, y) for x, y in zip(s, a, strict=True)),
        }[kind](scores, answer)
        torch.testing.assert_close(task_losses(model, batch)[ANSWER], expected)


def test_class_weights_weigh() -> None:
    weighted, plain = model_for("class", [2.0, 1.0, 0.0]).eval(), model_for("class").eval()
    batch = pack(some_items("class"), 0).batch
    losses = F.cross_entropy(plain.scores(batch), batch.labels[ANSWER][1], reduction="none")
    weights = torch.tensor([2.0, 1.0, 0.0])[batch.labels[ANSWER][1]]
    torch.testing.assert_close(task_losses(weighted, batch)[ANSWER], (weights * losses).sum())


def test_candidates_are_normalised_within_their_item() -> None:
    """Items of 2 and 3 candidates, for a beginning and an end; the item's number may be any."""
    scores = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    answer = torch.tensor([[7, 1, 0], [7, 0, 1], [4, 0, 0], [4, 1, 1], [4, 0, 0]])
    first, second = scores[:2].log_softmax(0), scores[2:].log_softmax(0)
    expected = -(first[0, 0] + first[1, 1] + second[1, 0] + second[1, 1]) / 2
    torch.testing.assert_close(candidate_loss(scores, answer), expected)
    spread = grouped(scores, answer[:, 0])
    assert spread.shape == (2, 3, 2) and torch.isneginf(spread[0, 2]).all()
    torch.testing.assert_close(spread[1], scores[2:])


def test_a_text_is_read_through_the_encoders_own_pooler_where_it_has_one() -> None:
    encoder = random_model("bert")
    assert encoder.pooler is None
    own = new_head(encoder, "class", 2, True, 0)
    assert own.dense is not None
    bare = new_head(encoder, "class", 2, False, 0)
    assert bare.dense is None
    from blankfill.model.transformer import build

    pooled = build(dataclasses.replace(encoder.config, pooler=True))
    assert new_head(pooled, "class", 2, True, 0).dense is None
    model = TaskModel(pooled.eval(), new_head(pooled, "class", 2, True, 0)).eval()
    batch = pack(some_items("class"), 0).batch
    hidden = pooled(batch).hidden.flatten(0, 1)[batch.labels[ANSWER][0]]
    assert pooled.pooler is not None
    torch.testing.assert_close(model.scores(batch), model.head.output(pooled.pooler(hidden)))


def test_the_loss_of_a_pupil_is_its_distance_from_the_teachers_at_a_temperature() -> None:
    """KL(teacher ‖ pupil) at temperature 2, times its square, worked out without torch."""
    teacher, pupil = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 4.0]]), np.array([[0.5, 1.0, 0.0], [0.0, 0.0, 4.0]])
    wanted, logs = np.exp(teacher / 2), pupil / 2 - np.log(np.exp(pupil / 2).sum(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    distance = 4 * (wanted * (np.log(wanted) - logs)).sum()
    model = TaskModel(random_model("bert"), empty_head(random_model("bert"), "class", 3, True))
    given = torch.tensor(pupil, dtype=torch.float32), torch.tensor(teacher, dtype=torch.float32)
    assert float(model.losses(*given)[ANSWER]) == pytest.approx(distance, rel=1e-5)
    same = soft_label_loss(given[1], given[1] + 3.0)  # scores are told apart by their differences alone
    assert float(same) == pytest.approx(0, abs=1e-6)
