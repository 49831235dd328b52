"""GLM inside transformers: the original code's outputs, and what `generate` writes against our own decoder."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.checkpoint import store
from blankfill.checkpoint.hf_layout import hf_layout_of
from blankfill.checkpoint.load import load_model
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import generate_many
from blankfill.model.config import TransformerConfig, config_values
from blankfill.model.transformer import build
from blankfill.objectives import Glm

transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("blankfill.hf")

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "glm"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[gMASK]", "[sMASK]", "<|startofpiece|>", "<|endofpiece|>",
         "<|endoftext|>", "[dBLOCK]", "the", "old", "boat", "lamp", "sings", "sleeps", "on", "near", "sea",
         "."]  # fmt: skip
TEXTS = ["the old boat [gMASK]", "the [MASK] sings on the sea .", "near the lamp , [gMASK]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random GLM, as a run writes it."""
    made: Path = tmp_path_factory.mktemp("glm") / "model"
    made.mkdir()
    (made / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer, objective = Tokenizer.load(made), Glm(24, document=1.0)
    config = TransformerConfig(
        vocab_size=len(WORDS), hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, position_sizes=(25, 25),
        init_std=0.4, position_std=0.4,
    )  # fmt: skip
    state = {"model": config_values(config), "objective": {"name": "glm", **asdict(objective)}}
    hf_layout = hf_layout_of(config, objective, tokenizer)
    store.write_files(made, 0, build(config, seed=6).state_dict(), {}, state, hf_layout)
    return made


def opened(folder: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(model) is hf.GlmForBlankFilling
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.data
@pytest.mark.skipif(not GOLDEN.exists(), reason="the reference outputs lie beside the project and are absent")
def test_it_equals_the_original_code(tmp_path: Path) -> None:
    """The released names, opened by from_pretrained: logits and loss of THUDM/GLM's own GLMModel."""
    save_file(load_file(GOLDEN / "weights.safetensors"), tmp_path / "model.safetensors", {"format": "pt"})
    values = hf.GlmConfig(
        vocab_size=512, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=65,
    ).to_dict()  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": ["GlmForBlankFilling"]}))
    reference = load_file(GOLDEN / "reference.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    labels = reference["targets"].long().masked_fill(~reference["loss_mask"].bool(), -100)
    out = model(reference["input_ids"].long(), position_ids=reference["position_ids"].long(), labels=labels)
    torch.testing.assert_close(out.logits, reference["logits"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.loss, reference["loss"][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cached", [True, False])
def test_generate_writes_what_our_decoder_writes(folder: Path, cached: bool) -> None:
    """Greedy rows of different lengths together, padded on the left, with the cache and without."""
    model, tokenizer = opened(folder)
    inputs = hf.blank_inputs(model, tokenizer, TEXTS)
    assert (inputs["attention_mask"] == 0).any()
    ends = [WORDS.index("<|endofpiece|>"), WORDS.index("<|endoftext|>")]
    never = [k for k in range(11) if k not in ends]  # as our decoder, which writes no special token
    written = model.generate(
        **inputs, max_new_tokens=8, do_sample=False, use_cache=cached, pad_token_id=0, suppress_tokens=never
    )
    width = inputs["input_ids"].shape[1]
    theirs = [list(itertools.takewhile(lambda k: k not in ends, row)) for row in written[:, width:].tolist()]
    ours = generate_many(load_model(folder), TEXTS, 8, Sampling(temperature=0))
    assert [[k for k in row if k] for row in theirs] == [list(mine.ids) for mine in ours]
    assert sum(map(len, theirs)) >= 6


def test_beams_and_saving_work(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = opened(folder)
    inputs = hf.blank_inputs(model, tokenizer, TEXTS[:2])
    cached = model.generate(**inputs, max_new_tokens=5, num_beams=3, do_sample=False)
    plain = model.generate(**inputs, max_new_tokens=5, num_beams=3, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)
    model.save_pretrained(tmp_path / "again")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_can_be_trained_further(folder: Path) -> None:
    model, tokenizer = opened(folder)
    model.train()
    inputs = hf.blank_inputs(model, tokenizer, TEXTS[:1])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = 13
    model.config.hidden_dropout_prob = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_what_cannot_be_written_is_told(folder: Path) -> None:
    model, tokenizer = opened(folder)
    with pytest.raises(UserError, match=r"has no \[MASK\]"):
        hf.blank_inputs(model, tokenizer, ["the old boat"])
    with pytest.raises(UserError, match="more than the model's 25 positions"):
        model.generate(
            **hf.blank_inputs(model, tokenizer, TEXTS[:1]), max_new_tokens=40, suppress_tokens=list(range(11))
        )
    model.config.sop_token_id = None
    with pytest.raises(UserError, match="names no bos_token_id, sop_token_id"):
        hf.blank_inputs(model, tokenizer, TEXTS)
