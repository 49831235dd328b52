"""Every kernel against the boolean reference of the rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.attention.kernels import attend
from blankfill.attention.masks import Mask, lower
from blankfill.data.batching import collate
from blankfill.types import AttentionRule, Example

ROWS, HEADS, WIDTH = 2, 3, 8


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Attention written out, one query at a time, in float64."""
    out = torch.zeros_like(query)
    for b, h, q in np.ndindex(*query.shape[:3]):
        scores = (key[b, h] @ query[b, h, q]) / WIDTH**0.5
        weights = torch.where(visible[b, q], scores, -torch.inf).softmax(0)
        out[b, h, q] = weights @ value[b, h]
    return out


def tensors(length: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(ROWS, HEADS, length, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3)]


def rules(length: int, kind: str, rng: np.random.Generator) -> list[AttentionRule]:
    if kind == "none":
        return [AttentionRule.full(length)] * ROWS
    if kind == "causal":
        return [AttentionRule.causal(length)] * ROWS
    made = []
    grouped = kind == "groups"
    for _ in range(ROWS):
        segment = np.sort(rng.integers(0, 3, length)).astype(np.int32)
        rank = rng.integers(0, 4, length).astype(np.int32)
        horizon = np.maximum(rank, rng.integers(0, 5, length)).astype(np.int32)
        group = rng.integers(0, 3, length).astype(np.int32) if grouped else None
        made.append(AttentionRule(segment, rank, horizon, group))
    return made


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("kind", ["none", "causal", "rule", "groups"])
@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 9), seed=st.integers(0, 1000))
def test_kernels_equal_the_reference(kernel: str, kind: str, length: int, seed: int) -> None:
    made = rules(length, kind, np.random.default_rng(seed))
    visible = torch.from_numpy(np.stack([rule.visible() for rule in made]))
    names = [name for name, vector in vars(made[0]).items() if isinstance(vector, np.ndarray)]
    stack = {name: torch.from_numpy(np.stack([getattr(rule, name) for rule in made])) for name in names}
    query, key, value = tensors(length, seed)
    groups = (stack["group"], stack["group"]) if kind == "groups" else None
    kind = "rule" if kind == "groups" else kind
    mask = lower(kind, (stack["segment"], stack["horizon"]), (stack["segment"], stack["rank"]), torch.float64, groups)
    got = attend(query, key, value, mask, kernel=kernel)  # type: ignore[arg-type]
    torch.testing.assert_close(got, reference(query, key, value, visible))


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_causal_with_cached_keys_aligns_the_last_query_with_the_last_key(kernel: str) -> None:
    query, key, value = tensors(6, 1)
    full = attend(query, key, value, Mask("causal"), kernel=kernel)  # type: ignore[arg-type]
    tail = attend(query[:, :, 4:], key, value, Mask("causal"), kernel=kernel)  # type: ignore[arg-type]
    torch.testing.assert_close(tail, full[:, :, 4:])


def test_unknown_kernels_and_masks_are_refused() -> None:
    query, key, value = tensors(2, 0)
    vectors = (torch.zeros(ROWS, 2), torch.zeros(ROWS, 2))
    with pytest.raises(ValueError, match="kernel"):
        attend(query, key, value, Mask("none"), kernel="flash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask"):
        lower("window", vectors, vectors, torch.float32)


@pytest.mark.parametrize("kind", ["none", "causal"])
def test_a_kind_that_knows_no_groups_refuses_them(kind: str) -> None:
    zeros = torch.zeros(1, 2, dtype=torch.int32)
    groups = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="cannot hide keys from other groups"):
        lower(kind, (zeros, zeros), (zeros, zeros), torch.float32, (groups, groups))


def test_packed_rows_keep_their_groups() -> None:
    """Two Examples, of which one has groups, in one row of a batch: the mask is that of each alone."""
    ids, nothing = np.arange(4, dtype=np.int32), np.zeros(0, np.int32)
    rank, horizon, group = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], np.int32)
    some = AttentionRule(np.zeros(4, np.int32), rank, horizon, group)
    made = [AttentionRule.full(4), some]
    batch = collate([[Example(ids, ids[None], rule, nothing, nothing) for rule in made]], pad=0)
    assert batch.group is not None and batch.mask == "rule"
    vectors = (batch.segment, batch.horizon), (batch.segment, batch.rank)
    bias = lower("rule", *vectors, torch.float32, (batch.group, batch.group)).bias
    assert bias is not None
    seen = (bias[0, 0] == 0).numpy()
    assert (seen[:4, :4] == made[0].visible()).all() and (seen[4:, 4:] == some.visible()).all()
    assert not seen[:4, 4:].any() and not seen[4:, :4].any()


def test_groups_alone_need_a_mask() -> None:
    zeros = np.zeros(3, np.int32)
    ids, nothing = np.arange(3, dtype=np.int32), np.zeros(0, np.int32)
    for rule in (AttentionRule.full(3), AttentionRule.causal(3)):
        grouped = AttentionRule(rule.segment, rule.rank, rule.horizon, np.array([0, 0, 1], np.int32))
        same = AttentionRule(rule.segment, rule.rank, rule.horizon, zeros)
        masks = [collate([[Example(ids, ids[None], rule, nothing, nothing)]], 0).mask for rule in (grouped, same)]
        assert masks == ["rule", "none" if rule.rank.max() == 0 else "causal"]
