"""Sums against worked cases, torch's own counts, and what the model really keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from blankfill.checkpoint import store
from blankfill.config.recipe import load_recipe
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build, count_parameters
from blankfill.planning import estimate, flops
from blankfill.planning.activations import activations
from blankfill.training.loss import loss_sums
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import TrainOptions
from blankfill.training.precision import computing
from blankfill.types import AttentionRule, Batch, Example

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "ffn_size": 96, "position_sizes": (40,),
    "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip


def config(**changed: object) -> TransformerConfig:
    return TransformerConfig(**{**SMALL, **changed})


def make_batch(
    rows: int, columns: int, targets: int, vocabulary: int, mask: str, channels: int, pairs: bool, spans: bool = False
) -> Batch:
    """A batch of random ids with `targets` answers in each row; spans: as many from borders too."""
    rng = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocabulary, (rows, columns), generator=rng)
    positions = torch.zeros(channels, rows, columns, dtype=torch.int64)
    positions[0] = torch.arange(columns)
    positions[1:, :, columns // 2 :] = 1 if channels == 3 else 0
    segment = torch.zeros(rows, columns, dtype=torch.int32)
    segment[:, columns // 2 :] = 1 if mask == "rule" else 0
    index = torch.cat([row * columns + torch.arange(targets) for row in range(rows)])
    answers = torch.randint(0, vocabulary, (rows * targets,), generator=rng)
    first = torch.arange(rows) * columns
    labels = {"next_sentence": (first, torch.zeros(rows, dtype=torch.int64))} if pairs else {}
    borders = torch.stack([index, index + 2, index % targets, answers]) if spans else None
    return Batch(
        ids,
        positions,
        segment,
        segment * 0,
        segment * 0,
        index,
        answers,
        labels,
        mask,
        rows * columns,
        span_boundary_targets=borders,
    )


def batch_of(config: TransformerConfig, rows: int, shape: estimate.RowShape) -> Batch:
    if config.generator_size:
        plain = batch_of(dataclasses.replace(config, generator_size=0), rows, shape)
        starts = torch.arange(rows) * shape.columns
        return dataclasses.replace(plain, labels={"replaced_tokens": (starts, starts)})
    batch = make_batch(
        rows, shape.columns, int(shape.targets), config.vocab_size, shape.mask, len(config.position_sizes),
        config.pooler, bool(config.max_span_positions),
    )  # fmt: skip
    if shape.context is None:
        return batch
    context = make_batch(
        rows, shape.context.columns, 0, config.vocab_size, shape.context.mask, len(config.position_sizes), False
    )
    return dataclasses.replace(batch, context=context)


def kept_bytes(model: Transformer, batch: Batch, dtype: torch.dtype) -> int:
    """Bytes of what autograd keeps for the backward pass of a batch, weights aside; each memory block once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    blocks: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        block = tensor.untyped_storage()
        if block.data_ptr() not in weights:
            blocks.setdefault(block.data_ptr(), block)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), computing(torch.device("cpu"), dtype):
        loss_sums(model, batch, dtype)
    return sum(block.nbytes() for block in blocks.values())


def lm_loss_bytes(config: TransformerConfig, targets: int) -> int:
    """What the word loss keeps: gradients of the table, of its bias and of the hidden states, all fp32."""
    bias = config.vocab_size if config.head_bias else 0
    return 4 * (config.vocab_size * config.word_size + bias + targets * config.word_size)


BERT = {"norm": "post", "embedding_norm": True, "head_transform": True, "head_bias": True, "pooler": True,
        "position_sizes": (40, 2), "dropout": 0.1, "attention_dropout": 0.1}  # fmt: skip
SPANBERT = {**BERT, "pooler": False, "activation": "gelu", "max_span_positions": 20}
ALBERT = {**BERT, "embedding_size": 20, "shared": "all"}
ELECTRA = {**BERT, "pooler": False, "activation": "gelu", "generator_size": 16, "heads": ("replaced_tokens",)}


T5 = {"norm_kind": "rms", "position_scheme": "none", "relative_buckets": 8, "encoder_layers": 2, "head_size": 10,
      "attention_bias": False, "ffn_bias": False, "scale_scores": False, "activation": "relu"}  # fmt: skip
T5_1 = {**T5, "gated": True, "activation": "gelu_tanh", "tied": False}
BART = {"norm": "post", "embedding_norm": True, "activation": "gelu", "encoder_layers": 2}
DROPPED = {"dropout": 0.1, "attention_dropout": 0.1, "more_dropout": True}
XLNET = {"norm": "post", "head_bias": True, "position_scheme": "relative", "attention_bias": False,
         "position_sizes": (40, 3, 3)}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "mask", "dtype", "kernel"),
    [
        (XLNET, "rule", torch.float32, "blocked"),
        ({**XLNET, "attention_dropout": 0.1}, "rule", torch.float32, "explicit"),
        ({}, "causal", torch.float32, "sdpa"),
        (BERT, "rule", torch.float32, "sdpa"),
        ({"dropout": 0.1}, "rule", torch.float32, "sdpa"),
        ({}, "rule", torch.bfloat16, "explicit"),
        ({"dropout": 0.1, "attention_dropout": 0.1}, "none", torch.bfloat16, "explicit"),
        (BERT, "rule", torch.float16, "sdpa"),
        (BERT, "rule", torch.float32, "blocked"),
        (SPANBERT, "rule", torch.float32, "sdpa"),
        (SPANBERT, "rule", torch.bfloat16, "sdpa"),
        (ALBERT, "rule", torch.float32, "sdpa"),
        ({**ALBERT, "dropout": 0.0, "attention_dropout": 0.0}, "none", torch.bfloat16, "explicit"),
        ({**BERT, "shared": "ffn"}, "rule", torch.float16, "sdpa"),
        (ELECTRA, "rule", torch.float32, "sdpa"),
        ({**ELECTRA, "embedding_size": 20}, "rule", torch.bfloat16, "sdpa"),
        ({"attention_dropout": 0.1}, "causal", torch.bfloat16, "blocked"),
    ],
)
@pytest.mark.parametrize(("rows", "columns"), [(3, 16), (6, 40)])
def test_activations_are_what_autograd_keeps(
    changed: dict[str, object], mask: str, dtype: torch.dtype, kernel: str, rows: int, columns: int
) -> None:
    made = config(**changed)
    shape = estimate.RowShape(
        columns,
        columns,
        5,
        mask,
        float(made.pooler or bool(made.heads)),
        span_boundary_targets=5.0 if made.max_span_positions else 0.0,
    )
    model = build(made).train()
    model.use_kernel(kernel)
    losses = lm_loss_bytes(made, 5 * rows) * (2 if made.max_span_positions else 1)
    saved = kept_bytes(model, batch_of(made, rows, shape), dtype) - losses
    reckoned = activations(made, shape, estimate.Computing.of(dtype, kernel)).kept(made, rows)
    assert reckoned == pytest.approx(saved, rel=0.02)


@pytest.mark.parametrize(
    ("changed", "mask", "dtype", "kernel"),
    [
        (T5, "causal", torch.float32, "blocked"),
        ({**T5, **DROPPED}, "rule", torch.float32, "blocked"),
        ({**T5, **DROPPED}, "causal", torch.bfloat16, "blocked"),
        (T5_1, "rule", torch.float32, "blocked"),
        ({**T5_1, **DROPPED}, "causal", torch.float32, "blocked"),
        (T5_1, "rule", torch.bfloat16, "explicit"),
        (BART, "causal", torch.float32, "blocked"),
        ({**BART, "dropout": 0.1, "attention_dropout": 0.1}, "rule", torch.float32, "blocked"),
        ({**BART, "dropout": 0.1}, "rule", torch.bfloat16, "explicit"),
    ],
)
@pytest.mark.parametrize(("rows", "columns", "read"), [(3, 16, 24), (6, 40, 30)])
def test_activations_of_two_stacks(
    changed: dict[str, object], mask: str, dtype: torch.dtype, kernel: str, rows: int, columns: int, read: int
) -> None:
    made = config(**changed)
    context = estimate.RowShape(read, read, 0, "rule" if mask == "rule" else "none")
    shape = estimate.RowShape(columns, columns + read, 5, mask, context=context)
    model = build(made).train()
    model.use_kernel(kernel)
    saved = kept_bytes(model, batch_of(made, rows, shape), dtype) - lm_loss_bytes(made, 5 * rows)
    reckoned = activations(made, shape, estimate.Computing.of(dtype, kernel)).kept(made, rows)
    assert reckoned == pytest.approx(saved, rel=0.02)


def live_after_forward(model: Transformer, batch: Batch) -> int:
    """Bytes that torch allocated in a forward pass and has not freed at its end."""
    from torch.profiler import ProfilerActivity, profile

    loss_sums(model, batch)["lm"].backward()
    model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        sums = loss_sums(model, batch)
    del sums
    events = profiled.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_held_by_a_forward_pass(checkpointing: bool) -> None:
    """Another road to the same number: torch's allocator. With checkpointing only the layers' inputs are left."""
    made = config(num_layers=6, hidden_size=64, ffn_size=256)
    shape = estimate.RowShape(40, 40, 5, "rule")
    model = build(made).train()
    model.recompute = checkpointing
    held = live_after_forward(model, batch_of(made, 8, shape)) - lm_loss_bytes(made, 40)
    measured = activations(made, shape, estimate.Computing())
    expected = measured.kept(made, 8)
    if checkpointing:  # none is computed again yet
        expected = measured.kept_by_inputs(made, shape, 8) - measured.largest_layer(8)
    assert held == pytest.approx(expected, rel=0.15)


def test_a_layer_by_hand() -> None:
    """Width 4, feed-forward 8, 3 columns, 2 answers, 10 words: multiply-adds counted one product at a time."""
    made = config(hidden_size=4, num_heads=2, ffn_size=8, num_layers=1, vocab_size=10)
    projections = 2 * 3 * 4 * (12 + 4) + 2 * 3 * 4 * 8 * 2
    scores_and_mixing = 2 * (2 * 3 * 3 * 4)
    head = 2 * 2 * 4 * 10
    everywhere = flops.forward_flops(made, estimate.RowShape(3, 3, 2, "none"))
    assert everywhere == projections + scores_and_mixing + head == 1072
    assert flops.forward_flops(made, estimate.RowShape(3, 3, 2, "causal")) == 1072 - scores_and_mixing / 2
    other_head = dataclasses.replace(made, heads=("of_a_program",))  # whose work is not known
    assert flops.forward_flops(other_head, estimate.RowShape(3, 3, 2, "none", pairs=1)) == everywhere


def test_palm_counts_the_same() -> None:
    """6·N + 12·layers·D·T a token (PaLM, appendix B), N the weights that multiply, biases and norms left out."""
    made = load_recipe("gpt2").model_config(50257)
    D, T, L = 768, 1024, 12
    weights = 12 * D * D * L + 50257 * D
    a_token = flops.training_flops(made, estimate.RowShape(T, T, T, "none")) / T
    assert a_token == 6 * weights + 12 * L * D * T
    attention = 12 * L * D * T
    assert flops.training_flops(made, estimate.RowShape(T, T, T, "causal")) / T == a_token - attention / 2


@pytest.mark.parametrize("changed", [{}, BERT, ELECTRA, {**ELECTRA, "embedding_size": 20}])
def test_torch_counts_the_same(changed: dict[str, object]) -> None:
    made = config(**{**changed, "dropout": 0.0, "attention_dropout": 0.0})
    shape = estimate.RowShape(24, 24, 7, "rule", float(made.pooler or bool(made.heads)))
    model = build(made).train()
    model.use_kernel("explicit")
    batch = batch_of(made, 3, shape)
    with FlopCounterMode(display=False) as counter:
        sums = loss_sums(model, batch)
        torch.stack([*sums.values()]).sum().backward()
    assert flops.batch_flops(made, batch) == counter.get_total_flops()
    assert flops.batch_flops(made, batch) == 3 * flops.training_flops(made, shape)


@pytest.mark.parametrize("changed", [T5, T5_1, BART])
def test_torch_counts_two_stacks_the_same(changed: dict[str, object]) -> None:
    made = config(**{**changed, "norm_kind": "layer"})  # the other kind's sums are products of vectors to torch
    context = estimate.RowShape(30, 30, 0, "rule")
    shape = estimate.RowShape(24, 54, 7, "rule", context=context)
    model = build(made).train()
    model.use_kernel("explicit")
    batch = batch_of(made, 3, shape)
    with FlopCounterMode(display=False) as counter:
        loss_sums(model, batch)["lm"].backward()
    assert flops.batch_flops(made, batch) == counter.get_total_flops() == 3 * flops.training_flops(made, shape)


def test_a_generator_is_a_part_of_its_own() -> None:
    made = load_recipe("electra-small").model_config(30522)
    parts = estimate.parameters(made)
    assert sum(parts.values()) == count_parameters(made)
    assert parts["generator"] == 12 * (12 * 64 * 64 + 13 * 64) + 128 * 64 + 64


@pytest.mark.parametrize("name", ["bert-base", "glm-large", "gpt2", "roberta-base"])
def test_parts_add_up(name: str) -> None:
    made = load_recipe(name).model_config(30522)
    parts = estimate.parameters(made)
    assert sum(parts.values()) == count_parameters(made)
    D = made.hidden_size
    assert parts["token_embeddings"] == made.vocab_size * D
    assert parts["positions"] == sum(made.position_sizes) * D
    assert parts["layers"] == made.num_layers * (12 * D * D + 13 * D)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adafactor", "lamb"])
def test_optimiser_states_are_as_large_as_reckoned(name: str) -> None:
    made = config(**BERT)
    options = TrainOptions(optimizer=name)
    model = build(made)
    optimizer = build_optimizer(model, options)
    loss_sums(model, batch_of(made, 2, estimate.RowShape(16, 16, 3, "rule", 1.0)))["lm"].backward()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    held = sum(value.nbytes for value in states if isinstance(value, torch.Tensor) and value.dim())
    assert estimate.optimizer_bytes(made, options) == held


def test_sgd_without_momentum_keeps_nothing() -> None:
    assert estimate.optimizer_bytes(config(), TrainOptions(optimizer="sgd", momentum=0.0)) == 0


def test_a_checkpoint_is_as_large_as_reckoned(tmp_path: Path) -> None:
    made = config(hidden_size=128, ffn_size=512)
    options = TrainOptions()
    model = build(made)
    optimizer = build_optimizer(model, options)
    loss_sums(model, batch_of(made, 2, estimate.RowShape(16, 16, 3, "rule")))["lm"].backward()
    optimizer.step()
    path = store.save(tmp_path, 1, model.state_dict(), store.optimizer_tensors(optimizer), {})
    size = sum(file.stat().st_size for file in path.iterdir())
    assert estimate.checkpoint_bytes(made, options) == pytest.approx(size, rel=0.02)
    assert estimate.disk_bytes(made, options) == 4 * estimate.checkpoint_bytes(
        made, options
    )  # two kept, best, in the making


def test_rows_of_a_run_with_a_ramp_and_two_phases() -> None:
    """10 steps; rows 2, 4, 6 (ramp of 3) then 8; short rows in the first 5 steps."""
    options = TrainOptions(
        steps=10,
        batch_size=8,
        micro_batch=2,
        batch_size_start=2,
        batch_size_warmup=3,
        phase1_length=32,
        phase1_steps=0.5,
    )
    short, full = estimate.RowShape(32, 32, 5, "rule"), estimate.RowShape(96, 96, 14, "rule")
    before, after = estimate.planned_phases(options, [short, full], [32, 96])
    assert (before.rows, after.rows) == (2 + 4 + 6 + 8 + 8, 5 * 8)
    assert (before.micro_batch, after.micro_batch) == (
        6,
        2,
    )  # three short rows for a long one
    (only,) = estimate.planned_phases(TrainOptions(steps=10, batch_size=8), [full], [96])
    assert (only.rows, only.micro_batch) == (80, 8)


def examples(widths: Sequence[int], targets: Sequence[int], causal: bool) -> list[list[Example]]:
    made = []
    for width, count in zip(widths, targets, strict=True):
        rule = AttentionRule.causal(width) if causal else AttentionRule.full(width)
        ids = np.full(width, 50, np.int32)
        index = np.arange(count, dtype=np.int32)
        made.append([Example(ids, np.arange(width, dtype=np.int32)[None], rule, index, ids[:count] + 1)])
    return made


def test_the_shape_of_rows() -> None:
    shape = estimate.row_shape(examples([10, 6], [3, 2], causal=True), pad=0)
    assert shape == estimate.RowShape(10, 8.0, 2.5, "causal", 0.0, ids=52, positions=(10,))
    packed = estimate.row_shape(examples([10, 6], [3, 2], causal=False), pad=0, counts=np.array([4, 0, 7, 0]))
    assert (packed.columns, packed.mask, packed.ids) == (16, "rule", 52)  # padded rows are rounded up to eights
    counted = estimate.row_shape(examples([10], [3], causal=True), pad=0, counts=np.bincount([3, 99, 99]))
    assert counted.ids == 100  # an id that these rows happen to lack


def test_the_shape_of_rows_with_contexts() -> None:
    """Positions and ids are those of both sides."""
    (written,), (read,) = examples([10], [3], causal=True)[0], examples([14], [0], causal=False)[0]
    shape = estimate.row_shape([[dataclasses.replace(written, context=read)]], pad=0)
    context = estimate.RowShape(14, 14.0, 0.0, "none")
    assert shape == estimate.RowShape(10, 24.0, 3.0, "causal", ids=52, positions=(14,), context=context)


def test_two_stacks_with_checkpointing_keep_their_inputs() -> None:
    made = config(**T5, num_layers=6)
    shape = estimate.RowShape(40, 80, 6, "causal", context=estimate.RowShape(40, 40, 0, "none"))
    plain, again = (
        estimate.memory(made, shape, TrainOptions(), estimate.Computing(), 16, flag) for flag in (False, True)
    )
    assert (6 + 2) * 16 * 40 * 32 * 4 < again.activations < 0.5 * plain.activations
    assert plain.weights == 4 * count_parameters(made)


def test_memory_grows_with_rows_and_shrinks_with_checkpointing() -> None:
    made, options = config(num_layers=8), TrainOptions(batch_size=64)
    shape = estimate.RowShape(40, 40, 6, "rule")
    sizes = [estimate.memory(made, shape, options, estimate.Computing(), rows, False) for rows in (1, 8, 64)]
    assert sizes[0].peak < sizes[1].peak < sizes[2].peak
    assert sizes[2].activations == pytest.approx(8 * sizes[1].activations, rel=1e-5)
    assert {size.weights for size in sizes} == {4 * count_parameters(made)}
    again = estimate.memory(made, shape, options, estimate.Computing(), 64, True)
    inputs = 8 * 64 * 40 * 32 * 4
    assert inputs < again.activations < 0.5 * sizes[2].activations
    low = estimate.memory(made, shape, options, estimate.Computing(2, "explicit"), 64, False)
    assert low.activations < sizes[2].activations
    assert not math.isclose(low.peak, sizes[2].peak)


def test_on_a_gpu_attention_weights_are_never_kept() -> None:
    made = config(dropout=0.1, attention_dropout=0.1, activation="gelu")
    short, long = (estimate.RowShape(n, n, 5, "causal") for n in (20, 40))
    on_gpu = [activations(made, shape, estimate.Computing(device="cuda")).largest_layer(4) for shape in (short, long)]
    assert on_gpu[1] == 2 * on_gpu[0]  # linear in the length
    weights = 2 * 4 * 4 * 40 * 40 * 4
    assert activations(made, long, estimate.Computing()).largest_layer(4) > on_gpu[1] + weights


def test_fewer_layers_and_shorter_rows_have_both_sides() -> None:
    made = config(**T5, num_layers=6)
    assert [(less.num_layers, less.encoder_layers) for less in map(made.with_layers, (6, 3, 1))] == [
        (6, 2),
        (3, 1),
        (1, 1),
    ]
    assert config(num_layers=6).with_layers(2) == config(num_layers=2)
    context = estimate.RowShape(512, 512, 0, "none")
    shape = estimate.RowShape(114, 626, 114, "causal", context=context).shortened(0.5)
    assert (shape.columns, shape.targets, shape.context) == (57, 57, dataclasses.replace(context, columns=256))
