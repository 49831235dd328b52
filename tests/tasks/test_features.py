"""Features of a frozen encoder: which layers, how they are joined, and that items in a row do not read one another."""

import dataclasses

import pytest
import torch

from blankfill.errors import in_flags
from blankfill.tasks.batching import ANSWER, pack
from blankfill.tasks.heads.features import FeatureReader, reader_for
from blankfill.tasks.heads.models import TaskModel, new_head, task_losses
from blankfill.tasks.options import FinetuneOptions
from generate_models import random_model
from task_items import some_items

LAYERS = 3
"""Of the tiny model: the embeddings and two layers."""


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("last", lambda layers: layers[-1]),
        ("second-to-last", lambda layers: layers[-2]),
        ("sum-last-4", lambda layers: sum(layers[-4:])),
        ("concat-last-4", lambda layers: torch.cat(layers[-4:], -1)),
        ("weighted-sum", lambda layers: sum(layers) / LAYERS),
    ],
)
def test_the_chosen_layers(features: str, expected: object) -> None:
    encoder, batch = random_model("bert"), pack(some_items("class"), 0).batch
    outputs = encoder.eval()(batch, output_hidden_states=True)
    assert outputs.hidden_states is not None
    layers = [*outputs.hidden_states]
    assert len(layers) == LAYERS
    reader = FeatureReader(32, LAYERS, features, "linear", 0)  # type: ignore[arg-type]
    read = reader(encoder.train(), batch, torch.float32)
    assert encoder.training and read.shape[1] == reader.width
    torch.testing.assert_close(read, expected(layers).flatten(0, 1))  # type: ignore[operator]


def test_weights_of_layers_are_learnt_and_the_encoder_is_not() -> None:
    encoder, batch = random_model("bert"), pack(some_items("class"), 0).batch
    options = FinetuneOptions(features="weighted-sum", head="bilstm", lstm_size=8)
    torch.manual_seed(0)
    reader = reader_for(encoder, options)
    assert reader is not None
    head = new_head(encoder, "class", 3, True, 0, reader.width)
    model = TaskModel(encoder, head, None, reader).train()
    task_losses(model, batch)[ANSWER].backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in [*reader.parameters(), *head.parameters()])


def test_an_item_is_read_alone_whatever_shares_its_row() -> None:
    encoder, items = random_model("bert"), some_items("class")
    torch.manual_seed(0)
    reader = FeatureReader(32, LAYERS, "last", "bilstm", 8)
    together = pack(items, 0)
    assert len(together.batch.input_ids) < len(items)
    features = reader(encoder, together.batch, torch.float32)[together.batch.labels[ANSWER][0]]
    for k, item in enumerate(items):
        alone = pack([item], 0).batch
        expected = reader(encoder, alone, torch.float32)[alone.labels[ANSWER][0]]
        torch.testing.assert_close(features[together.items == k], expected, atol=1e-5, rtol=1e-5)


def test_an_lstm_without_features_learns_with_the_encoder() -> None:
    """On the last layer, and each item is still read alone."""
    encoder, items = random_model("bert"), some_items("class")
    torch.manual_seed(0)
    reader = reader_for(encoder, FinetuneOptions(head="bilstm", lstm_size=8))
    assert reader is not None and reader_for(encoder, FinetuneOptions()) is None
    head = new_head(encoder, "class", 3, True, 0, reader.width)
    model = TaskModel(encoder.eval(), head, None, reader)
    together = pack(items, 0)
    scores = model.scores(together.batch)
    for k, item in enumerate(items):
        torch.testing.assert_close(
            scores[together.items == k], model.scores(pack([item], 0).batch), atol=1e-5, rtol=1e-5
        )
    task_losses(model, together.batch)[ANSWER].backward()
    learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {
        "encoder.token_embeddings.weight",
        "encoder.layers.0.attention.qkv.weight",
        "reader.lstm.weight_ih_l0",
    } <= learnt


def test_options_that_do_not_go_together() -> None:
    base = FinetuneOptions()
    cloze = dataclasses.replace(base, method="cloze", head="bilstm").problems()
    assert "not with a head; leave out --head" in in_flags(cloze[0]) and len(cloze) == 1
    assert "leave out --lora-rank" in in_flags(dataclasses.replace(base, features="last", freeze=1).problems()[0])
