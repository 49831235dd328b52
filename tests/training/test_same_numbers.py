"""The roads that are taken for speed give the numbers of the plain ones: loss and gradients of whole models."""

import pytest
import torch

from blankfill.model.transformer import Transformer, build
from blankfill.objectives import OBJECTIVES
from blankfill.planning.bench import Shape
from blankfill.training.loss import counts, loss_sums
from blankfill.types import Batch


def loss_and_gradients(model: Transformer, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    sums, targets = loss_sums(model, batch), counts(batch)
    loss = torch.stack([total / targets[name] for name, total in sums.items()]).sum()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("length", [64, 300])
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "electra"])
def test_training_equals_the_plain_reference(objective: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp32, blocks of attention and of the vocabulary and the fused feed-forward part, against float64 and neither.

    Not electra: its two parts are compared on the same samples in `tests/model/test_replaced_tokens.py`.
    """
    shape = Shape(objective, 2, 64, length=length, rows=3, dropout=0.0, vocabulary=5000)
    (batch,) = shape.batches(1)
    model = build(shape.config()).train()
    model.use_kernel("blocked")
    # without dropout only long rows go through the blocks; here those of 64 tokens do too
    monkeypatch.setattr("blankfill.attention.kernels.QUERIES", 8)
    loss, gradients = loss_and_gradients(model, batch)

    plain = build(shape.config()).double().eval()
    plain.use_kernel("explicit")
    hidden = plain(batch, torch.float64).hidden
    logits = plain.lm_head(hidden.flatten(0, 1)[batch.target_index], plain.token_embeddings.weight)
    reference = torch.nn.functional.cross_entropy(logits, batch.target_ids)
    for name, (columns, labels) in batch.labels.items():
        assert name in ("next_sentence", "sentence_order") and plain.pooler is not None
        reference = reference + torch.nn.functional.cross_entropy(
            plain.classifier(plain.pooler(hidden.flatten(0, 1)[columns])), labels
        )
    if batch.span_boundary_targets is not None:
        assert plain.span_boundary_head is not None
        left, right, place, answers = batch.span_boundary_targets
        sides = hidden.flatten(0, 1)[left], hidden.flatten(0, 1)[right]
        scores = plain.span_boundary_head(*sides, place, plain.token_embeddings.weight)
        reference = reference + torch.nn.functional.cross_entropy(scores, answers)
    reference.backward()
    assert loss == pytest.approx(reference.item(), rel=1e-6)
    assert len(gradients) == len(list(plain.parameters()))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name].double(), parameter.grad, atol=2e-6, rtol=1e-4, msg=name)
