"""Long prompts in pieces: the same tokens and log-probabilities as read at once, while other rows generate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from blankfill.adapt.prefix import add_prefix
from blankfill.generation.logprobs import Logprobs, logprobs_of
from blankfill.generation.pieces import is_readable_in_pieces
from blankfill.generation.sampling import Sampling
from blankfill.generation.scheduler import Scheduler, Update
from blankfill.model.prefix import PrefixShape
from blankfill.model.transformer import Transformer
from blankfill.objectives.glm_format import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.objectives.two_stacks import two_stack_input
from blankfill.types import DecoderInput
from generate_models import random_model

GPT = random_model("gpt", 1, sharp=4.0, length=96)
GREEDY = Sampling(temperature=0)


def prompt(length: int, seed: int = 0) -> DecoderInput:
    return gpt_input(np.random.default_rng(seed).integers(0, 40, length).tolist(), 96)


def finish(scheduler: Scheduler, updates: dict[int, list[Update]]) -> None:
    while scheduler.busy:
        for handle, update in scheduler.step().items():
            updates[handle].append(update)


def alone(model: Transformer, row: DecoderInput, sampling: Sampling, most: int) -> list[Update]:
    scheduler = Scheduler(model, 1)
    updates: dict[int, list[Update]] = {scheduler.join(row, sampling, most, logprobs=3): []}
    finish(scheduler, updates)
    (made,) = updates.values()
    return made


def assert_same(made: list[Update], expected: list[Update]) -> None:
    assert [update.token for update in made] == [update.token for update in expected]
    for update, wanted in zip(made, expected, strict=True):
        assert update.logprobs is not None and wanted.logprobs is not None
        assert update.logprobs.ids == wanted.logprobs.ids
        assert update.logprobs.chosen == pytest.approx(wanted.logprobs.chosen, abs=1e-4)
        assert update.logprobs.values == pytest.approx(wanted.logprobs.values, abs=1e-4)


@pytest.mark.parametrize("prefix", [0, 3])
def test_rows_in_pieces_write_what_they_write_alone(prefix: int) -> None:
    model = GPT
    if prefix:
        model = random_model("gpt", 2, sharp=4.0, length=96)
        add_prefix(model, PrefixShape(prefix, 0, 0.1), seed=3)
        model.eval()
    rows = [prompt(length, length) for length in (70, 3, 61, 9, 33, 8)]
    samplings = [replace(GREEDY, temperature=0.5 * (k % 2), seed=k) for k in range(len(rows))]
    scheduler = Scheduler(model, 4, piece=16)
    updates: dict[int, list[Update]] = {}
    for row, sampling in zip(rows, samplings, strict=True):
        updates[scheduler.join(row, sampling, 7, logprobs=3)] = []
        for handle, update in scheduler.step().items():
            updates[handle].append(update)
    finish(scheduler, updates)
    for made, row, sampling in zip(updates.values(), rows, samplings, strict=True):
        assert_same(made, alone(model, row, sampling, 7))


def test_a_step_reads_a_piece_and_other_rows_generate_meanwhile() -> None:
    scheduler = Scheduler(GPT, 2, piece=16)
    long = scheduler.join(prompt(70), GREEDY, 3)
    short = scheduler.join(prompt(4), GREEDY, 20)
    assert scheduler.waiting == 2 and scheduler.free == 0
    order = [set(scheduler.step()) for _ in range(6)]
    assert order == [{short}] * 5 + [{short, long}]
    assert scheduler.waiting == 0


def test_a_row_is_cancelled_while_it_is_read() -> None:
    scheduler = Scheduler(GPT, 1, piece=16)
    handle = scheduler.join(prompt(70), GREEDY, 3)
    assert [scheduler.step(), scheduler.step()] == [{}, {}]
    next_row = scheduler.join(prompt(4), GREEDY, 1)
    assert scheduler.step() == {} and scheduler.waiting == 1  # the slot is kept for the long row
    scheduler.cancel(handle)
    updates = scheduler.step()
    assert updates[handle] == Update(None, "cancelled") and updates[next_row].finish == "length"
    assert not scheduler.busy


def test_few_columns_are_read_in_a_step() -> None:
    scheduler = Scheduler(GPT, 8, piece=16)
    handles = [scheduler.join(prompt(10, k), GREEDY, 9) for k in range(4)]
    first = [scheduler.step() for _ in range(4)]
    assert [len(updates) for updates in first] == [1, 2, 3, 4]
    assert set(first[-1]) == set(handles)


def test_log_probabilities_of_a_prompt() -> None:
    row = prompt(70)
    scheduler = Scheduler(GPT, 2)
    handle = scheduler.join(row, GREEDY, 2, logprobs=2, prompt_logprobs=True)
    updates: dict[int, list[Update]] = {handle: []}
    finish(scheduler, updates)
    first, second = updates[handle]
    assert len(first.prompt) == 69 and second.prompt == ()
    ids = torch.from_numpy(row.input_ids.astype(np.int64))
    for at in (0, 30, 63, 64, 68):
        (made,) = alone(GPT, gpt_input(ids[: at + 1].tolist(), 96), GREEDY, 1)
        scores = first.prompt[at]
        assert made.logprobs is not None and scores.ids == made.logprobs.ids[:2]
        assert scores.values == pytest.approx(made.logprobs.values[:2], abs=1e-4)
    assert all(isinstance(scores, Logprobs) and scores.chosen <= scores.values[0] + 1e-6 for scores in first.prompt)
    glm = random_model("glm", 1)
    with pytest.raises(ValueError, match="not causal"):
        Scheduler(glm).join(glm_input([1, 2], [], 1, 7, (49, 49)), GREEDY, 1, logprobs=0, prompt_logprobs=True)


def test_rows_whose_prompt_sees_itself_are_read_at_once() -> None:
    assert is_readable_in_pieces(GPT, prompt(30))
    assert not is_readable_in_pieces(random_model("glm", 1), glm_input([1] * 30, [], 1, 7, (49, 49)))
    assert not is_readable_in_pieces(random_model("t5", 1), two_stack_input([1] * 30, [1], 0, 0))


def test_buffers_of_long_rows_are_given_back() -> None:
    scheduler = Scheduler(GPT, 4, piece=16)
    updates: dict[int, list[Update]] = {scheduler.join(prompt(70), GREEDY, 3, logprobs=3): []}
    updates[scheduler.join(prompt(3), GREEDY, 30, logprobs=3)] = []
    for handle, update in scheduler.step().items():
        updates[handle].append(update)
    with pytest.raises(ValueError, match="of 1 rows are in use"):
        scheduler.release()
    finish(scheduler, updates)
    slots = scheduler._slots
    assert slots._columns >= 70
    scheduler.release()
    assert not slots._cache and slots._columns == 0
    again = scheduler.join(prompt(5), GREEDY, 4, logprobs=3)
    updates = {again: []}
    finish(scheduler, updates)
    assert_same(updates[again], alone(GPT, prompt(5), GREEDY, 4))


def test_a_loop_that_is_never_idle_halves_its_buffers() -> None:
    scheduler = Scheduler(GPT, 2)
    slots = scheduler._slots
    handle = scheduler.join(prompt(4), GREEDY, 60, logprobs=3)
    updates = {handle: [scheduler.step()[handle]]}
    slots._shift(slots._window.end, 4096)  # as a long row leaves them
    for _ in range(9):
        slots._move_back(1)
    assert slots._columns == 64
    finish(scheduler, updates)
    assert_same(updates[handle], alone(GPT, prompt(4), GREEDY, 60))


def test_log_probabilities_are_those_of_all_scores() -> None:
    scores_BV = 5 * torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected_BV = scores_BV.float().log_softmax(-1)
    made = logprobs_of(scores_BV, [4, 5, 6], [0, 2, 50])
    assert [len(row.ids) for row in made] == [0, 2, 40]
    for row, token, expected_V in zip(made, [4, 5, 6], expected_BV, strict=True):
        assert row.chosen == pytest.approx(float(expected_V[token]), abs=1e-5)
        assert row.values == pytest.approx(expected_V.topk(len(row.ids)).values.tolist(), abs=1e-5)
        assert [float(expected_V[id]) for id in row.ids] == pytest.approx(row.values, abs=1e-5)
    assert [row.ids for row in logprobs_of(scores_BV, [1, 2, 3], [0, 0, 0])] == [(), (), ()]
