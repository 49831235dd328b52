"""The decoding engine: what a cached row answers is what the same row answers in one uncached pass."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.attention.masks import lower
from blankfill.generation.engine import Decoder, banned
from blankfill.model.io import Inputs
from blankfill.model.transformer import Transformer, build
from blankfill.model.view import evaluation_view
from blankfill.objectives.glm import GlmChoice, infill
from blankfill.objectives.glm_format import glm_input
from blankfill.objectives.gpt import gpt_input
from blankfill.objectives.query_tokens import query_input
from blankfill.types import AttentionRule, DecoderInput, Vocabulary
from conftest import ORDINARY
from generate_models import objective_of, random_model

MODELS = {name: [random_model(name, seed) for seed in range(2)] for name in ("gpt", "glm", "unilm")}


def uncached(model: Transformer, ids: list[int], positions: np.ndarray, rule: AttentionRule) -> torch.Tensor:
    """Scores [T, V] of one row, computed at once from the reference mask."""
    vectors = [torch.from_numpy(vector)[None] for vector in (rule.segment, rule.rank, rule.horizon)]
    mask = lower("rule", (vectors[0], vectors[2]), (vectors[0], vectors[1]), torch.float32)
    with torch.inference_mode():
        hidden = model(Inputs(torch.tensor([ids]), torch.from_numpy(positions.astype(np.int64))[:, None], mask)).hidden[
            0
        ]
        return model.lm_head(hidden, model.token_embeddings.weight)


def reference(model: Transformer, context: DecoderInput, new: list[int]) -> torch.Tensor:
    """Scores after the context and after each new token, [1 + new, V], by the whole row."""
    count = len(new)
    steps = context.next_position[:, None] + context.step[:, None] * np.arange(count)
    positions = np.concatenate([context.positions, steps], 1)
    ranks = np.concatenate([context.rule.rank, context.rule.rank.max() + 1 + np.arange(count)]).astype(np.int32)
    rule = AttentionRule(np.zeros(len(ranks), np.int32), ranks, ranks)
    return uncached(model, [*context.input_ids.tolist(), *new], positions, rule)[len(context) - 1 :]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["gpt", "glm"])
def test_cached_equals_uncached(name: str, data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(MODELS[name]))
    token = st.integers(0, 39)
    contexts = []
    for _ in range(data.draw(st.integers(1, 4))):
        ids = data.draw(st.lists(token, min_size=1, max_size=12))
        if name == "gpt":
            contexts.append(gpt_input(ids, 48))
            continue
        place = st.integers(0, len(ids) - 1)
        written = data.draw(st.lists(st.tuples(place, st.lists(token, min_size=1, max_size=4)), max_size=2))
        contexts.append(glm_input(ids, written, data.draw(place), 7, (49, 49)))
    steps = data.draw(st.integers(0, 8))
    new = [data.draw(st.lists(token, min_size=steps, max_size=steps)) for _ in contexts]
    decoder = Decoder(model, contexts, steps, pad=3)
    scores = [decoder.prefill(), *(decoder.step(torch.tensor(column)) for column in zip(*new, strict=True))]
    for row, context in enumerate(contexts):
        expected = reference(model, context, new[row])
        torch.testing.assert_close(torch.stack([s[row] for s in scores]), expected, atol=1e-5, rtol=1e-4)
    assert decoder.room == 0


def asked(model: Transformer, context: DecoderInput, new: list[int]) -> torch.Tensor:
    """The scores [V] at the token that asks behind a context and new tokens, by the whole row."""
    count = len(new) + 1
    steps = context.next_position[:, None] + context.step[:, None] * np.arange(count)
    positions = np.concatenate([context.positions, steps], 1)
    behind = (context.rule.rank.max() + 1 + np.arange(count)).astype(np.int32)
    rank, horizon = (np.concatenate([vector, behind]) for vector in (context.rule.rank, context.rule.horizon))
    assert context.query_token is not None
    ids = [*context.input_ids.tolist(), *new, context.query_token]
    return uncached(model, ids, positions, AttentionRule(np.zeros(len(rank), np.int32), rank, horizon))[-1]


@settings(max_examples=20, deadline=None)
@given(data=st.data(), both_ways=st.booleans())
def test_answers_at_a_mask_equal_uncached_ones(data: st.DataObject, both_ways: bool) -> None:
    model = data.draw(st.sampled_from(MODELS["unilm"]))
    token = st.integers(0, 39)
    contexts = [
        query_input(data.draw(st.lists(token, min_size=1, max_size=12)), 48, 4, (4, 5), both_ways)
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    steps = data.draw(st.integers(0, 6))
    new = [data.draw(st.lists(token, min_size=steps, max_size=steps)) for _ in contexts]
    decoder = Decoder(model, contexts, steps, pad=3)
    scores = [decoder.prefill(), *(decoder.step(torch.tensor(column)) for column in zip(*new, strict=True))]
    for row, context in enumerate(contexts):
        for count, score in enumerate(scores):
            torch.testing.assert_close(score[row], asked(model, context, new[row][:count]), atol=1e-5, rtol=1e-4)


def test_the_last_position_can_be_asked_for() -> None:
    model = MODELS["unilm"][0]
    context = query_input([1] * 45, 48, 4, (4, 5))
    decoder = Decoder(model, [context], 9)
    assert decoder.room == 2
    decoder.prefill()
    decoder.step(torch.tensor([5]))
    last = decoder.step(torch.tensor([6]))  # at position 47
    torch.testing.assert_close(last[0], asked(model, context, [5, 6]), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="48 tokens; it must have 1 to 47"):
        query_input([1] * 48, 48, 4, (4, 5))


def test_rows_may_be_reordered_and_repeated() -> None:
    model = MODELS["gpt"][0]
    contexts = [gpt_input([1, 2, 3], 48), gpt_input([4, 5], 48), gpt_input([6], 48)]
    decoder = Decoder(model, contexts, 2)
    decoder.prefill()
    decoder.select(torch.tensor([2, 0, 0, 1]))
    scores = decoder.step(torch.tensor([9, 10, 11, 12]))
    decoder.select(torch.tensor([3, 1]))
    again = decoder.step(torch.tensor([13, 14]))
    for row, (k, new) in enumerate([(2, 9), (0, 10), (0, 11), (1, 12)]):
        torch.testing.assert_close(scores[row], reference(model, contexts[k], [new])[-1], atol=1e-5, rtol=1e-4)
    for row, (k, new_ids) in enumerate([(1, [12, 13]), (0, [10, 14])]):
        torch.testing.assert_close(again[row], reference(model, contexts[k], new_ids)[-1], atol=1e-5, rtol=1e-4)


def test_glm_input_is_the_row_of_training(vocabulary: Vocabulary) -> None:
    row = np.array([2, 20, 21, 22, 23, 24, 25, 9], np.int32)
    example = infill(row, GlmChoice(((1, 2), (4, 6)), (1, 0)), vocabulary)
    part_a = [2, 4, 21, 22, 4, 25, 9]
    context = glm_input(part_a, [(4, [23, 24])], 1, vocabulary["sop"], (49, 49))
    last = len(example) - 1
    assert context.input_ids.tolist() == example.input_ids[:last].tolist()
    assert context.positions.tolist() == example.positions[:, :last].tolist()
    assert (context.rule.visible() == example.rule.visible()[:last, :last]).all()
    assert (context.next_position == example.positions[:, last]).all()


def test_glm_document_context_is_the_row_of_training(vocabulary: Vocabulary) -> None:
    row = np.array([2, 20, 21, 22, 23, 24, 9], np.int32)
    example = infill(row, GlmChoice(((3, 7),), (0,), "gmask", to_end=True), vocabulary)
    context = glm_input([2, 20, 21, vocabulary["gmask"]], [], 3, vocabulary["sop"], (49, 49))
    model = MODELS["glm"][1]
    expected = uncached(model, example.input_ids.tolist(), example.positions, example.rule)[example.target_index]
    decoder = Decoder(model, [context], 3)
    scores = [decoder.prefill(), *(decoder.step(torch.tensor([k])) for k in (22, 23, 24))]
    torch.testing.assert_close(torch.cat(scores), expected, atol=1e-5, rtol=1e-4)


def test_no_room_left_is_refused() -> None:
    decoder = Decoder(MODELS["gpt"][0], [gpt_input([1] * 48, 48)], 5)
    decoder.prefill()
    assert decoder.room == 0
    with pytest.raises(ValueError, match="no room"):
        decoder.step(torch.tensor([1]))
    with pytest.raises(ValueError, match="49 tokens"):
        gpt_input([1] * 49, 48)
    with pytest.raises(ValueError, match="Part A has 0"):
        glm_input([], [], 0, 7, (49, 49))


def test_a_view_evaluates_while_its_model_trains() -> None:
    config = dataclasses.replace(MODELS["gpt"][0].config, dropout=0.5)
    model = build(config)
    expected = Decoder(model.eval(), [gpt_input([1, 2, 3], 48)], 1).prefill()
    assert evaluation_view(model) is model
    model.train()
    view = evaluation_view(model)
    assert [module.training for module in view.modules()] == [False] * len(list(model.modules()))
    assert all(module.training for module in model.modules())
    assert [*map(id, view.parameters())] == [*map(id, model.parameters())]
    assert torch.equal(Decoder(model, [gpt_input([1, 2, 3], 48)], 1).prefill(), expected)
    assert model.training
    with torch.no_grad():
        model.token_embeddings.weight.mul_(2.0)
    assert not torch.equal(Decoder(view, [gpt_input([1, 2, 3], 48)], 1).prefill(), expected)
    lasting = evaluation_view(model.eval(), lasting=True)
    model.train()
    assert not lasting.training and not lasting.layers[0].training


def test_a_view_shares_what_layers_share() -> None:
    model = random_model("albert").train()
    view = evaluation_view(model)
    (ours,), (theirs,) = view.all_layers, model.all_layers
    assert ours.attention is not theirs.attention
    assert ours.attention.qkv.weight is theirs.attention.qkv.weight


def test_banned_ids(vocabulary: Vocabulary) -> None:
    out = banned(vocabulary, 66, keep=[vocabulary["eop"]])
    assert set(np.flatnonzero(out)) == {*range(ORDINARY), 64, 65} - {vocabulary["eop"]}


def test_objective_tables_fit_the_engine() -> None:
    assert objective_of("gpt").position_sizes() == (48,)
    assert objective_of("glm").position_sizes() == (49, 49)
