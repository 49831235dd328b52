"""Products in fp16 on a CPU without units for them: the numbers of fp16, sums in fp32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blankfill.attention.kernels import attend
from blankfill.attention.masks import Mask
from blankfill.kernels import half
from blankfill.kernels.capability import plain_dense
from blankfill.kernels.lm_loss import lm_loss
from blankfill.model.dense import Dense, dense


@pytest.fixture(autouse=True)
def _without_units(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(half, "has_units", lambda: False)
    monkeypatch.setattr(half, "BLOCK", 96)  # several blocks
    yield


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half()


def gradients(made: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [grad.float() for grad in torch.autograd.grad(made.float().square().sum(), inputs)]


@pytest.mark.parametrize("rows", [(1,), (5, 4), (40,)])
def test_a_product_and_its_gradients_are_those_of_fp32_rounded_once(rows: tuple[int, ...]) -> None:
    x, weight, bias = drawn(*rows, 32, seed=1), drawn(20, 32, seed=2), drawn(20, seed=3)
    given = [part.clone().requires_grad_() for part in (x, weight, bias)]
    wide = [part.float().requires_grad_() for part in (x, weight, bias)]
    made, expected = half.linear(*given), F.linear(*wide)
    assert made.dtype == torch.float16 and made.shape == expected.shape
    torch.testing.assert_close(made.float(), expected, atol=1e-4, rtol=5e-4)  # half of fp16's last bit
    for ours, theirs in zip(gradients(made, given), gradients(expected, wide), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-2, rtol=4e-3)
    with torch.no_grad():
        torch.testing.assert_close(half.linear(x, weight, None), F.linear(x, weight), atol=1e-2, rtol=4e-3)


def test_only_what_learns_gets_a_gradient() -> None:
    """A frozen matrix below a prefix or an adapter."""
    x, weight = drawn(9, 32).requires_grad_(), drawn(20, 32, seed=2)
    half.linear(x, weight, None).float().sum().backward()
    assert x.grad is not None and weight.grad is None
    expected = weight.float().sum(0).half().expand(9, -1)
    torch.testing.assert_close(x.grad, expected, atol=1e-2, rtol=1e-3)


def test_a_dense_layer_is_plain_and_computes_under_autocast() -> None:
    """Master weights in fp32, products in fp16: gradients reach the masters in fp32."""
    layer = dense(32, 20)
    nn.init.normal_(layer.weight, std=0.3)
    assert plain_dense(layer) and isinstance(layer, Dense)
    x = drawn(9, 32).float()
    expected = F.linear(x, layer.weight.half().float(), layer.bias.half().float()).detach()
    with torch.autocast("cpu", torch.float16):
        made = layer(x)
    assert made.dtype == torch.float16
    torch.testing.assert_close(made.float(), expected, atol=1e-4, rtol=5e-4)
    made.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(20, -1), atol=2e-2, rtol=2e-3)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["none", "causal", "dense"])
@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_attention_beyond_the_range_of_fp16(kind: str, kernel: str) -> None:
    """Scores above 65,504, and fewer heads of keys; the gradient is that of fp32."""
    query, key, value = (drawn(2, heads, 6, 8, seed=k) * 60 for k, heads in enumerate((4, 2, 2)))
    hidden = torch.ones(6, 6).triu_(1).bool().expand(2, 1, 6, 6)
    bias = torch.zeros(2, 1, 6, 6).masked_fill(hidden, float("-inf"))
    mask = Mask(kind, bias.half() if kind == "dense" else None)  # type: ignore[arg-type]
    wide = Mask(kind, bias if kind == "dense" else None)  # type: ignore[arg-type]
    given = [part.clone().requires_grad_() for part in (query * 30, key * 30, value)]
    exact = [part.detach().float().requires_grad_() for part in given]
    made, expected = (attend(*parts, m, 0.0, kernel) for parts, m in ((given, mask), (exact, wide)))  # type: ignore[arg-type, misc]
    scores = exact[0] @ exact[1].repeat_interleave(2, 1).mT / 8**0.5
    assert float(scores.detach().abs().max()) > 65_504
    torch.testing.assert_close(made.float(), expected, atol=1e-2, rtol=5e-4)
    assert all(bool(grad.isfinite().all()) for grad in gradients(made / 100, given))


def test_the_loss_of_words_in_half_precision() -> None:
    """A table in fp16, and one in fp32 under autocast, against torch's own loss in fp32."""
    hidden, table, target = drawn(7, 16, seed=4), drawn(50, 16, seed=5), torch.arange(7) * 7
    wide = [part.float().requires_grad_() for part in (hidden, table)]
    expected = F.cross_entropy(F.linear(*wide), target, reduction="sum")
    exact = torch.autograd.grad(expected, wide)
    for master in (torch.float16, torch.float32):
        given = [hidden.clone().requires_grad_(), table.to(master).requires_grad_()]
        with torch.autocast("cpu", torch.float16, enabled=master == torch.float32):
            loss = lm_loss(given[0], given[1], None, target)
        torch.testing.assert_close(loss, expected.detach(), atol=1e-4, rtol=1e-5)
        for ours, theirs in zip(torch.autograd.grad(loss, given), exact, strict=True):
            torch.testing.assert_close(ours.float(), theirs, atol=2e-3, rtol=2e-3)


def test_a_large_matrix_without_values_has_few_blocks() -> None:
    """`plan` counts memory on the meta device, where each block takes the same time whatever its size."""
    for rows in (65_536, 100, 7):
        blocks = half._blocks(torch.empty(rows, 12_288, device="meta"))
        assert len(blocks) <= half.MOST
        assert [k for at in blocks for k in range(rows)[at]] == list(range(rows))
