"""Sizes, initialisation, packing invariance and the key/value cache of the one Transformer."""

import math

import numpy as np
import pytest
import torch

from blankfill.attention.masks import lower
from blankfill.config.recipe import load_recipe
from blankfill.data.batching import collate
from blankfill.model.config import TransformerConfig
from blankfill.model.io import Inputs
from blankfill.model.transformer import build, count_parameters
from blankfill.types import AttentionRule, Example

TINY = TransformerConfig(
    vocab_size=50, hidden_size=32, num_layers=2, num_heads=4, ffn_size=64, position_sizes=(40,), dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip

PUBLISHED = {
    # transformers' BertForPreTraining of bert-base-uncased and bert-large-uncased
    "bert-base": (30522, 110_106_428),
    "bert-large": (30522, 336_226_108),
    # RobertaForMaskedLM of roberta-base, 124,697,433, less the 768 weights of its only token type
    "roberta-base": (50265, 124_697_433 - 768),
    "roberta-large": (50265, 355_412_057 - 1024),
    # transformers' BertForPreTraining with six token types, and BertForMaskedLM of bert-base with UniLM v2's
    # table of distances
    "unilm-base": (28996, 108_936_006),
    "unilm-large": (28996, 334_666_054),
    "unilm-v2-base": (30522, 109_514_298 + 32 * 12),
    # transformers' AlbertForPreTraining; the paper says 12M, 18M, 60M and 235M
    "albert-base": (30000, 11_813_810),
    "albert-large": (30000, 17_847_474),
    "albert-xlarge": (30000, 59_021_490),
    "albert-xxlarge": (30000, 223_158_450),
    # transformers' GPT2LMHeadModel of gpt2, gpt2-medium, gpt2-large and gpt2-xl
    "gpt2": (50257, 124_439_808),
    "gpt2-medium": (50257, 354_823_168),
    "gpt2-large": (50257, 774_030_080),
    "gpt2-xl": (50257, 1_557_611_200),
    # transformers' XLNetLMHeadModel of xlnet-base-cased and xlnet-large-cased
    "xlnet-base": (32000, 116_750_336),
    "xlnet-large": (32000, 360_300_800),
    # transformers' T5ForConditionalGeneration of t5-small … t5-11b and google/t5-v1_1-small … t5-v1_1-xxl
    "t5-small": (32100, 60_506_624),
    "t5-base": (32100, 222_903_552),
    "t5-large": (32100, 737_668_096),
    "t5-3b": (32100, 2_851_598_336),
    "t5-11b": (32100, 11_307_321_344),
    "t5-v1.1-small": (32100, 76_961_152),
    "t5-v1.1-base": (32100, 247_577_856),
    "t5-v1.1-large": (32100, 783_150_080),
    "t5-v1.1-xl": (32100, 2_849_757_184),
    "t5-v1.1-xxl": (32100, 11_135_332_352),
    # transformers' BartForConditionalGeneration of facebook/bart-base and bart-large
    "bart-base": (50265, 139_420_416),
    "bart-large": (50265, 406_291_456),
    # ModernBertForMaskedLM of answerdotai/ModernBERT-base and -large; the paper says 149M and 395M
    "modernbert-base": (50368, 149_655_232),
    "modernbert-large": (50368, 395_881_664),
    # ElectraForPreTraining of google/electra-small-, -base- and -large-discriminator, 13,549,057, 109,483,009 and
    # 335,142,913, with the generators' own weights: projection, layers, language-model head
    "electra-small": (30522, 13_549_057 + 128 * 64 + 64 + 12 * 49_984 + 64 * 128 + 128 + 256 + 30522),
    "electra-base": (30522, 109_483_009 + 768 * 256 + 256 + 12 * 789_760 + 256 * 768 + 768 + 2 * 768 + 30522),
    "electra-large": (30522, 335_142_913 + 1024 * 256 + 256 + 24 * 789_760 + 256 * 1024 + 1024 + 2 * 1024 + 30522),
    # DistilBertForMaskedLM of distilbert-base-uncased
    "distilbert-base": (30522, 66_985_530),
    # ErnieForPreTraining of ernie-1.0-base-zh, 100,477,778, less the 768 weights of its 513th position
    "ernie-base": (18000, 100_477_778 - 768),
    # BertForMaskedLM of bert-base-cased and bert-large-cased, and the head for borders: places, two layers, a bias
    "spanbert-base": (28996, 108_340_804 + 4_000 + 1736 * 768 + 768 * 768 + 6 * 768 + 28996),
    "spanbert-large": (28996, 333_610_308 + 4_000 + 2248 * 1024 + 1024 * 1024 + 6 * 1024 + 28996),
    # GLM's README: 110M and 335M; its vocabulary is BERT's with two more tokens, padded to 30,592
    "glm-base": (30524, 109_338_624),
    "glm-large": (30524, 334_688_256),
    # 70 layers of 1,812,115,456, a word table of 150,528 rows, the last norm; ChatGLM-6B with its output table tied
    "glm-130b": (150_344, 70 * 1_812_115_456 + 150_528 * 12288 + 2 * 12288),
    "chatglm-6b": (130_528, 6_173_286_400),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    vocab, parameters = PUBLISHED[name]
    assert count_parameters(load_recipe(name).model_config(vocab)) == parameters


GLM_SIZES = {
    # layers, width, rows of a position table, padded vocabulary; millions as in GLM's README
    "glm-base": (12, 768, 513, 30592, 110),
    "glm-large": (24, 1024, 513, 30592, 335),
    "glm-410m": (30, 1024, 513, 30592, 410),
    "glm-515m": (30, 1152, 513, 30592, 515),
    "glm-2b": (36, 2048, 1025, 50304, 2_000),
    "glm-10b": (48, 4096, 1025, 50304, 10_000),
}


@pytest.mark.parametrize("name", GLM_SIZES)
def test_glm_sizes_by_hand(name: str) -> None:
    """12·h² + 13·h a layer, two position tables, the padded word table, the final norm: what the README rounds."""
    layers, h, positions, vocabulary, millions = GLM_SIZES[name]
    per_layer = 12 * h * h + (3 * h + h + 4 * h + h) + 4 * h
    by_hand = layers * per_layer + 2 * positions * h + vocabulary * h + 2 * h
    tokens = 30524 if vocabulary == 30592 else 50257 + 9  # BERT's or GPT-2's, and GLM's own
    assert count_parameters(load_recipe(name).model_config(tokens)) == by_hand
    assert by_hand / 1e6 == pytest.approx(millions, rel=0.05 if millions == 2_000 else 0.015)


def test_initialisation_follows_the_papers() -> None:
    glm = build(load_recipe("glm-nano", {"model.init": "family"}).model_config(4096), seed=1)
    assert float(glm.token_embeddings.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    residual = 0.02 / math.sqrt(2 * 4)
    assert float(glm.layers[2].ffn.output.weight.detach().std()) == pytest.approx(residual, rel=0.02)
    assert float(glm.layers[2].ffn.inner.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    bert = build(load_recipe("bert-base", {"model.num_layers": 1}).model_config(1000), seed=1)
    weight = bert.layers[0].attention.qkv.weight.detach()
    assert float(weight.abs().max()) <= 0.04  # truncated at two deviations
    assert float(weight.std()) == pytest.approx(0.02 * 0.8796, rel=0.02)  # the deviation of a normal cut at ±2σ
    assert all(float(p.detach().abs().max()) == 0 for n, p in bert.named_parameters() if n.endswith("bias"))


def test_same_seed_same_weights() -> None:
    first, second, other = build(TINY, 3), build(TINY, 3), build(TINY, 4)
    assert torch.equal(first.token_embeddings.weight, second.token_embeddings.weight)
    assert not torch.equal(first.token_embeddings.weight, other.token_embeddings.weight)


def causal_example(ids: np.ndarray) -> Example:
    index = np.arange(len(ids), dtype=np.int32)
    return Example(ids, index[None], AttentionRule.causal(len(ids)), index, ids)


def test_packing_changes_nothing() -> None:
    """Two Examples in one row give the hidden states that each gives alone."""
    rng = np.random.default_rng(0)
    examples = [causal_example(rng.integers(0, 50, size).astype(np.int32)) for size in (7, 12)]
    model = build(TINY).eval()
    with torch.no_grad():
        packed = model(collate([examples], pad=0)).hidden[0]
        alone = [model(collate([[example]], pad=0)).hidden[0] for example in examples]
    torch.testing.assert_close(packed[:7], alone[0][:7], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(packed[7:19], alone[1][:12], atol=1e-6, rtol=1e-5)


def test_cache_equals_no_cache() -> None:
    model = build(TINY).eval()
    ids = torch.randint(0, 50, (2, 15), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(15).expand(1, 2, 15)
    zeros = torch.zeros(2, 15, dtype=torch.int32)
    index = torch.arange(15, dtype=torch.int32).expand(2, 15)
    with torch.no_grad():
        whole = model(Inputs(ids, positions, lower("causal", (zeros, index), (zeros, index), torch.float32))).hidden
        cache = model.new_cache(2, 15)
        parts = []
        for begin, end in ((0, 6), (6, 7), (7, 15)):
            query = (zeros[:, begin:end], index[:, begin:end])
            mask = lower("rule", query, (zeros[:, :end], index[:, :end]), torch.float32)
            parts.append(model(Inputs(ids[:, begin:end], positions[:, :, begin:end], mask), cache=cache).hidden)
        with pytest.raises(ValueError, match="15 columns"):
            model(Inputs(ids[:, :1], positions[:, :, :1], mask), cache=cache)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-6, rtol=1e-5)


def test_impossible_sizes_are_told() -> None:
    config = TransformerConfig(vocab_size=10, hidden_size=30, num_heads=4, dropout=1.5)
    problems = config.problems()
    assert len(problems) == 2
    assert "not a multiple" in problems[0] and "28" in problems[0]
    assert "dropout" in problems[1]
