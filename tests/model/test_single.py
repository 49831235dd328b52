"""Single columns in fewer operations: the same states as one pass over whole rows."""

import dataclasses

import pytest
import torch

from blankfill.adapt.lora import add_lora
from blankfill.attention.masks import Mask
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.single import SingleColumn, fits
from blankfill.model.transformer import build

GPT = TransformerConfig(
    vocab_size=60, hidden_size=32, num_layers=3, num_heads=4, ffn_size=48, position_sizes=(24,), norm="pre",
    dropout=0.1, attention_dropout=0.1, init_std=0.2,
)  # fmt: skip
KINDS = {
    "pre-norm": GPT,
    "post-norm": dataclasses.replace(GPT, norm="post", embedding_norm=True),
    "without biases": dataclasses.replace(GPT, attention_bias=False, ffn_bias=False),
    "gated": dataclasses.replace(GPT, gated=True, activation="gelu_tanh"),
    "root mean square": dataclasses.replace(GPT, norm_kind="rms", activation="relu"),
    "distances": dataclasses.replace(GPT, relative_buckets=8, relative_distance=16),
    "scores as they are": dataclasses.replace(GPT, scale_scores=False),
    "two positions": dataclasses.replace(GPT, position_sizes=(24, 5)),
    "shared": dataclasses.replace(GPT, norm="post", embedding_norm=True, shared="all", embedding_size=12),
}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_one_pass(kind: str) -> None:
    """Each row at places of its own, the first columns by the usual way; rows repeated and reordered on the way."""
    model = build(KINDS[kind], seed=1).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases and norms that do something
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (3, 9), generator=generator)
    places = torch.stack([torch.arange(9) + first for first in (0, 4, 9)])
    positions = torch.stack([places, *[places % 5] * (len(KINDS[kind].position_sizes) - 1)])
    with torch.inference_mode():
        whole = model(Inputs(ids, positions, Mask("causal"))).hidden
        cache = model.new_cache(3, 9)
        model(Inputs(ids[:, :3], positions[:, :, :3], Mask("causal")), cache=cache)
        single, rows = SingleColumn(model), torch.arange(3)
        for column in range(3, 9):
            if column == 5:
                rows = torch.tensor([2, 0, 0, 1])
                for layer in cache:
                    layer.select(rows)
            got = single(ids[rows, column, None], positions[:, rows, column, None], None, cache)
            torch.testing.assert_close(got, whole[rows, column], atol=1e-5, rtol=1e-5)


def test_columns_that_a_row_does_not_see() -> None:
    model = build(GPT, seed=1).eval()
    ids, positions = torch.randint(5, 60, (2, 6)), torch.arange(6).expand(1, 2, 6)
    bias = torch.zeros(2, 1, 1, 6)
    bias[1, ..., 3:5] = float("-inf")
    with torch.inference_mode():
        expected, got = (model.new_cache(2, 6) for _ in range(2))
        for cache in (expected, got):
            model(Inputs(ids[:, :5], positions[:, :, :5], Mask("causal")), cache=cache)
        last = model(Inputs(ids[:, 5:], positions[:, :, 5:], Mask("dense", bias)), cache=expected).hidden[:, 0]
        torch.testing.assert_close(SingleColumn(model)(ids[:, 5:], positions[:, :, 5:], bias, got), last)
        assert not torch.allclose(model(Inputs(ids, positions, Mask("causal"))).hidden[1, 5], last[1], atol=1e-3)


def test_adapters_take_the_usual_way() -> None:
    model = build(GPT)
    assert fits(model)
    add_lora(model, rank=2)
    assert not fits(model)
