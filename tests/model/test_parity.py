"""Our model against independent implementations: the original GLM code's saved outputs, and transformers.

Tiny random models go through the name tables; logits, losses and the gradient of every weight are compared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from blankfill.data.batching import collate
from blankfill.families import weight_names
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.model.transformer import Transformer
from blankfill.training.loss import loss_sums
from blankfill.types import AttentionRule, Batch, Example
from parity_cases import Case, case_name, made, of

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "glm"


@pytest.mark.data
@pytest.mark.skipif(not GOLDEN.exists(), reason="the reference outputs lie beside the project and are absent")
def test_glm_equals_the_original_code() -> None:
    """THUDM/GLM's own GLMModel: logits, loss and gradients of a tiny random model."""
    weights, reference = load_file(GOLDEN / "weights.safetensors"), load_file(GOLDEN / "reference.safetensors")
    values = {
        "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 256, "max_position_embeddings": 65, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    form, model = ours("glm", values, weights)
    mask = reference["loss_mask"].bool()
    rows = []
    for row in range(3):
        rule = AttentionRule.prefix(int(reference["sep"][row]), 24)
        index = mask[row].nonzero()[:, 0].numpy().astype(np.int32)
        rows.append([Example(
            reference["input_ids"][row].int().numpy(), reference["position_ids"][row].int().numpy(), rule, index,
            reference["targets"][row].int().numpy()[index],
        )])  # fmt: skip
    batch = collate(rows, pad=0)
    torch.testing.assert_close(logits(model, batch), reference["logits"], atol=1e-5, rtol=1e-4)
    loss = loss_sums(model, batch)["lm"] / mask.sum()
    torch.testing.assert_close(loss, reference["loss"][0], atol=1e-5, rtol=1e-5)
    loss.backward()
    compared = 0
    for name, gradient in gradients(form, model).items():
        if f"grad.{name}" in reference:
            torch.testing.assert_close(gradient, reference[f"grad.{name}"], atol=1e-6, rtol=1e-3)
            compared += 1
    assert compared == sum(name.startswith("grad.") for name in reference)


def ours(family: str, values: dict[str, Any], source: dict[str, torch.Tensor]) -> tuple[CheckpointFormat, Transformer]:
    """Our model of a config.json and its weights, through the family's table."""
    names = weight_names()[family]
    form = CheckpointFormat(names, names.read(values, source.keys()))
    model = Transformer(form.config)
    model.load_state_dict(form.table.to_ours(source, "the file"))
    return form, model


def logits(model: Transformer, batch: Batch) -> torch.Tensor:
    return model.lm_head(model(batch).hidden, model.output_table)


def gradients(form: CheckpointFormat, model: Transformer) -> dict[str, torch.Tensor]:
    """The gradients of our weights under their names."""
    gradients_by_name = {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()
    }
    return form.table.to_theirs(gradients_by_name)


def same_gradients(form: CheckpointFormat, model: Transformer, theirs: torch.nn.Module) -> None:
    """Whether every weight has the same gradient on both sides; those that only they have are constants here."""
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ours = gradients(form, model)
    compared = 0
    for name, gradient in ours.items():
        if name in expected and not name.endswith("token_type_embeddings.weight"):
            torch.testing.assert_close(
                gradient, expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
            compared += 1
    spare = {
        "cls.predictions.bias",
        "predictions.bias",
        "lm_head.bias",
    } - expected.keys()  # of an untied head, which uses another
    assert compared >= len(ours) - 1 - len(spare & ours.keys())


def same_training(form: CheckpointFormat, model: Transformer, batch: Batch, theirs: torch.nn.Module, out: Any) -> None:
    """Whether scores of the real columns, the loss and the gradients are those of their output for the same batch."""
    real = batch.segment >= 0
    torch.testing.assert_close(logits(model, batch)[real], out.logits[real], atol=1e-5, rtol=1e-5)
    loss = loss_sums(model, batch)["lm"] / len(batch.target_ids)
    torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    out.loss.backward()
    same_gradients(form, model, theirs)


def example_batch(length: int, channels: int, vocab: int, causal: bool, seed: int, first: int = 0) -> Batch:
    """Two rows, the second shorter than the first. first: the number of the first position."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in (length, length - 3):
        positions = np.zeros((channels, size), np.int32)
        positions[0] = np.arange(first, first + size)
        if channels > 1:
            positions[1, size // 2 :] = 1
        positions[2:] = np.arange(size) % 3  # a task for each token, which one model has and the other must have too
        index = np.arange(size, dtype=np.int32) if causal else np.sort(rng.choice(size, 4, False)).astype(np.int32)
        rule = AttentionRule.causal(size) if causal else AttentionRule.full(size)
        labels = {"next_sentence": size % 2} if channels > 1 and not causal else {}
        ids = rng.integers(5, vocab, (2, size)).astype(np.int32)
        rows.append([Example(ids[0], positions, rule, index, ids[1][index], labels)])
    return collate(rows, pad=1)


def labels_of(batch: Batch) -> torch.Tensor:
    """Their labels: -100 for columns without a target."""
    flat = torch.full_like(batch.input_ids, -100).flatten()
    return flat.scatter(0, batch.target_index, batch.target_ids).view_as(batch.input_ids)


@pytest.mark.parametrize("case", [*of("bert"), *of("ernie"), *of("albert")], ids=case_name)
def test_models_of_pairs_equal_transformers(case: Case) -> None:
    """Their models of pairs: logits, word and pair losses and gradients, padding in the batch."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case)
    form, model = ours(case.family, theirs.config.to_dict(), theirs.state_dict())
    assert form.config.tied == case.options.get("tie_word_embeddings", True)
    pairs = case.kind.endswith("ForPreTraining")
    assert form.config.pooler == pairs
    batch = example_batch(16, len(form.config.position_sizes), 97, causal=False, seed=3)
    real = batch.segment >= 0
    if not pairs:
        batch = replace(batch, labels={})
    label = "sentence_order_label" if case.family == "albert" else "next_sentence_label"
    more = {label: batch.labels["next_sentence"][1]} if pairs else {}
    if len(batch.positions) > 2:
        more["task_type_ids"] = batch.positions[2]
    out = theirs(
        batch.input_ids, real.long(), batch.positions[1], position_ids=batch.positions[0], labels=labels_of(batch),
        **more,
    )  # fmt: skip
    expected = out.prediction_logits if pairs else out.logits
    torch.testing.assert_close(logits(model, batch)[real], expected[real], atol=1e-5, rtol=1e-5)
    sums = loss_sums(model, batch)
    loss = sums["lm"] / len(batch.target_ids) + (sums["next_sentence"] / 2 if pairs else 0.0)
    torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    out.loss.backward()
    same_gradients(form, model, theirs)


def test_an_encoder_alone_equals_transformers() -> None:
    """transformers' BertModel: hidden states and the pooler."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, Case("bert", "BertModel", "an encoder alone"))
    form, model = ours("bert", theirs.config.to_dict(), theirs.state_dict())
    assert (form.config.lm_head, form.config.pooler, form.config.pair_classifier) == (False, True, False)
    batch = example_batch(16, 2, 97, causal=False, seed=3)
    real = batch.segment >= 0
    out = theirs(batch.input_ids, real.long(), batch.positions[1])
    hidden = model(batch).hidden
    torch.testing.assert_close(hidden[real], out.last_hidden_state[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.pooler(hidden[:, 0]), out.pooler_output, atol=1e-5, rtol=1e-5)
    assert model.classifier is None
    asking = replace(batch, labels={"next_sentence": (torch.tensor([0]), torch.tensor([1]))})
    with pytest.raises(ValueError, match="no next-sentence classifier"):
        loss_sums(model, asking)


def test_albert_alone_equals_transformers() -> None:
    """transformers' AlbertModel: hidden states and the pooler."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, Case("albert", "AlbertModel", "an encoder alone"))
    form, model = ours("albert", theirs.config.to_dict(), theirs.state_dict())
    assert (form.config.lm_head, form.config.pooler, form.config.pair_classifier) == (False, True, False)
    assert form.family.write(form.config)["architectures"] == ["AlbertModel"]
    batch = example_batch(16, 2, 97, causal=False, seed=3)
    real = batch.segment >= 0
    out = theirs(batch.input_ids, real.long(), batch.positions[1])
    hidden = model(batch).hidden
    torch.testing.assert_close(hidden[real], out.last_hidden_state[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.pooler(hidden[:, 0]), out.pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", of("distilbert"), ids=case_name)
def test_distilbert_equals_transformers(case: Case) -> None:
    """transformers' DistilBertForMaskedLM: logits, loss and gradients, padding in the batch."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case)
    form, model = ours("distilbert", theirs.config.to_dict(), theirs.state_dict())
    assert form.config.tied == case.options.get("tie_word_embeddings", True)
    batch = example_batch(16, 1, 97, causal=False, seed=3)
    real = batch.segment >= 0
    out = theirs(batch.input_ids, real.long(), labels=labels_of(batch))
    same_training(form, model, batch, theirs, out)


def test_distilbert_alone_equals_transformers() -> None:
    """transformers' DistilBertModel: hidden states."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, Case("distilbert", "DistilBertModel", "an encoder alone"))
    form, model = ours("distilbert", theirs.config.to_dict(), theirs.state_dict())
    assert not form.config.lm_head
    assert form.family.write(form.config)["architectures"] == ["DistilBertModel"]
    batch = example_batch(16, 1, 97, causal=False, seed=3)
    real = batch.segment >= 0
    out = theirs(batch.input_ids, real.long())
    torch.testing.assert_close(model(batch).hidden[real], out.last_hidden_state[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", of("roberta"), ids=case_name)
def test_roberta_equals_transformers(case: Case) -> None:
    """transformers' RobertaForMaskedLM, which numbers positions itself: logits, loss and gradients."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case)
    config = theirs.config
    form, model = ours("roberta", config.to_dict(), theirs.state_dict())
    batch = example_batch(16, 1, 97, causal=False, seed=3, first=config.pad_token_id + 1)
    real = batch.segment >= 0
    ids = batch.input_ids.masked_fill(~real, config.pad_token_id)
    out = theirs(ids, attention_mask=real.long(), labels=labels_of(batch))
    same_training(form, model, batch, theirs, out)


@pytest.mark.parametrize("length", [12, 40])
@pytest.mark.parametrize("case", of("modernbert"), ids=case_name)
def test_modernbert_equals_transformers(case: Case, length: int) -> None:
    """transformers' ModernBertForMaskedLM: logits, loss and gradients of rows longer than the window, with padding."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case)
    form, model = ours("modernbert", theirs.config.to_dict(), theirs.state_dict())
    assert model.config.window == theirs.config.local_attention // 2 and {"global", "local"} == set(model.kinds)
    batch = example_batch(length, 1, 97, causal=False, seed=3)
    real = batch.segment >= 0
    out = theirs(batch.input_ids, real.long(), labels=labels_of(batch))
    same_training(form, model, batch, theirs, out)


def test_modernbert_alone_equals_transformers() -> None:
    """transformers' ModernBertModel: hidden states."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, Case("modernbert", "ModernBertModel", "an encoder alone"))
    form, model = ours("modernbert", theirs.config.to_dict(), theirs.state_dict())
    assert not form.config.lm_head
    assert form.family.write(form.config)["architectures"] == ["ModernBertModel"]
    batch = example_batch(40, 1, 97, causal=False, seed=3)
    real = batch.segment >= 0
    out = theirs(batch.input_ids, real.long())
    torch.testing.assert_close(model(batch).hidden[real], out.last_hidden_state[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", of("gpt2"), ids=case_name)
def test_gpt2_equals_transformers(case: Case) -> None:
    """transformers' GPT2LMHeadModel: logits, loss and gradients."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case)
    form, model = ours("gpt2", theirs.config.to_dict(), theirs.state_dict())
    batch = example_batch(12, 1, 61, causal=True, seed=5)
    assert batch.mask == "causal"
    real = batch.segment >= 0
    out = theirs(batch.input_ids, attention_mask=real.long())
    torch.testing.assert_close(logits(model, batch)[real], out.logits[real], atol=1e-5, rtol=1e-4)
    loss = loss_sums(model, batch)["lm"] / len(batch.target_ids)
    other = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1)[batch.target_index], batch.target_ids)
    torch.testing.assert_close(loss, other, atol=1e-5, rtol=1e-5)
    loss.backward()
    other.backward()
    same_gradients(form, model, theirs)
