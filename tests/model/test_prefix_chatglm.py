"""P-tuning v2 against ChatGLM-6B's own modules, which were run on random weights (shared/golden)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from blankfill.adapt.prefix import add_prefix, compute_prefix
from blankfill.attention.masks import Mask
from blankfill.families.chatglm import CHATGLM
from blankfill.generation.engine import Decoder
from blankfill.model.io import Inputs
from blankfill.model.prefix import PrefixShape
from blankfill.model.transformer import Transformer
from blankfill.types import AttentionRule, DecoderInput

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "chatglm"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="the outputs of the original code are not here")
KINDS = {"ptuning": "transformer.prefix_encoder.", "ptuning_projection": "projection.transformer.prefix_encoder."}


def golden_model(kind: str) -> Transformer:
    """The model with its prefix, from the original's weights."""
    weights = load_file(GOLDEN / "weights.safetensors")
    values = json.loads((GOLDEN / "config.json").read_text())["config"] | {"tie_word_embeddings": False}
    plain = {name: tensor for name, tensor in weights.items() if "prefix_encoder" not in name}
    assert CHATGLM.weight_names is not None
    config = CHATGLM.weight_names.read(values, plain)
    model = Transformer(config)
    model.load_state_dict(CHATGLM.weight_names.table(config).to_ours(plain, "golden"))
    add_prefix(model, PrefixShape(5, 64 if "projection" in kind else 0))
    assert model.prefix_encoder is not None
    prefix = KINDS[kind]
    own = {name.removeprefix(prefix).replace("trans.", "projection."): tensor for name, tensor in weights.items()
           if name.startswith(prefix)}  # fmt: skip
    model.prefix_encoder.load_state_dict(own)
    return model.eval()


def inputs(reference: dict[str, Tensor], name: str, hidden: Tensor) -> Inputs:
    """Inputs with the original's mask, in which true means hidden."""
    bias = torch.zeros(hidden.shape).masked_fill(hidden, -10_000.0)  # padding sees nothing but the prefix
    return Inputs(
        reference[f"{name}.input_ids"], reference[f"{name}.position_ids"].transpose(0, 1), Mask("dense", bias)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_keys_are_those_of_the_original(kind: str) -> None:
    reference, model = load_file(GOLDEN / "reference.safetensors"), golden_model(kind)
    given = inputs(reference, "gmask", reference["gmask.attention_mask"])
    with torch.no_grad():
        logits = model(given, logits_at="all").logits
        assert model.prefix_encoder is not None and logits is not None
        key, value = model.prefix_encoder(1, torch.float32)[1][0].unbind(1)
    torch.testing.assert_close(key, reference[f"{kind}.key.1"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(value, reference[f"{kind}.value.1"], atol=1e-6, rtol=1e-6)
    real = given.input_ids != 3
    torch.testing.assert_close(logits[real], reference[f"{kind}.logits"][real], atol=1e-4, rtol=1e-4)
    plain = golden_model(kind)
    plain.prefix_encoder = None
    with torch.no_grad():
        assert not torch.allclose(plain(given, logits_at="all").logits[real], logits[real], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_original(kind: str) -> None:
    reference, model = load_file(GOLDEN / "reference.safetensors"), golden_model(kind).train()
    ids, labels = reference["train.input_ids"], reference["train.labels"]
    places = torch.arange(ids.shape[1])
    begin = (ids == 304).int().argmax(1)[:, None, None]
    seen = (places[None, None] < begin) | (places[None, None] <= places[None, :, None])
    logits = model(inputs(reference, "train", ~seen[:, None]), logits_at="all").logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(loss[None], reference[f"{kind}.loss"], atol=1e-4, rtol=1e-5)
    loss.backward()
    learning = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    expected = {name.removeprefix(f"{kind}.grad.transformer."): tensor for name, tensor in reference.items()
                if name.startswith(f"{kind}.grad.")}  # fmt: skip
    assert {name.replace("projection.", "trans.") for name in learning} == set(expected)
    for name, grad in learning.items():
        torch.testing.assert_close(grad, expected[name.replace("projection.", "trans.")], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("with_projection", [False, True])
def test_greedy_ids_and_scores_are_those_of_the_original(with_projection: bool) -> None:
    """Rows without the original's padding on the left; a computed projection is a prefix like any other."""
    reference, model = load_file(GOLDEN / "reference.safetensors"), golden_model("ptuning")
    if with_projection:  # the same keys and values, made by a projection: columns of one-hot rows
        table = model.prefix_encoder.embedding.weight  # type: ignore[union-attr]
        add_prefix(model, PrefixShape(5, 64))
        made = model.prefix_encoder
        assert made is not None and made.projection is not None
        with torch.no_grad():
            made.embedding.weight.copy_(torch.eye(5, 64) * 20)
            made.projection[0].weight.copy_(torch.eye(64))
            made.projection[0].bias.zero_()
            made.projection[2].weight.zero_()
            made.projection[2].weight[:, :5] = table.T
            made.projection[2].bias.zero_()
        compute_prefix(model)
    ids, positions = reference["generate.gmask.input_ids"], reference["generate.gmask.position_ids"]
    rows = []
    for row in range(2):
        first = int((ids[row] != 3).int().argmax())
        own, at = ids[row, first:].numpy().astype(np.int32), positions[row, :, first:].numpy().astype(np.int32)
        vectors = np.zeros(len(own), np.int32)
        vectors[-1] = 1
        rule = AttentionRule(np.zeros(len(own), np.int32), vectors, vectors)
        last = np.array([at[0, -1], at[1, -1] + 1], np.int32)
        rows.append(DecoderInput(own, at, rule, last, np.array([0, 1], np.int32), 12))
    decoder = Decoder(model, rows, 12, pad=3)
    scores, written = [decoder.prefill()], []
    for _ in range(12):
        written.append(scores[-1].argmax(-1))
        scores.append(decoder.step(written[-1]))
    torch.testing.assert_close(torch.stack(scores[:12], 1), reference["ptuning.step_logits"], atol=1e-4, rtol=1e-4)
    assert torch.equal(torch.stack(written, 1), reference["ptuning.output_ids"][:, ids.shape[1] :])
