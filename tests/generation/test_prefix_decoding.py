"""Decoding with a prefix: a cached row answers what one pass over the whole row answers, alone and in slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blankfill.generation.slots as slots_module
from blankfill.adapt.prefix import add_prefix, compute_prefix
from blankfill.attention.masks import Mask, lower
from blankfill.generation.engine import Decoder, read_sources
from blankfill.generation.sampling import Sampling
from blankfill.generation.slots import Slots
from blankfill.generation.write import generate, generate_many
from blankfill.model.io import Inputs
from blankfill.model.prefix import PrefixShape
from blankfill.model.single import fits
from blankfill.model.transformer import Transformer
from blankfill.objectives.glm_format import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.objectives.query_tokens import query_input
from blankfill.objectives.two_stacks import two_stack_input
from blankfill.types import DecoderInput
from generate_models import loaded, random_model

NAMES = ["gpt", "glm", "unilm", "unilm2", "t5", "bart"]
WORDS = 40


def with_prefix(name: str, projection: int = 0) -> Transformer:
    model = random_model(name, 1, sharp=2.0 if name == "t5" else 4.0)
    add_prefix(model, PrefixShape(3, projection, 0.1), seed=2)
    return model


MODELS = {name: with_prefix(name) for name in NAMES}


def context(name: str, rng: np.random.Generator) -> DecoderInput:
    ids, other = (rng.integers(0, WORDS, rng.integers(1, 12)).tolist() for _ in range(2))
    if name == "gpt":
        return gpt_input(ids, 48)
    if name == "glm":
        return glm_input(ids, [(0, other[:3])] * int(rng.integers(2)), len(ids) - 1, 7, (49, 49))
    if name in ("unilm", "unilm2"):
        return query_input(ids, 48, 4, (4, 5) if name == "unilm" else (0, 1), bool(rng.integers(2)))
    return two_stack_input(other, ids[:4], *((2, 48) if name == "bart" else (0, 0)))


def whole(model: Transformer, row: DecoderInput, new: Sequence[int]) -> torch.Tensor:
    """The scores after a context and new tokens, [V], by one pass over the whole row without a cache."""
    asks = [] if row.query_token is None else [row.query_token]
    count = len(new) + len(asks)
    steps = row.next_position[:, None] + row.step[:, None] * np.arange(count)
    positions = np.concatenate([row.positions, steps], 1).astype(np.int64)
    after = (max(row.rule.rank.max(), row.rule.horizon.max()) + 1 + np.arange(count)).astype(np.int32)
    rank, horizon = (torch.from_numpy(np.concatenate([v, after]))[None] for v in (row.rule.rank, row.rule.horizon))
    one_text = torch.zeros_like(rank)
    mask: Mask = lower("rule", (one_text, horizon), (one_text, rank), torch.float32)
    inputs = Inputs(torch.tensor([[*row.input_ids.tolist(), *new, *asks]]), torch.from_numpy(positions)[:, None], mask)
    with torch.inference_mode():
        scores = model(inputs, encoded=read_sources(model, [row]), logits_at="all").logits
    assert scores is not None
    return scores[0, -1]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", NAMES)
def test_cached_scores_equal_those_of_whole_rows(name: str, seed: int) -> None:
    """Rows of unequal lengths, which are reordered and repeated on the way as beams are."""
    rng, model = np.random.default_rng(seed), MODELS[name]
    rows = [context(name, rng) for _ in range(rng.integers(1, 4))]
    new: list[list[int]] = [[] for _ in rows]
    decoder = Decoder(model, rows, 6, pad=3)
    scores = decoder.prefill()
    for step in range(5):
        expected = torch.stack([whole(model, row, said) for row, said in zip(rows, new, strict=True)])
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
        if step == 2:
            order = rng.integers(0, len(rows), len(rows) + 1)
            decoder.select(torch.from_numpy(order))
            rows, new = [rows[k] for k in order], [[*new[k]] for k in order]
        ids = rng.integers(0, WORDS, len(rows))
        scores = decoder.step(torch.from_numpy(ids))
        for said, id in zip(new, ids.tolist(), strict=True):
            said.append(id)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4), columns=st.sampled_from([0, 5, 40]))
@pytest.mark.parametrize("name", NAMES)
def test_rows_that_join_and_leave_have_the_scores_of_a_decoder(name: str, seed: int, count: int, columns: int) -> None:
    rng, model = np.random.default_rng(seed), MODELS[name]
    margin, slots_module.MARGIN = slots_module.MARGIN, 1
    try:
        rows, decoders = Slots(model, count, pad=3, columns=columns), []
        for _ in range(14):
            if rows.free and rng.random() < 0.5:
                new = [context(name, rng) for _ in range(rng.integers(1, rows.free + 1))]
                fresh = [Decoder(model, [row], 24) for row in new]
                expected = torch.cat([decoder.prefill() for decoder in fresh])
                torch.testing.assert_close(rows.join(new), expected, atol=1e-4, rtol=1e-4)
                decoders += fresh
            elif decoders and rng.random() < 0.3:
                k = int(rng.integers(len(decoders)))
                rows.leave(k)
                decoders[k] = decoders[-1]
                del decoders[-1]
            elif decoders:
                ids = torch.from_numpy(rng.integers(0, WORDS, len(decoders)))
                expected = torch.cat([decoder.step(id) for decoder, id in zip(decoders, ids.split(1), strict=True)])
                torch.testing.assert_close(rows.step(ids), expected, atol=1e-4, rtol=1e-4)
    finally:
        slots_module.MARGIN = margin


def test_single_columns_take_the_fast_way_with_a_prefix() -> None:
    assert fits(MODELS["gpt"])


def test_a_text_longer_than_the_table_slides_with_the_prefix_in_front() -> None:
    """What is written after the older half was dropped depends on the prefix."""
    texts = []
    for seed in (2, 3):
        model = random_model("gpt", 1, length=12)
        add_prefix(model, PrefixShape(3), seed=seed)
        model_with_files = loaded("gpt", model, length=12)
        texts.append("".join(generate(model_with_files, "the cat sat on", 40, Sampling(temperature=0), slide=True)))
    assert texts[0] != texts[1] and len(texts[0].split()) > 12


def test_a_computed_projection_writes_the_same() -> None:
    model = with_prefix("gpt", projection=16)
    model_with_files = loaded("gpt", model)
    before = [
        made.text
        for made in generate_many(model_with_files, ["the cat", "the dog sat on the"], 8, Sampling(temperature=0))
    ]
    compute_prefix(model)
    after = [
        made.text
        for made in generate_many(model_with_files, ["the cat", "the dog sat on the"], 8, Sampling(temperature=0))
    ]
    assert before == after and replace(model_with_files).model is model
