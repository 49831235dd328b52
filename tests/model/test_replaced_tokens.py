"""Replaced tokens: ELECTRA against transformers' two classes, the samples, the losses by hand, shared embeddings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_parity import example_batch, labels_of, logits, ours, same_gradients, same_training

from blankfill.config.recipe import load_recipe
from blankfill.data.batching import collate
from blankfill.families import weight_names
from blankfill.model.config import TransformerConfig
from blankfill.model.heads import BatchLosses, counts
from blankfill.model.replaced_tokens import (
    NAME,
    discriminator_of,
    generator_of,
    head_of,
    of_each_example,
    replaced_tokens_loss,
    sample,
)
from blankfill.model.transformer import Transformer, build, count_parameters
from blankfill.training.loop import split
from blankfill.training.loss import loss_sums
from blankfill.types import AttentionRule, Batch, Example
from conftest import within
from parity_cases import Case, case_name, made, of

transformers = pytest.importorskip("transformers")
CONFIG = TransformerConfig(
    vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, position_sizes=(24, 2), norm="post",
    norm_eps=1e-12, embedding_norm=True, embedding_size=20, activation="gelu", head_transform=True, head_bias=True,
    heads=(NAME,), generator_size=16, dropout=0.0, attention_dropout=0.0, init_std=0.2, position_std=0.2,
)  # fmt: skip
SEEDS = (11, 12)


def seeded(batch: Batch) -> Batch:
    """The batch with a seed for each of its two rows."""
    starts = torch.tensor([0, batch.input_ids.shape[1]])
    return replace(batch, labels={NAME: (starts, torch.tensor(SEEDS))})


def batch_of(length: int = 16) -> Batch:
    return seeded(example_batch(length, 2, 97, causal=False, seed=3))


def prepared(model: Transformer, batch: Batch) -> Batch:
    """The batch that the discriminator reads."""
    losses = BatchLosses(batch)
    model(batch, read=losses, prepare=losses.prepare)
    return losses.batch


def theirs(model: Transformer) -> tuple[Any, Any]:
    """transformers' two models with the weights of ours; their embeddings are the same parameters."""
    names, made = weight_names()["electra"], []
    for part, kind in ((generator_of(model), "ElectraForMaskedLM"), (discriminator_of(model), "ElectraForPreTraining")):
        values = {**names.write(part.config), "pad_token_id": None}  # with one, its row gets no gradient when sampled
        assert values["architectures"] == [kind]
        other = getattr(transformers, kind)(transformers.ElectraConfig(**values)).eval()
        report = other.load_state_dict(names.table(part.config).to_theirs(part.state_dict()), strict=False)
        assert not report.unexpected_keys
        assert {key for key in report.missing_keys if "position_ids" not in key} <= {"generator_lm_head.weight"}
        made.append(other)
    made[1].electra.embeddings = made[0].electra.embeddings
    return made[0], made[1]


@pytest.mark.parametrize("case", [case for case in of("electra") if case.kind.endswith("MaskedLM")], ids=case_name)
def test_a_generator_equals_transformers(case: Case) -> None:
    reference = made(transformers, case)
    form, model = ours("electra", reference.config.to_dict(), reference.state_dict())
    batch = replace(example_batch(16, 2, 97, causal=False, seed=3), labels={})
    out = reference(
        batch.input_ids, (batch.segment >= 0).long(), batch.positions[1], position_ids=batch.positions[0],
        labels=labels_of(batch),
    )  # fmt: skip
    same_training(form, model, batch, reference, out)


@pytest.mark.parametrize("case", [case for case in of("electra") if case.kind.endswith("PreTraining")], ids=case_name)
def test_a_discriminator_equals_transformers(case: Case) -> None:
    reference = made(transformers, case)
    form, model = ours("electra", reference.config.to_dict(), reference.state_dict())
    batch = example_batch(16, 2, 97, causal=False, seed=3)
    real = batch.segment >= 0
    labels = (torch.arange(real.numel()).view_as(batch.input_ids) % 3 == 0).long()
    inputs = (batch.input_ids, real.long(), batch.positions[1])
    out = reference(*inputs, position_ids=batch.positions[0], labels=labels)
    hidden = model(batch).hidden
    torch.testing.assert_close(head_of(model)(hidden)[real], out.logits[real], atol=1e-5, rtol=1e-5)
    index = real.flatten().nonzero().squeeze(1)
    labelled = replace(batch, labels={NAME: (index, labels.flatten()[index])})
    loss = replaced_tokens_loss(model, hidden.flatten(0, 1), labelled) / len(index)
    torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    out.loss.backward()
    same_gradients(form, model, reference)


@pytest.mark.parametrize("change", [{}, {"embedding_size": 0}, {"embedding_size": 16}], ids=str)
def test_training_equals_transformers(change: dict[str, int]) -> None:
    """Logits, mlm + 50 · rtd with the same samples, and the gradients of all weights, shared embeddings included."""
    model = build(replace(CONFIG, **change), seed=5)
    batch, (generator, discriminator) = batch_of(), theirs(model)
    real = batch.segment >= 0
    sums, sizes, read = loss_sums(model, batch), counts(batch), prepared(model, batch)
    assert sizes == {"lm": len(batch.target_ids), NAME: int(real.sum())}
    loss = sums["lm"] / sizes["lm"] + 50 * sums[NAME] / sizes[NAME]
    inputs = {"attention_mask": real.long(), "token_type_ids": batch.positions[1], "position_ids": batch.positions[0]}
    mlm = generator(batch.input_ids, **inputs, labels=labels_of(batch))
    replaced = torch.zeros_like(batch.input_ids).flatten()
    replaced[batch.target_index] = (read.input_ids.flatten()[batch.target_index] != batch.target_ids).long()
    rtd = discriminator(read.input_ids, **inputs, labels=replaced.view_as(batch.input_ids))
    torch.testing.assert_close(logits(generator_of(model), batch)[real], mlm.logits[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head_of(model)(model(read).hidden)[real], rtd.logits[real], atol=1e-5, rtol=1e-5)
    expected = mlm.loss + 50 * rtd.loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.backward()
    names = weight_names()["electra"]
    for part, other in ((generator_of(model), generator), (discriminator_of(model), discriminator)):
        table, gradients = names.table(part.config), dict(other.named_parameters())
        mine = {name: weight.grad for name, weight in part.named_parameters()}
        assert all(gradient is not None for gradient in mine.values())
        for name, gradient in table.to_theirs(mine).items():  # type: ignore[arg-type]
            torch.testing.assert_close(
                gradient, gradients[name].grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_losses_by_hand() -> None:
    """Two columns of a row of three are scored; the log-odds are the first column of the hidden states."""
    model = build(CONFIG, seed=1)
    head = head_of(model)
    with torch.no_grad():
        head.dense.weight.copy_(torch.eye(32)), head.dense.bias.zero_()
        head.prediction.weight.zero_(), head.prediction.bias.zero_()
        head.prediction.weight[0, 0] = 1
    head.activation = "relu"
    hidden = torch.zeros(3, 32)
    hidden[:, 0] = torch.tensor([2.0, 0.0, 1.0])
    batch = replace(batch_of(), labels={NAME: (torch.tensor([0, 2]), torch.tensor([1, 0]))})
    loss = float(replaced_tokens_loss(model, hidden, batch).detach())
    assert loss == pytest.approx(math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1)), rel=1e-6)


def test_the_discriminator_reads_the_samples() -> None:
    model, batch = build(CONFIG, seed=2), batch_of()
    read = prepared(model, batch)
    scores = logits(generator_of(model), batch).flatten(0, 1)
    width = batch.input_ids.shape[1]
    expected = batch.input_ids.flatten().clone()
    for row, seed in enumerate(SEEDS):
        at = batch.target_index[batch.target_index // width == row]
        expected[at] = sample(scores[at], seed)
    assert read.input_ids.flatten().tolist() == expected.tolist()
    index, label = read.labels[NAME]
    assert index.tolist() == (batch.segment.flatten() >= 0).nonzero().squeeze(1).tolist()
    wrong = {k for k, token in zip(batch.target_index.tolist(), batch.target_ids.tolist(), strict=True)
             if int(expected[k]) != token}  # fmt: skip
    assert {int(k) for k in index[label == 1]} == wrong and wrong


def test_samples_follow_the_softmax() -> None:
    """Of 40,000 rows of the same scores, each token is drawn as often as its probability says."""
    draws, scores = 40_000, torch.tensor([2.0, 0.0, 1.0, -1.0, float("-inf")])
    shares = torch.bincount(sample(scores.expand(draws, -1), 3), minlength=5) / draws
    for share, chance in zip(shares.tolist(), scores.softmax(0).tolist(), strict=True):
        assert within(share, chance, draws)
    assert torch.equal(sample(scores.expand(50, -1), 9), sample(scores.expand(50, -1), 9))
    assert not torch.equal(sample(scores.expand(50, -1), 9), sample(scores.expand(50, -1), 10))


def test_each_example_has_a_seed_of_its_own() -> None:
    """Also several in one row, and one without targets."""

    def example(size: int, index: list[int], seed: int) -> Example:
        ids, places = np.full(size, 5, np.int32), np.array(index, np.int32)
        return Example(ids, np.zeros((2, size), np.int32), AttentionRule.full(size), places, ids[places], {NAME: seed})

    rows = [[example(4, [1, 2], 31), example(3, [], 32)], [example(5, [0], 33)]]
    examples = of_each_example(collate(rows, pad=0, multiple=1))
    assert [(at.tolist(), seed) for at, seed in examples] == [([1, 2], 31), ([], 32), ([7], 33)]


def test_samples_do_not_depend_on_the_micro_batch_or_on_earlier_draws() -> None:
    model, batch = build(CONFIG, seed=2), batch_of()
    whole = prepared(model, batch)
    torch.manual_seed(99)
    torch.rand(7)
    parts = [prepared(model, part) for part in split(batch, 2)]
    assert torch.equal(torch.cat([part.input_ids for part in parts]), whole.input_ids)
    state = torch.get_rng_state()
    prepared(model, batch)
    assert torch.equal(torch.get_rng_state(), state)  # dropout draws what it would have drawn


def test_parts_share_their_weights() -> None:
    model = build(CONFIG, seed=2)
    generator, discriminator = generator_of(model), discriminator_of(model)
    own = {id(weight) for weight in model.parameters()}
    parts = {id(weight) for part in (generator, discriminator) for weight in part.parameters()}
    assert parts == own
    assert generator.token_embeddings.weight is discriminator.token_embeddings.weight is model.token_embeddings.weight
    assert generator.config == CONFIG.generator and discriminator.config == CONFIG.discriminator
    assert not model.eval().training and generator_of(discriminator) is discriminator
    batch = batch_of()
    assert torch.equal(model(batch).hidden, discriminator(batch).hidden)


def test_what_is_not_there_is_named() -> None:
    model, batch = build(CONFIG, seed=2), batch_of()
    plain = build(replace(CONFIG.discriminator, heads=()), seed=2)
    with pytest.raises(ValueError, match="no head for them"):
        loss_sums(plain, batch)
    with pytest.raises(ValueError, match="no generator to sample them"):
        loss_sums(discriminator_of(model), batch)
    with pytest.raises(ValueError, match="its generator"):
        model(batch, logits_at="all")


@pytest.mark.parametrize(("change", "words"), [
    ({"generator_size": 28}, "28 columns wide"), ({"generator_size": 64}, "at most model.hidden_size"),
    ({"relative_buckets": 8}, "learned or rotary positions"), ({"generator_size": -1}, "must not be negative"),
])  # fmt: skip
def test_generators_that_cannot_be(change: dict[str, int], words: str) -> None:
    assert any(words in problem for problem in replace(CONFIG, **change).problems())


PUBLISHED = {"small": (14, 64, 13.5), "base": (110, 256, 33.7), "large": (335, 256, 51.3)}


@pytest.mark.parametrize("size", PUBLISHED)
def test_recipes_have_the_published_sizes(size: str) -> None:
    """And as many weights as transformers' own models. The paper says 14M, 110M and 335M for discriminators."""
    millions, generator, _ = PUBLISHED[size]
    config = load_recipe(f"electra-{size}").model_config(30522)
    assert config.generator.hidden_size == generator and config.generator.head_width == 64
    assert round(count_parameters(config.discriminator) / 1e6) in (millions, millions - 1)
    for part, kind in ((config.generator, "ElectraForMaskedLM"), (config.discriminator, "ElectraForPreTraining")):
        values = transformers.ElectraConfig(**weight_names()["electra"].write(part))
        with torch.device("meta"):
            reference = getattr(transformers, kind)(values)
        assert sum(weight.numel() for weight in reference.parameters()) == count_parameters(part)


def test_locality_begins_in_both_parts() -> None:
    """The first head of either part looks at the column before."""
    recipe = load_recipe("electra-nano")
    model = build(recipe.model_config(300), seed=0).eval()
    positions = torch.stack([torch.arange(40), torch.zeros(40, dtype=torch.int64)])[:, None]
    batch = Batch.of_rows(torch.full((1, 40), 9), positions, torch.zeros(1, 40, dtype=torch.int32))
    for part in (generator_of(model), discriminator_of(model)):
        embedded = part.embed(part.token_embeddings(batch.input_ids), batch.positions)
        hidden = embedded if part.embedding_projection is None else part.embedding_projection(embedded)
        attention = part.layers[0].attention
        width = attention.width
        query, key = attention.qkv(hidden)[0].split(attention.heads * width, dim=-1)[:2]
        scores = query[:, :width] @ key[:, :width].T
        assert (scores.argmax(1)[8:32] == torch.arange(7, 31)).all()
