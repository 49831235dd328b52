"""Initial numbers by (seed, name, index): parts equal the whole, the distributions are theirs, nothing else matters."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri

from blankfill.model.draw import BLOCK, CUT, WITHIN, Patch, Rule, draw, draw_into

RULES = [
    Rule("normal", 0.02),
    Rule("truncated_normal", 0.02),
    Rule("uniform", 0.3),
    Rule("constant", 1.5),
    Rule("normal", 0.5, first_rows=7, factor=0.125),
    Rule("constant", 0.0, patches=(Patch(torch.eye(3), 2, 1), Patch(torch.ones(1, 2), 12, 0))),
    Rule("truncated_normal", 0.02, patches=(Patch(torch.arange(10.0).view(5, 2), 4, 3),)),
]
MANY = 1_000_000


def wide(kind: str) -> Rule:
    return Rule(kind, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(13, 5), (13, 6), (13, 2, 3), (5, BLOCK + 9)])
def test_every_part_is_the_same_drawn_alone(rule: Rule, shape: tuple[int, ...]) -> None:
    whole = draw(3, "layers.0.ffn.inner.weight", shape, rule)
    assert whole.shape == shape and whole.dtype == torch.float32
    for part in [
        (slice(0, 1),), (slice(1, 4),), (slice(4, 13),), (slice(12, 13),), (slice(-3, None), slice(1, 4)),
        (slice(None), slice(2, None)), (slice(3, 3),), (slice(0, 99),),
    ]:  # fmt: skip
        assert torch.equal(draw(3, "layers.0.ffn.inner.weight", shape, rule, part), whole[part]), part


@pytest.mark.parametrize("kind", ["normal", "truncated_normal", "uniform"])
def test_a_part_beyond_a_block_is_that_of_the_whole(kind: str) -> None:
    shape = (300, 700)  # more than three blocks, at whose ends no row ends
    whole = draw(0, "x", shape, wide(kind))
    for start, stop in [(0, 300), (92, 95), (187, 300), (93, 94)]:
        assert torch.equal(draw(0, "x", shape, wide(kind), (slice(start, stop),)), whole[start:stop])
    assert torch.equal(draw(0, "x", (300 * 700,), wide(kind)), whole.flatten())
    assert torch.equal(draw(0, "x", (400, 700), wide(kind))[:300], whole)  # more rows change none of the others


def test_numbers_of_no_dimension_and_of_no_rows() -> None:
    assert draw(0, "scale", (), Rule("constant", 1.0)).shape == ()
    assert draw(0, "scale", (), wide("normal")) == draw(0, "scale", (4,), wide("normal"))[0]
    assert draw(0, "x", (0, 4), wide("normal")).shape == (0, 4)


@pytest.mark.parametrize("part", [(slice(0, 4, 2),), (slice(None),) * 3])
def test_a_part_must_be_a_block(part: Sequence[slice]) -> None:
    with pytest.raises(ValueError, match="slices"):
        draw(0, "x", (4, 4), wide("normal"), part)


def test_the_numbers_are_the_inverse_of_the_distribution_function_at_philox_numbers() -> None:
    """Against scipy's inverse, from the numbers that Philox gives under the key that the docstring tells."""
    import hashlib

    key = np.frombuffer(hashlib.blake2b(b"5\na.weight", digest_size=16).digest(), "<u8")
    words = np.random.Philox(key=key.astype(np.uint64)).random_raw(MANY // 2).astype("<u8").view("<i4")
    p = (words.astype(np.float64) + 0.5) / 2**32
    for kind, expected in (
        ("normal", ndtri(0.5 + p)), ("truncated_normal", ndtri(0.5 + WITHIN * p)), ("uniform", 2 * p),
    ):  # fmt: skip
        drawn = draw(5, "a.weight", (MANY,), wide(kind)).numpy()
        np.testing.assert_allclose(drawn, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "distribution"),
    [
        ("normal", stats.norm(0, 1)),
        ("truncated_normal", stats.truncnorm(-CUT, CUT)),
        ("uniform", stats.uniform(-1, 2)),
    ],
)
def test_the_distributions_are_what_they_are_called(kind: str, distribution: object) -> None:
    """Moments within five standard errors, and Kolmogorov-Smirnov."""
    drawn = draw(0, "token_embeddings.weight", (MANY,), wide(kind)).double().numpy()
    mean, variance, skew, kurtosis = (float(x) for x in distribution.stats(moments="mvsk"))  # type: ignore[attr-defined]
    fourth = (kurtosis + 3) * variance**2
    assert abs(drawn.mean() - mean) < 5 * (variance / MANY) ** 0.5
    assert abs(drawn.var() - variance) < 5 * ((fourth - variance**2) / MANY) ** 0.5
    assert abs(stats.skew(drawn) - skew) < 0.02 and abs(stats.kurtosis(drawn) - kurtosis) < 0.04
    assert stats.kstest(drawn, distribution.cdf).pvalue > 1e-3  # type: ignore[attr-defined]
    if kind != "normal":
        assert np.abs(drawn).max() <= (CUT if kind == "truncated_normal" else 1.0)


def test_seeds_and_names_draw_independently() -> None:
    given = [(0, "a"), (1, "a"), (0, "b"), (0, "a.weight"), (10, "a"), (2**64, "a"), (0, "aa")]
    drawn = np.stack([draw(seed, name, (MANY // 10,), wide("normal")).numpy() for seed, name in given])
    correlations = np.corrcoef(drawn) - np.eye(len(given))
    assert np.abs(correlations).max() < 5 * (10 / MANY) ** 0.5
    neighbours = np.corrcoef(drawn[0, :-1], drawn[0, 1:])[0, 1]
    assert abs(neighbours) < 5 * (10 / MANY) ** 0.5


def test_threads_change_no_bit() -> None:
    alone = draw(0, "x", (500, 700), wide("truncated_normal"))
    before, drawn = torch.get_num_threads(), {}

    def work(number: int) -> None:
        drawn[number] = draw(0, "x", (500, 700), wide("truncated_normal"))

    try:
        torch.set_num_threads(1 if before > 1 else 2)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert len(drawn) == 3 and all(torch.equal(alone, other) for other in drawn.values())


def test_other_types_are_converted_from_fp32_and_memory_that_is_absent_is_left() -> None:
    fp32 = draw(0, "x", (40, 9), wide("normal"))
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        out = torch.nn.Parameter(torch.empty(9, 40, dtype=dtype).T)  # not contiguous, learning
        draw_into(out, 0, "x", out.shape, wide("normal"))
        assert torch.equal(out, fp32.to(dtype))
    draw_into(torch.empty(3, 4, device="meta"), 0, "x", (3, 4), wide("normal"))


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    draw(0, "x", (50, 50), wide("normal"))
    assert torch.equal(torch.rand(3), expected)
