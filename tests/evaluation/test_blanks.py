"""Last words and blanks: against greedy decoding and sums worked out one token at a time."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from blankfill.attention.masks import Mask
from blankfill.errors import UserError
from blankfill.evaluation.infill import by_length, infill
from blankfill.evaluation.last_word import last_words
from blankfill.evaluation.scorers import Scorer
from blankfill.evaluation.texts import Cut, around, chosen, cut_blanks, passages
from blankfill.generation.engine import Decoder
from blankfill.generation.fill import Filler
from blankfill.model.io import Inputs
from blankfill.objectives.glm_format import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.tasks.items import GenerationItem, LanguageItem
from generate_models import WORDS, byte_level, loaded, random_model

HEADS = [
    "the cat sat on the", "the dog ran , the big red", "a red mat", "the big dog played on the red", "un", "cat cat",
]  # fmt: skip
ANSWERS = ["cat", "playing", "mat", "unplayed", "dog", "ran"]


def scorer(name: str, seed: int = 0) -> Scorer:
    return Scorer(loaded(name, random_model(name, seed)))


def chain(
    scorer_of_model: Scorer, before: Sequence[int], answer: Sequence[int], after: Sequence[int]
) -> list[torch.Tensor]:
    """The log-probabilities [V] at each token of an answer, and at its end, one pass after the other."""
    model, roles = scorer_of_model.loaded.model, scorer_of_model.vocabulary
    name = scorer_of_model.loaded.objective.name
    if name in ("gpt", "glm", "chatglm", "glm-130b", "t5", "bart"):
        if name == "gpt":
            context = gpt_input([roles["eos"], *before], model.config.position_sizes[0])
        elif name in ("chatglm", "glm-130b"):
            role = "mask" if after else "gmask"
            context = scorer_of_model.loaded.format.blank_input([before, after], [role], ())
        elif name == "t5" or name == "bart":
            context = scorer_of_model.loaded.format.blank_input([before, after], ["mask"], ())
        else:
            part_a = [roles["cls"], *before, roles["mask"], *after, *([roles["eos"]] if after else [])]
            context = glm_input(part_a, [], 1 + len(before), roles["sop"], model.config.position_sizes)
        decoder = Decoder(model, [context], len(answer))
        logs = [decoder.prefill()[0].log_softmax(-1)]
        for token in answer[: len(answer) - 1 + scorer_of_model.ends]:
            logs.append(decoder.step(torch.tensor([token]))[0].log_softmax(-1))
        return logs
    if name == "xlnet":
        return [
            slot(scorer_of_model, [*before, *answer[:k], *after], len(before), k, len(answer))
            for k in range(len(answer))
        ]
    logs = []
    for k in range(len(answer)):
        masks = [roles["mask"]] * (len(answer) - k)
        row = torch.tensor([[roles["cls"], *before, *answer[:k], *masks, *after, roles["sep"]]])
        positions = torch.arange(row.shape[1])[None]
        channels = [positions, torch.zeros_like(positions)] if name == "bert" else [positions + 2]
        with torch.inference_mode():
            hidden = model(Inputs(row, torch.stack(channels), Mask("none"))).hidden
            place = 1 + len(before) + k
            logs.append(model.lm_head(hidden[0, place : place + 1], model.output_table)[0].log_softmax(-1))
    return logs


def end_of(scorer_of_model: Scorer, after: Sequence[int]) -> list[int]:
    """The token that marks the end of an answer, where one is predicted."""
    roles, sentinels = scorer_of_model.vocabulary.roles, scorer_of_model.vocabulary.sentinels
    ends = {"glm": "eop", "chatglm": "eop", "glm-130b": "eop", "t5": "eos", "bart": "sep"}
    name = scorer_of_model.loaded.objective.name
    if name == "bart" and after:
        return [after[0]]
    return [sentinels[1]] if name == "t5" and after else [roles[ends[name]]] if name in ends else []


def slot(scorer_of_model: Scorer, text: Sequence[int], first: int, known: int, answer: int) -> torch.Tensor:
    """What XLNet's query slot says [V] of a text that lacks the end of an answer, the columns' sight written out.

    first: where the answer begins; known: how many of its tokens are there, of `answer` in all.
    """
    model, roles = scorer_of_model.loaded.model, scorer_of_model.vocabulary
    row = [*text, roles["sep"], roles["cls"], roles["mask"]]
    visible = first + known
    places = [*range(visible), *range(first + answer, len(text) + answer - known + 2), visible]
    segments = [0] * (len(row) - 2) + [2, 0]
    streams = [0] * (len(row) - 1) + [1]
    last = len(row) - 1
    bias = torch.full((len(row), len(row)), -torch.inf)
    for i in range(len(row)):
        for j in range(last):
            if i == last or not first <= j < visible or first <= j <= i < visible:
                bias[i, j] = 0
    with torch.inference_mode():
        channels = torch.tensor([[places], [segments], [streams]])
        hidden = model(Inputs(torch.tensor([row]), channels, Mask("dense", bias[None, None]))).hidden
        return model.lm_head(hidden[0, -1:], model.output_table)[0].log_softmax(-1)


@pytest.mark.parametrize("name", ["gpt", "glm", "chatglm", "glm-130b", "bert", "mlm", "xlnet", "t5", "bart"])
def test_last_words_are_right_when_greedy_decoding_writes_them(name: str) -> None:
    """Half of the words are what the model itself would write, so that some are right: the output embeddings of all
    other tokens are close to 0, so that it writes words."""
    model = scorer(name)
    tokenizer = model.loaded.tokenizer
    words = [tokenizer.id(word) for word in WORDS if word.isalpha() and word.isascii()]
    others = [token for token in range(len(model.loaded.model.output_table)) if token not in words]
    with torch.no_grad():
        model.loaded.model.output_table[others] *= 1e-3
    items, right, ended, nats, pieces = [], 0, 0, 0.0, 0
    for number, (head, word) in enumerate(zip(HEADS, ANSWERS, strict=True)):
        before = tokenizer.encode(head)
        if number % 2:
            best = chain(model, before, tokenizer.encode("cat"), [])[0].clone()
            best[others] = -100.0
            word = tokenizer.token(int(best.argmax()))
        items.append(GenerationItem(str(number), head, (word,)))
        answer = tokenizer.encode(word)
        scores = chain(model, before, answer, [])
        greedy = [int(row.argmax()) for row in scores]
        right += greedy[: len(answer)] == answer
        ended += greedy == [*answer, *end_of(model, [])]
        nats -= sum(float(row[token]) for row, token in zip(scores, answer, strict=False))
        pieces += len(answer)
    answers = last_words(model, items)
    metrics = answers.metrics()
    key = "accuracy" if model.length == "unknown" else "accuracy_given_length"
    assert right > 0
    assert metrics[key] == pytest.approx(right / 6)
    assert metrics.get("accuracy_with_end") == (pytest.approx(ended / 6) if model.ends else None)
    assert metrics["perplexity_per_word"] == pytest.approx(np.exp(nats / 6), rel=1e-4)
    assert metrics["nats_per_token"] == pytest.approx(nats / pieces, rel=1e-4)
    assert answers.counts() == {"words": 6, "tokens": pieces, "cut": 0}


def test_a_passage_that_is_too_long_loses_its_beginning() -> None:
    model = scorer("gpt")
    long = GenerationItem("0", "dog " * 60 + "the cat sat on the", ("mat",))
    answers = last_words(model, [long])
    assert answers.cut == 1
    before = model.loaded.tokenizer.encode(long.source)[-47:]
    (answer,) = model.loaded.tokenizer.encode("mat")
    assert answers.answers[0].total == pytest.approx(float(chain(model, before, [answer], [])[0][answer]), rel=1e-4)
    with pytest.raises(UserError, match="no token for the last word"):
        last_words(model, [GenerationItem("0", "the", ("\u200b",))])


@pytest.mark.parametrize("name", ["gpt", "glm", "chatglm", "glm-130b", "bert", "mlm", "xlnet", "t5", "bart"])
def test_blanks_have_the_probability_of_their_tokens_in_turn(name: str) -> None:
    model = scorer(name)
    cuts = [Cut("the cat ", "sat on", " the mat .", 2), Cut("the big ", "dog playing", " ran .", 2)]
    encode = model.loaded.tokenizer.encode
    nats, hits, tokens, exact = 0.0, 0, 0, 0
    for cut in cuts:
        answer = encode(cut.answer)
        after = encode(cut.after) if name != "gpt" else []
        scores = chain(model, encode(cut.before), answer, after)
        whole = [*answer, *end_of(model, after)]
        nats -= sum(float(row[token]) for row, token in zip(scores, whole, strict=True))
        greedy = [int(row.argmax()) for row in scores]
        hits += sum(a == b for a, b in zip(greedy, answer, strict=False))
        exact += greedy == whole
        tokens += len(answer)
    metrics = infill(model, cuts).metrics()
    assert metrics["blanks"] == 2 and metrics["left_out"] == 0
    assert metrics["nats_per_word"] == pytest.approx(nats / 4, rel=1e-4)
    assert metrics["nats_per_character"] == pytest.approx(nats / len("sat ondog playing"), rel=1e-4)
    assert metrics["probability"] == pytest.approx(np.exp(-nats / 2), rel=1e-3)
    assert (metrics["token_accuracy"], metrics["exact"]) == (pytest.approx(hits / tokens), exact / 2)


def test_a_blank_of_one_token_has_the_probability_that_fill_gives() -> None:
    model = scorer("xlnet")
    candidates = Filler(model.loaded).fill("the cat [MASK] on the mat .", top_k=30).candidates[0]
    likely = {candidate.text: candidate for candidate in candidates}
    assert "ran" in likely
    metrics = infill(model, [Cut("the cat ", "ran", " on the mat .", 1)]).metrics()
    assert metrics["probability"] == pytest.approx(likely["ran"].probability, rel=1e-4)


def test_blanks_without_room_are_left_out_and_told() -> None:
    """All 48 positions are used where the text just fits."""
    cuts = [Cut("the ", "cat", " sat" * 60, 1), Cut("the ", "cat", " sat .", 1)]
    for name, room in (("t5", 46), ("bart", 44)):
        fits = [Cut("the ", "cat", " sat" * more, 1) for more in (room - 2, room - 1)]
        assert infill(scorer(name), fits).metrics()["left_out"] == 1
    assert infill(scorer("bert"), cuts).metrics()["left_out"] == 1
    assert infill(scorer("gpt"), cuts).metrics()["left_out"] == 0
    with pytest.raises(UserError, match="every passage is too long"):
        by_length([infill(scorer("glm"), cuts[:1])])


def test_blanks_are_the_same_for_every_model_and_leave_words_at_both_sides() -> None:
    text = "one two three, four five 六七 eight"
    for length in (1, 2, 5):
        places = set()
        for seed in range(40):
            (cut,) = cut_blanks([text], length, seed)
            assert cut.before + cut.answer + cut.after == text
            assert cut.before.strip() and cut.after.strip()
            places.add(len(cut.before))
            assert cut_blanks([text], length, seed) == [cut]
        assert len(places) == 8 - length - 1
    assert cut_blanks([text], 6, 0) == [Cut("one ", "two three, four five 六七", " eight", 6)]


def test_passages_are_runs_of_words() -> None:
    texts = [LanguageItem("a", "a b c d e", 5), LanguageItem("b", "f g", 2), LanguageItem("c", "h", 1)]
    assert passages(iter(texts), 2) == ["a b", "c d", "f g"]


def test_what_is_chosen_depends_on_the_seed_alone() -> None:
    assert chosen(5, 0, 0).tolist() == chosen(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    picked = chosen(1000, 20, 3).tolist()
    assert picked == sorted(set(picked)) and len(picked) == 20
    assert picked == chosen(1000, 20, 3).tolist() != chosen(1000, 20, 4).tolist()


def test_the_space_before_a_blank_goes_where_the_tokenizer_has_it() -> None:
    assert around("the cat ", "sat", spaced=True) == ("the cat", " sat")
    assert around("the (", "sat", spaced=True) == ("the (", "sat")
    assert around("the cat ", "sat", spaced=False) == ("the cat ", "sat")
    tokenizer = byte_level(["the cat sat on the mat"])
    parts = around("the cat ", "sat", spaced=True)
    assert tokenizer.encode("the cat sat") == [*tokenizer.encode(parts[0]), *tokenizer.encode(parts[1])]
