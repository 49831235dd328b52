"""Perplexity and pseudo-perplexity against transformers, brute force, and what is known beforehand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate_models import TEXT, bert, gpt2, xlnet

from blankfill.checkpoint.load import load_model
from blankfill.errors import UserError
from blankfill.evaluation.perplexity import perplexity
from blankfill.evaluation.pseudo import pseudo_perplexity, word_ends
from blankfill.evaluation.scorers import Scorer, windows
from blankfill.generation.engine import Decoder
from blankfill.objectives.format import join
from blankfill.objectives.glm_format import glm_input
from blankfill.tasks.items import LanguageItem
from generate_models import loaded, random_model

WORDS = "the cat sat on the mat . the big dog ran , the red cat played on . the dog ran on the big red mat ."


def writer(name: str, sharp: float = 8.0, both_ways: bool = True) -> Scorer:
    scorer = Scorer(loaded(name, random_model(name, sharp=sharp)), both_ways)
    assert scorer.format.reads_windows
    return scorer


def item(text: str) -> LanguageItem:
    return LanguageItem("0", text, len(text.split()))


def test_windows_by_hand() -> None:
    assert list(windows(10, 4, 3)) == [(0, 0, 4), (3, 4, 7), (6, 7, 10)]
    assert list(windows(9, 4, 3)) == [(0, 0, 4), (3, 4, 7), (5, 7, 9)]
    assert list(windows(3, 4, 1)) == [(0, 0, 3)]
    assert list(windows(0, 4, 1)) == []
    for stride in (0, 5):
        with pytest.raises(ValueError, match="in windows of 4"):
            list(windows(9, 4, stride))


@pytest.mark.parametrize("room", [1, 2, 7, 30])
def test_windows_ask_for_every_token_once_with_enough_before_it(room: int) -> None:
    for count in (1, 2, 6, 7, 8, 29, 30, 31, 100):
        for stride in {1, (room + 1) // 2, room}:
            scored = []
            for begin, first, stop in windows(count, room, stride):
                assert 0 <= begin <= first < stop <= begin + room
                assert begin == 0 or first - begin >= room - stride
                scored += range(first, stop)
            assert scored == list(range(count))


@pytest.mark.parametrize("name", ["gpt", "glm", "chatglm", "glm-130b"])
def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(name: str) -> None:
    count = perplexity(writer(name, sharp=0.0), [item(WORDS), item("the cat")])
    assert count.metrics()["perplexity"] == pytest.approx(40.0)
    nats = count.tokens * math.log(40)
    assert (count.texts, count.words, count.unknown) == (2, 29, 0)
    assert count.metrics()["perplexity_per_word"] == pytest.approx(math.exp(nats / 29))
    assert count.metrics()["bits_per_character"] == pytest.approx(nats / math.log(2) / (len(WORDS) + 7))


def test_characters_and_bytes_are_told_apart() -> None:
    count = perplexity(writer("gpt", sharp=0.0), [item("猫在跑")])
    assert (count.tokens, count.characters, count.bytes) == (3, 3, 9)
    assert count.metrics()["bits_per_byte"] == pytest.approx(math.log2(40) / 3)


@pytest.mark.parametrize(("window", "stride"), [(0, 0), (32, 1), (20, 7), (20, 20)])
def test_perplexity_is_what_transformers_gives(tmp_path: Path, window: int, stride: int) -> None:
    """Each token's loss in the widest window that ends with its own, by GPT-2 of transformers."""
    theirs, tokenizer = gpt2(tmp_path)
    scorer = Scorer(load_model(tmp_path))
    assert scorer.format.reads_windows and not scorer.both_ways
    result = perplexity(scorer, [item(TEXT)], window, stride)
    stream = [tokenizer.id("<|endoftext|>"), *tokenizer.encode(TEXT)]
    count, room = len(stream) - 1, window or 32
    step = stride or room // 2
    assert count > 40
    nats = 0.0
    for k in range(count):
        stop = min(count, room + max(0, -(-(k + 1 - room) // step)) * step)
        row = torch.tensor([stream[max(0, stop - room) : k + 1]])
        with torch.no_grad():
            nats -= float(theirs(row).logits[0, -1].log_softmax(-1)[stream[k + 1]])
    assert result.tokens == count
    assert result.nats == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize(("name", "module"), [("gpt", "gpt"), ("glm", "glm_format"), ("chatglm", "chatglm_format")])
def test_a_window_costs_its_own_length_and_not_the_texts(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each window reads no more than its tokens and a special one, however long the text is."""
    copied: list[int] = []

    def counting(*parts: Any) -> Any:
        copied.append(sum(map(len, parts)))
        return join(*parts)

    scorer = writer(name)
    text = np.array(scorer.loaded.tokenizer.encode(WORDS) * 40, np.int32)
    whole = join([scorer.vocabulary["eos"]], text)
    monkeypatch.setattr(f"blankfill.objectives.{module}.join", counting)
    for begin, first, stop in windows(len(text), 12, 5):
        example = scorer.window(text, begin, first, stop)
        assert example.target_ids.tolist() == text[first:stop].tolist()
        if name == "gpt":
            assert example.input_ids.tolist() == whole[begin:stop].tolist()
    assert max(copied) <= 12 + 1


@pytest.mark.parametrize("both_ways", [True, False])
def test_glm_writes_the_text_that_is_asked_for(both_ways: bool) -> None:
    """Token by token through the decoding engine: context in Part A, or written before the window."""
    scorer = writer("glm", both_ways=both_ways)
    assert scorer.both_ways == both_ways
    count = perplexity(scorer, [item(WORDS)], window=12, stride=5)
    model, roles = scorer.loaded.model, scorer.vocabulary
    ids = scorer.loaded.tokenizer.encode(WORDS)
    nats = 0.0
    for begin, first, stop in windows(len(ids), 12, 5):
        part_a = [roles["cls"], *(ids[begin:first] if both_ways else []), roles["gmask"]]
        context = glm_input(part_a, [], len(part_a) - 1, roles["sop"], model.config.position_sizes)
        decoder = Decoder(model, [context], 20)
        scores = decoder.prefill()
        for place in range(first if both_ways else begin, stop):
            if place >= first:
                nats -= float(scores[0].log_softmax(-1)[ids[place]])
            scores = decoder.step(torch.tensor([ids[place]]))
    assert count.nats == pytest.approx(nats, rel=1e-5)


def test_windows_that_cannot_be_and_texts_of_nothing() -> None:
    scorer = writer("gpt")
    for window in (49, -1):
        with pytest.raises(UserError, match=f"window={window}: run reads at most 48 tokens at a time; give 1 to"):
            perplexity(scorer, [item(WORDS)], window=window)
    with pytest.raises(UserError, match="stride=9 does not go with a window of 8 tokens; give 1 to 8"):
        perplexity(scorer, [item(WORDS)], window=8, stride=9)
    with pytest.raises(UserError, match="the data have no text"):
        perplexity(scorer, [item(" ")])


def test_unknown_tokens_are_told() -> None:
    count = perplexity(writer("gpt"), [item("the xylophone sat .")])
    assert count.unknown == 1
    assert "25.00% of the tokens are unknown" in count.notes[0]


def test_pseudo_perplexity_is_what_transformers_gives(tmp_path: Path) -> None:
    """Every token masked in turn, one row at a time, by BERT of transformers; and with the rest of its word masked."""
    theirs, tokenizer = bert(tmp_path)
    scorer = Scorer(load_model(tmp_path))
    assert scorer.hides_tokens
    texts = ["the cat playing on the mat .", "unplayed", WORDS]
    result = pseudo_perplexity(scorer, [item(text) for text in texts])
    cls, sep, mask = (tokenizer.id(token) for token in ("[CLS]", "[SEP]", "[MASK]"))
    nats = np.zeros(2)
    tokens = 0
    for text in texts:
        whole = tokenizer.encode(text)
        for begin in range(0, len(whole), 22):
            ids = whole[begin : begin + 22]
            for k in range(len(ids)):
                stop = k + 1
                while stop < len(ids) and tokenizer.token(ids[stop]).startswith("##"):
                    stop += 1
                for kind, end in enumerate((k + 1, stop)):
                    row = [cls, *ids[:k], *[mask] * (end - k), *ids[end:], sep]
                    with torch.no_grad():
                        scores = theirs(torch.tensor([row])).logits[0, k + 1].log_softmax(-1)
                    nats[kind] -= float(scores[ids[k]])
                tokens += 1
    assert (result.tokens, result.texts, result.in_parts) == (tokens, 3, 1)
    assert (result.nats, result.nats_within_word) == pytest.approx(tuple(nats), rel=1e-5)
    assert nats[0] != pytest.approx(nats[1])
    assert result.metrics()["pseudo_perplexity"] == pytest.approx(math.exp(nats[0] / tokens), rel=1e-5)


def test_pseudo_perplexity_of_xlnet_is_what_transformers_gives(tmp_path: Path) -> None:
    """By perm_mask and target_mapping: nothing sees what is hidden, the query stream asks for one place."""
    theirs, tokenizer = xlnet(tmp_path)
    scorer = Scorer(load_model(tmp_path))
    assert scorer.hides_tokens
    result = pseudo_perplexity(scorer, [item("the cat playing on the mat ."), item("unplayed")])
    cls, sep = tokenizer.id("[CLS]"), tokenizer.id("[SEP]")
    nats = np.zeros(2)
    for ids in map(tokenizer.encode, ("the cat playing on the mat .", "unplayed")):
        types = torch.tensor([[0] * (len(ids) + 1) + [2]])
        for k in range(len(ids)):
            stop = k + 1
            while stop < len(ids) and tokenizer.token(ids[stop]).startswith("##"):
                stop += 1
            for kind, end in enumerate((k + 1, stop)):
                unseen, mapping = torch.zeros(1, len(ids) + 2, len(ids) + 2), torch.zeros(1, 1, len(ids) + 2)
                unseen[:, :, k:end], mapping[0, 0, k] = 1, 1
                with torch.no_grad():
                    out = theirs(
                        torch.tensor([[*ids, sep, cls]]), token_type_ids=types, perm_mask=unseen, target_mapping=mapping
                    )
                nats[kind] -= float(out.logits[0, 0].log_softmax(-1)[ids[k]])
    assert (result.nats, result.nats_within_word) == pytest.approx(tuple(nats), rel=1e-5)
    assert nats[0] != pytest.approx(nats[1])


def test_where_words_end() -> None:
    starts = np.array([True, False])
    assert word_ends(np.array([0, 1, 1, 0, 0, 1], np.int32), starts) == [3, 3, 3, 4, 6, 6]
    assert word_ends(np.array([1, 0], np.int32), starts) == [1, 2]
    assert word_ends(np.array([0, 1], np.int32), None) == [1, 2]
