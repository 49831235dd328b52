"""The feed-forward part in portions against the plain modules."""

import pytest
import torch
from torch import nn

from blankfill.model import fused, layers
from blankfill.model.config import TransformerConfig
from blankfill.model.fused import can_fuse, feed_forward
from blankfill.model.layers import FeedForward

CONFIG = TransformerConfig(vocab_size=8, hidden_size=6, num_heads=1, ffn_size=20)


def gradients(made: torch.Tensor, module: FeedForward, x: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 2, made.numel()).view(made.shape)
    return list(torch.autograd.grad((made * weights).sum(), [x, *module.parameters()]))


@pytest.mark.parametrize("rows", [4, 1024])
def test_values_and_gradients(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 rows through portions of 4, and in one; activations on both sides of zero and far out."""
    monkeypatch.setattr(fused, "ROWS", rows)
    torch.manual_seed(0)
    module = FeedForward(CONFIG).eval()
    x = (torch.randn(2, 5, 6) * torch.linspace(0.1, 30, 10).view(2, 5, 1)).requires_grad_()
    expected = module(x)
    got = feed_forward(x, module.inner, module.output)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients(got, module, x), gradients(expected, module, x), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_only_plain_fp32_modules_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter in the place of a dense module is not passed by."""

    class Adapted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    plain, x = nn.Linear(6, 6), torch.randn(3, 6)
    assert can_fuse(x, plain, plain)
    assert not can_fuse(x, Adapted(6, 6), plain)
    assert not can_fuse(x.double(), plain, plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_fuse(x, plain, plain)

    module = FeedForward(CONFIG).train()
    called = []
    monkeypatch.setattr(layers, "feed_forward", lambda *given: called.append(1) or feed_forward(*given))
    module(x)
    assert called == [1]
    module.output = Adapted(20, 6)
    module(x)
    assert called == [1]
