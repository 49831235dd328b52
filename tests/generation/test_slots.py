"""Rows that join and leave write what they write alone; one scheduler is driven from a loop."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import blankfill.generation.slots as slots_module
from blankfill.generation.engine import Decoder
from blankfill.generation.sampling import SampledRow, Sampling
from blankfill.generation.scheduler import Scheduler, Update
from blankfill.generation.slots import Slots
from blankfill.model.transformer import Transformer
from blankfill.objectives.glm_format import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.objectives.query_tokens import query_input
from blankfill.objectives.two_stacks import two_stack_input
from blankfill.types import DecoderInput
from generate_models import random_model

NAMES = ["gpt", "glm", "unilm", "unilm2", "t5", "bart"]
MODELS = {name: random_model(name, 1, sharp=2.0 if name == "t5" else 4.0) for name in NAMES}
WORDS = 40
GREEDY = Sampling(temperature=0)


def context(name: str, rng: np.random.Generator, longest: int = 12) -> DecoderInput:
    """A decoder input of random length; of two stacks both sides are."""
    ids, other = (rng.integers(0, WORDS, rng.integers(1, longest + 1)).tolist() for _ in range(2))
    if name == "gpt":
        return gpt_input(ids, 48)
    if name == "glm":
        return glm_input(ids, [(0, other[:3])] * int(rng.integers(2)), len(ids) - 1, 7, (49, 49))
    if name in ("unilm", "unilm2"):
        types = (4, 5) if name == "unilm" else (0, 1)
        return query_input(ids, 48, 4, types, bool(rng.integers(2)))
    return two_stack_input(other, ids[:4], *((2, 48) if name == "bart" else (0, 0)))


def alone(model: Transformer, row: DecoderInput, sampled: SampledRow, most: int, ends: Sequence[int]) -> list[Update]:
    """The updates of a row that a scheduler has to itself."""
    scheduler = Scheduler(model, 1)
    handle = scheduler.join(row, sampled, most, ends)
    updates = []
    while scheduler.busy:
        updates.append(scheduler.step()[handle])
    return updates


def sampled(sampling: Sampling, number: int) -> SampledRow:
    banned_V = torch.zeros(WORDS, dtype=torch.bool)
    banned_V[number % 3] = True
    return SampledRow(sampling, [5, 6], banned_V, number)


SAMPLINGS = [
    GREEDY,
    Sampling(temperature=0, repetition_penalty=1.5),
    Sampling(seed=3),
    Sampling(temperature=0.7, top_k=5, seed=4),
    Sampling(top_p=0.8, no_repeat_ngram=2, repetition_penalty=1.2, seed=5),
]


@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", NAMES)
def test_a_row_writes_what_it_writes_alone(name: str, data: st.DataObject, seed: int) -> None:
    """Rows of unequal lengths, sources, settings and ends come at random steps, some of them are cancelled, and there
    are fewer slots than rows, whose buffers grow and move."""
    rng = np.random.default_rng(seed)
    model, slots = MODELS[name], data.draw(st.integers(1, 4))
    margin, slots_module.MARGIN = slots_module.MARGIN, 1
    try:
        scheduler = Scheduler(model, slots, pad=3, columns=data.draw(st.sampled_from([0, 5, 40])))
        rows = [
            (context(name, rng), SAMPLINGS[rng.integers(len(SAMPLINGS))], int(rng.integers(1, 14)), [8, 9])
            for _ in range(data.draw(st.integers(1, 7)))
        ]
        waiting = list(enumerate(rows))
        updates_of: dict[int, list[Update]] = {}
        place: dict[int, int] = {}
        while waiting or scheduler.busy:
            while waiting and rng.random() < 0.5:
                k, (row, sampling, most, ends) = waiting.pop()
                place[handle := scheduler.join(row, sampled(sampling, k), most, ends)] = k
                updates_of[handle] = []
            if updates_of and rng.random() < 0.05:
                scheduler.cancel(rng.choice(list(updates_of)))
            for handle, update in scheduler.step().items():
                assert not updates_of[handle] or updates_of[handle][-1].finish is None
                updates_of[handle].append(update)
    finally:
        slots_module.MARGIN = margin
    assert len(updates_of) == len(rows)
    for handle, updates in updates_of.items():
        row, sampling, most, ends = rows[place[handle]]
        expected = alone(model, row, sampled(sampling, place[handle]), most, ends)
        if updates[-1].finish == "cancelled":
            assert updates[:-1] == expected[: len(updates) - 1] and updates[-1].token is None
        else:
            assert updates == expected


@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_a_decoder(name: str, data: st.DataObject, seed: int) -> None:
    """Against `Decoder`, which is itself held against uncached passes."""
    rng, model, count = np.random.default_rng(seed), MODELS[name], data.draw(st.integers(1, 4))
    rows = Slots(model, count, pad=3)
    decoders: list[Decoder] = []
    for _ in range(12):
        if rows.free and rng.random() < 0.5:
            new = [context(name, rng) for _ in range(rng.integers(1, rows.free + 1))]
            joined = rows.join(new)
            fresh = [Decoder(model, [decoder_input], 24) for decoder_input in new]
            expected = torch.cat([decoder.prefill() for decoder in fresh])
            torch.testing.assert_close(joined, expected, atol=1e-4, rtol=1e-4)
            decoders += fresh
        elif decoders and rng.random() < 0.3:
            k = int(rng.integers(len(decoders)))
            rows.leave(k)
            decoders[k] = decoders[-1]
            del decoders[-1]
        elif decoders:
            ids = torch.from_numpy(rng.integers(0, WORDS, len(decoders)))
            expected = torch.cat([decoder.step(id_1) for decoder, id_1 in zip(decoders, ids.split(1), strict=True)])
            torch.testing.assert_close(rows.step(ids), expected, atol=1e-4, rtol=1e-4)
        assert rows.rows == len(decoders) and rows.free == count - len(decoders)


def test_rows_wait_for_a_slot_and_join_when_one_is_free() -> None:
    scheduler = Scheduler(MODELS["gpt"], 2)
    first, second, third = (scheduler.join(gpt_input([5, 6], 48), GREEDY, most) for most in (2, 5, 3))
    assert scheduler.free == 0 and scheduler.busy
    steps = []
    while scheduler.busy:
        steps.append({*scheduler.step()})
    assert steps == [{first, second}, {first, second}, {second, third}, {second, third}, {second, third}]
    assert scheduler.step() == {} and scheduler.free == 2


def test_a_row_says_why_it_ends() -> None:
    scheduler = Scheduler(MODELS["gpt"], 4)
    full = scheduler.join(gpt_input([5] * 47, 48), GREEDY, 9)
    joined = scheduler.join(gpt_input([5], 48), GREEDY, 1)
    (first,) = (update.token for handle, update in scheduler.step().items() if handle == joined)
    assert first is not None
    ended = scheduler.join(gpt_input([5], 48), GREEDY, 9, [first])
    gone = scheduler.join(gpt_input([5], 48), GREEDY, 9)
    late = scheduler.join(gpt_input([5], 48), GREEDY, 9)
    updates = scheduler.step()
    assert updates[ended] == Update(None, "end") and updates[gone] == Update(first)
    assert updates[full].token is not None and updates[full].finish == "positions"
    scheduler.cancel(gone)
    scheduler.cancel(full)
    scheduler.cancel(waits := scheduler.join(gpt_input([5], 48), GREEDY, 9))
    updates = scheduler.step()
    assert updates[gone] == updates[waits] == Update(None, "cancelled") and set(updates) == {gone, waits, late}
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        scheduler.join(gpt_input([5], 48), GREEDY, 0)
    with pytest.raises(ValueError, match="2 rows cannot join, as only 1 slots are free"):
        Slots(MODELS["gpt"], 1).join([gpt_input([5], 48)] * 2)


def test_rows_may_join_from_other_threads() -> None:
    """A loop that steps while others hand in rows gives each of them what it writes alone."""
    model, handles, updates = MODELS["glm"], {}, {}
    scheduler = Scheduler(model, 3)
    contexts = {seed: context("glm", np.random.default_rng(seed)) for seed in range(12)}

    def hand_in(seeds: Sequence[int]) -> None:
        for seed in seeds:
            handles[seed] = scheduler.join(contexts[seed], Sampling(seed=seed), 6)

    threads = [threading.Thread(target=hand_in, args=(range(k, 12, 3),)) for k in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or scheduler.busy:
        for handle, update in scheduler.step().items():
            updates.setdefault(handle, []).append(update)
    for seed, row in contexts.items():
        expected = alone(model, row, scheduler.sampled(Sampling(seed=seed)), 6, [])
        assert updates[handles[seed]] == expected
