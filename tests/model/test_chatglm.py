"""ChatGLM-6B and GLM-130B: the block as its original writes it, sizes as published, fp16, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blankfill.data.batching import collate
from blankfill.errors import UserError
from blankfill.families import FAMILIES, weight_names
from blankfill.families.chatglm import ALPHA
from blankfill.families.options import ModelOptions
from blankfill.generation.engine import Decoder
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build, count_parameters
from blankfill.objectives import ChatGlm, Glm130b
from blankfill.training.loss import loss_sums
from blankfill.types import Batch, DecoderInput, Vocabulary

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_layers": 3, "num_heads": 2, "ffn_size": 40,
         "dropout": 0.0, "attention_dropout": 0.0}  # fmt: skip
VOCABULARY = Vocabulary(50, {"pad": 0, "mask": 1, "gmask": 2, "sop": 3, "eop": 4, "eos": 5})
OBJECTIVES = {"chatglm": ChatGlm(24), "glm-130b": Glm130b(24)}


def config(family: str, **changed: Any) -> TransformerConfig:
    channels = len(FAMILIES[family].channels)
    return TransformerConfig(**{
        **SIZES, **FAMILIES[family].preset, "position_sizes": (24,) * channels, "init_std": 0.3, **changed,
    })  # fmt: skip


def batch(family: str, rows: int = 3, size: int = 12) -> Batch:
    """Rows of the family's own objective."""
    rng = np.random.default_rng(5)
    form = OBJECTIVES[family].format(VOCABULARY)
    made = []
    for row in range(rows):
        ids = rng.integers(6, 50, size - 2 * row).astype(np.int32)
        made.append(form.blank(ids[:4], ids[4:], ids[:0] if row else ids[:2]))
    return collate(made, pad=0)


def turned(x_THE: Tensor, positions_AT: Tensor, theta: float) -> Tensor:
    """Rotary positions by complex numbers: an axis for each part of a head, pairs (j, j + P) inside it."""
    parts = []
    for part, position_T in zip(x_THE.chunk(len(positions_AT), -1), positions_AT, strict=True):
        first, second = part.double().chunk(2, -1)
        angle = position_T[:, None, None] * theta ** -(torch.arange(first.shape[-1]).double() / first.shape[-1])
        made = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
        parts += [made.real, made.imag]
    return torch.cat(parts, -1).float()


def original(names: dict[str, Tensor], made: TransformerConfig, ids: Tensor, positions: Tensor, seen: Tensor) -> Tensor:
    """The scores of one row by the names of the original's weights, as its sheet of facts writes the block: norms
    before each part, whose output is also the residual, scaled by α."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, names[f"{name}.weight"], names[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], names[f"{name}.weight"], names[f"{name}.bias"], 1e-5)

    heads, width = made.num_heads, made.head_width
    x = names["transformer.word_embeddings.weight"][ids]
    for k in range(made.num_layers):
        layer = f"transformer.layers.{k}."
        x = norm(x, f"{layer}input_layernorm")
        joint = linear(x, f"{layer}attention.query_key_value").view(len(ids), heads, 3 * width)
        query, key, value = joint.split(width, -1)
        query, key = (turned(part, positions, 10_000.0) for part in (query, key))
        scores = torch.einsum("qhe,khe->hqk", query / (math.sqrt(width) * (k + 1)), key)
        weights = (scores.masked_fill(~seen, -10_000.0) * (k + 1)).softmax(-1)
        mixed = torch.einsum("hqk,khe->qhe", weights, value).flatten(1)
        x = norm(made.alpha * x + linear(mixed, f"{layer}attention.dense"), f"{layer}post_attention_layernorm")
        inner = linear(x, f"{layer}mlp.dense_h_to_4h")
        if made.gated:
            first, second = inner.chunk(2, -1)
            inner = first * F.gelu(second)
        else:
            inner = F.gelu(inner, approximate="tanh")
        x = made.alpha * x + linear(inner, f"{layer}mlp.dense_4h_to_h")
    x = norm(x, "transformer.final_layernorm")
    return x @ names.get("lm_head.weight", names["transformer.word_embeddings.weight"]).T


@pytest.mark.parametrize("family", ["chatglm", "glm-130b"])
@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_a_model_is_the_block_of_the_original(family: str, alpha: float) -> None:
    made = config(family, residual_scale=alpha, tied=family == "glm-130b")
    assert made.alpha == (alpha or math.sqrt(6))
    model = spread(build(made, seed=4).eval())
    names = weight_names()[family].table(made).to_theirs(model.state_dict())
    rows = batch(family)
    with torch.no_grad():
        scores = model(rows, logits_at="all").logits
        assert isinstance(scores, Tensor)
        for row in range(3):
            count = int((rows.segment[row] >= 0).sum())
            seen = rows.rank[row, None, :count] <= rows.horizon[row, :count, None]
            expected = original(names, made, rows.input_ids[row, :count], rows.positions[:, row, :count], seen)
            torch.testing.assert_close(scores[row, :count], expected, atol=1e-4, rtol=1e-4)


def spread(model: Transformer) -> Transformer:
    """Give norms and biases values of their own, so that each shows in the scores."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    return model


PUBLISHED = {
    "chatglm": (28, 4096, 32, 16384, 130528, 6_173_286_400),
    "glm-130b": (70, 12288, 96, 32768, 150528, 70 * 1_812_115_456 + 150528 * 12288 + 2 * 12288),
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_models_have_their_numbers_of_weights(family: str) -> None:
    """On the meta device; ChatGLM-6B with the vocabulary of April 2023, and with a separate output table."""
    layers, width, heads, inner, rows, weights = PUBLISHED[family]
    options = ModelOptions(family=family, num_layers=layers, hidden_size=width, num_heads=heads, ffn_size=inner)
    made = options.config_for(type(OBJECTIVES[family])(2048), rows)
    assert not made.problems() and made.head_width == 128
    assert count_parameters(made) == weights
    if family == "chatglm":
        assert made.alpha == ALPHA == pytest.approx(7.483315)
        assert count_parameters(dataclasses.replace(made, tied=False)) == 6_707_929_088
    else:
        assert made.alpha == pytest.approx(11.832160) and weights / 1e9 == pytest.approx(128.70, abs=0.005)


def test_options_choose_the_norms() -> None:
    """The same model with norms before or after each part, and with DeepNorm."""
    made = {norm: ModelOptions(family="glm-130b", num_layers=8, norm=norm).config(50, (24,))  # type: ignore[arg-type]
            for norm in ("family", "pre", "post", "deepnorm")}  # fmt: skip
    assert made["family"] == made["deepnorm"] and made["family"].alpha == 4
    for norm in ("pre", "post"):
        assert (made[norm].norm, made[norm].alpha, made[norm].init) == (norm, 1.0, "normal")
    bert = ModelOptions(family="bert", num_layers=8, norm="deepnorm").config(50, (24, 2))
    assert (bert.norm, bert.alpha, bert.init, bert.activation) == ("post", 4, "deepnorm", "gelu_tanh")
    assert ModelOptions(family="bert", norm="pre").config(50, (24, 2)).init == "truncated_normal"


def test_deepnorm_is_refused_for_two_stacks_and_roundings_by_name() -> None:
    refused = ModelOptions(family="t5", norm="deepnorm").config(50, (24,)).problems()
    assert any(problem.startswith("DeepNorm is for models of one stack") for problem in refused)
    (problem,) = config("chatglm", rotary_rounding="half").problems()
    assert problem == "model.rotary_rounding is 'half'; it must be one of none, frequencies, angles"


VALUES = {
    "model_type": "chatglm", "vocab_size": 50, "hidden_size": 32, "num_layers": 3, "num_attention_heads": 2,
    "inner_hidden_size": 40, "max_sequence_length": 24, "layernorm_epsilon": 1e-5, "position_encoding_2d": True,
}  # fmt: skip


def test_a_config_json_of_the_release_is_read_with_what_its_code_does() -> None:
    names = weight_names()["chatglm"]
    made = names.read(VALUES, ())
    assert made.residual_scale == ALPHA and made.rotary_rounding == "frequencies" and made.tied
    assert made.dropout == 0 and made.position_sizes == (24, 24)
    assert names.write(made).keys() & {"residual_scale", "rotary_rounding"} == set()
    own = names.read({**VALUES, "residual_scale": 0.0, "rotary_rounding": "none", "tie_word_embeddings": False}, ())
    assert own.alpha == math.sqrt(6) and own.rotary_rounding == "none" and not own.tied
    assert names.read(names.write(own), ()) == own


@pytest.mark.parametrize(("changed", "sentence"), [
    ({"multi_query_attention": True}, "ChatGLM2-6B or a later model; only ChatGLM-6B is known here"),
    ({"position_encoding_2d": False}, "position_encoding_2d is False, and only True is known here"),
    ({"num_layers": None}, "num_layers is missing"),
])  # fmt: skip
def test_a_config_json_of_another_model_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        weight_names()["chatglm"].read({**VALUES, **changed}, ())
    assert sentence in str(caught.value)


def rounded_model(family: str) -> Transformer:
    """A model whose weights are numbers of fp16."""
    model = spread(build(config(family), seed=2))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
    return model.eval()


def steps(model: Transformer, given: DecoderInput, count: int) -> Tensor:
    """Scores of greedy steps by the tokens that fp32 chooses."""
    decoder = Decoder(model, [given], count)
    scores = [decoder.prefill()]
    scores += [decoder.step(torch.tensor([7 + k])) for k in range(count - 1)]
    return torch.cat(scores).float()


@pytest.mark.parametrize("family", ["chatglm", "glm-130b"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decodes_with_a_cache(family: str, dtype: torch.dtype) -> None:
    form = OBJECTIVES[family].format(VOCABULARY)
    given = form.target_input(form.source(np.arange(8, 16, dtype=np.int32)), 6)
    model = rounded_model(family)
    exact = steps(model, given, 6)
    made = steps(model.to(dtype), given, 6)
    within = 0.02 if dtype == torch.float16 else 0.15
    assert float((made - exact).abs().max() / exact.std()) < within


def test_scores_beyond_the_range_of_fp16_are_no_fault() -> None:
    """Products of queries and keys above 65,504, which the original keeps small by dividing by the layer's number."""
    model = build(config("chatglm"), seed=2).eval()
    with torch.no_grad():
        for layer in model.all_layers:
            assert layer.attention is not None
            layer.attention.qkv.weight[:64] *= 250
    rows = batch("chatglm")
    real = rows.segment >= 0
    with torch.no_grad():
        exact = model(rows, logits_at="all").logits
        made = model.half()(rows, torch.float16, logits_at="all").logits
    assert isinstance(exact, Tensor) and isinstance(made, Tensor)
    assert bool(made[real].isfinite().all())
    assert float((made.float() - exact)[real].abs().mean() / exact[real].std()) < 0.1


@pytest.mark.parametrize("family", ["chatglm", "glm-130b"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_training_in_half_precision_has_the_gradients_of_fp32(family: str, dtype: torch.dtype) -> None:
    """On a CPU under autocast, with a scaled loss, as a run with precision fp16 computes it."""
    model, rows = build(config(family, init_std=0.1), seed=3), batch(family)
    gradients = []
    for compute in (torch.float32, dtype):
        model.zero_grad()
        with torch.autocast("cpu", compute, enabled=compute != torch.float32):
            loss = loss_sums(model, rows, compute)["lm"]
        (loss * 64).backward()
        gradients.append(torch.cat([p.grad.flatten() / 64 for p in model.parameters() if p.grad is not None]))
    exact, made = gradients
    assert float((made - exact).norm() / exact.norm()) < (0.01 if dtype == torch.float16 else 0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        model.zero_grad()
        with torch.autocast("cpu", dtype):
            loss = loss_sums(model, rows, dtype)["lm"] / len(rows.target_ids)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
