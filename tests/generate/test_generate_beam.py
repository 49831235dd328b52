"""Beam search against exhaustive search over a tiny vocabulary."""

import itertools
import math

import numpy as np
import pytest
import torch

from blankfill.attention.kernels import Mask
from blankfill.generate.beam import Grammar, beam_search
from blankfill.generate.engine import Decoder, gpt_context
from generate_models import random_model

END, SIZE, MOST = 5, 6, 3
MODEL = random_model("gpt", seed=3, rows=SIZE, length=12, sharp=5.0)
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
    found = []
    for length in range(least, MOST + 1):
        for ids in itertools.product(range(SIZE - 1), repeat=length):
            row = torch.tensor([[*context, *ids]])
            with torch.inference_mode():
                hidden = MODEL(row, torch.arange(row.shape[1]).expand(1, 1, -1), Mask("causal"))[0]
                scores = MODEL.head.logits(hidden, MODEL.words.weight).log_softmax(-1)
            total = float(sum(scores[len(context) - 1 + k, token] for k, token in enumerate([*ids, END])))
            found.append((ids, total, total / (length + 1) ** penalty))
    return sorted(found, key=lambda item: -item[2])


@pytest.mark.parametrize(("least", "penalty"), [(0, 0.0), (1, 1.0), (2, -0.5)])
def test_wide_beams_find_what_exhaustive_search_finds(least: int, penalty: float) -> None:
    decoder = Decoder(MODEL, [gpt_context(context, 12) for context in CONTEXTS], MOST)
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
    decoder = Decoder(MODEL, [gpt_context(context, 12) for context in CONTEXTS], MOST)
    for context, hypotheses in zip(CONTEXTS, beam_search(decoder, 4, grammar(1), MOST), strict=True):
        truth = {ids: total for ids, total, _ in exhaustive(context, 1, 0.0)}
        assert len(hypotheses) == 4
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            assert hypothesis.log_probability == pytest.approx(truth[hypothesis.ids], abs=1e-4)


def test_a_full_position_table_ends_the_search() -> None:
    decoder = Decoder(MODEL, [gpt_context([1] * 11, 12)], MOST)
    (hypotheses,) = beam_search(decoder, 30, grammar(1), MOST)
    assert {len(hypothesis.ids) for hypothesis in hypotheses} == {1}
