"""Our model against independent implementations: the original GLM code's saved outputs, and transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from blankfill.data.packing import collate
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.train.loss import loss_sums
from blankfill.types import AttentionRule, Batch, Example

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "glm"


@pytest.mark.data
@pytest.mark.skipif(not GOLDEN.exists(), reason="the reference outputs lie beside the project and are absent")
def test_glm_equals_the_original_code() -> None:
    """THUDM/GLM's own GLMModel: logits, loss and gradients of a tiny random model."""
    weights, reference = load_file(GOLDEN / "weights.safetensors"), load_file(GOLDEN / "reference.safetensors")
    config = TransformerConfig(
        vocab_size=512, hidden_size=64, num_layers=3, num_heads=4, ffn_size=256, position_sizes=(65, 65),
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    model = Transformer(config)
    names = {
        "words.weight": "word_embeddings.weight",
        "positions.0": "transformer.position_embeddings.weight",
        "positions.1": "transformer.block_position_embeddings.weight",
    }
    state = {}
    for ours in model.state_dict():
        theirs = ours.replace("layers.", "transformer.layers.")
        theirs = theirs.replace("attention.qkv", "attention.query_key_value").replace(
            "attention.output", "attention.dense"
        )
        theirs = theirs.replace("attention_norm", "input_layernorm").replace("ffn_norm", "post_attention_layernorm")
        theirs = theirs.replace("ffn.inner", "mlp.dense_h_to_4h").replace("ffn.output", "mlp.dense_4h_to_h")
        theirs = theirs.replace("final_norm", "transformer.final_layernorm")
        theirs = names.get(ours, names.get(ours.removesuffix(".weight"), theirs))
        state[ours] = weights.pop(theirs)
    assert not weights
    model.load_state_dict(state)
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
    hidden = model.encode(batch)
    logits = model.head.logits(hidden, model.words.weight)
    torch.testing.assert_close(logits, reference["logits"], atol=1e-5, rtol=1e-4)
    loss = loss_sums(model, batch).words / mask.sum()
    torch.testing.assert_close(loss, reference["loss"][0], atol=1e-5, rtol=1e-5)
    loss.backward()
    layer = model.layers[1]
    pairs = {
        "transformer.layers.1.attention.query_key_value.weight": layer.attention.qkv.weight,
        "transformer.layers.1.mlp.dense_4h_to_h.bias": layer.ffn.output.bias,
        "transformer.layers.1.input_layernorm.weight": layer.attention_norm.weight,
        "transformer.position_embeddings.weight": model.positions[0].weight,
        "transformer.block_position_embeddings.weight": model.positions[1].weight,
        "transformer.final_layernorm.bias": model.final_norm.bias,
    }
    for name, parameter in pairs.items():
        torch.testing.assert_close(parameter.grad, reference[f"grad.{name}"], atol=1e-6, rtol=1e-3)


def example_batch(length: int, channels: int, vocab: int, causal: bool, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    rows = []
    for size in (length, length - 3):
        positions = np.zeros((channels, size), np.int32)
        positions[0] = np.arange(size)
        if channels == 2:
            positions[1, size // 2 :] = 1
        index = np.arange(size, dtype=np.int32) if causal else np.sort(rng.choice(size, 4, False)).astype(np.int32)
        rule = AttentionRule.causal(size) if causal else AttentionRule.full(size)
        labels = {} if causal else {"next_sentence": size % 2}
        ids = rng.integers(0, vocab, (2, size)).astype(np.int32)
        rows.append([Example(ids[0], positions, rule, index, ids[1][index], labels)])
    return collate(rows, pad=0)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_bert_equals_transformers(activation: str) -> None:
    """transformers' BertForPreTraining: MLM and NSP losses and gradients, padding in the batch."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForPreTraining(transformers.BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=24, hidden_act=activation, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ))  # fmt: skip
    config = TransformerConfig(
        vocab_size=97, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, position_sizes=(24, 2), norm="post",
        norm_eps=1e-12, embedding_norm=True, activation="gelu" if activation == "gelu" else "gelu_tanh",
        head_transform=True, head_bias=True, pooler=True, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    ours = build(config)
    source = dict(theirs.state_dict())
    state = {
        "words.weight": source["bert.embeddings.word_embeddings.weight"],
        "positions.0.weight": source["bert.embeddings.position_embeddings.weight"],
        "positions.1.weight": source["bert.embeddings.token_type_embeddings.weight"],
        "head.bias": source["cls.predictions.bias"],
    }
    renamed = {
        "embedding_norm": "bert.embeddings.LayerNorm", "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm", "pair_head.pooler": "bert.pooler.dense",
        "pair_head.classifier": "cls.seq_relationship",
    }  # fmt: skip
    for k in range(2):
        layer = f"bert.encoder.layer.{k}"
        renamed |= {
            f"layers.{k}.attention.output": f"{layer}.attention.output.dense",
            f"layers.{k}.attention_norm": f"{layer}.attention.output.LayerNorm",
            f"layers.{k}.ffn.inner": f"{layer}.intermediate.dense",
            f"layers.{k}.ffn.output": f"{layer}.output.dense",
            f"layers.{k}.ffn_norm": f"{layer}.output.LayerNorm",
        }
        for part in ("weight", "bias"):
            three = [source[f"{layer}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            state[f"layers.{k}.attention.qkv.{part}"] = torch.cat(three)
    for mine, other in renamed.items():
        state |= {f"{mine}.{part}": source[f"{other}.{part}"] for part in ("weight", "bias")}
    ours.load_state_dict(state)
    batch = example_batch(16, 2, 97, causal=False, seed=3)
    labels = torch.full((2, 16), -100).flatten().scatter(0, batch.target_index, batch.target_ids).view(2, 16)
    out = theirs(
        batch.input_ids, (batch.segment >= 0).long(), batch.positions[1], batch.positions[0], labels=labels,
        next_sentence_label=batch.labels["next_sentence"][1],
    )  # fmt: skip
    sums = loss_sums(ours, batch)
    loss = sums.words / len(batch.target_ids) + sums.labels["next_sentence"] / 2
    torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    out.loss.backward()
    gradients = dict(theirs.named_parameters())
    pairs = [
        (ours.words.weight, "bert.embeddings.word_embeddings.weight"),
        (ours.layers[0].ffn.inner.weight, "bert.encoder.layer.0.intermediate.dense.weight"),
        (ours.pair_head.pooler.weight, "bert.pooler.dense.weight"),
        (ours.head.bias, "cls.predictions.bias"),
    ]
    for parameter, name in pairs:
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-5, rtol=1e-4)


def test_gpt2_equals_transformers() -> None:
    """transformers' GPT2LMHeadModel: logits, loss and gradients."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=61, n_positions=20, n_embd=24, n_layer=2, n_head=3, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ))  # fmt: skip
    config = TransformerConfig(
        vocab_size=61, hidden_size=24, num_layers=2, num_heads=3, ffn_size=96, position_sizes=(20,), dropout=0.0,
        attention_dropout=0.0,
    )  # fmt: skip
    ours = build(config)
    source = theirs.transformer.state_dict()
    state = {"words.weight": source["wte.weight"], "positions.0.weight": source["wpe.weight"]}
    state |= {f"final_norm.{part}": source[f"ln_f.{part}"] for part in ("weight", "bias")}
    table = {
        "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj", "ffn.inner": "mlp.c_fc",
        "ffn.output": "mlp.c_proj", "attention_norm": "ln_1", "ffn_norm": "ln_2",
    }  # fmt: skip
    for k in range(2):
        for mine, other in table.items():
            for part in ("weight", "bias"):
                tensor = source[f"h.{k}.{other}.{part}"]
                state[f"layers.{k}.{mine}.{part}"] = tensor.T.contiguous() if tensor.dim() == 2 else tensor
    ours.load_state_dict(state)
    batch = example_batch(12, 1, 61, causal=True, seed=5)
    assert batch.mask == "causal"
    real = batch.segment >= 0
    out = theirs(batch.input_ids, attention_mask=real.long())
    logits = ours.head.logits(ours.encode(batch), ours.words.weight)
    torch.testing.assert_close(logits[real], out.logits[real], atol=1e-5, rtol=1e-4)
    loss = loss_sums(ours, batch).words / len(batch.target_ids)
    other = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1)[batch.target_index], batch.target_ids)
    torch.testing.assert_close(loss, other, atol=1e-5, rtol=1e-5)
    loss.backward()
    other.backward()
    torch.testing.assert_close(ours.words.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5, rtol=1e-4)
    grad = theirs.transformer.h[1].attn.c_attn.weight.grad.T
    torch.testing.assert_close(ours.layers[1].attention.qkv.weight.grad, grad, atol=1e-5, rtol=1e-4)
