"""Every kernel against the boolean reference of the rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.attention.kernels import Mask, attend, lower
from blankfill.types import AttentionRule

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
    for _ in range(ROWS):
        segment = np.sort(rng.integers(0, 3, length)).astype(np.int32)
        rank = rng.integers(0, 4, length).astype(np.int32)
        made.append(AttentionRule(segment, rank, np.maximum(rank, rng.integers(0, 5, length)).astype(np.int32)))
    return made


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("kind", ["none", "causal", "rule"])
@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 9), seed=st.integers(0, 1000))
def test_kernels_equal_the_reference(kernel: str, kind: str, length: int, seed: int) -> None:
    made = rules(length, kind, np.random.default_rng(seed))
    visible = torch.from_numpy(np.stack([rule.visible() for rule in made]))
    stack = {name: torch.from_numpy(np.stack([getattr(rule, name) for rule in made])) for name in vars(made[0])}
    query, key, value = tensors(length, seed)
    mask = lower(kind, (stack["segment"], stack["horizon"]), (stack["segment"], stack["rank"]), torch.float64)
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
