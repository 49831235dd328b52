"""The feed-forward part in portions against the plain modules."""

import dataclasses

import pytest
import torch
from torch import nn

from blankfill.kernels import feed_forward as feed_forward_kernel
from blankfill.kernels.feed_forward import can_fuse, feed_forward
from blankfill.model import layers
from blankfill.model.config import Activation, TransformerConfig
from blankfill.model.layers import FeedForward, activate
from drawn_masks import drawn_masks

CONFIG = TransformerConfig(vocab_size=8, hidden_size=6, num_heads=1, ffn_size=20)
KINDS = [(activation, gated) for gated in (False, True) for activation in ("relu", "gelu_tanh", "gelu", "silu")]


def gradients(made: torch.Tensor, module: FeedForward, x: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 2, made.numel()).view(made.shape)
    return list(torch.autograd.grad((made * weights).sum(), [x, *module.parameters()]))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("activation", "gated"), KINDS)
@pytest.mark.parametrize("rows", [4, 1024])
def test_values_and_gradients(
    rows: int, activation: Activation, gated: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 rows through portions of 4, and in one; activations on both sides of zero and far out."""
    monkeypatch.setattr(feed_forward_kernel, "ROWS", rows)
    torch.manual_seed(0)
    module = FeedForward(dataclasses.replace(CONFIG, activation=activation, gated=gated, ffn_bias=bias)).eval()
    x = (torch.randn(2, 5, 6) * torch.linspace(0.1, 30, 10).view(2, 5, 1)).requires_grad_()
    expected = module(x)
    got = feed_forward(x, module.inner, module.output, activation, gated)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    for gradient, other in zip(gradients(got, module, x), gradients(expected, module, x), strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("activation", "gated"), KINDS)
def test_dropout_inside(activation: Activation, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks that were drawn, put into the formula written out, give the same values and gradients."""
    drawn = drawn_masks(feed_forward_kernel, monkeypatch)
    monkeypatch.setattr(feed_forward_kernel, "ROWS", 4)
    torch.manual_seed(1)
    module = FeedForward(dataclasses.replace(CONFIG, activation=activation, gated=gated))
    x = torch.randn(2, 5, 6, requires_grad=True)
    got = feed_forward(x, module.inner, module.output, activation, gated, 0.25)
    mask = torch.cat(drawn).view(2, 5, 20).float()
    assert 0.15 < 1 - mask.mean() < 0.35
    chosen, *other = module.inner(x).split(20, -1)
    inside = activate(chosen, activation) * mask / 0.75
    expected = module.output(inside * other[0] if gated else inside)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    for gradient, two in zip(gradients(got, module, x), gradients(expected, module, x), strict=True):
        torch.testing.assert_close(gradient, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_fused_keeps_no_more_than_the_plain_modules(dropout: float) -> None:
    """Of ReLU what comes out of it, of a gated part what the inner dense makes and a byte for each dropped element."""
    for activation, gated, columns in (("relu", False, 20), ("gelu_tanh", True, 40 + (5 if dropout else 0))):
        module = FeedForward(dataclasses.replace(CONFIG, activation=activation, gated=gated))
        weights = {weight.data_ptr() for weight in module.parameters()}
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        x = torch.randn(8, 6, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            feed_forward(x, module.inner, module.output, activation, gated, dropout)
        inside = sum(size for place, size in sizes.items() if place not in weights and place != x.data_ptr())
        assert inside == 4 * 8 * columns


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


def test_what_is_slower_so_is_not_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The erf GELU on its own goes the plain way; gated, and all others, the fused one."""
    called = []
    monkeypatch.setattr(layers, "feed_forward", lambda *given: called.append(1) or feed_forward(*given))
    for activation, gated in KINDS:
        FeedForward(dataclasses.replace(CONFIG, activation=activation, gated=gated)).train()(torch.randn(3, 6))
    assert len(called) == len(KINDS) - 1
