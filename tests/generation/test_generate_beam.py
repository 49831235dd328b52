"""Beam search against exhaustive search over a tiny vocabulary."""

import itertools
import math

import numpy as np
import pytest
import torch

from blankfill.attention.masks import Mask
from blankfill.generation.beam import Grammar, Hypothesis, beam_search, greedy_search, highest
from blankfill.generation.cancel import CancelledError
from blankfill.generation.engine import Decoder
from blankfill.model.io import Inputs
from blankfill.objectives.gpt import gpt_input
from blankfill.types import DecoderInput
from generate_models import random_model

END, SIZE, MOST = 5, 6, 3
MODEL = random_model("gpt", seed=3, rows=SIZE, length=12, sharp=5.0)
EAGER = 1.0
"""Added to the end's log-probability, so that this model ends at all."""
CONTEXTS = [[1, 2, 3], [4], [0, 0, 2, 1, 1]]


def grammar(least: int) -> Grammar:
    def rules(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        end = scores[:, END] if count >= least else torch.full_like(scores[:, END], -math.inf)
        scores = scores.clone()
        scores[:, END] = -math.inf
        return scores, end

    return rules


def exhaustive(context: list[int], least: int, penalty: float) -> list[tuple[tuple[int, ...], float, float]]:
    """Every ended sequence: (ids, log-probability, score), best score first."""
    endings = []
    for length in range(least, MOST + 1):
        for ids in itertools.product(range(SIZE - 1), repeat=length):
            row = torch.tensor([[*context, *ids]])
            with torch.inference_mode():
                hidden = MODEL(Inputs(row, torch.arange(row.shape[1]).expand(1, 1, -1), Mask("causal"))).hidden[0]
                scores = MODEL.lm_head(hidden, MODEL.token_embeddings.weight).log_softmax(-1)
            total = float(sum(scores[len(context) - 1 + k, token] for k, token in enumerate([*ids, END])))
            endings.append((ids, total, total / (length + 1) ** penalty))
    return sorted(endings, key=lambda item: -item[2])


@pytest.mark.parametrize(("least", "penalty"), [(0, 0.0), (1, 1.0), (2, -0.5)])
def test_wide_beams_find_what_exhaustive_search_finds(least: int, penalty: float) -> None:
    decoder = Decoder(MODEL, [gpt_input(context, 12) for context in CONTEXTS], MOST)
    beams = (SIZE - 1) ** MOST
    results = beam_search(decoder, beams, grammar(least), MOST, penalty)
    for context, hypotheses in zip(CONTEXTS, results, strict=True):
        expected = exhaustive(context, least, penalty)[:beams]
        np.testing.assert_allclose([h.score for h in hypotheses], [score for *_, score in expected], atol=1e-4)
        by_ids = {ids: total for ids, total, _ in expected}
        assert {h.ids for h in hypotheses[:20]} == {ids for ids, *_ in expected[:20]}
        for hypothesis in hypotheses[:20]:
            assert hypothesis.log_probability == pytest.approx(by_ids[hypothesis.ids], abs=1e-4)


def test_narrow_beams_rank_what_they_find_by_the_true_score() -> None:
    decoder = Decoder(MODEL, [gpt_input(context, 12) for context in CONTEXTS], MOST)
    for context, hypotheses in zip(CONTEXTS, beam_search(decoder, 4, grammar(1), MOST), strict=True):
        truth = {ids: total for ids, total, _ in exhaustive(context, 1, 0.0)}
        assert len(hypotheses) == 4
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            assert hypothesis.log_probability == pytest.approx(truth[hypothesis.ids], abs=1e-4)


def test_a_full_position_table_ends_the_search() -> None:
    decoder = Decoder(MODEL, [gpt_input([1] * 11, 12)], MOST)
    (hypotheses,) = beam_search(decoder, 30, grammar(1), MOST)
    assert {len(hypothesis.ids) for hypothesis in hypotheses} == {1}


def test_no_run_of_tokens_is_written_twice() -> None:
    """Wide beams find the best sequences without a repeated pair, as an exhaustive search does."""
    decoder = Decoder(MODEL, [gpt_input(context, 12) for context in CONTEXTS], MOST)
    results = beam_search(decoder, (SIZE - 1) ** MOST, grammar(3), MOST, no_repeat_ngram=2)
    for context, hypotheses in zip(CONTEXTS, results, strict=True):
        endings = [ids for ids, *_ in exhaustive(context, 3, 0.0) if ids[:2] != ids[1:]]
        assert len(endings) == 120 and [h.ids for h in hypotheses if len(h.ids) == MOST][:20] == endings[:20]


@pytest.mark.parametrize("thorough", [True, False])
def test_contexts_do_not_disturb_one_another(thorough: bool) -> None:
    """A search in a batch, whose contexts end at different times, finds what each finds alone."""
    contexts = [gpt_input([k % SIZE, 3 * k % 5, k // 2 % SIZE][: 1 + k % 3], 12) for k in range(9)]

    def search(some: list[DecoderInput]) -> list[list[Hypothesis]]:
        return beam_search(Decoder(MODEL, some, 8), 3, grammar(1), 8, 1.0, 0, thorough)

    for together, context in zip(search(contexts), contexts, strict=True):
        (alone,) = search([context])
        assert [h.ids for h in together] == [h.ids for h in alone]
        np.testing.assert_allclose([h.score for h in together], [h.score for h in alone], atol=1e-4)


def test_a_quick_search_ends_as_soon_as_open_hypotheses_are_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an end that is nearly free, one token is best by the mean; a thorough search must still look to the end."""

    def free_end(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        allowed, end = grammar(1)(scores, count)
        return allowed, torch.full_like(end, -0.01) if count else end

    taken = 0
    step = Decoder.step

    def counted(self: Decoder, ids: torch.Tensor) -> torch.Tensor:
        nonlocal taken
        taken += 1
        return step(self, ids)

    monkeypatch.setattr(Decoder, "step", counted)
    taken_by = {}
    for thorough in (True, False):
        taken = 0
        decoder = Decoder(MODEL, [gpt_input(context, 12) for context in CONTEXTS], 7)
        results = beam_search(decoder, 1, free_end, 7, 1.0, 0, thorough)
        taken_by[thorough] = taken
        assert all(h.score == pytest.approx(h.log_probability / (len(h.ids) + 1)) for (h,) in results)
    assert taken_by[False] < taken_by[True]


def test_one_beam_ends_where_the_end_is_the_best_token() -> None:
    """Greedy, as a loop of one token at a time writes it; where it does not end, the most tokens that there may be."""
    contexts = [[k % SIZE, 3 * k % 5, k // 2 % SIZE] for k in range(12)]

    def eager(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        allowed, end = grammar(1)(scores, count)
        return allowed, end + EAGER

    decoder = Decoder(MODEL, [gpt_input(context, 12) for context in contexts], 8)
    results = beam_search(decoder, 1, eager, 8, 1.0, 0, thorough=False)
    lengths = set()
    for context, (hypothesis,) in zip(contexts, results, strict=True):
        ids: list[int] = []
        while len(ids) < 8:
            row = torch.tensor([[*context, *ids]])
            with torch.inference_mode():
                hidden = MODEL(Inputs(row, torch.arange(row.shape[1]).expand(1, 1, -1), Mask("causal"))).hidden[0, -1:]
                scores = MODEL.lm_head(hidden, MODEL.token_embeddings.weight)[0]
            best = int(scores[:END].argmax())
            if ids and scores[END] + EAGER > scores[best]:
                break
            ids.append(best)
        assert hypothesis.ids == tuple(ids)
        lengths.add(len(ids))
    assert 8 in lengths and len(lengths) > 1


@pytest.mark.parametrize("words", [3, 64, 640, 1999])
@pytest.mark.parametrize("count", [1, 4])
def test_the_highest_scores_are_those_of_topk(words: int, count: int) -> None:
    scores = torch.randn(5, words, generator=torch.Generator().manual_seed(words))
    scores[:, ::3] = -math.inf
    best, ids = highest(scores, count)
    expected = scores.topk(min(count, words))
    assert torch.equal(best, expected.values)
    assert torch.equal(scores.gather(1, ids), expected.values)
    assert all(len(set(row)) == len(row) for row in ids.tolist())


@pytest.mark.parametrize("slots", [1, 2, 5, 40])
@pytest.mark.parametrize(("least", "ngram", "most"), [(0, 0, 8), (2, 2, 8), (1, 0, 3)])
def test_greedy_rows_take_the_slots_of_those_that_have_ended(slots: int, least: int, ngram: int, most: int) -> None:
    """Each finds what it finds alone, whatever ends beside it; the last rows have no position left, or one."""
    rng = np.random.default_rng(least)
    rows = [rng.integers(0, SIZE - 1, rng.integers(1, 9)).tolist() for _ in range(24)] + [[1] * 12, [2] * 11]
    inputs = [gpt_input(row, 12) for row in rows]
    counts: list[int] = []

    def rules(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        counts.append(len(scores))
        return grammar(least)(scores, count)

    results = greedy_search(MODEL, inputs, rules, most, slots, 0.5, ngram, settled=least)
    assert max(counts) <= slots
    for input, hypotheses in zip(inputs, results, strict=True):
        (alone,) = beam_search(Decoder(MODEL, [input], most), 1, grammar(least), most, 0.5, ngram, thorough=False)
        assert [hypothesis.ids for hypothesis in hypotheses] == [hypothesis.ids for hypothesis in alone]
        for ours, theirs in zip(hypotheses, alone, strict=True):
            assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-4)
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)
    assert len({len(hypotheses[0].ids) for hypotheses in results if hypotheses}) >= 2


def test_a_search_stops_at_a_flag() -> None:
    count = iter(range(99))
    inputs = [gpt_input(context, 12) for context in CONTEXTS]
    for beams, thorough in ((3, True), (1, False)):
        with pytest.raises(CancelledError):
            beam_search(
                Decoder(MODEL, inputs, MOST), beams, grammar(9), MOST, thorough=thorough,
                cancel=lambda: next(count) % 2 == 1,
            )  # fmt: skip
    with pytest.raises(CancelledError):
        greedy_search(MODEL, inputs, grammar(9), MOST, 2, cancel=lambda: True)
