"""Filters of the next token: worked values, and agreement with the processors of transformers."""

import math

import pytest
import torch

from blankfill.errors import ConfigError
from blankfill.generation.sampling import (
    Penalties,
    SampledRow,
    Sampler,
    Sampling,
    draw,
    forbid_ngrams,
    keep_top_k,
    keep_top_p,
    penalise_repeats,
    temper,
)

INF = math.inf


def scores(seed: int, rows: int = 3, size: int = 50) -> torch.Tensor:
    return 3 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def history(seed: int, length: int, rows: int = 3, size: int = 6) -> torch.Tensor:
    return torch.randint(0, size, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_worked_values() -> None:
    row = torch.tensor([[2.0, -1.0, 0.5]])
    assert temper(row, 0.5).tolist() == [[4.0, -2.0, 1.0]]
    assert penalise_repeats(row, torch.tensor([[True, True, False]]), 2.0).tolist() == [[1.0, -2.0, 0.5]]
    assert [tensor.tolist() for tensor in keep_top_k(row, 2)] == [[[2.0, 0.5]], [[0, 2]]]
    assert [tensor.tolist() for tensor in keep_top_k(row, 9)] == [[[2.0, 0.5, -1.0]], [[0, 2, 1]]]
    shares = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert keep_top_p(shares, 0.5).isinf().tolist() == [[False, True, True]]
    assert keep_top_p(shares, 0.6).isinf().tolist() == [[False, False, True]]
    assert keep_top_p(shares, 1e-9).isinf().tolist() == [[False, True, True]]
    assert forbid_ngrams(row, [[0, 1, 0]], 2).tolist() == [[2.0, -INF, 0.5]]
    assert forbid_ngrams(row, [[0, 2, 0]], 1).tolist() == [[-INF, -1.0, -INF]]
    assert forbid_ngrams(row, [[0]], 3).tolist() == row.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_as_transformers_does_it(seed: int) -> None:
    processors = pytest.importorskip("transformers.generation.logits_process")
    given, ids = scores(seed), history(seed, 9)
    seen = torch.zeros(3, 50, dtype=torch.bool).scatter_(1, ids, True)
    pairs = [
        (temper(given, 0.7), processors.TemperatureLogitsWarper(0.7)),
        (torch.full_like(given, -INF).scatter(1, *reversed(keep_top_k(given, 7))), processors.TopKLogitsWarper(7)),
        (keep_top_p(given, 0.8), processors.TopPLogitsWarper(0.8)),
        (penalise_repeats(given, seen, 1.3), processors.RepetitionPenaltyLogitsProcessor(1.3)),
        (forbid_ngrams(given, ids.tolist(), 1), processors.NoRepeatNGramLogitsProcessor(1)),
        (forbid_ngrams(given, ids.tolist(), 2), processors.NoRepeatNGramLogitsProcessor(2)),
        (forbid_ngrams(given, ids.tolist(), 3), processors.NoRepeatNGramLogitsProcessor(3)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs(ids, given.clone()), atol=0, rtol=0)


def test_draw_follows_the_cumulated_probabilities() -> None:
    row = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log()
    for uniform, token in [(0.0, 0), (0.19, 0), (0.21, 2), (0.69, 2), (0.71, 3), (1 - 1e-9, 3)]:
        assert draw(row, torch.tensor([uniform], dtype=torch.float64)).item() == token
    ends = torch.tensor([[1.0, 0.0]]).log()
    assert draw(ends, torch.tensor([1 - 1e-12], dtype=torch.float64)).item() == 0


def test_draws_have_the_models_distribution() -> None:
    row = torch.tensor([[0.6, 0.3, 0.1]]).log()
    sampler = Sampler.alike(Sampling(seed=4), [[]] * 4000, torch.zeros(3, dtype=torch.bool))
    shares = torch.bincount(torch.tensor(sampler(row.expand(4000, 3))), minlength=3) / 4000
    assert (shares - torch.tensor([0.6, 0.3, 0.1])).abs().max() < 0.03


def test_filters_work_together() -> None:
    row = torch.tensor([[0.1, 0.4, 0.3, 0.05, 0.15]]).log().expand(3000, 5)
    none = torch.zeros(5, dtype=torch.bool)
    # the best three are 1, 2 and 4 with shares 8/17, 6/17 and 3/17; the first two reach 0.8
    sampler = Sampler.alike(Sampling(top_k=3, top_p=0.8), [[]] * 3000, none)
    shares = torch.bincount(torch.tensor(sampler(row)), minlength=5) / 3000
    assert shares[[0, 3, 4]].sum() == 0
    assert abs(float(shares[1]) - 4 / 7) < 0.03
    # at temperature 0.5 the shares are squared: 16 : 9
    sampler = Sampler.alike(Sampling(temperature=0.5, top_k=2), [[]] * 3000, none)
    assert abs(float((torch.tensor(sampler(row)) == 1).float().mean()) - 16 / 25) < 0.03


def test_a_sample_depends_on_seed_and_row_alone() -> None:
    none = torch.zeros(50, dtype=torch.bool)

    def run(rows: int, seed: int) -> list[list[int]]:
        sampler = Sampler.alike(Sampling(seed=seed), [[]] * rows, none)
        return [
            list(column) for column in zip(*(sampler(scores(k, 1).expand(rows, 50)) for k in range(9)), strict=True)
        ]

    torch.manual_seed(0)
    before = torch.get_rng_state()
    eight = run(8, seed=1)
    assert run(3, seed=1) == eight[:3]
    assert run(1, seed=2)[0] != eight[0] != eight[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_temperature_0_takes_the_best_allowed_token() -> None:
    none = torch.zeros(3, dtype=torch.bool)
    row = torch.tensor([[1.0, 3.0, 2.0]])
    assert Sampler.alike(Sampling(temperature=0), [[]], none)(row) == [1]
    assert Sampler.alike(Sampling(temperature=0), [[]], torch.tensor([False, True, False]))(row) == [2]


def test_what_is_written_counts_as_seen() -> None:
    none = torch.zeros(3, dtype=torch.bool)
    row = torch.tensor([[2.0, 3.0, 2.5]])
    sampler = Sampler.alike(Sampling(temperature=0, repetition_penalty=2.0), [[2]], none)
    assert [sampler(row), sampler(row)] == [[1], [0]]
    sampler = Sampler.alike(Sampling(temperature=0, no_repeat_ngram=1), [[0]], none)
    assert [sampler(row), sampler(row)] == [[1], [2]]
    assert sampler.histories == [[0, 1, 2]]


def test_every_value_out_of_range_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Sampling(-1, -1, 0.0, 0.0, -1, -1).check()
    names = ["temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram", "seed"]
    assert [problem.split(" ")[0] for problem in caught.value.problems] == names
    Sampling().check()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_has_used_every_token_repeats_one(temperature: float) -> None:
    banned_V = torch.tensor([True, False, False, False])
    row = SampledRow(Sampling(temperature, no_repeat_ngram=1), [], banned_V)
    sampler = Sampler([row])
    chosen = [sampler(torch.tensor([[9.0, 1.0, 2.0, 3.0]]))[0] for _ in range(6)]
    assert sorted(chosen[:3]) == [1, 2, 3] and 0 not in chosen


def test_penalties_are_those_of_openai() -> None:
    nothing, penalties = torch.zeros(40, dtype=torch.bool), Penalties(0.5, 0.25, {7: 3.0, 5: -1.0})
    sampled = SampledRow(Sampling(temperature=0), [5], nothing, penalties=penalties)
    scores_1V = torch.zeros(1, 40)
    scores_1V[0, 5], scores_1V[0, 9] = 2.0, 1.9
    sampler = Sampler([sampled])
    chosen = [sampler(scores_1V)[0] for _ in range(5)]
    # 7: 3, 2.25, 1.75, …; 9: 1.9, 1.15; 5: 1.0 by its bias, although the prompt has it
    assert chosen == [7, 7, 9, 7, 7]
