"""Attention in blocks against torch's own kernel: values, gradients, masks, and dropout with the masks it drew."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blankfill.attention import kernels
from blankfill.attention.kernels import cross_attend, self_attend
from blankfill.attention.masks import Mask, lower, lower_cross
from blankfill.kernels import blocked_attention as blocked_kernel
from blankfill.kernels.blocked_attention import blocked_attention, blocked_cross_attention, visible_ranges
from blankfill.types import AttentionRule
from drawn_masks import drawn_masks

WIDTH = 8


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of queries, rows and heads at sizes that take milliseconds."""
    monkeypatch.setattr(blocked_kernel, "BLOCK", 300)
    monkeypatch.setattr(blocked_kernel, "QUERIES", 5)
    monkeypatch.setattr(kernels, "QUERIES", 5)


def packed(rows: int, columns: int, heads: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, 3, heads, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)


def torch_attention(qkv: torch.Tensor, bias: torch.Tensor | None, causal: bool) -> torch.Tensor:
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal)
    return mixed.transpose(1, 2).flatten(2)


def rule_mask(rows: int, columns: int, seed: int = 0) -> Mask:
    """Rows of three documents, left to right inside each, and padding."""
    rng = np.random.default_rng(seed)
    segment = np.sort(rng.integers(0, 3, (rows, columns)), axis=1).astype(np.int32)
    segment[:, -2:] = -1
    rank = np.tile(np.arange(columns, dtype=np.int32), (rows, 1))
    rank[:, -2:] = 0
    both = torch.from_numpy(segment), torch.from_numpy(rank)
    return lower("rule", both, both, torch.float64)


@pytest.mark.parametrize("keep", [0, 1000])
@pytest.mark.parametrize("kind", ["none", "causal", "rule"])
@pytest.mark.parametrize(("rows", "columns", "heads"), [(1, 3, 1), (3, 9, 2), (5, 23, 3)])
@pytest.mark.usefixtures("small_blocks")
def test_values_and_gradients(
    rows: int, columns: int, heads: int, kind: str, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """keep 0: the weights are computed again in the backward pass; 1000: they are kept."""
    monkeypatch.setattr(blocked_kernel, "KEEP", keep)
    mask = rule_mask(rows, columns) if kind == "rule" else Mask(kind)  # type: ignore[arg-type]
    qkv = packed(rows, columns, heads)
    expected = torch_attention(qkv, mask.bias, kind == "causal")
    got = blocked_attention(qkv, mask.bias, kind == "causal", 0.0, mask.ranges)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(got, qkv, upstream)[0], torch.autograd.grad(expected, qkv, upstream)[0]
    )


def test_ranges_are_those_of_the_visible_table(small_blocks: None) -> None:
    """Two documents of 7 and 6 columns, left to right, in blocks of 5 queries; then 2 columns of padding."""
    segment = np.array([0] * 7 + [1] * 6 + [-1] * 2, np.int32)
    rank = np.array([*range(7), *range(6), 0, 0], np.int32)
    visible = torch.from_numpy(AttentionRule(segment, rank, rank).visible())
    assert visible_ranges(visible[None]) == [[(0, 5), (0, 10), (7, 15)]]


def some_added(rows: int, columns: int, heads: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(rows, heads, columns, columns, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("with_added", [False, True])
@pytest.mark.parametrize("kind", ["none", "causal", "rule"])
@pytest.mark.usefixtures("small_blocks")
def test_dropout_drops_weights_at_random_and_keeps_their_sum(
    kind: str, with_added: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mask that was drawn, put into attention written out, gives the same values and gradients."""
    drawn = drawn_masks(blocked_kernel, monkeypatch)
    rows, columns, heads, probability = 2, 13, 2, 0.25
    mask = rule_mask(rows, columns) if kind == "rule" else Mask(kind)  # type: ignore[arg-type]
    qkv = packed(rows, columns, heads)
    added = some_added(1, columns, heads) if with_added else None
    torch.manual_seed(3)
    got = self_attend(qkv, mask, probability, "blocked", added=added)

    kept_weights = torch.zeros(rows, heads, columns, columns, dtype=torch.float64)
    for block, bits in zip(
        blocked_kernel._blocks(rows, columns, heads, kind == "causal", mask.ranges), drawn, strict=True
    ):
        size = block.queries.stop - block.queries.start, block.keys.stop - block.keys.start
        kept_weights[block.rows, block.heads, block.queries, block.keys] = bits.view(-1, *size).double()
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / WIDTH**0.5
    if mask.bias is not None:
        scores = scores + mask.bias
    elif kind == "causal":
        scores = scores + torch.full((columns, columns), -torch.inf, dtype=torch.float64).triu(1)
    if added is not None:
        scores = scores + added
    expected = ((scores.softmax(-1) * kept_weights / (1 - probability)) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    leaves = [qkv] if added is None else [qkv, added]
    for actual, other in zip(*(torch.autograd.grad(out, leaves, upstream) for out in (got, expected)), strict=True):
        torch.testing.assert_close(actual, other)
    torch.manual_seed(3)
    torch.testing.assert_close(self_attend(qkv, mask, probability, "blocked", added=added), got, rtol=0, atol=0)


def test_masks_do_not_depend_on_the_number_of_threads() -> None:
    """A run resumed with other threads draws the same dropout."""
    qkv = packed(4, 130, 2).float().detach()
    made = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(5)
            made.append(self_attend(qkv, Mask("none"), 0.1, "blocked"))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(made[0], made[1])


def test_bf16_is_close_to_fp32() -> None:
    qkv = packed(2, 20, 2).detach()
    low = self_attend(qkv.to(torch.bfloat16), Mask("causal"), kernel="blocked")
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), torch_attention(qkv, None, True), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("keep", [0, 1000])
@pytest.mark.parametrize("kind", ["none", "causal", "rule"])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_what_is_added_and_its_gradient(each: bool, kind: str, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added to the scores of all rows, or of each row, which are not scaled."""
    monkeypatch.setattr(blocked_kernel, "KEEP", keep)
    mask = rule_mask(3, 13) if kind == "rule" else Mask(kind)  # type: ignore[arg-type]
    added, qkv = some_added(3 if each else 1, 13, 2), packed(3, 13, 2)
    got, expected = (self_attend(qkv, mask, 0.0, kernel, 1.0, added) for kernel in ("blocked", "explicit"))
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(got.shape, dtype=torch.float64)
    pairs = (torch.autograd.grad(out, (qkv, added), upstream) for out in (got, expected))
    for actual, other in zip(*pairs, strict=True):
        torch.testing.assert_close(actual, other)


def cross_case(rows: int, columns: int, context: int, heads: int, kind: str) -> tuple[list[torch.Tensor], Mask]:
    """Queries, keys and values as projections make them; kind: "rule" for two items in each row, and padding."""
    generator = torch.Generator().manual_seed(6)
    shapes = [(rows, columns, heads, WIDTH), (rows, context, 2, heads, WIDTH)]
    leaves = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    places = [torch.arange(size).expand(rows, size) for size in (columns, context)]
    segments = [torch.where(place < size // 2, 0, 1) for place, size in zip(places, (columns, context), strict=True)]
    segments[0][:, -1] = segments[1][:, -1] = -1
    return leaves, lower_cross(kind, *segments, torch.float64)


@pytest.mark.parametrize("keep", [0, 1000])
@pytest.mark.parametrize("kind", ["none", "rule"])
@pytest.mark.parametrize(("columns", "context"), [(4, 9), (23, 7), (12, 30)])
@pytest.mark.usefixtures("small_blocks")
def test_cross_attention(columns: int, context: int, kind: str, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients, fewer columns than the context has and more, in several blocks and in one."""
    monkeypatch.setattr(blocked_kernel, "KEEP", keep)
    leaves, mask = cross_case(3, columns, context, 2, kind)
    got = blocked_cross_attention(*leaves, mask.bias, 0.0)
    query, key, value = leaves[0].transpose(1, 2), *leaves[1].permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(query, key, value, mask.bias).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    for actual, other in zip(*(torch.autograd.grad(out, leaves, upstream) for out in (got, expected)), strict=True):
        torch.testing.assert_close(actual, other)


@pytest.mark.parametrize("kind", ["none", "rule"])
@pytest.mark.usefixtures("small_blocks")
def test_cross_attention_with_dropout(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask that was drawn, put into attention written out, gives the same values and gradients."""
    drawn = drawn_masks(blocked_kernel, monkeypatch)
    rows, columns, context, heads, probability = 2, 13, 21, 2, 0.25
    leaves, mask = cross_case(rows, columns, context, heads, kind)
    got = cross_attend(*leaves, mask, probability, "blocked", 1.0)
    kept_weights = torch.zeros(rows, heads, columns, context, dtype=torch.float64)
    for block, bits in zip(blocked_kernel._blocks(rows, columns, heads, False, None, context), drawn, strict=True):
        size = block.queries.stop - block.queries.start, block.keys.stop - block.keys.start
        kept_weights[block.rows, block.heads, block.queries, block.keys] = bits.view(-1, *size).double()
    assert 0.15 < 1 - kept_weights.mean() < 0.35
    query, key, value = leaves[0].transpose(1, 2), *leaves[1].permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2)
    weights = (scores if mask.bias is None else scores + mask.bias).softmax(-1)
    expected = ((weights * kept_weights / (1 - probability)) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    for actual, other in zip(*(torch.autograd.grad(out, leaves, upstream) for out in (got, expected)), strict=True):
        torch.testing.assert_close(actual, other)
