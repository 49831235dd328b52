"""ONNX of tiny encoders: onnxruntime gives what torch gives, at any size, whatever stands in the padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.attention.masks import Mask
from blankfill.checkpoint.load import Loaded
from blankfill.cli.main import main
from blankfill.convert import onnx
from blankfill.errors import UserError
from blankfill.exporting import model
from blankfill.model.io import Inputs
from generate_models import loaded, random_model

pytest.importorskip("onnxscript", reason="the packages of blankfill[export] are not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the packages of blankfill[export] are not installed")


def given(monkeypatch: pytest.MonkeyPatch, name: str) -> Loaded:
    """A random model that any path leads to."""
    ready = loaded(name, random_model(name, sharp=3.0))
    monkeypatch.setattr(model, "load_model", lambda path, dtype: ready)
    return ready


@pytest.mark.parametrize(("name", "offset"), [("bert", 0), ("albert", 0), ("mlm", 2), ("unilm2", 0)])
def test_any_size_and_any_padding(
    name: str, offset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row alone in torch, without padding or mask, against rows padded in onnxruntime."""
    ready = given(monkeypatch, name)
    assert main(["export", "RUN", "--format", "onnx", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "largest difference" in printed and "last_hidden_state, logits" in printed
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for rows, width in ((1, 1), (1, 48), (5, 13)):
        lengths = [width, *rng.integers(1, width + 1, rows - 1)]
        ids = rng.integers(11, 30, (rows, width))
        mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if name != "mlm":
            inputs["token_type_ids"] = rng.integers(0, 2, (rows, width))
        hidden, logits = session.run(["last_hidden_state", "logits"], inputs)
        assert logits.shape == (rows, width, 40)
        for row, length in enumerate(lengths):
            alone = torch.from_numpy(ids[row : row + 1, :length])
            positions = [torch.arange(offset, offset + length)[None]]
            if name != "mlm":
                positions.append(torch.from_numpy(inputs["token_type_ids"][row : row + 1, :length]))
            with torch.no_grad():
                expected = ready.model(Inputs(alone, torch.stack(positions), Mask("none"))).hidden
                scores = ready.model.lm_head(expected, ready.model.output_table)
            torch.testing.assert_close(torch.from_numpy(hidden[row, :length]), expected[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(torch.from_numpy(logits[row, :length]), scores[0], atol=1e-4, rtol=1e-4)
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, "gpt")
    with pytest.raises(UserError, match="ONNX is for encoders"):
        model.export_onnx("RUN", tmp_path / "out")
    monkeypatch.setattr(onnx, "has_module", lambda name: name != "onnxscript")
    with pytest.raises(UserError, match=r"ONNX needs onnxscript; install .*blankfill\[export\]"):
        model.export_onnx("RUN", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_an_export_that_computes_something_else_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight changed behind the exporter's back: the comparison notices, and nothing is left."""
    ready, write = given(monkeypatch, "mlm"), onnx.write_onnx

    def write_and_change(*values: Any) -> None:
        write(*values)
        with torch.no_grad():
            ready.model.lm_head.bias.add_(0.5)

    monkeypatch.setattr(onnx, "write_onnx", write_and_change)
    with pytest.raises(UserError, match="onnxruntime computes other numbers"):
        model.export_onnx("RUN", tmp_path / "out")
    assert not any(tmp_path.iterdir())
