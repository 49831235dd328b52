"""ModernBERT against transformers: logits, losses and gradients, rows longer than the window, both ways of files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_parity import example_batch, logits, ours

from blankfill.config.recipe import load_recipe
from blankfill.errors import UserError
from blankfill.families import weight_names
from blankfill.families.options import ModelOptions
from blankfill.model.transformer import Transformer, build, count_parameters

transformers = pytest.importorskip("transformers")
SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 64, "local_attention": 8, "initializer_range": 0.1,
    "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
}  # fmt: skip


def theirs(kind: str = "ModernBertForMaskedLM", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(**{**SIZES, **changes}, attn_implementation="eager")
    return getattr(transformers, kind)(config).eval()


def test_local_layers_matter() -> None:
    reference = theirs()
    _, model = ours("modernbert", reference.config.to_dict(), reference.state_dict())
    everywhere = Transformer(replace(model.config, window=0))
    everywhere.load_state_dict(model.state_dict())
    batch = example_batch(40, 1, 97, causal=False, seed=3)
    assert float((logits(model, batch) - logits(everywhere, batch)).detach().abs().max()) > 1e-3


def test_the_config_is_read_as_it_is_written() -> None:
    names = weight_names()["modernbert"]
    config = replace(
        ModelOptions(family="modernbert", hidden_size=32, num_layers=5, num_heads=4, ffn_size=48).config(97, (64,)),
        window=16, global_every=2, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    written = names.write(config)
    assert names.read(written, ["head.dense.weight"]) == config
    read_by_transformers = transformers.ModernBertConfig(**written)
    assert read_by_transformers.layer_types == ["full_attention", "sliding_attention"] * 2 + ["full_attention"]
    assert names.read(read_by_transformers.to_dict(), ["head.dense.weight"]) == config


def test_the_config_of_2024_is_read() -> None:
    """As the released checkpoints have it: no layer types, rotary bases by other names."""
    values = {**SIZES, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
              "hidden_activation": "gelu", "norm_bias": False, "local_attention": 128}  # fmt: skip
    config = weight_names()["modernbert"].read(values, ["head.dense.weight"])
    assert [config.layer_kind(k) for k in range(4)] == ["global", "local", "local", "global"]
    assert (config.rotary_theta, config.local_rotary_theta, config.window) == (160000.0, 10000.0, 64)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"layer_types": ["sliding_attention"] * 4}, r"layer_types is \["),
    ({"rope_parameters": {"sliding_attention": {"partial_rotary_factor": 0.5}}}, "partial_rotary_factor is 0.5"),
    ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type is 'yarn'"),
])  # fmt: skip
def test_other_architectures_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        weight_names()["modernbert"].read({**SIZES, **change}, ["head.dense.weight"])


@pytest.mark.parametrize(("recipe", "millions"), [("modernbert-base", 149), ("modernbert-large", 395)])
def test_recipes_have_the_published_sizes(recipe: str, millions: int) -> None:
    """And as many weights as transformers' own model of these sizes."""
    options = load_recipe(recipe)
    config = options.model.config(50368, options.objective.position_sizes())
    values = {**weight_names()["modernbert"].write(config), "pad_token_id": 0}
    with torch.device("meta"):
        reference = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**values))
    count = count_parameters(config)
    assert count == sum(weight.numel() for weight in reference.parameters())
    assert round(count / 1e6) in (millions, millions + 1)


def test_validation_masks_half_as_much() -> None:
    objective = load_recipe("modernbert-nano").objective
    assert (objective.mask_ratio, objective.for_validation().mask_ratio) == (0.3, 0.15)


def test_no_other_file_knows_the_family() -> None:
    """What a family touches: its file, the registry, its recipes."""
    source = Path(__file__).resolve().parents[2] / "src" / "blankfill"
    files = [path for path in source.rglob("*") if path.suffix in (".py", ".yaml", ".html", ".js")]
    known = {path.relative_to(source).as_posix() for path in files if "modernbert" in path.read_text("utf-8")}
    assert known == {
        "families/modernbert.py", "families/registry.py",
        *(f"config/recipes/modernbert-{size}.yaml" for size in ("nano", "base", "large")),
    }  # fmt: skip


def test_a_new_model_is_written_for_transformers(tmp_path: Path) -> None:
    names = weight_names()["modernbert"]
    config = ModelOptions(
        family="modernbert", hidden_size=32, num_layers=4, num_heads=4, ffn_size=48, dropout=0.0, attention_dropout=0.0
    ).config(97, (64,))
    model = build(config, seed=1).eval()
    values = {**names.write(config), "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    from safetensors.torch import save_file

    save_file(names.table(config).to_theirs(model.state_dict()), tmp_path / "model.safetensors", {"format": "pt"})
    reference = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    batch = example_batch(40, 1, 97, causal=False, seed=3)
    real = batch.segment >= 0
    out = reference(batch.input_ids, attention_mask=real.long())
    torch.testing.assert_close(logits(model, batch)[real], out.logits[real], atol=1e-5, rtol=1e-5)
