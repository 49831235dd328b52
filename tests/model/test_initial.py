"""Initial weights of whole models: each parameter by its name, by the rule of its family, whatever else is there."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from blankfill.config.recipe import load_recipe, recipe_names
from blankfill.model.config import TransformerConfig
from blankfill.model.draw import draw
from blankfill.model.heads import HEADS, Head, register_head
from blankfill.model.initial import initial_rules
from blankfill.model.transformer import Transformer, build
from blankfill.tasks.heads.features import reader_for
from blankfill.tasks.heads.models import new_head
from blankfill.tasks.options import FinetuneOptions

NANO = [name for name in recipe_names() if name.endswith("nano")]
CONFIG = TransformerConfig(
    vocab_size=300, hidden_size=64, num_layers=2, num_heads=2, ffn_size=96, position_sizes=(24, 2), norm="post",
    embedding_norm=True, head_transform=True, head_bias=True, init="truncated_normal",
)  # fmt: skip


def nano(name: str) -> TransformerConfig:
    return load_recipe(name).model_config(600)


def state(config: TransformerConfig, seed: int = 3) -> dict[str, torch.Tensor]:
    return build(config, seed).state_dict()


@pytest.mark.parametrize("name", NANO)
def test_a_process_without_the_model_draws_any_rows_of_it(name: str) -> None:
    """From rules that are weights without memory, as a process that holds a part of the model finds them."""
    config, whole = nano(name), state(nano(name))
    with torch.device("meta"):
        model = Transformer(config)
    rules = initial_rules(model)
    assert rules.keys() >= whole.keys()
    for key, tensor in model.state_dict().items():
        rows = slice(len(tensor) // 3, len(tensor) // 3 + 2)
        assert torch.equal(draw(3, key, tensor.shape, rules[key], (rows,)), whole[key][rows]), key


def test_further_parts_of_a_model_change_no_other_weight() -> None:
    """Heads, layers, positions and words that are added, and another type of output table."""
    before = state(CONFIG)
    for changes in (
        {"pooler": True}, {"max_span_positions": 4}, {"num_layers": 4}, {"tied": False}, {"vocab_size": 340},
        {"position_sizes": (40, 2, 3)},
    ):  # fmt: skip
        after = state(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
        assert len(after) > len(before) or changes.keys() & {"vocab_size", "position_sizes"}
        for key, tensor in before.items():
            assert torch.equal(after[key][: len(tensor)], tensor), (changes, key)


def test_seeds_differ_and_repeat() -> None:
    first, again, other = state(CONFIG), state(CONFIG), state(CONFIG, seed=4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = {key for key in first if not torch.equal(first[key], other[key])}
    fixed = {key for key in first if key.endswith(".bias") or "norm" in key}
    assert drawn == first.keys() - fixed


def deviation(weight: torch.Tensor, std: float, cut: bool) -> None:
    """Assert the spread of a drawn weight; 0.8796 is what is left of 1 when a normal variable is cut at 2."""
    expected = std * (0.879626 if cut else 1.0)
    assert float(weight.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * weight.numel()))
    assert abs(float(weight.mean())) < 5 * expected / math.sqrt(weight.numel())
    assert float(weight.abs().max()) <= (2 * std if cut else 7 * std)


def test_truncated_weights_are_within_two_deviations() -> None:
    weights = state(CONFIG)
    for key in ("token_embeddings.weight", "layers.1.ffn.output.weight", "lm_head.dense.weight"):
        deviation(weights[key], 0.02, True)


def test_residual_projections_are_smaller_where_the_family_says_so() -> None:
    weights = state(dataclasses.replace(CONFIG, init="normal", scaled_init=True, position_std=0.01))
    for part in ("attention.output", "ffn.output"):
        deviation(weights[f"layers.0.{part}.weight"], 0.02 / math.sqrt(4), False)
    deviation(weights["layers.0.attention.qkv.weight"], 0.02, False)
    deviation(weights["positions.0.weight"], 0.01, False)


def test_t5_draws_each_matrix_by_what_it_reads() -> None:
    """tensorflow/mesh: queries (D·E)^-½, other projections D^-½, outputs (H·E)^-½ and F^-½, words 1."""
    config = nano("t5-nano")
    D, E, F = config.hidden_size, config.head_width, config.ffn_size
    weights, rows = state(config), config.attention_width
    for stack in ("encoder.layers.0", "layers.1"):
        qkv = weights[f"{stack}.attention.qkv.weight"]
        deviation(qkv[:rows], (D * E) ** -0.5, False)
        deviation(qkv[rows:], D**-0.5, False)
        deviation(weights[f"{stack}.attention.output.weight"], rows**-0.5, False)
        deviation(weights[f"{stack}.ffn.output.weight"], F**-0.5, False)
    deviation(weights["layers.0.cross.query.weight"], (D * E) ** -0.5, False)
    deviation(weights["layers.0.cross.key_value.weight"], D**-0.5, False)
    deviation(weights["position_bias.weight"], D**-0.5, False)
    deviation(weights["token_embeddings.weight"], 1.0, False)


def test_deepnorm_draws_each_matrix_by_both_its_sides() -> None:
    """GLM-130B: Xavier normal, smaller by (2N)^½ but for queries and keys; of joint matrices, by the single ones."""
    sizes = {"init": "deepnorm", "num_layers": 8, "residual_scale": 0.0, "head_size": 24, "init_std": 0.01}
    for gated in (False, True):
        weights = state(dataclasses.replace(CONFIG, gated=gated, **sizes))  # type: ignore[arg-type]
        small, attention, inner = 16**-0.5, math.sqrt(2 / (64 + 48)), math.sqrt(2 / (64 + 96))
        for layer in ("layers.0", "layers.7"):
            query, key, value = weights[f"{layer}.attention.qkv.weight"].chunk(3)
            for part, std in ((query, attention), (key, attention), (value, small * attention)):
                deviation(part, std, False)
            deviation(weights[f"{layer}.attention.output.weight"], small * attention, False)
            for half in weights[f"{layer}.ffn.inner.weight"].split(96):
                deviation(half, small * inner, False)
            deviation(weights[f"{layer}.ffn.output.weight"], small * inner, False)
            assert not weights[f"{layer}.attention.qkv.bias"].any() and not weights[f"{layer}.ffn.inner.bias"].any()
        for rest in ("token_embeddings.weight", "lm_head.dense.weight"):
            deviation(weights[rest], 0.01, False)


def test_heads_of_tasks_are_drawn_by_their_names_too() -> None:
    """The seed alone decides: not the state of torch's generator, nor the number of outputs."""
    encoder = build(CONFIG)
    torch.manual_seed(0)
    few = new_head(encoder, "class", 2, True, 5).state_dict()
    many = new_head(encoder, "class", 7, True, 5).state_dict()
    assert torch.equal(few["dense.weight"], many["dense.weight"])
    assert torch.equal(few["output.weight"], many["output.weight"][:2])
    deviation(few["dense.weight"], 0.02, False)
    assert not few["output.bias"].any() and not torch.equal(
        few["output.weight"], new_head(encoder, "class", 2, True, 6).state_dict()["output.weight"]
    )
    readers = [reader_for(encoder, FinetuneOptions(head="bilstm", lstm_size=16), seed=seed) for seed in (5, 5, 6)]
    weights = [reader.lstm.weight_hh_l1_reverse for reader in readers if reader is not None and reader.lstm is not None]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert 0.24 < float(weights[0].detach().abs().max()) <= 16**-0.5


def test_a_head_whose_weights_nobody_draws_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.numbers = nn.Parameter(torch.empty(3))

    register_head(Head("odd", lambda model, hidden, batch: hidden.sum(), lambda config: Odd()))
    try:
        with pytest.raises(ValueError, match=r"no rule for the initial values of heads\.odd\.numbers"):
            build(dataclasses.replace(CONFIG, heads=("odd",)))
    finally:
        del HEADS["odd"]
