"""Small checkpoints in ChatGLM-6B's released layout, with weights and a tokenizer made here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from blankfill.checkpoint.hf_loading import ExternalCheckpoint
from blankfill.checkpoint.streams import write_shards
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.corpus.tokenizer_layout import sentencepiece_file
from blankfill.corpus.tokenizer_train import TokenizerConfig, train_tokenizer
from blankfill.model.transformer import Transformer
from blankfill.types import PADDING, Batch

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "chatglm"
IMAGES = 20_000
LAYERS, WIDTH, HEADS, INNER = 2, 16, 2, 64


@cache
def tokenizer_of() -> Tokenizer:
    """A tokenizer of ChatGLM's kind, trained on a few sentences."""
    pytest.importorskip("sentencepiece")
    lines = [
        f"the {who} {does} the {what} {k}, 那{thing}在{place}。"
        for who in ("keeper", "captain", "harbour", "winter") for does in ("watches", "carries", "forgets")
        for what, thing in (("boat", "船"), ("lamp", "灯"), ("bird", "鸟")) for k, place in ((1, "海边"), (27, "岛上"))
    ]  # fmt: skip
    return train_tokenizer(lines, TokenizerConfig("bilingual", vocab_size=385))


def layout(images: int = 0) -> dict[str, Any]:
    """The sizes and ids of a config.json that depend on the vocabulary."""
    roles = tokenizer_of().vocabulary().roles
    keys = {"bos_token_id": "sop", "eos_token_id": "eop", "mask_token_id": "mask", "gmask_token_id": "gmask"}
    ids = {key: roles[role] + images for key, role in keys.items()}
    return {"vocab_size": 512 + images, **ids, **({} if images else {"pad_token_id": 3})}


def values_of(**changed: Any) -> dict[str, Any]:
    """A config.json as released, for a small model."""
    return {
        "architectures": ["ChatGLMModel"], "model_type": "chatglm", "hidden_size": WIDTH, "num_layers": LAYERS,
        "num_attention_heads": HEADS, "inner_hidden_size": INNER, "max_sequence_length": 64, "layernorm_epsilon": 1e-5,
        "use_cache": True, "position_encoding_2d": True, "torch_dtype": "float16", **layout(), **changed,
    }  # fmt: skip


def random_weights(vocabulary: int = 512, seed: int = 0) -> dict[str, Tensor]:
    """Weights of fp16 under the released names; the output table equals the word table."""
    shapes: dict[str, tuple[int, ...]] = {"transformer.word_embeddings.weight": (vocabulary, WIDTH)}
    for k in range(LAYERS):
        base = f"transformer.layers.{k}."
        shapes[f"{base}attention.rotary_emb.inv_freq"] = (WIDTH // HEADS // 4,)
        for name, rows, columns in (
            ("attention.query_key_value", 3 * WIDTH, WIDTH), ("attention.dense", WIDTH, WIDTH),
            ("mlp.dense_h_to_4h", INNER, WIDTH), ("mlp.dense_4h_to_h", WIDTH, INNER),
        ):  # fmt: skip
            shapes |= {f"{base}{name}.weight": (rows, columns), f"{base}{name}.bias": (rows,)}
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{base}{name}.weight": (WIDTH,), f"{base}{name}.bias": (WIDTH,)}
    shapes |= {f"transformer.final_layernorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    generator = torch.Generator().manual_seed(seed)
    out = {name: torch.randn(shape, generator=generator).mul(0.2).half() for name, shape in shapes.items()}
    return {**out, "lm_head.weight": out["transformer.word_embeddings.weight"].clone()}


def write_folder(
    folder: Path, weights: Mapping[str, Tensor], values: Mapping[str, Any] | None = None, kind: Any = "bin",
    images: int = 0, tokenizer: bool = True,
) -> Path:  # fmt: skip
    """Write a checkpoint of several shards."""
    folder.mkdir(parents=True)
    given = {**values_of(), **(values or {})}
    if given["vocab_size"] > IMAGES:
        del given["pad_token_id"]  # as in the first release
    (folder / "config.json").write_text(json.dumps(given), encoding="utf-8")
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    write_shards(folder, dict(weights), total // 8 + total // 100, kind)
    if tokenizer:
        data = sentencepiece_file(tokenizer_of())
        assert data is not None
        (folder / "ice_text.model").write_bytes(data)
        noted = json.dumps({"num_image_tokens": images})
        (folder / "tokenizer_config.json").write_text(noted, encoding="utf-8")
    return folder


def shards(folder: Path) -> list[Path]:
    """The files of weights of a folder."""
    return sorted([*folder.glob("*.bin"), *folder.glob("*.safetensors")])


def logits_of(checkpoint: ExternalCheckpoint, reference: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Our logits of the reference's rows, [B, T, V], and which columns are no padding."""
    with torch.device("meta"):
        model = Transformer(checkpoint.checkpoint_format.config)
    if checkpoint.quantization is not None:
        checkpoint.quantization.apply(model)
    model.load_state_dict(checkpoint.state(), assign=True)
    ids, positions = reference["gmask.input_ids"], reference["gmask.position_ids"]
    sop, pad = 304, 3
    rank = (torch.arange(ids.shape[1])[None] - (ids == sop).int().argmax(1)[:, None] + 1).clamp_(min=0).int()
    segment = torch.where(ids != pad, 0, PADDING).int()
    batch = Batch.of_rows(ids, positions.transpose(0, 1), segment, rank, rank)
    with torch.inference_mode():
        made = model.eval()(batch, logits_at="all").logits
    assert isinstance(made, Tensor)
    return made, ids != pad
