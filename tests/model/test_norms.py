"""The scale of LayerNorm alone, in portions, against torch's."""

import pytest
import torch
from torch import nn

from blankfill.model import norms
from blankfill.model.norms import RmsNorm


@pytest.mark.parametrize("rows", [4, 1024])
def test_root_mean_square(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 rows, in portions and in one; some with a mean far from 0, some tiny, one of zeros: values and gradients."""
    monkeypatch.setattr(norms, "ROWS", rows)
    generator = torch.Generator().manual_seed(0)
    fast, plain = RmsNorm(24, 1e-6), nn.RMSNorm(24, 1e-6).double()
    with torch.no_grad():
        fast.weight.copy_(torch.randn(24, generator=generator))
        plain.weight.copy_(fast.weight)
    x = torch.randn(3, 10, 24, generator=generator)
    x[0] += 20
    x[1, :5] *= 1e-4
    x[1, 5] = 0
    low, high = x.clone().requires_grad_(), x.double().requires_grad_()
    upstream = torch.randn(3, 10, 24, generator=generator)
    made = fast(low)
    assert "_RmsNorm" in made.grad_fn.next_functions[0][0].name()
    expected = plain(high)
    torch.testing.assert_close(made.double(), expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(fast(low).double(), expected, atol=1e-5, rtol=1e-6)
    got = torch.autograd.grad(made, [low, fast.weight], upstream)
    wanted = torch.autograd.grad(expected, [high, plain.weight], upstream.double())
    for actual, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(actual.double(), other, atol=1e-5 * other.abs().max().item(), rtol=1e-5)


def test_other_types_go_through_torch() -> None:
    norm = RmsNorm(8, 1e-6).double()
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))
