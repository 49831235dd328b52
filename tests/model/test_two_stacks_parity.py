"""T5 and BART against transformers: logits, gradients, distances, padding on both sides, several items in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_parity import logits, ours, same_gradients

from blankfill.attention.buckets import buckets_of
from blankfill.attention.kernels import Kernel
from blankfill.data.batching import collate
from blankfill.training.loss import loss_sums
from blankfill.types import AttentionRule, Example
from parity_cases import Case, case_name, made, of

NOTHING = np.zeros(0, np.int32)
SIZES = [(13, 9), (5, 11), (16, 2), (1, 6)]
"""Columns of the context and of the decoder's side, of each item."""


def item(read: int, written: int, family: str, seed: int) -> Example:
    """Random tokens to read and to generate; all of the latter are targets."""
    rng = np.random.default_rng(seed)
    first = 2 if family == "bart" else 0

    def places(size: int) -> np.ndarray:
        return np.arange(first, first + size, dtype=np.int32)[None]

    words = [rng.integers(5, 97, size).astype(np.int32) for size in (read, written, written)]
    context = Example(words[0], places(read), AttentionRule.full(read), NOTHING, NOTHING)
    index = np.arange(written, dtype=np.int32)
    return Example(words[1], places(written), AttentionRule.causal(written), index, words[2], context=context)


def items(family: str) -> list[Example]:
    return [item(*size, family, seed) for seed, size in enumerate(SIZES)]


def padded(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one width, and which of it is no padding."""
    width = max(map(len, rows))
    real = torch.tensor([[k < len(row) for k in range(width)] for row in rows])
    return torch.tensor([[*row.tolist(), *[1] * (width - len(row))] for row in rows]), real


def their_logits(theirs: Any, examples: list[Example]) -> torch.Tensor:
    """Their scores of all real columns of the decoder, one item after the other."""
    read, real = padded([example.context.input_ids for example in examples if example.context is not None])
    written, mask = padded([example.input_ids for example in examples])
    out = theirs(
        input_ids=read, attention_mask=real.long(), decoder_input_ids=written, decoder_attention_mask=mask.long()
    )
    logits_of_targets: torch.Tensor = out.logits[mask]
    return logits_of_targets


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize("kernel", ["sdpa", "explicit", "blocked"])
@pytest.mark.parametrize("case", [*of("t5"), *of("bart")], ids=case_name)
def test_two_stacks_equal_transformers(case: Case, kernel: Kernel, together: int) -> None:
    """Logits, loss and gradients, with several items in a row; theirs have one."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case)
    form, model = ours(case.family, theirs.config.to_dict(), theirs.state_dict())
    assert form.config.tied == (theirs.lm_head.weight is theirs.get_input_embeddings().weight)
    model.use_kernel(kernel)
    examples = items(case.family)
    batch = collate([examples[k : k + together] for k in range(0, len(examples), together)], pad=1)
    expected = their_logits(theirs, examples)
    selected = logits(model, batch).flatten(0, 1)[batch.target_index]
    torch.testing.assert_close(selected, expected, atol=1e-5, rtol=1e-5)
    loss = loss_sums(model, batch)["lm"] / len(batch.target_ids)
    other = F.cross_entropy(expected, batch.target_ids)
    torch.testing.assert_close(loss, other, atol=1e-5, rtol=1e-5)
    loss.backward()
    other.backward()
    same_gradients(form, model, theirs)


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("count", "farthest"), [(32, 128), (8, 20), (64, 256)])
def test_buckets_are_those_of_transformers(both_ways: bool, count: int, farthest: int) -> None:
    transformers = pytest.importorskip("transformers")
    distances = torch.arange(-3000, 3001)
    attention = transformers.models.t5.modeling_t5.T5Attention
    expected = attention._relative_position_bucket(distances, both_ways, count, farthest)
    assert torch.equal(buckets_of(distances, count, farthest, both_ways), expected)
