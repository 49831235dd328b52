"""`blankfill quantize`: what the new folder holds, and that every command opens it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.convert.check import our_scores
from blankfill.errors import UserError
from blankfill.exporting.model import export_model, export_onnx
from blankfill.finetuning.importing import import_model
from blankfill.kernels.integers import WeightFormat, quantize
from blankfill.model.quantized import QuantizedDense, quantizable, quantizable_tables, quantized_matrices
from blankfill.quantizing.run import quantize_model
from blankfill.quantizing.settings import QuantizeSettings
from written_models import OBJECTIVES, write_model

PLAIN = {bits: QuantizeSettings(bits=bits, group_size=0, scheme="absmax", method="nearest") for bits in (8, 4)}
"""Rows, absmax, the nearest integers."""


@torch.inference_mode()
def scores(folder: Path, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The scores of a row."""
    loaded = load_model(folder, dtype=dtype)
    ids = loaded.tokenizer.encode("the old boat sings on the sea.")
    return our_scores(loaded, loaded.format.export_row(ids)).float()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", OBJECTIVES)
def test_the_folder_holds_integers_with_scales_and_opens(tmp_path: Path, family: str, bits: int) -> None:
    folder = write_model(tmp_path / "model", family)
    made = quantize_model(folder, tmp_path / "out", PLAIN[bits])
    loaded, plain = load_model(tmp_path / "out"), load_model(folder)
    layers = dict(quantized_matrices(loaded.model))
    tables = quantizable_tables(loaded.model)
    assert (
        made.layers + len(made.tables) == len(layers)
        and layers.keys() == quantizable(loaded.model).keys() | tables.keys()
    )
    for name, layer in layers.items():
        format = WeightFormat(8 if name in tables else bits)
        stored, scale, _ = quantize(plain.model.get_submodule(name).weight.float(), format)
        assert torch.equal(layer.weight, stored) and torch.equal(layer.weight_scale, scale)
    others = {
        name: tensor for name, tensor in plain.model.state_dict().items() if name.rpartition(".")[0] not in layers
    }
    state = loaded.model.state_dict()
    assert others and all(torch.equal(state[name], tensor) for name, tensor in others.items())
    with safe_open(tmp_path / "out" / store.MODEL, "pt") as file:
        kinds = [file.get_slice(name).get_dtype() for name in file.keys()]  # noqa: SIM118 (not a dict)
    assert kinds.count("I8") == len(layers)
    report = json.loads((tmp_path / "out" / "quantization.json").read_text(encoding="utf-8"))
    assert report["layers"] == {name: 8 if name in tables else bits for name in layers} and len(
        report["errors"]
    ) == len(layers)
    assert {8: 0.002, 4: 0.04}[bits] < made.error < {8: 0.01, 4: 0.2}[bits]
    if plain.model.config.lm_head and not plain.model.config.generator_size:
        difference = (scores(tmp_path / "out") - (expected := scores(folder))).abs().max()
        assert 0 < difference < {8: 0.25, 4: 1.5}[bits] * expected.abs().max()


def test_the_command_and_what_it_prints(tmp_path: Path, capsys: Any) -> None:
    folder = write_model(tmp_path / "model", "bert")
    gate = ["--force", "--gate-seconds", "0.1"]
    assert main(["quantize", "--model", str(folder), "--bits", "4", "--out", str(tmp_path / "out"), *gate]) == 0
    printed = capsys.readouterr().out
    assert "8 layers of 4 bits, tables of tokens of 8 bits (hqq)" in printed and "error of the weights" in printed
    assert main(["fill", "--model", str(tmp_path / "out"), "the old [MASK] sings."]) == 0
    (tmp_path / "texts.txt").write_text("the boat\nthe sea\n", encoding="utf-8")
    embed = ["embed", "--model", str(tmp_path / "out"), "--out", str(tmp_path / "v.npy"), str(tmp_path / "texts.txt")]
    assert main(embed) == 0


def test_a_writer_writes_in_every_type(tmp_path: Path, capsys: Any) -> None:
    quantize_model(write_model(tmp_path / "model", "gpt2"), tmp_path / "out", PLAIN[8])
    written = []
    for kind in ("fp32", "bf16", "fp16"):
        loaded = load_model(tmp_path / "out", dtype={"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[kind])
        assert all(layer.weight_scale.dtype == torch.float16 for layer in quantizable(loaded.model).values())
        written.append(scores(tmp_path / "out", loaded.model.dtype))
    for other in written[1:]:
        assert (other - written[0]).abs().max() < 0.05 * written[0].abs().max()
    assert main(["generate", "--model", str(tmp_path / "out"), "--prompt", "the old", "--max-new-tokens", "3"]) == 0


def test_rounding_as_released_differs_from_the_nearest(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    exact, released = (
        quantize_model(folder, tmp_path / kind, QuantizeSettings(bits=8, rounding=kind))
        for kind in ("exact", "released")
    )
    assert exact.error < released.error < 1.2 * exact.error
    state = load_model(tmp_path / "released").model.state_dict()
    weight = load_model(folder).model.layers[0].ffn.inner.weight
    assert torch.equal(state["layers.0.ffn.inner.weight"], quantize(weight.half(), WeightFormat(8))[0])


def test_what_cannot_be_quantised_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    quantize_model(folder, tmp_path / "int8", PLAIN[8])
    out = tmp_path / "out"
    with pytest.raises(UserError, match="is quantised already; give the model that it was made from"):
        quantize_model(tmp_path / "int8", out, PLAIN[4])
    with pytest.raises(UserError, match="is there already and not empty"):
        quantize_model(folder, tmp_path / "int8", PLAIN[4])
    with pytest.raises(UserError, match="no such file or folder"):
        quantize_model(tmp_path / "nowhere", out, PLAIN[4])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no model of blankfill in this folder"):
        quantize_model(tmp_path / "empty", out, PLAIN[4])
    diverged = write_model(tmp_path / "diverged", "bert", init_std=0.0)
    state = load_model(diverged).model.state_dict()
    state["layers.0.ffn.inner.weight"] = torch.full_like(state["layers.0.ffn.inner.weight"], float("nan"))
    config = store.read_state(diverged)[0]
    store.write_files(diverged, 3, state, {}, {k: config[k] for k in ("model", "objective")})
    with pytest.raises(UserError, match="not finite, or that are too large"):
        quantize_model(diverged, out, PLAIN[8])
    file = tmp_path / "model" / store.MODEL
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged"):
        quantize_model(folder, out, PLAIN[8])
    assert not out.exists()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["bert", "gpt2", "glm", "electra", "albert"])
def test_an_export_has_the_dequantised_weights(tmp_path: Path, family: str, bits: int, capsys: Any) -> None:
    quantize_model(write_model(tmp_path / "model", family), tmp_path / "small", QuantizeSettings(bits=bits))
    made = export_model(tmp_path / "small", tmp_path / "out")
    assert "the weights are written dequantised, as float32" in capsys.readouterr().err
    assert made.difference is None or made.difference < 1e-4
    import_model(tmp_path / "out", tmp_path / "back")
    plain, small = load_model(tmp_path / "back").model, load_model(tmp_path / "small").model
    state, whole = plain.state_dict(), load_model(tmp_path / "model").model.state_dict()
    assert state.keys() == whole.keys() or family == "electra"  # whose discriminator is written
    stored = {
        name if name == "lm_head.table" else f"{name}.weight": matrix for name, matrix in quantized_matrices(small)
    }
    compared = [name for name in stored if name in state]
    assert all(torch.equal(state[name], stored[name].float_weight()) for name in compared)
    assert len(compared) == len(stored) or (family == "electra" and len(compared) >= 9)


def test_onnx_has_the_dequantised_weights(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    quantize_model(write_model(tmp_path / "model", "bert"), tmp_path / "small", QuantizeSettings(bits=4))
    assert export_onnx(tmp_path / "small", tmp_path / "out").difference < 1e-4
    assert "the weights are written dequantised" in capsys.readouterr().err


def test_what_needs_the_weights_says_so(tmp_path: Path, capsys: Any) -> None:
    quantize_model(write_model(tmp_path / "model", "bert"), tmp_path / "int8", PLAIN[8])
    (tmp_path / "text.txt").write_text("the old boat sings.\n" * 50, encoding="utf-8")
    arguments = [
        "pretrain",
        str(tmp_path / "text.txt"),
        "--from",
        str(tmp_path / "int8"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(arguments) == 2
    assert "cannot learn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"layers": {"layers.9.ffn.inner": 8}}, "the model has no layer layers.9.ffn.inner"),
        ({"layers": {}}, "must name layers"),
        ({"layers": {"layers.0.ffn.inner": 5}}, "has a format that is not known to this version"),
        (
            {"layers": {"layers.0.ffn.inner": {"bits": 8, "planes": 2}}},
            "has a format that is not known to this version",
        ),
        ({"layers": {"layers.0.ffn.inner": 8}}, "do not match the model"),
    ],
)
def test_a_note_that_does_not_fit_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    quantize_model(write_model(tmp_path / "model", "bert"), tmp_path / "int8", PLAIN[8])
    file = tmp_path / "int8" / store.STATE
    state = json.loads(file.read_text(encoding="utf-8"))
    state["quantization"].update(changed)
    del state[store.OWN_SUM]
    file.write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_model(tmp_path / "int8")


def test_an_odd_layer_keeps_its_type(tmp_path: Path) -> None:
    """An odd number of inputs keeps its layer whole with 4 bits."""
    folder = write_model(tmp_path / "model", "bert", ffn_size=33)
    made = quantize_model(folder, tmp_path / "out", PLAIN[4])
    assert made.skipped == ("layers.0.ffn.output", "layers.1.ffn.output")
    loaded = load_model(tmp_path / "out")
    assert not isinstance(loaded.model.layers[0].ffn.output, QuantizedDense)
