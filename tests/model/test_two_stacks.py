"""An encoder and a decoder: cached decoding, items that share a row, padding, gradients, initialisation, sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.adapt.lora import LoraLinear, add_lora, merge_lora
from blankfill.attention.masks import Mask, lower_cross
from blankfill.data.batching import collate
from blankfill.families.options import ModelOptions
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.single import SingleColumn
from blankfill.model.transformer import Transformer, build, count_parameters
from blankfill.planning.estimate import parameters
from blankfill.training.loss import loss_sums
from blankfill.types import AttentionRule, Batch, Example

NOTHING = np.zeros(0, np.int32)
FAMILIES = ("t5", "t5-v1.1", "bart")
LENGTHS = [(13, 9), (5, 9), (16, 9), (1, 9)]


def config(family: str, **changed: Any) -> TransformerConfig:
    options = ModelOptions(family=family, hidden_size=32, num_layers=2, num_heads=4, dropout=0.0, attention_dropout=0.0)
    made = options.config(60, (24,))
    return dataclasses.replace(made, **{"init_std": 0.2, "position_std": 0.2, **changed})


def example(read: int, written: int, seed: int) -> Example:
    rng = np.random.default_rng(seed)
    places = np.arange(24, dtype=np.int32)[None]
    words = [rng.integers(5, 60, size).astype(np.int32) for size in (read, written, written)]
    context = Example(words[0], places[:, :read], AttentionRule.full(read), NOTHING, NOTHING)
    index = places[0, :written]
    return Example(words[1], places[:, :written], AttentionRule.causal(written), index, words[2], context=context)


def examples() -> list[Example]:
    return [example(*lengths, seed) for seed, lengths in enumerate(LENGTHS)]


def asked(model: Transformer, batch: Batch) -> torch.Tensor:
    hidden: torch.Tensor = model(batch).hidden.flatten(0, 1)[batch.target_index]
    return hidden


def gradient(model: Transformer, batch: Batch) -> list[torch.Tensor]:
    model.zero_grad()
    loss_sums(model, batch)["lm"].backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_steps_equal_one_pass(family: str, single: bool) -> None:
    """Column by column with keys and values of the context kept, rows reordered and repeated on the way."""
    model = build(config(family), seed=1).eval()
    made = examples()
    batch = collate([[example] for example in made], pad=0)
    assert batch.context is not None
    whole = model(batch).hidden
    with torch.inference_mode():
        context = model.encode_source(batch.context, keys_values=True)
        cache = model.new_cache(len(made), 9)
        rows = torch.arange(len(made))
        for column in range(9):
            if column == 4:
                rows = torch.tensor([2, 0, 0, 3, 1, 3])
                context.select(rows)
                for layer in cache:
                    layer.select(rows)
            ids, places = batch.input_ids[rows, column, None], batch.positions[:, rows, column, None]
            if single:
                hidden = SingleColumn(model)(ids, places, None, cache, context)
            else:
                hidden = model(Inputs(ids, places, Mask("none")), cache=cache, encoded=context).hidden[:, 0]
            torch.testing.assert_close(hidden, whole[rows, column], atol=1e-5, rtol=1e-5)


def test_one_stack_adds_by_distance_beside_its_positions() -> None:
    """Buckets in a stack that reads alone (UniLM v2): cached steps, and places that no column tells."""
    made = TransformerConfig(
        vocab_size=60, hidden_size=32, num_layers=2, num_heads=4, ffn_size=64, position_sizes=(24,), relative_buckets=8,
        relative_distance=16, dropout=0.0, attention_dropout=0.0, init_std=0.2,
    )  # fmt: skip
    model = build(made, seed=1).eval()
    ids, places = torch.randint(5, 60, (2, 7)), torch.tensor([[0, 3, 3, 9, 1, 2, 20], [5, 4, 3, 2, 1, 0, 23]])
    whole = model(Inputs(ids, places[None], Mask("causal"))).hidden
    cache = model.new_cache(2, 7)
    steps = [
        model(Inputs(ids[:, k, None], places[None, :, k, None], Mask("none")), cache=cache).hidden for k in range(7)
    ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert model.position_bias is not None
        model.position_bias.weight[5] += (
            1  # keys one place further on than the query: column 5 is the first to see one, or 1
        )
    moved = (model(Inputs(ids, places[None], Mask("causal"))).hidden - whole).abs().amax(2) > 1e-4
    assert moved.tolist() == [[False] * 5 + [True] * 2, [False] + [True] * 6]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_items_in_a_row_are_as_they_are_alone(family: str, recompute: bool) -> None:
    model = build(config(family), seed=1).train()
    made = examples()
    alone = [collate([[example]], pad=0) for example in made]
    expected = torch.cat([asked(model, batch) for batch in alone])
    gradients = [sum(parts) for parts in zip(*(gradient(model, batch) for batch in alone), strict=True)]
    model.recompute = recompute
    for rows in ([made], [made[:2], made[2:]], [made[:3], made[3:]]):
        batch = collate(rows, pad=0)
        torch.testing.assert_close(asked(model, batch), expected, atol=1e-5, rtol=1e-5)
        for got, wanted in zip(gradient(model, batch), gradients, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kernel", ["sdpa", "explicit", "blocked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_and_padding_leave_every_gradient_finite(family: str, kernel: Any) -> None:
    torch.manual_seed(0)
    more = {"more_dropout": True} if family != "bart" else {}
    model = build(config(family, dropout=0.3, attention_dropout=0.3, **more), seed=1).train()
    model.use_kernel(kernel)
    batch = collate([[example(3, 2, 0)], [example(20, 11, 1), example(2, 12, 2)]], pad=0)
    gradients = gradient(model, batch)
    assert all(bool(tensor.isfinite().all()) for tensor in gradients)
    assert len(gradients) == len(list(model.parameters()))
    assert not torch.equal(model(batch).hidden, model(batch).hidden)


def test_padded_queries_see_something_and_others_their_own_context() -> None:
    query, key = torch.tensor([[0, 0, 1, -1]]), torch.tensor([[0, 1, 1, -1, -1]])
    mask = lower_cross("rule", query, key, torch.float32)
    assert mask.bias is not None
    assert (mask.bias[0, 0] == 0).tolist() == [
        [True, False, False, False, False], [True, False, False, False, False], [False, True, True, False, False],
        [True] * 5,
    ]  # fmt: skip
    assert lower_cross("none", query, key, torch.float32) == Mask("none")


def test_a_batch_and_a_model_that_do_not_belong_together() -> None:
    batch = collate([[example(4, 3, 0)]], pad=0)
    alone = build(dataclasses.replace(config("bart"), encoder_layers=0))
    with pytest.raises(ValueError, match="the batch has a context, and the model has no encoder"):
        alone(batch)
    with pytest.raises(ValueError, match="needs a context, and the batch has none"):
        build(config("bart"))(dataclasses.replace(batch, context=None))


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_learns_in_both_stacks_and_merges(family: str) -> None:
    model = build(config(family), seed=1).eval()
    batch = collate([[example] for example in examples()], pad=0)
    names, before = model.state_dict().keys(), asked(model, batch)
    add_lora(model, rank=2)
    torch.testing.assert_close(asked(model, batch), before)
    thin = [module for module in model.modules() if isinstance(module, LoraLinear)]
    assert len(thin) == 2 * 4 + 2 * 7  # two layers that read, two that also attend to what was read
    for module in thin:
        torch.nn.init.normal_(module.up, std=0.1)
    taught = asked(model, batch)
    assert (taught - before).abs().max() > 1e-2
    merge_lora(model)
    assert model.state_dict().keys() == names
    torch.testing.assert_close(asked(model, batch), taught, atol=1e-4, rtol=1e-4)


def test_t5_weights_begin_by_the_width_of_what_they_read() -> None:
    """Deviations of tensorflow/mesh: D = 256, E = 16, 8 heads, F = 1024."""
    options = ModelOptions(family="t5-v1.1", hidden_size=256, num_layers=1, num_heads=8, head_size=16)
    model = build(options.config(2000, (24,)), seed=3)
    A = 8 * 16
    deviations = {
        "token_embeddings.weight": 1.0, "lm_head.table": 256**-0.5, "position_bias.weight": 256**-0.5,
        "encoder.position_bias.weight": 256**-0.5, "layers.0.cross.query.weight": (256 * 16) ** -0.5,
        "layers.0.cross.key_value.weight": 256**-0.5, "layers.0.cross.output.weight": A**-0.5,
        "encoder.layers.0.ffn.inner.weight": 256**-0.5, "encoder.layers.0.ffn.output.weight": 1024**-0.5,
    }  # fmt: skip
    state = model.state_dict()
    for name, deviation in deviations.items():
        assert state[name].std().item() == pytest.approx(deviation, rel=0.15), name
    qkv = state["encoder.layers.0.attention.qkv.weight"]
    assert qkv[:A].std().item() == pytest.approx((256 * 16) ** -0.5, rel=0.05)
    assert qkv[A:].std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert all(bool((state[name] == 1).all()) for name in state if "norm" in name)


PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "t5-small": (
        {"family": "t5", "hidden_size": 512, "num_layers": 6, "num_heads": 8, "ffn_size": 2048},
        {"d_model": 512, "num_layers": 6, "num_heads": 8, "d_ff": 2048},
    ),
    "t5-base": (
        {"family": "t5", "hidden_size": 768, "num_layers": 12, "num_heads": 12, "ffn_size": 3072},
        {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072},
    ),
    "t5-large": (
        {"family": "t5", "hidden_size": 1024, "num_layers": 24, "num_heads": 16, "ffn_size": 4096},
        {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096},
    ),
    "t5-3b": (
        {"family": "t5", "hidden_size": 1024, "num_layers": 24, "num_heads": 32, "head_size": 128, "ffn_size": 16384},
        {"d_model": 1024, "num_layers": 24, "num_heads": 32, "d_kv": 128, "d_ff": 16384},
    ),
    "t5-11b": (
        {"family": "t5", "hidden_size": 1024, "num_layers": 24, "num_heads": 128, "head_size": 128, "ffn_size": 65536},
        {"d_model": 1024, "num_layers": 24, "num_heads": 128, "d_kv": 128, "d_ff": 65536},
    ),
    "t5-v1.1-small": (
        {"family": "t5-v1.1", "hidden_size": 512, "num_layers": 8, "num_heads": 6, "head_size": 64, "ffn_size": 1024},
        {"d_model": 512, "num_layers": 8, "num_heads": 6, "d_ff": 1024},
    ),
    "t5-v1.1-base": (
        {"family": "t5-v1.1", "hidden_size": 768, "num_layers": 12, "num_heads": 12, "ffn_size": 2048},
        {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048},
    ),
    "t5-v1.1-large": (
        {"family": "t5-v1.1", "hidden_size": 1024, "num_layers": 24, "num_heads": 16, "ffn_size": 2816},
        {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 2816},
    ),
    "t5-v1.1-xl": (
        {"family": "t5-v1.1", "hidden_size": 2048, "num_layers": 24, "num_heads": 32, "ffn_size": 5120},
        {"d_model": 2048, "num_layers": 24, "num_heads": 32, "d_ff": 5120},
    ),
    "t5-v1.1-xxl": (
        {"family": "t5-v1.1", "hidden_size": 4096, "num_layers": 24, "num_heads": 64, "ffn_size": 10240},
        {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_ff": 10240},
    ),
    "bart-base": (
        {"family": "bart", "hidden_size": 768, "num_layers": 6, "num_heads": 12},
        {"d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
         "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072},
    ),
    "bart-large": ({"family": "bart", "hidden_size": 1024, "num_layers": 12, "num_heads": 16}, {}),
}  # fmt: skip
MILLIONS = {"t5-small": 60.5, "t5-base": 222.9, "t5-large": 737.7, "bart-base": 139.4, "bart-large": 406.3}
"""As their authors and transformers count them."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    """As many weights as transformers' model of the same sizes, without allocating any."""
    transformers = pytest.importorskip("transformers")
    sizes, theirs = PUBLISHED[name]
    is_bart = name.startswith("bart")
    made = ModelOptions(**sizes).config(50265 if is_bart else 32128, (1026,) if is_bart else (512,))
    kind = transformers.BartForConditionalGeneration if is_bart else transformers.T5ForConditionalGeneration
    if "v1.1" in name:
        theirs = {**theirs, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    with torch.device("meta"):
        model = kind(kind.config_class(**theirs))
    expected = sum(parameter.numel() for parameter in model.parameters())
    if not made.tied:  # transformers' fresh model ties what its files do not
        expected += made.vocab_size * made.hidden_size
    assert count_parameters(made) == expected == sum(parameters(made).values())
    if name in MILLIONS:
        assert round(expected / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_are_looked_up_at_once(family: str) -> None:
    """Each look into the word table has a gradient of its size; one is made, and it equals that of two."""
    model = build(config(family), seed=1).train()
    batch = collate([[example] for example in examples()], pad=0)
    assert batch.context is not None
    looks: list[torch.Size] = []
    handle = model.token_embeddings.register_forward_hook(lambda module, given, made: looks.append(made.shape))
    together = gradient(model, batch)
    handle.remove()
    assert looks == [torch.Size([batch.input_ids.numel() + batch.context.input_ids.numel(), 32])]

    model.zero_grad()
    context = model.encode_source(batch.context)
    mask = model._masks(batch, torch.float32, ordered=False)
    hidden = model(Inputs(batch.input_ids, batch.positions, mask), encoded=context).hidden.flatten(0, 1)[
        batch.target_index
    ]
    torch.nn.functional.cross_entropy(
        model.lm_head(hidden, model.output_table), batch.target_ids, reduction="sum"
    ).backward()
    apart = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for actual, other in zip(together, apart, strict=True):
        torch.testing.assert_close(actual, other, atol=1e-4, rtol=1e-4)
