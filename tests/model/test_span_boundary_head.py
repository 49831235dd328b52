"""The span-boundary head: against the formula of its paper, through batches, checkpoints, exports and new runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from blankfill.checkpoint import store
from blankfill.data.batching import collate
from blankfill.families import weight_names, weight_names_by_type
from blankfill.families.checkpoint_format import CheckpointFormat, checkpoint_format_of
from blankfill.families.options import ModelOptions
from blankfill.model.config import config_values
from blankfill.model.transformer import Transformer, build
from blankfill.objectives import SpanBert
from blankfill.training.loop import split
from blankfill.training.loss import counts, loss_sums
from blankfill.types import Batch, Vocabulary
from conftest import make_document

OBJECTIVE = SpanBert(length=32, mask_ratio=0.3, boundary=4)
OPTIONS = ModelOptions(family="spanbert", hidden_size=16, num_layers=2, num_heads=2, dropout=0.0, attention_dropout=0.0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    made = build(OPTIONS.config(64, OBJECTIVE.position_sizes(), False, OBJECTIVE.max_span_positions()), seed=1)
    with torch.no_grad():  # norms and biases begin as ones and zeros, so that one could stand in for another
        for parameter in made.span_boundary_head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    return made


def make_batch(vocabulary: Vocabulary) -> Batch:
    """Four rows, of two examples each."""
    rng = np.random.default_rng(0)

    def example(length: int) -> object:
        return OBJECTIVE.example(make_document(length, words=np.ones(length, np.bool_)), vocabulary, rng)

    return collate([[example(14), example(9 + k)] for k in range(4)], vocabulary["pad"])


def test_the_loss_is_that_of_the_paper(model: Transformer, vocabulary: Vocabulary) -> None:
    """y_i = LN(GELU(W2 · LN(GELU(W1 · [x_{s-1}; x_{e+1}; p_i])))), scored with the word table; equations 1 and 2."""
    batch = make_batch(vocabulary)
    assert batch.span_boundary_targets is not None
    hidden = model(batch).hidden
    state = {name.removeprefix("span_boundary_head."): tensor for name, tensor in model.state_dict().items()}
    total = torch.zeros(())
    width = batch.input_ids.shape[1]
    for left, right, place, answer in batch.span_boundary_targets.T.tolist():
        assert left // width == right // width and batch.segment.flatten()[left] == batch.segment.flatten()[right]
        h = torch.cat([hidden.flatten(0, 1)[left], hidden.flatten(0, 1)[right], state["places.weight"][place]])
        for part in ("first", "second"):
            h = F.gelu(state[f"{part}.weight"] @ h + state[f"{part}.bias"])
            h = F.layer_norm(h, h.shape, state[f"{part}_norm.weight"], state[f"{part}_norm.bias"], 1e-12)
        total = total - F.log_softmax(model.token_embeddings.weight @ h + state["bias"], -1)[answer]
    torch.testing.assert_close(loss_sums(model, batch)["span_boundary"], total, atol=1e-4, rtol=1e-5)


def test_parts_of_a_batch_add_up(model: Transformer, vocabulary: Vocabulary) -> None:
    batch = make_batch(vocabulary)
    parts = split(batch, 2)
    assert counts(batch)["span_boundary"] == sum(counts(part)["span_boundary"] for part in parts) > 0
    whole = loss_sums(model, batch)["span_boundary"]
    torch.testing.assert_close(sum(loss_sums(model, part)["span_boundary"] for part in parts), whole)


def test_a_model_without_the_head_refuses(vocabulary: Vocabulary) -> None:
    bare = build(OPTIONS.config(64, OBJECTIVE.position_sizes(), False))
    with pytest.raises(ValueError, match="no span-boundary head"):
        loss_sums(bare, make_batch(vocabulary))


def test_checkpoints_keep_the_head_beside_berts_weights(
    model: Transformer, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    form = checkpoint_format_of(model.config, OBJECTIVE, vocabulary)
    assert isinstance(form, CheckpointFormat) and form.family.name == "spanbert"
    assert form.config_json(vocabulary)["architectures"] == ["BertForMaskedLM"]
    assert weight_names_by_type()["bert"] is weight_names()["bert"]
    state = {"model": config_values(model.config), "objective": {}}
    path = store.save(tmp_path / "checkpoints", 1, model.state_dict(), {}, state, hf_layout=store.HFLayout(form, {}))
    names = set(load_file(path / store.MODEL))
    assert names and all(name.startswith(("bert.", "cls.")) for name in names)
    again = store.read(path, with_optimizer=False).model
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
