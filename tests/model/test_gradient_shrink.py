"""The shrink of the embedding gradient: the same values to the bit, and a part of the gradient at the model's input."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from blankfill.config.recipe import load_recipe
from blankfill.data.batching import collate
from blankfill.families import default_family
from blankfill.families.options import ModelOptions
from blankfill.model.embeddings import TokenEmbeddings
from blankfill.model.transformer import Transformer, build
from blankfill.objectives import OBJECTIVES
from blankfill.planning.bench import made_up_example, made_up_vocabulary
from blankfill.training.loss import loss_sums
from blankfill.training.options import TrainOptions
from blankfill.types import Batch


def made(objective: str) -> tuple[Transformer, Batch]:
    """A small model of an objective's own family, with separate output embeddings where it can have them, and a
    batch."""
    options = OBJECTIVES[objective](length=32)
    vocabulary = made_up_vocabulary(120, options.sentinels())
    model = ModelOptions(
        family=default_family(objective), hidden_size=32, num_layers=2, num_heads=2, dropout=0, attention_dropout=0
    )
    rng = np.random.default_rng(2)
    batch = collate([[made_up_example(options, vocabulary, rng)] for _ in range(3)], 0)
    return build(model.config_for(options, 120), seed=1), batch


def run(model: Transformer, batch: Batch, shrink: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and gradients."""
    model = copy.deepcopy(model).train()
    assert isinstance(model.token_embeddings, TokenEmbeddings)
    model.token_embeddings.gradient_shrink = shrink
    losses = loss_sums(model, batch)
    sum(losses.values(), torch.zeros(())).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_gradient_of_the_input_shrinks(objective: str) -> None:
    """Every family: losses and all other gradients stay, to the bit; of tied tables the output's part stays too."""
    model, batch = made(objective)
    (losses, whole), (same, less), (_, none) = (run(model, batch, shrink) for shrink in (1.0, 0.125, 2.0**-60))
    assert all(torch.equal(losses[name], same[name]) for name in losses)
    words = "token_embeddings.weight"
    assert all(torch.equal(whole[name], less[name]) for name in whole if name != words)
    output = none[words]  # what is left without the input's part
    torch.testing.assert_close(less[words] - output, 0.125 * (whole[words] - output), atol=1e-6, rtol=1e-4)
    assert float((whole[words] - output).abs().max()) > 1e-3
    if model.config.tied and model.config.lm_head:
        assert float(output.abs().max()) > 1e-3


def test_the_shrink_is_e_alpha_and_stop_e_without_its_rounding() -> None:
    """Against the formula of GLM-130B, in a type in which that one rounds."""
    table = TokenEmbeddings(5, 7).to(torch.bfloat16)
    ids = torch.tensor([0, 3, 3])
    plain = table(ids)
    formula = plain * 0.1 + plain.detach() * 0.9
    table.gradient_shrink = 0.1
    shrunk = table(ids)
    assert torch.equal(shrunk, plain) and not torch.equal(formula, plain)
    (ours,) = torch.autograd.grad(shrunk.float().sum(), table.weight)
    (theirs,) = torch.autograd.grad(formula.float().sum(), table.weight)
    assert torch.equal(ours, theirs) and ours[3, 0] == 2 * ours[0, 0] != 0


def test_the_option_is_bounded_and_off_by_default() -> None:
    assert load_recipe("glm-nano").train.embedding_gradient_shrink == 1
    for value in (0.0, 1.5, float("nan")):
        (problem,) = dataclasses.replace(TrainOptions(), embedding_gradient_shrink=value).problems()
        assert "train.embedding_gradient_shrink" in str(problem)
