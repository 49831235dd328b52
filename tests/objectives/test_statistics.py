"""What the objectives draw, over many draws: shares, laws and uniform choices.

Every seed is fixed, so nothing here is flaky; a tolerance is 4.5 standard errors of the number of draws.
"""

from pathlib import Path

import numpy as np
import pytest

from blankfill.data.sampler import Sampler
from blankfill.objectives import Bert, Glm, Mlm, Objective
from blankfill.types import ROLES, Vocabulary
from conftest import covering, make_document, within, write_corpus

CLS, MASK = ROLES.index("cls"), ROLES.index("mask")
ROWS = 1000


@pytest.mark.parametrize("objective", [Bert(next_sentence=False), Mlm(across_documents=False)], ids=["bert", "mlm"])
def test_eighty_ten_ten(objective: Objective, vocabulary: Vocabulary) -> None:
    """.8 [MASK], .1 random, .1 kept. One random token in V is the token itself; BERT's may be [MASK] too."""
    document = make_document(126)
    rng = np.random.default_rng(0)
    examples = [objective.example(document, vocabulary, rng) for _ in range(ROWS)]
    inputs = np.concatenate([example.input_ids[example.target_index] for example in examples])
    answers = np.concatenate([example.target_ids for example in examples])
    size = 64 if isinstance(objective, Bert) else 64 - len(ROLES)
    masks = (0.8 + 0.1 / 64) if isinstance(objective, Bert) else 0.8
    assert within((inputs == MASK).mean(), masks, len(inputs))
    assert within((inputs == answers).mean(), 0.1 + 0.1 / size, len(inputs))
    drawn = inputs[(inputs != MASK) & (inputs != answers)]
    counts = np.bincount(drawn, minlength=64)
    possible = np.arange(64) if isinstance(objective, Bert) else np.arange(len(ROLES), 64)
    assert counts.sum() == counts[possible].sum()
    possible = np.setdiff1d(possible, [MASK])
    # Specials are never answers here, so nothing of theirs is hidden among the kept ones.
    shares = counts[possible] / (0.1 * len(inputs))
    ordinary = possible >= len(ROLES)
    assert all(within(share, 1 / size, 0.1 * len(inputs)) for share in shares[~ordinary])
    expected = (1 - 1 / 53) / size
    assert all(within(share, expected, 0.1 * len(inputs), (1.2 * expected) ** 0.5) for share in shares[ordinary])


@pytest.mark.parametrize("objective", [Bert(next_sentence=False), Mlm(across_documents=False)], ids=["bert", "mlm"])
def test_every_place_is_asked_equally_often(objective: Objective, vocabulary: Vocabulary) -> None:
    rng = np.random.default_rng(1)
    document = make_document(126)
    counts = np.zeros(128)
    for _ in range(ROWS):
        counts[objective.example(document, vocabulary, rng).target_index] += 1
    assert counts[[0, 127]].tolist() == [0, 0]
    share = counts.sum() / ROWS / 126
    assert all(within(count / ROWS, share, ROWS) for count in counts[1:-1])


@pytest.mark.parametrize("length", [10, 37, 64, 128])
def test_stochastic_rounding_has_the_exact_mean(length: int, vocabulary: Vocabulary) -> None:
    """1.5, 5.55, 9.6 and 19.2 answers on average, each row within one of it."""
    document = make_document(length - 2)
    rng = np.random.default_rng(length)
    counts = [len(Mlm().choose(document, vocabulary, rng).index) for _ in range(ROWS)]
    exact = 0.15 * length
    assert set(counts) == {int(exact), int(exact) + 1}
    fraction = exact - int(exact)
    assert within(float(np.mean(counts)), exact, ROWS, (fraction * (1 - fraction)) ** 0.5)


def test_mlm_specials_are_masked_like_any_token(vocabulary: Vocabulary) -> None:
    objective = Mlm(mask_specials=True)
    rng = np.random.default_rng(2)
    hits = [bool((objective.choose(make_document(38), vocabulary, rng).index == 0).any()) for _ in range(ROWS)]
    assert within(float(np.mean(hits)), 0.15, ROWS)


def test_truncation_takes_front_and_back_equally() -> None:
    from blankfill.objectives.bert import truncate_pair

    rng = np.random.default_rng(3)
    fronts = np.array([truncate_pair(60, 50, 20, rng) for _ in range(ROWS)])[:, :, 0].sum()
    assert within(fronts / (90 * ROWS), 0.5, 90 * ROWS)


def test_random_pairs_are_more_than_half(tmp_path: Path) -> None:
    """Documents of two sentences give one true pair, or (A, random) and then (B alone, random): 2 of 3 are random."""
    count = 3000
    corpus = write_corpus(tmp_path / "two", [[4, 4]] * count)
    sampler = Sampler(corpus, Bert(length=32, short=0.0), covering(corpus), 0)
    labels = (sampler.plan(0).chunks[:, 4] & 4) > 0
    assert labels.sum() == 2 * (count - (~labels).sum())
    assert within((~labels).sum() / count, 0.5, count)
    corpus = write_corpus(tmp_path / "one", [[4]] * 50)
    sampler = Sampler(corpus, Bert(length=32), covering(corpus), 0)
    assert all(example.labels == {"next_sentence": 1} for i in range(10) for example in sampler.row(i))


def test_sentence_pairs_are_single_sentences(tmp_path: Path) -> None:
    """Half follow one another in the document, half come from another; a document's last sentence is always the latter.

    Documents of two sentences of 4 and 5 tokens: (4, 5) with p = ½, else (4, x) and then (5, x): 2 of 3 are random.
    """
    count = 3000
    corpus = write_corpus(tmp_path / "c", [[4, 5]] * count)
    sampler = Sampler(corpus, Bert(length=64, pairs="sentences", short=0.0), covering(corpus), 0)
    pieces = sampler.plan(0).chunks
    first, second = pieces[:, 1] - pieces[:, 0], pieces[:, 3] - pieces[:, 2]
    assert set(first.tolist()) == set(second.tolist()) == {4, 5}
    follows = (pieces[:, 4] & 4) == 0
    assert (pieces[follows, 1] == pieces[follows, 2]).all()
    assert within(follows.sum() / count, 0.5, count) and follows.sum() + (~follows).sum() / 2 == count
    assert max(len(sampler.documents(i)) for i in range(5)) > 3, "many pairs share a row"


def test_short_documents_share(tmp_path: Path) -> None:
    """With short = .1 a tenth of the documents is cut to a room drawn uniformly from [2, 30]."""
    count = 4000
    corpus = write_corpus(tmp_path / "c", [[1] * 30] * count)
    sampler = Sampler(corpus, Bert(length=32, next_sentence=False), covering(corpus), 0)
    pieces = sampler.plan(0).chunks
    first = (pieces[:, 0] % 30) == 0
    rooms = (pieces[:, 1] - pieces[:, 0])[first]
    assert first.sum() == count
    assert within((rooms < 30).mean(), 0.1 * 28 / 29, count)
    short = rooms[rooms < 30]
    assert short.min() == 2 and short.max() == 29
    assert within(short.mean(), 15.5, len(short), (28**2 - 1) ** 0.5 / 12**0.5)


def test_span_length_law(vocabulary: Vocabulary) -> None:
    """Poisson(3) without zero, mean 3 / (1 - e⁻³) = 3.157; p(1) = 3 e⁻³ / (1 - e⁻³) = .157.

    The first length drawn of a row is the law itself; the rule that stops drawing favours long ones among the last, so
    a row of one span is used: its length is drawn before anything is known.
    """
    objective = Glm(length=64, mask_ratio=0.0)
    rng = np.random.default_rng(4)
    document = make_document(60)
    sizes = []
    for _ in range(4 * ROWS):
        ((begin, end),) = objective.choose(document, vocabulary, rng).spans
        sizes.append(end - begin)
    mean = 3 / (1 - np.exp(-3))
    assert mean == pytest.approx(3.157187, abs=1e-6)
    assert min(sizes) == 1
    variance = 12 / (1 - np.exp(-3)) - mean**2
    assert within(float(np.mean(sizes)), mean, len(sizes), variance**0.5)
    assert within(float(np.mean(np.array(sizes) == 1)), 3 * np.exp(-3) / (1 - np.exp(-3)), len(sizes))


def test_spans_begin_uniformly_where_they_may(vocabulary: Vocabulary) -> None:
    """A single span of length 1 over the ten tokens of a document: each a tenth."""
    rng = np.random.default_rng(5)
    objective = Glm(length=64, mask_ratio=0.0, mean_span=1e-9)
    starts = [objective.choose(make_document(10), vocabulary, rng).spans[0][0] for _ in range(4 * ROWS)]
    assert set(starts) == set(range(1, 11))
    assert all(within(starts.count(k) / len(starts), 0.1, len(starts)) for k in range(1, 11))


def test_blanks_are_written_in_every_order(vocabulary: Vocabulary) -> None:
    """Three one-token spans: six orders, a sixth each."""
    objective = Glm(length=32, mask_ratio=0.1, mean_span=1e-9)
    rng = np.random.default_rng(6)
    orders = [objective.choose(make_document(28), vocabulary, rng).order for _ in range(4 * ROWS)]
    assert len(set(orders)) == 6
    assert all(within(orders.count(order) / len(orders), 1 / 6, len(orders)) for order in set(orders))


def test_levels_follow_their_weights(vocabulary: Vocabulary) -> None:
    """Weights 5, 2, 3 → .5, .2, .3; a weight of 0 never comes."""
    rng = np.random.default_rng(7)
    document = make_document(60)

    def shares(**weights: float) -> dict[str, float]:
        chosen = [Glm(length=64, **weights).choose(document, vocabulary, rng).mask for _ in range(2 * ROWS)]
        return {mask: chosen.count(mask) / len(chosen) for mask in ("mask", "smask", "gmask")}

    result = shares(token=5, sentence=2, document=3)
    assert all(within(result[mask], share, 2 * ROWS) for mask, share in zip(result, (0.5, 0.2, 0.3), strict=True))
    assert shares(token=0, sentence=0.1, document=0) == {"mask": 0, "smask": 1, "gmask": 0}
    assert shares(token=0, sentence=0, document=3) == {"mask": 0, "smask": 0, "gmask": 1}
    assert shares(token=0.7)["mask"] == 1


def test_long_blanks_are_uniformly_long(vocabulary: Vocabulary) -> None:
    """A row of 62: from int(.5 · 62) = 31 to 60, each 1 of 30; half of them inside with `document_inside`."""
    objective = Glm(length=64, token=0, document=1, document_inside=0.5)
    rng = np.random.default_rng(8)
    choices = [objective.choose(make_document(60), vocabulary, rng) for _ in range(4 * ROWS)]
    sizes = [choice.spans[0][1] - choice.spans[0][0] for choice in choices]
    assert set(sizes) == set(range(31, 61))
    assert all(within(sizes.count(k) / len(sizes), 1 / 30, len(sizes)) for k in range(31, 61))
    assert within(float(np.mean([choice.to_end for choice in choices])), 0.5, len(choices))


def test_sentences_are_chosen_equally_often(vocabulary: Vocabulary) -> None:
    """Ten sentences of six tokens, 62 columns: int(9.3) = 9 tokens are two sentences, so each comes in a fifth."""
    objective = Glm(length=64, token=0, sentence=1)
    rng = np.random.default_rng(9)
    counts = np.zeros(10)
    for _ in range(2 * ROWS):
        for begin, _ in objective.choose(make_document(60, sentence=6), vocabulary, rng).spans:
            counts[(begin - 1) // 6] += 1
    assert counts.sum() == 2 * 2 * ROWS
    assert all(within(count / (2 * ROWS), 0.2, 2 * ROWS) for count in counts)
