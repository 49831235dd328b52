"""Filling blanks: known answers of hand-built models, independent re-computations, and every error."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F

from blankfill.attention.masks import Mask
from blankfill.checkpoint.load import Loaded
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.generation.blanks import Blank, Candidate, Words, assemble, find_blanks, parse_lengths
from blankfill.generation.fill import Filler
from blankfill.generation.fill_written import distinct
from blankfill.model.io import Inputs
from blankfill.objectives import Glm, Objective
from blankfill.objectives.glm import GlmChoice, infill
from blankfill.objectives.glm_format import GlmFormat
from generate_models import SPECIAL, byte_level, forced_model, loaded, objective_of, random_model, wordpiece

TOKENIZER = wordpiece()
ID = {TOKENIZER.token(k): k for k in range(30)}
CLS, SEP, MASK, SOP, EOP, EOS = (
    ID[t] for t in ("[CLS]", "[SEP]", "[MASK]", "<|startofpiece|>", "<|endofpiece|>", "<|endoftext|>")
)


def scores_of(model: torch.nn.Module, row: list[int], offset: int) -> torch.Tensor:
    """Log-probabilities [T, V] of a bidirectional row."""
    sizes = model.config.position_sizes
    positions = torch.zeros((len(sizes), 1, len(row)), dtype=torch.int64)
    positions[0, 0] = torch.arange(offset, offset + len(row))
    with torch.inference_mode():
        hidden = model(Inputs(torch.tensor([row]), positions, Mask("none"))).hidden[0]
        return model.lm_head(hidden, model.token_embeddings.weight).log_softmax(-1)


def test_blanks_are_found_however_they_are_written() -> None:
    text = "a [MASK] b [blank]c <mask> ____ [gMASK] [sMASK:2] [MASK:3] __ [MASKED]"
    blanks = find_blanks(text)
    assert [b.written for b in blanks] == ["[MASK]", "[blank]", "<mask>", "____", "[gMASK]", "[sMASK:2]", "[MASK:3]"]
    assert [b.role for b in blanks] == ["mask", "mask", "mask", "mask", "gmask", "smask", "mask"]
    assert [b.length for b in blanks] == [None, None, None, None, None, 2, 3]
    assert assemble(text, blanks, list("1234567")) == "a 1 b 2c 3 4 5 6 7 __ [MASKED]"
    with pytest.raises(UserError, match=r"\[MASK:0\] has a length of 0 tokens"):
        find_blanks("a [MASK:0]")


def test_lengths_are_numbers_or_ranges() -> None:
    assert parse_lengths("2") == (2, 2)
    assert parse_lengths(" 1 - 3") == (1, 3)
    for bad in ("", "0", "3-1", "a", "1-", "-2"):
        with pytest.raises(UserError, match="give a number of tokens"):
            parse_lengths(bad)


def test_a_masked_model_answers_what_its_places_ask_for() -> None:
    # positions: 0 [CLS], 1 the, 2 [MASK], 3 sat, 4 [SEP]
    model = forced_model("bert", 0, {2: {ID["cat"]: 6.0, ID["dog"]: 5.0, ID["##ing"]: 7.0, MASK: 9.0}}, 30)
    result = Filler(loaded("bert", model)).fill("The [MASK] sat", top_k=2)
    assert result.filled == "The cat sat" and result.marked() == "The «cat» sat"
    assert result.probabilities == "model" and result.objective == "bert"
    hidden = torch.zeros(30)
    hidden[[ID["cat"], ID["dog"], ID["##ing"], MASK]] = torch.tensor([6.0, 5.0, 7.0, 10.0])
    expected = F.layer_norm(hidden, (30,)).softmax(-1)
    (candidates,) = result.candidates
    assert [c.text for c in candidates] == ["cat", "dog"]
    assert [c.probability for c in candidates] == pytest.approx(expected[[ID["cat"], ID["dog"]]].tolist(), rel=1e-4)
    assert candidates[0].ids == (ID["cat"],) and candidates[0].score == pytest.approx(
        math.log(candidates[0].probability)
    )
    assert result.to_json()["blanks"][0]["candidates"][1]["text"] == "dog"


def test_roberta_positions_are_counted_from_the_offset() -> None:
    model = forced_model("mlm", 0, {4: {ID["cat"]: 6.0}, 2: {ID["dog"]: 6.0}}, 30)
    assert Filler(loaded("mlm", model)).fill("the [MASK] sat").filled == "the cat sat"


def test_a_continuation_fills_a_blank_only_where_letters_stand_before_it() -> None:
    model = forced_model("bert", 0, {2: {ID["##ing"]: 9.0, ID["red"]: 8.0}}, 30)
    ready = loaded("bert", model)
    assert Filler(ready).fill("play[MASK] on").filled == "playing on"
    assert Filler(ready).fill("play [MASK] on").filled == "play red on"
    assert Filler(ready).fill("猫[MASK]").filled == "猫red"
    assert Filler(ready).fill(".[MASK]").filled == ".red"


@pytest.mark.parametrize("name", ["bert", "albert", "unilm", "unilm2", "mlm"])
def test_several_blanks_are_filled_most_certain_first(name: str) -> None:
    offset = 2 if name == "mlm" else 0
    orders = set()
    for seed in range(4):
        model = random_model(name, seed, rows=31 if name == "unilm2" else 30, sharp=6.0)  # [PSEUDO] is its last token
        result = Filler(loaded(name, model)).fill("[MASK] cat [MASK] on [MASK] .", top_k=3)
        row = [CLS, MASK, ID["cat"], MASK, ID["on"], MASK, ID["."], SEP]
        open_slots, order = [1, 3, 5], []
        while open_slots:
            scores = scores_of(model, row, offset).clone()
            scores[:, : len(SPECIAL)] = scores[:, 30:] = -math.inf
            scores[:, [ID["##ing"], ID["##ed"]]] = -math.inf
            slot = max(open_slots, key=lambda slot: float(scores[slot].max()))
            best = scores[slot].topk(3)
            candidates = result.candidates[(slot - 1) // 2]
            assert [c.ids[0] for c in candidates] == best.indices.tolist()
            assert [c.probability for c in candidates] == pytest.approx(best.values.exp().tolist(), rel=1e-3)
            row[slot] = int(best.indices[0])
            open_slots.remove(slot)
            order.append(slot)
        orders.add(tuple(order))
    assert len(orders) > 1


def test_longer_blanks_are_filled_token_by_token_and_lengths_compared_by_their_mean() -> None:
    strong, weak = {ID["red"]: 9.0}, {ID["mat"]: 3.0}
    # the [MASK] [MASK] sat: both places are certain; with one token, place 2 is the only one
    model = forced_model("bert", 0, {2: {ID["big"]: 5.0}, 3: strong}, 30)
    ready = loaded("bert", model)
    assert Filler(ready).fill("the [MASK:2] sat").filled == "the big red sat"
    both = Filler(ready).fill("the [MASK] sat", lengths="1-2", top_k=20)
    assert both.filled == "the big red sat"
    ones = [c for c in both.candidates[0] if len(c.ids) == 1]
    assert ones and ones[0].text == "big"
    twos = next(c for c in both.candidates[0] if len(c.ids) == 2)
    assert twos.score == pytest.approx(math.log(twos.probability) / 2)
    model = forced_model("bert", 0, {2: strong, 3: weak, 4: weak}, 30)
    assert Filler(loaded("bert", model)).fill("the [MASK] sat", lengths="1-3").filled == "the red sat"


def test_the_beam_of_a_long_blank_fills_the_surest_token_first() -> None:
    row = [CLS, ID["the"], MASK, MASK, ID["sat"], SEP]
    ordinary = [k for k in range(len(SPECIAL), 30) if not TOKENIZER.token(k).startswith("##")]
    first_slots = set()
    for seed in range(4):
        model = random_model("bert", seed, rows=30, sharp=3.0)
        candidates = Filler(loaded("bert", model)).fill("the [MASK:2] sat", top_k=30).candidates[0]
        scores = scores_of(model, row, 0)[2:4]
        surest = int(scores[1, len(SPECIAL) :].max() > scores[0, ordinary].max())
        first_slots.add(surest)
        everything = {}
        for pair in itertools.product(ordinary, range(len(SPECIAL), 30)):
            partial = row.copy()
            partial[2 + surest] = pair[surest]
            other = scores_of(model, partial, 0)[3 - surest, pair[1 - surest]]
            everything[pair] = float(scores[surest, pair[surest]] + other)
        assert candidates[0].ids == max(everything, key=lambda pair: everything[pair])
        for candidate in candidates:
            assert math.log(candidate.probability) == pytest.approx(everything[candidate.ids], abs=1e-3)
    assert first_slots == {0, 1}


def test_glm_writes_until_its_end_token() -> None:
    wanted = {1: {ID["big"]: 6.0, ID["red"]: 5.0}, 2: {ID["cat"]: 6.0, EOP: 4.0}, 3: {EOP: 8.0}}
    model = forced_model("glm", 1, wanted, 32)
    result = Filler(loaded("glm", model)).fill("the [MASK] sat on the [MASK] .")
    assert result.filled == "the big cat sat on the big cat ."
    total = 1.0
    tokens = [(1, SOP, ID["big"]), (2, ID["big"], ID["cat"]), (3, ID["cat"], EOP)]
    for place, stands, token in tokens:
        hidden = torch.zeros(32)
        for k, strength in wanted[place].items():
            hidden[k] = strength
        hidden[stands] += 1
        total *= float(F.layer_norm(hidden, (32,)).softmax(-1)[token])
    for candidates in result.candidates:
        assert candidates[0].ids == (ID["big"], ID["cat"])
        assert candidates[0].probability == pytest.approx(total, rel=1e-4)
        assert "red cat" in [c.text for c in candidates] and "big" in [c.text for c in candidates]


def test_glm_obeys_lengths() -> None:
    model = forced_model("glm", 1, {k: {EOP: 8.0, ID["big"]: 4.0} for k in range(1, 9)}, 32)
    ready = loaded("glm", model)
    assert Filler(ready).fill("the [MASK] sat").filled == "the big sat"
    assert Filler(ready).fill("the [MASK:3] sat").filled == "the big big big sat"
    lengths = {len(c.ids) for c in Filler(ready).fill("the [MASK] sat", lengths="2-3", top_k=20).candidates[0]}
    assert lengths == {2, 3}


def test_glm_probabilities_are_those_of_the_training_row() -> None:
    model = random_model("glm", 2, rows=32, sharp=5.0)
    ready = loaded("glm", model)
    result = Filler(ready).fill("the [MASK] sat on [MASK]", top_k=4)
    first, second = (candidates[0] for candidates in result.candidates)
    row = np.array([CLS, ID["the"], *first.ids, ID["sat"], ID["on"], *second.ids, EOS], np.int32)
    a = 2 + len(first.ids)
    choice = GlmChoice(((2, a), (a + 2, a + 2 + len(second.ids))), (0, 1))
    example = infill(row, choice, ready.vocabulary)
    visible = torch.from_numpy(example.rule.visible())
    mask = Mask("dense", torch.zeros(visible.shape).masked_fill(~visible, -math.inf)[None, None])
    with torch.inference_mode():
        ids, positions = (torch.from_numpy(part.astype(np.int64)) for part in (example.input_ids, example.positions))
        hidden = model(Inputs(ids[None], positions[:, None], mask)).hidden[0]
        scores = model.lm_head(hidden, model.token_embeddings.weight).log_softmax(-1)
    answers = scores[torch.from_numpy(example.target_index).long(), torch.from_numpy(example.target_ids).long()]
    split = len(first.ids) + 1
    assert first.probability == pytest.approx(float(answers[:split].sum().exp()), rel=1e-3)
    assert second.probability == pytest.approx(float(answers[split:].sum().exp()), rel=1e-3)


def test_glm_part_a_is_framed_as_in_training() -> None:
    ready = loaded("glm", random_model("glm", rows=32))
    glm = Glm(48, document=1.0)
    g = ready.vocabulary["gmask"]
    assert GlmFormat(glm, ready.vocabulary).part_a([[20], [21]], ["gmask"]) == ([CLS, 20, g, 21, EOS], [2])
    assert GlmFormat(glm, ready.vocabulary).part_a([[20], []], ["gmask"]) == ([CLS, 20, g], [2])
    assert GlmFormat(glm, ready.vocabulary).part_a([[20], []], ["smask"]) == ([CLS, 20, MASK, EOS], [2])
    assert GlmFormat(Glm(48), ready.vocabulary).part_a([[20], []], ["gmask"]) == ([CLS, 20, MASK, EOS], [2])
    untold = Glm(48, document=1.0, task_mask=False)
    assert GlmFormat(untold, ready.vocabulary).part_a([[20], []], ["gmask"]) == ([CLS, 20, MASK], [2])


def test_gpt_ranks_words_by_the_whole_sentence() -> None:
    model = random_model("gpt", 7, rows=30, sharp=6.0)
    ready = loaded("gpt", model)
    result = Filler(ready).fill("the [MASK] sat on .", top_k=3)
    left, right = [EOS, ID["the"]], [ID["sat"], ID["on"], ID["."]]

    def log_probability(ids: list[int]) -> float:
        row = torch.tensor([[*left, *ids, *right]])
        with torch.inference_mode():
            hidden = model(Inputs(row, torch.arange(row.shape[1]).expand(1, 1, -1), Mask("causal"))).hidden[0]
            scores = model.lm_head(hidden, model.token_embeddings.weight).log_softmax(-1)
        return float(sum(scores[k - 1, row[0, k]] for k in range(2, row.shape[1])))

    (candidates,) = result.candidates
    assert result.probabilities == "candidates"
    for candidate in candidates:
        assert candidate.score == pytest.approx(log_probability(list(candidate.ids)), abs=1e-3)
        assert all(TOKENIZER.token(k).startswith("##") for k in candidate.ids[1:])
    assert [c.score for c in candidates] == sorted((c.score for c in candidates), reverse=True)
    ratio = math.exp(candidates[1].score - candidates[0].score)
    assert candidates[1].probability / candidates[0].probability == pytest.approx(ratio, rel=1e-3)


def test_gpt_at_the_end_of_a_text_counts_the_end_of_the_word() -> None:
    # position 1 is "the": it asks for "play"; position 2 then for "##ing" or a new word
    model = forced_model("gpt", 0, {1: {ID["play"]: 8.0}, 2: {ID["##ing"]: 9.0}, 3: {ID["."]: 9.0}}, 30)
    ready = loaded("gpt", model)
    assert Filler(ready).fill("the [MASK]").filled == "the playing"
    assert Filler(ready).fill("the [MASK:1]").filled == "the play"
    assert Filler(ready).fill("the ____ [MASK]").filled == "the playing ."


def test_gpt_with_spaces_in_its_tokens() -> None:
    tokenizer = byte_level(["the cat sat on the mat the cat ran", "a cat and a dog"] * 20, 290)
    cat, the, dog = (tokenizer.encode(text)[0] for text in (" cat", "the", " d"))
    eos = tokenizer.vocabulary()["eos"]
    assert tokenizer.encode("the") == [the]
    model = forced_model("gpt", 0, {1: {cat: 9.0, dog: 2.0}, 2: {eos: 9.0}}, tokenizer.size)
    ready = loaded("gpt", model, tokenizer)
    assert Filler(ready).fill("the [MASK]").filled == "the cat"
    assert Filler(ready).fill("the[MASK]").filled == "the cat"
    words = Words(tokenizer, ready.vocabulary, tokenizer.size)
    assert words.spaced and words.may_begin("the") is None and words.may_begin("") is None
    assert words.may_begin("猫 ") is None and words.may_begin("the ") is not None
    assert words.read([], "the") == ""


@pytest.mark.parametrize("lstrip", [True, False])
@pytest.mark.parametrize("mask", ["<mask>", "<blank>"])
def test_a_mask_takes_the_space_before_it_where_its_tokenizer_says_so(tmp_path: Path, mask: str, lstrip: bool) -> None:
    """The row is that of transformers; behind a space that is a token of its own anything may stand."""
    transformers = pytest.importorskip("transformers")
    made = byte_level(["the cat sat on the mat the cat ran", "a cat and a dog"] * 20, 290)._full
    names = ["<s>", "</s>", tokenizers.AddedToken(mask, lstrip=lstrip, normalized=False)]
    made.add_special_tokens(names)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": mask}), encoding="utf-8"
    )
    tokenizer = Tokenizer.load(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), mask_token=names[2])
    number = tokenizer.vocabulary()["mask"]
    assert tokenizer.token(number) == mask
    filler = Filler(loaded("mlm", random_model("mlm", rows=tokenizer.size), tokenizer))
    for text in (f"the {mask} sat", f"the{mask} sat", f"{mask} sat", f"the cat  {mask}", f"the {mask} {mask}"):
        task = filler.take_apart(text, 5, None, 0.0)
        row = [token for run in task.runs for token in (*run, number)][:-1]
        assert row == theirs(text, add_special_tokens=False).input_ids
        for blank, first in zip(task.blanks, task.first, strict=True):
            free = not lstrip or not text[: blank.start].strip() or not text[: blank.start].endswith(" ")
            assert (first is None) == free
    assert filler.fill(f"the {mask} sat").blanks[0].written == mask
    assert filler.fill("the [MASK] sat").candidates == filler.fill(f"the {mask} sat").candidates


def test_the_same_call_serves_every_family_and_chinese() -> None:
    for name in ("bert", "mlm", "glm", "chatglm", "glm-130b", "gpt", "xlnet"):
        filler = Filler(loaded(name, random_model(name, rows=32)))
        result = filler.fill("猫在[MASK]，the <mask> ____。", top_k=2, lengths="1-2")
        assert len(result.candidates) == 3
        for candidates in result.candidates:
            assert 1 <= len(candidates) <= 2
            assert all(0 <= c.probability <= 1 and min(c.ids) >= len(SPECIAL) and max(c.ids) < 30 for c in candidates)
        assert result.filled.startswith("猫在" + result.candidates[0][0].text + "，the ")


def test_padded_rows_of_the_word_table_are_never_written() -> None:
    for name in ("bert", "glm", "gpt"):
        model = random_model(name, 1, rows=64)
        with torch.no_grad():
            model.token_embeddings.weight[30:] *= 50
        result = Filler(loaded(name, model)).fill("the [MASK] sat [MASK]", top_k=9)
        assert max(max(c.ids) for candidates in result.candidates for c in candidates) < 30


@pytest.mark.parametrize("name", ["bert", "mlm", "glm", "chatglm", "glm-130b", "gpt", "xlnet"])
def test_errors_say_what_to_do(name: str) -> None:
    ready = loaded(name, random_model(name, rows=32, length=16), length=16)
    with pytest.raises(UserError, match=r"no blank; write one as \[MASK\]"):
        Filler(ready).fill("the cat sat")
    with pytest.raises(UserError, match=r"the text has \d+ tokens .* at most 1[67]; shorten"):
        Filler(ready).fill("the cat [MASK] " * 12)
    with pytest.raises(UserError, match="top_k is 0"):
        Filler(ready).fill("the [MASK]", top_k=0)
    with pytest.raises(UserError, match='lengths is "many"'):
        Filler(ready).fill("the [MASK]", lengths="many")


def test_a_blank_longer_than_the_model_writes() -> None:
    ready = loaded("glm", random_model("glm", rows=32, length=16), length=16)
    with pytest.raises(UserError, match=r"\[MASK:16\] has 16 tokens, and the model generates at most 15"):
        Filler(ready).fill("the [MASK:16]")


def test_a_model_that_finds_nothing_says_so() -> None:
    model = random_model("bert", rows=32)
    with torch.no_grad():
        model.lm_head.bias.fill_(-math.inf)
        model.lm_head.bias[MASK] = 0.0
    with pytest.raises(UserError, match=r"finds nothing for \[MASK\]"):
        Filler(loaded("bert", model)).fill("the [MASK] sat [MASK]")


def test_missing_special_tokens_and_unknown_objectives_are_told() -> None:
    bare = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    with pytest.raises(UserError, match="no token for mask"):
        Filler(loaded("bert", random_model("bert"), bare))
    with pytest.raises(UserError, match="no token for mask, sop, eop"):
        Filler(loaded("glm", random_model("glm"), bare))

    class Other(Objective):
        name = "other"

    ready = loaded("bert", random_model("bert"))
    with pytest.raises(UserError, match="objective other cannot fill"):
        Filler(Loaded(ready.model, ready.tokenizer, ready.vocabulary, Other(), ready.path))


def test_duplicates_of_a_text_are_left_out() -> None:
    candidates = [Candidate(text, (k,), 0.5, -k) for k, text in enumerate("abac")]
    assert [c.ids for c in distinct(candidates)] == [(0,), (1,), (3,)]
    assert Blank("____", 0, 4).role == "mask"
    assert objective_of("bert").length == 48
