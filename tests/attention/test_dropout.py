"""Dropout from sixteen bits: the share, the scale, independence, and its gradient."""

import pytest
import torch

from blankfill.kernels import dropout
from blankfill.kernels.dropout import add_dropped, draw_kept, rounded

DRAWS = 1 << 20


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(probability: float) -> None:
    torch.manual_seed(0)
    mask = draw_kept(torch.empty(DRAWS, dtype=torch.int8), probability).float()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    deviation = (probability * (1 - probability) / DRAWS) ** 0.5
    assert abs(float(mask.mean()) - (1 - probability)) < 4.5 * deviation
    for distance in (1, 2, 3, 4, 8, 16):  # the four elements of a word, and those of the next words
        both = float((mask[distance:] * mask[:-distance]).mean())
        assert abs(both - (1 - probability) ** 2) < 6 * deviation


def test_probabilities_are_rounded_below_one() -> None:
    assert rounded(0.5) == 0.5
    assert rounded(0.1) == pytest.approx(0.1, abs=1 / 65536)
    assert rounded(0.9999999) == 65535 / 65536


@pytest.mark.parametrize("shape", [(3, 5), (2, 7, 11)])
def test_value_and_gradient(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every element is residual + x / (1 − p), or the residual alone; the gradient follows the same mask."""
    monkeypatch.setattr(dropout, "CHUNK", 8)
    generator = torch.Generator().manual_seed(1)
    residual, x, upstream = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    residual.requires_grad_(), x.requires_grad_()
    made = add_dropped(residual, x, 0.25)
    mask = (made - residual).detach() != 0
    assert 0 < int(mask.sum()) < mask.numel()
    torch.testing.assert_close(made, residual + torch.where(mask, x / 0.75, 0.0))
    made.backward(upstream)
    torch.testing.assert_close(residual.grad, upstream)
    torch.testing.assert_close(x.grad, torch.where(mask, upstream / 0.75, 0.0))
    alone = add_dropped(None, x, 0.25)
    assert bool(((alone == 0) | torch.isclose(alone, x / 0.75)).all())


def test_masks_follow_the_global_seed_and_not_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for chunk in (1 << 18, 8):
        monkeypatch.setattr(dropout, "CHUNK", chunk)
        torch.manual_seed(7)
        drawn.append(draw_kept(torch.empty(101, dtype=torch.int8), 0.3))
    assert torch.equal(*drawn)


def test_types() -> None:
    """A bf16 sublayer added to an fp32 residual: the sum is fp32, the gradients have the types of what they are of."""
    residual = torch.ones(4, 8, requires_grad=True)
    x = torch.ones(4, 8, dtype=torch.bfloat16, requires_grad=True)
    made = add_dropped(residual, x, 0.5)
    assert made.dtype == torch.float32 and set(made.flatten().tolist()) == {1.0, 3.0}
    made.sum().backward()
    assert (residual.grad.dtype, x.grad.dtype) == (torch.float32, torch.bfloat16)
    assert add_dropped(None, x, 0.5).dtype == torch.bfloat16
