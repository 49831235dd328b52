"""Words hidden in text: the draw, the ranks by a model, and both baselines, on texts small enough to count by hand."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from blankfill.corpus.indexed import IndexedCorpus, IndexedWriter
from blankfill.generation import hidden_words_report
from blankfill.generation.fill import Filler
from blankfill.generation.hidden_words import PRIOR, UNSEEN, HiddenWords, Named
from blankfill.generation.hidden_words_report import Answer, Shares, report_of, verdict
from generate_models import loaded, random_model, wordpiece

TOKENIZER = wordpiece()
TRAIN = ("the cat sat on the mat .", "the dog ran , the cat ran .", "big red cat")
VALID = ("the cat sat on the red mat", "the dog ran playing on", "cat")


def corpus_of(prefix: Path, texts: tuple[str, ...]) -> IndexedCorpus:
    """Token files with a document for each text."""
    with IndexedWriter(prefix, np.uint16) as writer:
        for text in texts:
            ids = TOKENIZER.encode(text)
            writer.add_document(np.array(ids), [len(ids)])
    return IndexedCorpus(prefix)


@pytest.fixture
def hidden(tmp_path: Path) -> HiddenWords:
    """All words of the validation text that are one token."""
    train, valid = corpus_of(tmp_path / "train", TRAIN), corpus_of(tmp_path / "valid", VALID)
    return HiddenWords(train, valid, TOKENIZER, TOKENIZER.vocabulary(), count=100, context=3)


def word(ids: np.ndarray | list[int]) -> str:
    """Tokens as text."""
    return TOKENIZER.decode([int(id) for id in ids])


def test_candidates_are_whole_words_of_letters(hidden: HiddenWords) -> None:
    words = [word([id]) for id in hidden.candidates]
    assert words == ["the", "cat", "dog", "sat", "ran", "on", "mat", "red", "big", "play", "un", "猫", "狗", "在", "跑"]


def test_words_are_hidden_with_their_neighbours_in_the_document(hidden: HiddenWords) -> None:
    shown = [(word(cut.before), word([cut.id]), word(cut.after)) for cut in hidden.words]
    assert shown == [
        ("", "the", "cat sat on"),
        ("the", "cat", "sat on the"),
        ("the cat", "sat", "on the red"),
        ("the cat sat", "on", "the red mat"),
        ("cat sat on", "the", "red mat"),
        ("sat on the", "red", "mat"),
        ("on the red", "mat", ""),
        ("", "the", "dog ran play"),  # of "playing" the first token alone is in view
        ("the", "dog", "ran playing"),
        ("the dog", "ran", "playing on"),
        ("ran playing", "on", ""),
        ("", "cat", ""),
    ]
    assert hidden.covered == 12 / 13  # "playing" is two tokens


def test_a_smaller_draw_is_a_random_part_and_always_the_same(tmp_path: Path) -> None:
    train, valid = corpus_of(tmp_path / "train", TRAIN), corpus_of(tmp_path / "valid", VALID * 40)
    draws = [
        [
            (word(cut.before), cut.id)
            for cut in HiddenWords(train, valid, TOKENIZER, TOKENIZER.vocabulary(), 50, seed=s).words
        ]
        for s in (0, 0, 1)
    ]
    assert len(draws[0]) == 50 and draws[0] == draws[1] != draws[2]


def test_frequency_ranks_by_number_in_the_training_text(hidden: HiddenWords) -> None:
    named = hidden.by_frequency
    # the 4, cat 3, ran 2, then the words that occur once in order of their ids, then those that do not occur
    rank = {"the": 1, "cat": 2, "ran": 3, "dog": 4, "sat": 5, "on": 6, "mat": 7, "red": 8}
    assert named.ranks.tolist() == [rank[word([cut.id])] for cut in hidden.words]
    assert {word([id]) for id in named.first} == {"the"}
    assert named.share(1) == 3 / 12 and named.share(2) == 5 / 12


def test_neighbours_rank_by_pairs_of_the_training_text(hidden: HiddenWords) -> None:
    text = [TOKENIZER.encode(line) for line in TRAIN]
    stream = [id for ids in text for id in ids]
    following = list(pairwise(stream))
    listed = hidden.candidates.tolist()
    shares = np.array([stream.count(id) + UNSEEN for id in listed])
    shares /= shares.sum()
    expected, probability, by_word_before = [], [], []
    for cut in hidden.words:
        scores, alone = [], []
        for id, share in zip(listed, shares, strict=True):
            score = 0.0
            if len(cut.before):
                a = int(cut.before[-1])
                pairs = sum(first == a for first, _ in following)
                score += np.log((following.count((a, id)) + PRIOR * share) / (pairs + PRIOR))
            else:
                score += np.log(share)
            alone.append(score)
            if len(cut.after):
                b = int(cut.after[0])
                share_b = (stream.count(b) + UNSEEN) / (len(stream) + UNSEEN * TOKENIZER.size)
                score += np.log((following.count((id, b)) + PRIOR * share_b) / (stream.count(id) + PRIOR))
            scores.append(score)
        right = listed.index(cut.id)
        by_word_before.append(1 + sum((-score, k) < (-alone[right], right) for k, score in enumerate(alone)))
        order = sorted(range(len(listed)), key=lambda k: (-scores[k], k))
        expected.append(1 + order.index(right))
        probability.append(np.exp(scores[order[0]]) / np.exp(scores).sum())
    assert hidden.by_neighbours.ranks.tolist() == expected
    assert hidden.by_word_before.ranks.tolist() == by_word_before
    np.testing.assert_allclose(hidden.by_neighbours.probability, probability, rtol=1e-9)


@pytest.mark.parametrize("name", ["bert", "albert", "xlnet"])
def test_a_model_ranks_as_its_fills_do(hidden: HiddenWords, name: str) -> None:
    """Rows of one length or several, in batches: as `fill` of each text alone, of which other tokens are left out."""
    model = loaded(name, random_model(name, rows=TOKENIZER.size))
    named = hidden.ask(model)
    filler = Filler(model)
    listed = {word([id]) for id in hidden.candidates}
    for k, cut in enumerate(hidden.words):
        if not len(cut.before):
            continue  # `fill` leaves no candidate out at the beginning of a text, but for its first blank
        fills = filler.fill(f"{word(cut.before)} [MASK] {word(cut.after)}", 50).candidates[0]
        words = [fill for fill in fills if fill.text in listed]
        texts = [fill.text for fill in words]
        assert texts[0] == word([named.first[k]])
        assert named.ranks[k] == 1 + texts.index(word([cut.id]))
        total = sum(fill.probability for fill in words)
        assert named.probability[k] == pytest.approx(words[0].probability / total, rel=1e-4)
        assert named.own_probability[k] == pytest.approx(words[named.ranks[k] - 1].probability / total, rel=1e-4)


def test_a_verdict_counts_words_on_which_the_two_differ() -> None:
    def hits(count: int) -> np.ndarray:
        return np.arange(100) < count

    baselines = {"frequency": hits(10), "pairs": hits(20)}
    assert verdict(hits(50), baselines) == "The model names 2.5 times as many hidden words at once as pairs."
    # 4 words more, of 4 on which they differ: two standard deviations; 5 of 5 are more than that
    assert verdict(hits(24), baselines).startswith("The model names about as many hidden words at once as pairs:")
    assert verdict(hits(25), baselines).startswith("The model names 1.2 times as many")
    assert verdict(hits(10), baselines).startswith("The model names fewer hidden words at once than pairs:")
    assert verdict(hits(9), {"frequency": hits(0)}) == "The model names 9 hidden words at once; frequency names none."


def test_a_report_names_the_surest_answers_and_is_read_back(hidden: HiddenWords, tmp_path: Path) -> None:
    right = np.array([cut.id for cut in hidden.words])
    first = right.copy()
    first[[1, 5]] = TOKENIZER.id("dog"), TOKENIZER.id("big")
    probability = np.linspace(0.9, 0.35, 12)
    named = Named(np.where(first == right, 1, 3), first, probability, probability)
    report = report_of(hidden, named, Shares(0.0, 0.1), 420, TOKENIZER)
    assert (report.words, report.step, report.model) == (12, 420, Shares(10 / 12, 1.0))
    assert (report.sure_words, report.sure) == (1, 1.0)  # a tenth of 12
    assert report.wrong == (
        Answer("the", "cat", "sat on the", "dog", pytest.approx(0.85)),
        Answer("sat on the", "red", "mat", "big", pytest.approx(0.65)),
    )
    assert [answer.word for answer in report.right] == ["the", "sat", "on"]  # each word once
    hidden_words_report.write(report, tmp_path)
    assert hidden_words_report.read(tmp_path) == report
    text = "\n".join(hidden_words_report.lines_of(report))
    assert (
        "the model before training          0.0%" in text and "the «dog» sat on the (85%; the text has «cat»)" in text
    )


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"words": 3}', '{"words": "many"}'])
def test_a_damaged_report_counts_as_missing(tmp_path: Path, damage: str) -> None:
    (tmp_path / hidden_words_report.FILE).write_text(damage, encoding="utf-8")
    assert hidden_words_report.read(tmp_path) is None


def test_without_candidates_nothing_is_drawn(tmp_path: Path) -> None:
    train, valid = corpus_of(tmp_path / "train", TRAIN), corpus_of(tmp_path / "valid", (". , .",))
    hidden = HiddenWords(train, valid, TOKENIZER, TOKENIZER.vocabulary())
    assert hidden.words == [] and hidden.covered == 0
