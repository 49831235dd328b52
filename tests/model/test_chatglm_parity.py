"""ChatGLM-6B and GLM-130B against the saved outputs of their original code: logits, states, cache, loss, gradients,
decoding."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from blankfill.attention.positions import Rotation
from blankfill.data.batching import collate
from blankfill.families import weight_names
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.generation.engine import Decoder
from blankfill.model.transformer import Transformer
from blankfill.objectives import ChatGlm
from blankfill.training.loss import loss_sums
from blankfill.types import PADDING, AttentionRule, Batch, DecoderInput, Example, Vocabulary

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "chatglm"
MASK, GMASK, SOP, EOP, PAD = 300, 301, 304, 305, 3
VOCABULARY = Vocabulary(320, {"mask": MASK, "gmask": GMASK, "sop": SOP, "eop": EOP, "pad": PAD})

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not GOLDEN.exists(), reason="the reference outputs lie beside the project and are absent"),
]


@pytest.fixture(scope="module")
def reference() -> Mapping[str, Tensor]:
    return load_file(GOLDEN / "reference.safetensors")


@pytest.fixture(scope="module")
def reference_130b() -> Mapping[str, Tensor]:
    return load_file(GOLDEN / "glm130b_reference.safetensors")


def checkpoint(family: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and weights of a reference model, without those of a prefix."""
    prefix = "glm130b_" if family == "glm-130b" else ""
    values = json.loads((GOLDEN / f"{prefix}config.json").read_text(encoding="utf-8"))["config"]
    weights = load_file(GOLDEN / f"{prefix}weights.safetensors")
    return values, {name: weight for name, weight in weights.items() if "prefix_encoder" not in name}


def original(family: str = "chatglm", **changed: object) -> tuple[CheckpointFormat, Transformer]:
    """Our model of the reference weights. changed: fields of its configuration."""
    values, weights = checkpoint(family)
    names = weight_names()[family]
    config = names.read({**values, "tie_word_embeddings": False}, weights.keys())
    form = CheckpointFormat(names, dataclasses.replace(config, **changed))  # type: ignore[arg-type]
    model = Transformer(form.config).eval()
    model.load_state_dict(form.table.to_ours(weights, "the file"))
    return form, model


def batch_of(ids: Tensor, positions: Tensor, sop: int | None = SOP) -> Batch:
    """Rows of original inputs. positions: [B, L], or [B, 2, L]; sop: the first token that is written; None: all are."""
    real = ids != PAD if sop == SOP else torch.ones_like(ids, dtype=torch.bool)
    first = torch.zeros(len(ids), dtype=torch.int64) if sop is None else (ids == sop).int().argmax(1)
    rank = (torch.arange(ids.shape[1])[None] - first[:, None] + 1).clamp_(min=0).int()
    channels = positions.transpose(0, 1) if positions.dim() == 3 else positions[None]
    return Batch.of_rows(ids, channels, torch.where(real, 0, PADDING).int(), rank, rank)


def case(reference: Mapping[str, Tensor], name: str, sop: int | None = SOP, positions: str = "position_ids") -> Batch:
    """The rows of a case, whose mask is checked where the reference has one."""
    batch = batch_of(reference[f"{name}.input_ids"], reference[f"{name}.{positions}"], sop)
    if (hidden := reference.get(f"{name}.attention_mask")) is not None:
        rules = zip(batch.segment.numpy(), batch.rank.numpy(), batch.horizon.numpy(), strict=True)
        visible = np.stack([AttentionRule(*rule).visible() for rule in rules])
        real = batch.segment.numpy() >= 0
        assert (visible == ~hidden[:, 0].numpy())[real].all()
    return batch


def logits(model: Transformer, batch: Batch) -> Tensor:
    made = model(batch, logits_at="all").logits
    assert isinstance(made, Tensor)
    return made


def close(made: Tensor, expected: Tensor, within: float = 1e-4) -> None:
    torch.testing.assert_close(made.float(), expected.float(), atol=within, rtol=0)


CASES = {
    "gmask": ("gmask.logits", {}, {}),
    "mask": ("mask.logits", {}, {}),
    "both": ("both.logits", {}, {"positions": "position_ids_model"}),
    "exact frequencies": ("gmask.logits_exact_frequencies", {"rotary_rounding": "none"}, {}),
    "another alpha": ("gmask.logits_alpha_of_layer_count", {"residual_scale": 0.0}, {}),
    "older positions": ("gmask.logits_before_20230331", {}, {"positions": "position_ids_before_20230331"}),
    "one axis, gmask": ("oned_gmask.logits", {"position_scheme": "rotary"}, {}),
    "one axis, mask": ("oned_mask.logits", {"position_scheme": "rotary"}, {}),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_equal_the_original(reference: Mapping[str, Tensor], name: str) -> None:
    expected, changed, columns = CASES[name]
    batch = case(reference, expected.partition(".")[0], **columns)  # type: ignore[arg-type]
    real = batch.segment >= 0
    _, model = original(**changed)  # type: ignore[arg-type]
    close(logits(model, batch)[real], reference[expected][real])


@torch.no_grad()
def test_hidden_states_and_cache_equal_the_original(reference: Mapping[str, Tensor]) -> None:
    """The original's states precede the norms that follow ours; its cached keys are rotated, and so are ours."""
    _, model = original()
    batch = case(reference, "gmask")
    real, expected = batch.segment >= 0, reference["gmask.hidden_states"]
    cache = model.new_cache(*batch.input_ids.shape)
    outputs = model(batch, cache=cache, output_hidden_states=True)
    states = outputs.hidden_states
    assert states is not None and model.embedding_norm is not None
    norms = [model.embedding_norm, *(layer.ffn_norm for layer in model.all_layers[:2])]
    for k, norm in enumerate(norms):
        assert norm is not None
        close(states[k][real], norm(expected[k])[real])
    close(states[3][real], expected[3][real])
    for cached, side in zip(cache[1].kept, ("key", "value"), strict=True):
        theirs = reference[f"gmask.cache_{side}.1"].permute(1, 0, 2, 3)  # [length, batch, head, dim]
        close(cached.transpose(1, 2)[real], theirs[real])


def test_loss_and_gradients_equal_the_original(reference: Mapping[str, Tensor]) -> None:
    """Rows of its fine-tuning script, padded on the right, with the mean over all targets."""
    form, model = original()
    rows = []
    for ids, labels, positions in zip(
        *(reference[f"train.{part}"].numpy().astype(np.int32) for part in ("input_ids", "labels", "position_ids")),
        strict=True,
    ):
        size = int((ids != PAD).sum())
        index = np.flatnonzero(labels[1:] != -100).astype(np.int32)
        first = int((ids == SOP).argmax())
        rule = AttentionRule.prefix(first, size)
        rows.append([Example(ids[:size], positions[:, :size], rule, index, labels[1:][index])])
    batch = collate(rows, pad=PAD)
    loss = loss_sums(model, batch)["lm"] / len(batch.target_ids)
    close(loss, reference["train.loss"][0], 1e-5)
    loss.backward()
    same_gradients(form, model, reference, "train.grad.", 10)


def same_gradients(
    form: CheckpointFormat, model: Transformer, reference: Mapping[str, Tensor], prefix: str, count: int
) -> None:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = form.table.to_theirs(gradients)
    expected = {name.removeprefix(prefix): grad for name, grad in reference.items() if name.startswith(prefix)}
    assert len(expected) == count
    for name, gradient in expected.items():
        close(theirs[name], gradient)


@torch.no_grad()
def test_half_precision_agrees_with_the_original(reference: Mapping[str, Tensor]) -> None:
    """The original in fp16 differs from itself in fp32 by 0.03; cached decoding in fp16 is as near."""
    _, model = original(rotary_rounding="angles")
    batch = case(reference, "gmask")
    real, expected = batch.segment >= 0, reference["gmask.logits_fp16"]
    close(logits(model.half(), batch)[real], expected[real], 0.05)
    for row, steps in enumerate(decode(model, [gmask_input(reference, row) for row in range(2)], 4)):
        theirs, made = reference["generate.gmask.step_logits"][row, :4], torch.stack(steps[1])
        close(made, theirs, 0.1)


def test_rotary_tables_equal_the_original(reference: Mapping[str, Tensor]) -> None:
    """Tables of the real width, up to the last position, to the bit."""
    positions = reference["rotary.positions"][None, None]
    for rounding, kind in (("frequencies", "fp32"), ("angles", "fp16")):
        made = Rotation.of(positions, 64, 10_000.0, rounding)  # type: ignore[arg-type]
        for part, name in ((made.cosine, "cos"), (made.sine, "sin")):
            expected = reference[f"rotary.{name}_{kind}"]
            assert torch.equal(part[0, :, 0].to(expected.dtype), expected[:, :32])
    ones = torch.ones(1, 1, 1, dtype=torch.int64)
    sine = Rotation.of(ones, 64, 10_000.0, "frequencies").sine[0, 0, 0]
    torch.testing.assert_close(sine.asin()[1:], reference["rotary.inv_freq_fp16"].float()[1:], atol=1e-7, rtol=1e-6)


def gmask_input(reference: Mapping[str, Tensor], row: int) -> DecoderInput:
    """The prompt of a row without its padding, as this program's format lays it out."""
    ids = reference["generate.gmask.input_ids"][row].numpy().astype(np.int32)
    ids = ids[ids != PAD]
    assert ids[-2:].tolist() == [GMASK, SOP]
    form = ChatGlm(128).format(VOCABULARY)
    made = form.target_input(form.source(ids[:-2]), 16)
    assert made.input_ids.tolist() == ids.tolist()
    return made


def decode(model: Transformer, rows: list[DecoderInput], steps: int) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Greedy tokens of each row, and the scores that they were chosen by."""
    decoder = Decoder(model, rows, steps, PAD)
    scores = [decoder.prefill()]
    for _ in range(steps - 1):
        scores.append(decoder.step(scores[-1].argmax(-1)))
    for row in range(len(rows)):
        yield [int(step[row].argmax()) for step in scores], [step[row] for step in scores]


def test_generation_equals_the_original(reference: Mapping[str, Tensor]) -> None:
    """Two prompts of unequal length together: ids exactly, and the scores of each step."""
    _, model = original()
    rows = [gmask_input(reference, row) for row in range(2)]
    for row, (ids, scores) in enumerate(decode(model, rows, 16)):
        assert ids == reference["generate.gmask.output_ids"][row, -16:].tolist()
        close(torch.stack(scores), reference["generate.gmask.step_logits"][row])


def test_a_blank_is_filled_as_by_the_original(reference: Mapping[str, Tensor]) -> None:
    """A [MASK] inside the text, whose position all that is written keeps."""
    _, model = original()
    ids = reference["generate.mask.input_ids"][0].numpy().astype(np.int32)
    assert ids[-1] == SOP
    place = int((ids == MASK).argmax())
    made = ChatGlm(128).format(VOCABULARY).blank_input([ids[:place], ids[place + 1 : -1]], ["mask"], [])
    assert made.input_ids.tolist() == ids.tolist()
    ((tokens, scores),) = decode(model, [made], 16)
    assert tokens == reference["generate.mask.output_ids"][0, -16:].tolist()
    close(torch.stack(scores), reference["generate.mask.step_logits"][0])


SOP_130B = 252


@pytest.mark.parametrize("name", ["gmask", "mask", "unidirectional"])
@torch.no_grad()
def test_glm_130b_equals_the_original(reference_130b: Mapping[str, Tensor], name: str) -> None:
    _, model = original("glm-130b")
    batch = case(reference_130b, name, None if name == "unidirectional" else SOP_130B)
    close(logits(model, batch), reference_130b[f"{name}.logits"])


@torch.no_grad()
def test_a_block_of_glm_130b_equals_the_original(reference_130b: Mapping[str, Tensor]) -> None:
    """Block 1 alone, between the norm before it, which is ours behind block 0, and the norm after it."""
    _, model = original("glm-130b")
    batch = case(reference_130b, "gmask", SOP_130B)
    masks, terms = model._masks(batch, torch.float32, False), model.terms(batch.positions)
    before, after = (layer.ffn_norm for layer in model.all_layers[:2])
    assert before is not None and after is not None
    made = model.all_layers[1](before(reference_130b["block1.input"])[None], masks["global"], terms["global"])
    close(made[0], after(reference_130b["block1.output"]))


def test_loss_and_gradients_of_glm_130b_equal_the_original(reference_130b: Mapping[str, Tensor]) -> None:
    """Every token behind <sop>, predicted by its left neighbour."""
    form, model = original("glm-130b")
    ids = reference_130b["gmask.input_ids"][0].numpy().astype(np.int32)
    first = int((ids == SOP_130B).argmax())
    index = np.arange(first, len(ids) - 1, dtype=np.int32)
    positions = reference_130b["gmask.position_ids"].numpy().astype(np.int32)
    row = Example(ids, positions, AttentionRule.prefix(first, len(ids)), index, ids[index + 1])
    loss = loss_sums(model, collate([[row]], pad=0))["lm"] / len(index)
    close(loss, reference_130b["gmask.loss_after_sop"][0], 1e-5)
    loss.backward()
    same_gradients(form, model, reference_130b, "gmask.grad.", 4)
