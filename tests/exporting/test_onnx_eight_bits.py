"""ONNX of 8 bits: onnxruntime runs it, it is compared with full precision, and what loses too much is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint.load import Loaded
from blankfill.convert import score_change
from blankfill.errors import UserError
from blankfill.exporting import model, onnx_int8
from blankfill.exporting.model import export_onnx
from blankfill.exporting.onnx_int8 import centred, quantize_graph
from generate_models import loaded, random_model
from head_models import fine_tuned
from small_tasks import writer

pytest.importorskip("onnxscript", reason="the packages of blankfill[export] are not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the packages of blankfill[export] are not installed")
onnx = pytest.importorskip("onnx", reason="the packages of blankfill[export] are not installed")


def given(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """A random encoder that any path leads to."""
    ready = loaded("bert", random_model("bert", sharp=3.0))
    monkeypatch.setattr(model, "load_model", lambda path, dtype: ready)
    return ready


def operators(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(folder / "model.onnx")).graph.node}


@pytest.mark.parametrize(("kind", "operator"), [("int8", "MatMulInteger"), ("int8_blocks", "MatMulNBits")])
def test_an_encoder(kind: Any, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch)
    made = export_onnx("RUN", tmp_path / "out", type=kind, force=True)
    assert operator in operators(tmp_path / "out")
    assert made.difference is not None and made.difference < 1e-4, "of the graph with f32"
    assert made.change is not None and made.change.columns > 50 and made.change.seen == 24
    assert 0 < made.change.kl_mean < 0.5 and 0.9 < made.change.cosine < 1 and made.change.perplexity > 1
    assert sorted(file.name for file in (tmp_path / "out").glob("*.onnx*")) == ["model.onnx"]
    assert "cosine of vectors" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_what_loses_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch)
    monkeypatch.setattr(score_change, "LEAST_COSINE", {8: 1.1, 4: 1.1})
    with pytest.raises(UserError, match=r"int8 loses too much: .*cosine .* is needed; choose int8_blocks or f32"):
        export_onnx("RUN", tmp_path / "out", type="int8")
    assert not any(tmp_path.iterdir())


def test_reduced_range(tmp_path: Path) -> None:
    """Weights of 7 bits lie between -64 and 64."""
    matrix = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    value = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "product", [value("x", shape=[None, 32])],
        [value("y", shape=[None, 16])], [onnx.numpy_helper.from_array(matrix, "w")],
    )  # fmt: skip
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.save(made, str(tmp_path / "full.onnx"))
    largest = []
    for reduced in (True, False):
        out = tmp_path / f"{reduced}.onnx"
        quantize_graph(tmp_path / "full.onnx", out, "int8", reduced)
        weights = [onnx.numpy_helper.to_array(entry) for entry in onnx.load(str(out)).graph.initializer]
        largest.append(max(int(abs(part.astype(int)).max()) for part in weights if part.shape == matrix.shape))
    assert largest[0] <= 64 < largest[1] <= 128


@pytest.mark.parametrize("task", ["sst2", "conll", "stsb"])
def test_heads(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They read whole texts: tokens are masked for a language model alone."""
    monkeypatch.setattr(onnx_int8, "masked", lambda batch, mask: (masks.append(mask), (batch, None))[1])
    masks: list[int | None] = []
    run = fine_tuned(tmp_path / "tuned", "bert", task)
    made = export_onnx(run, tmp_path / "out", type="int8", force=True)
    assert "MatMulInteger" in operators(tmp_path / "out") and made.change is not None
    assert made.change.seen == 1 if task == "stsb" else made.change.columns >= 8
    assert masks and set(masks) == {None}


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_writers_are_refused(family: str, tmp_path: Path) -> None:
    run = writer(tmp_path, family)
    with pytest.raises(UserError, match=r"writes texts, and ONNX of 8 bits is for encoders; leave out type"):
        export_onnx(run, tmp_path / "out", type="int8")
    assert not (tmp_path / "out").exists()


def test_numbers_rise_and_fall_together() -> None:
    """A single number has no mean to rise and fall about; its sign decides."""
    three, single = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0])
    assert torch.equal(centred(three, three + 1)[1], torch.tensor([0.0, 1.0, 2.0]))
    assert [part.tolist() for part in centred(single, single + 0.5)] == [[2.0], [2.5]]


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_int8, "has_module", lambda name: name != "onnx_ir")
    given(monkeypatch)
    with pytest.raises(UserError, match=r"ONNX of 8 bits needs onnx_ir; install .*blankfill\[export\]"):
        export_onnx("RUN", tmp_path / "out", type="int8")
