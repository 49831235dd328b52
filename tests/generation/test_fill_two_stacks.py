"""Blanks filled and prompts continued by T5 and BART: probabilities again from one pass over the row of training."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint.load import Loaded
from blankfill.data.batching import collate
from blankfill.errors import UserError
from blankfill.generation.fill import Filler
from blankfill.generation.samples import Samples, compare
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import Writer, generate_many
from blankfill.objectives import T5, Bart
from blankfill.objectives.two_stacks import two_sided
from generate_models import MORE, SPECIAL, WORDS, loaded, random_model, wordpiece

TOKENIZER = wordpiece(words=[*WORDS, *MORE["t5"]])
ID = {TOKENIZER.token(k): k for k in range(34)}
PAD, CLS, SEP, MASK, EOS = (ID[t] for t in ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>"))
S = [ID[token] for token in MORE["t5"]]
ORDINARY = [k for k in range(len(SPECIAL), 30) if not TOKENIZER.token(k).startswith("##")]
CAT, ON = ID["cat"], ID["on"]


def of(name: str, seed: int = 0, sharp: float = 2.0) -> Loaded:
    return loaded(name, random_model(name, seed, rows=34 if name == "t5" else 30, sharp=sharp))


def scores(made: Loaded, source: list[int], row: Sequence[int]) -> torch.Tensor:
    """Log-probabilities [T, V] of what follows each token of the decoder's row."""
    first = 2 if made.objective.name == "bart" else 0
    example = two_sided(np.array(source, np.int32), np.array([*row[1:], 0], np.int32), row[0], first)
    with torch.inference_mode():
        hidden = made.model(collate([[example]], 0)).hidden[0, : len(row)]
        logs: torch.Tensor = made.model.lm_head(hidden, made.model.output_table).log_softmax(-1)
    return logs


def total(made: Loaded, source: list[int], begun: list[int], ending: Sequence[int], ends: Sequence[int] = ()) -> float:
    """The log-probability of an ending behind what is written, and of any of the tokens that may end it."""
    logs = scores(made, source, [*begun, *ending])
    whole = sum(float(logs[len(begun) - 1 + k, token]) for k, token in enumerate(ending))
    return whole + (float(logs[-1, list(ends)].logsumexp(-1)) if ends else 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_t5_writes_each_blank_behind_its_sentinel(seed: int) -> None:
    """It sees the best fills before it; the next sentinel ends it, and behind the last blank the end of the text."""
    made = of("t5", seed)
    result = Filler(made).fill("[MASK] cat [MASK] on", top_k=3)
    source, begun = [S[0], CAT, S[1], ON, EOS], [PAD, S[0]]
    assert result.probabilities == "model"
    for candidates, ends, following in zip(result.candidates, ([S[1]], [EOS, S[2]]), S[1:3], strict=True):
        assert 0 < len(candidates) <= 3 and len({candidate.text for candidate in candidates}) == len(candidates)
        for candidate in candidates:
            assert candidate.ids[0] in ORDINARY and all(len(SPECIAL) <= token < 30 for token in candidate.ids)
            expected = total(made, source, begun, candidate.ids, ends)
            assert math.log(candidate.probability) == pytest.approx(expected, abs=1e-3)
            assert candidate.score == pytest.approx(expected, abs=1e-3)
        begun += [*candidates[0].ids, following]
    assert result.filled == f"{result.candidates[0][0].text} cat {result.candidates[1][0].text} on"


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("seed", range(2))
def test_fills_of_one_token_are_ranked_as_by_trying_all(name: str, seed: int) -> None:
    """T5 by the token and its end; BART by the token and all known text behind it, as shares of all tokens."""
    made = of(name, seed)
    result = Filler(made).fill("cat [MASK:1] on cat", top_k=40)
    if name == "t5":
        source, begun, ending, ends = [CAT, S[0], ON, CAT, EOS], [PAD, S[0]], [], [EOS, S[1]]
    else:
        source, begun, ending, ends = [CLS, CAT, MASK, ON, CAT, SEP], [SEP, CLS, CAT], [ON, CAT, SEP], []
    expected = {token: total(made, source, begun, [token, *ending], ends) for token in ORDINARY}
    order = sorted(ORDINARY, key=lambda token: -expected[token])
    (candidates,) = result.candidates
    assert [candidate.ids for candidate in candidates] == [(token,) for token in order]
    assert [candidate.score for candidate in candidates] == pytest.approx(
        [expected[token] for token in order], abs=1e-3
    )
    whole = np.logaddexp.reduce(list(expected.values())) if name == "bart" else 0.0
    probabilities = [math.exp(expected[token] - whole) for token in order]
    assert [candidate.probability for candidate in candidates] == pytest.approx(probabilities, rel=1e-2)
    assert result.probabilities == ("candidates" if name == "bart" else "model")


@pytest.mark.parametrize("seed", range(3))
def test_bart_writes_what_is_known_and_ranks_by_it(seed: int) -> None:
    """Several blanks of any length: a fill counts with the known text up to the next blank, the last with the end."""
    made = of("bart", seed)
    result = Filler(made).fill("[MASK] cat [MASK] on [MASK] [MASK:2]", top_k=4)
    source, begun = [CLS, MASK, CAT, MASK, ON, MASK, MASK, SEP], [SEP, CLS]
    assert len(result.candidates) == 4 and {len(candidate.ids) for candidate in result.candidates[3]} == {2}
    for k, (candidates, right) in enumerate(zip(result.candidates, ([CAT], [ON], [], [SEP]), strict=True)):
        assert [candidate.score for candidate in candidates] == sorted(
            (candidate.score for candidate in candidates), reverse=True
        )
        for candidate in candidates:
            assert candidate.ids[0] in ORDINARY
            if k != 2:  # nothing is known behind it: it ends where a word begins
                assert candidate.score == pytest.approx(total(made, source, begun, [*candidate.ids, *right]), abs=1e-3)
            odds = math.log(candidate.probability / candidates[0].probability)
            assert odds == pytest.approx(candidate.score - candidates[0].score, abs=1e-6)
        assert 0 < sum(candidate.probability for candidate in candidates) <= 1
        begun += [*candidates[0].ids, *right]


def greedy(made: Loaded, source: list[int], begun: list[int], ends: Sequence[int], most: int) -> list[int]:
    """What the best token is, again and again, by whole rows."""
    written: list[int] = []
    while len(written) < most:
        logs = scores(made, source, [*begun, *written])[-1]
        allowed = [*range(len(SPECIAL), 30), *ends]
        best = allowed[int(logs[allowed].argmax())]
        if best in ends:
            break
        written.append(best)
    return written


@pytest.mark.parametrize("seed", range(2))
def test_prompts_are_continued_as_trained(seed: int) -> None:
    """T5 generates the text of a sentinel, after the prompt or in its blank; BART all of the text again, and more."""
    sampling, most = Sampling(temperature=0), 8
    made = of("t5", seed)
    texts = generate_many(made, ["cat on", "cat [MASK] on"], most, sampling)
    assert list(texts[0].ids) == greedy(made, [CAT, ON, S[0], EOS], [PAD, S[0]], [EOS, *S], most)
    assert list(texts[1].ids) == greedy(made, [CAT, S[0], ON, EOS], [PAD, S[0]], [EOS, *S], most)
    assert texts[1].whole == f"cat {texts[1].text} on"
    prefix = dataclasses.replace(made, objective=T5(48, variant="prefix-lm"))
    (text,) = generate_many(prefix, ["cat on"], most, sampling)
    assert list(text.ids) == greedy(made, [CAT, ON, EOS], [PAD], [EOS], most)
    made = of("bart", seed)
    (text,) = generate_many(made, ["cat on"], most, sampling)
    assert list(text.ids) == greedy(made, [CLS, CAT, ON, MASK, SEP], [SEP, CLS, CAT, ON], [SEP], most)
    assert text.whole.startswith("cat on")
    with pytest.raises(UserError, match="the prompt has a blank, and a bart model continues behind it"):
        generate_many(made, ["cat [MASK] on"])


def test_t5_reads_its_own_sentinels_as_blanks() -> None:
    made = of("t5")
    own, ours = Filler(made).fill("<extra_id_0> cat <extra_id_1> on"), Filler(made).fill("[MASK] cat [MASK] on")
    assert own.filled == ours.filled and own.candidates == ours.candidates


def test_bart_stops_at_its_last_position() -> None:
    made = of("bart")
    (text,) = generate_many(made, ["cat " * 44], 20, Sampling(temperature=0))
    assert text.finish == "end" or (text.finish == "positions" and len(text.ids) == 3)
    with pytest.raises(UserError, match="the text has 49 tokens with its special tokens and blanks"):
        generate_many(made, ["cat " * 46], 5)
    with pytest.raises(UserError, match="the model reads at most 48"):
        Filler(made).fill("cat " * 46 + "[MASK]")
    with pytest.raises(UserError, match=r"the text has 52 tokens .* reads at most 48"):
        Filler(made).fill("cat " * 40 + "[MASK:9]")
    assert Filler(made).fill("cat " * 44 + "[MASK]").candidates


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (T5(48, variant="deshuffle"), "t5 with variant deshuffle cannot fill blanks"),
        (T5(48, variant="prefix-lm"), "t5 with variant prefix-lm cannot fill blanks"),
        (Bart(48, replace="delete"), "bart with replace delete cannot fill blanks"),
    ],
)
def test_what_was_never_a_blank_is_refused(objective: T5 | Bart, message: str) -> None:
    """And a run that shows samples shows none of it."""
    made = dataclasses.replace(of(objective.name), objective=objective)
    with pytest.raises(UserError, match=message):
        Filler(made).fill("cat [MASK]")
    with pytest.raises(UserError, match=message):
        Samples(made, None, ["cat [MASK]"])
    if objective != T5(48, variant="prefix-lm"):
        with pytest.raises(UserError, match="with these options does not write on"):
            Writer(made, ["cat"], 5, Sampling(), False)
    assert Samples(made, None).take(0) == []


def test_samples_are_filled_and_continued() -> None:
    for name in ("t5", "bart"):
        filled, continued = Samples(of(name), None, ["the [MASK] sat", "cat"]).take(7)
        assert filled["text"] == "the [MASK] sat" and filled["fills"]
        assert continued["prompt"] == "cat" and continued["step"] == 7


def test_more_blanks_than_sentinels_and_other_refusals() -> None:
    made = of("t5")
    with pytest.raises(UserError, match="the text has 5 blanks and the tokenizer 4 sentinels"):
        Filler(made).fill("[MASK] cat " * 5)
    with pytest.raises(UserError, match="the prompt has 2 blanks; generate writes one"):
        generate_many(made, ["[MASK] cat [MASK]"])
    bare = dataclasses.replace(made, tokenizer=wordpiece(), vocabulary=wordpiece().vocabulary())
    for call in (lambda: Filler(bare).fill("[MASK]"), lambda: generate_many(bare, ["cat"])):
        with pytest.raises(UserError, match="the tokenizer has no token for 1 sentinels"):
            call()


def test_a_sample_that_a_model_cannot_take_is_left_out_and_the_others_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """A text that is longer than the positions of a model must not end its run."""
    made = of("bart")
    long = "the cat " * 40
    samples = Samples(made, None, [f"{long}[MASK]", "the [MASK] sat", long, "cat"])
    made.model.train()
    filled, continued = samples.take(0)
    assert (filled["text"], continued["prompt"]) == ("the [MASK] sat", "cat") and made.model.training
    err = capsys.readouterr().err
    assert err.count("is left out: ") == 2 and "the model reads at most" in err
    assert len(samples.take(1)) == 2 and not capsys.readouterr().err


def test_unknown_tokens_of_samples_are_not_reported_at_every_sample(capsys: pytest.CaptureFixture[str]) -> None:
    """The corpus was checked; a short sample with an odd character must neither be left out nor repeat a note."""
    samples = Samples(of("bart"), None, ["ж cat", "ж [MASK] sat"])
    for step in range(3):
        assert len(samples.take(step)) == 2
    assert not capsys.readouterr().err
    generate_many(of("bart"), ["ж cat"], 2)
    assert "of the 2 tokens of the prompts are unknown" in capsys.readouterr().err


def test_lines_that_are_no_samples_are_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    good = {"step": 0, "text": "a [MASK]", "answer": "cat", "fills": ["on"]}
    odd: list[dict[str, Any]] = [{"text": ["a"]}, {"text": "b"}, {**good, "fills": 3}, {**good, "answer": None}, {}]
    compare([*odd, good], [*odd, {**good, "fills": ["cat"]}])
    assert capsys.readouterr().err.count("before: on\n    after:  cat\n    text:   cat") == 1
    compare(odd, odd)
    assert not capsys.readouterr().err
