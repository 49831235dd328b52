"""`blankfill quantize --activations`: models whose layers round their input to 8 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.config.recipe import load_recipe
from blankfill.embedding.embed import Embedder
from blankfill.errors import ConfigError, UserError
from blankfill.kernels.integers import WeightFormat, quantize
from blankfill.model.dynamic import DynamicDense
from blankfill.model.quantized import QuantizedDense, make_quantized, prepare, quantizable
from blankfill.model.transformer import build
from blankfill.quantizing.plan import Matrices, plan_of
from blankfill.quantizing.run import quantize_model, usual_activations
from blankfill.quantizing.settings import QuantizeSettings
from blankfill.types import Batch
from written_models import write_model

TEXTS = ["the old boat sings on the sea.", "a boat", "the sea is old and the boat is on the sea"]


def vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """The vectors of some texts."""
    return Embedder(load_model(folder)).vectors(texts).array


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "electra", "albert", "glm"])
def test_vectors_of_each_family_stay_close(tmp_path: Path, family: str) -> None:
    folder = write_model(tmp_path / "model", family)
    quantize_model(folder, tmp_path / "out", QuantizeSettings(bits=8, activations="int8"))
    loaded = load_model(tmp_path / "out")
    assert all(isinstance(layer, DynamicDense) for layer in quantizable(loaded.model).values())
    plain, made = vectors(folder, TEXTS), vectors(tmp_path / "out", TEXTS)
    assert ((plain * made).sum(1) > 0.99).all() and not np.array_equal(plain, made)
    assert np.allclose(vectors(tmp_path / "out", TEXTS[:1]), made[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "kind"), [("bert", DynamicDense), ("gpt2", QuantizedDense), ("glm", QuantizedDense)]
)
def test_the_usual_activations(tmp_path: Path, family: str, kind: type) -> None:
    folder = write_model(tmp_path / "model", family)
    quantize_model(folder, tmp_path / "out")
    layers = quantizable(load_model(tmp_path / "out").model).values()
    assert {type(layer) for layer in layers} == {kind}
    report = json.loads((tmp_path / "out" / "quantization.json").read_text(encoding="utf-8"))
    assert report.get("activations", "keep") == ("int8" if kind is DynamicDense else "keep")


@pytest.mark.parametrize(("task", "kind"), [("sst2", "int8"), ("conll", "int8"), ("seq2seq", "keep"), (None, "keep")])
def test_the_task_of_a_fine_tuned_model_decides(tmp_path: Path, task: str | None, kind: str) -> None:
    """A GLM writes, and reads batches when its task is one of classes or tags."""
    folder = write_model(tmp_path / "model", "glm")
    state = store.read_state(folder)[0]
    plan = plan_of(Matrices.of(state, folder), QuantizeSettings(bits=8), 8, False)
    noted = state if task is None else state | {"task": {"name": task}}
    assert usual_activations(noted, folder, QuantizeSettings(bits=8), plan) == kind


AT_ANY_LOSS = ("--force", "--gate-seconds", "0.1")


def test_commands_open_such_a_model(tmp_path: Path, capsys: Any) -> None:
    folder, out = write_model(tmp_path / "model", "bert"), tmp_path / "out"
    assert main(["quantize", "--model", str(folder), "--activations", "int8", "--out", str(out), *AT_ANY_LOSS]) == 0
    assert main(["fill", "--model", str(out), "the old [MASK] sings."]) == 0
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS), encoding="utf-8")
    assert main(["embed", "--model", str(out), str(file), "--allow-unknown"]) == 0
    assert '"vector"' in capsys.readouterr().out


def test_kept_activations_give_the_plain_layers(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    quantize_model(folder, tmp_path / "out", QuantizeSettings(activations="keep"))
    assert not any(isinstance(layer, DynamicDense) for layer in load_model(tmp_path / "out").model.modules())


@pytest.mark.parametrize("more", [{"bits": 4}, {"group_size": 32}])
def test_settings_that_do_not_go_together(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="activations"):
        QuantizeSettings(activations="int8", **more).check()


def test_an_unknown_kind_of_activations_is_refused(tmp_path: Path) -> None:
    from blankfill.checkpoint.quantization import quantization_of

    noted = {"quantization": {"layers": {"layers.0.ffn.inner": 8}, "activations": "int3"}}
    with pytest.raises(UserError, match="int3"):
        quantization_of(noted, tmp_path / store.STATE)


def test_bf16_computes_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    quantize_model(folder, tmp_path / "out")
    made = Embedder(load_model(tmp_path / "out", dtype=torch.bfloat16)).vectors(TEXTS).array
    assert ((made * vectors(folder, TEXTS)).sum(1) > 0.98).all()


@torch.no_grad()
def test_the_encoder_of_two_stacks() -> None:
    changes = {"model.hidden_size": 16, "model.num_layers": 2, "model.num_heads": 2, "model.vocab_multiple": 1}
    model = build(load_recipe("t5-small", changes).model_config(200), seed=3).eval()
    segment = torch.zeros(2, 10, dtype=torch.int32)
    source = Batch.of_rows(torch.arange(20).view(2, 10), torch.arange(10).expand(1, 2, 10), segment, mask="none")
    plain = model.encode_source(source).hidden
    layers = quantizable(model)
    weights = {name: quantize(layer.weight, WeightFormat(8)) for name, layer in layers.items()}
    make_quantized(model, dict.fromkeys(layers, WeightFormat(8)), DynamicDense)
    for name, quantized in weights.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, DynamicDense)
        layer.weight, layer.weight_scale = quantized.weight, quantized.scale
    prepare(model, torch.float32)
    made = model.encode_source(source).hidden
    assert torch.cosine_similarity(made.flatten(), plain.flatten(), 0) > 0.999
