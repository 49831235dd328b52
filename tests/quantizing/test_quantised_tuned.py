"""Fine-tuned models with quantised weights: quantised after training, or trained with LoRA on quantised weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blankfill.cli.main import main
from blankfill.finetuning.predictor import Predictor
from blankfill.model.quantized import quantized_formats
from written_models import boats, write_model

GATE = ["--force", "--gate-seconds", "0.1"]
TINY = ["--epochs", "1", "--batch-size", "8", "--max-length", "16", "-q"]


def test_a_tuned_model_is_quantised_and_lora_learns_on_a_quantised_one(tmp_path: Path, capsys: Any) -> None:
    boats(tmp_path / "rows", 16)
    model, dev = write_model(tmp_path / "model", "bert"), str(tmp_path / "rows" / "dev.tsv")
    finetune = ["finetune", "--task", "classify", "--data", str(tmp_path / "rows"), *TINY]
    assert main([*finetune, "--from", str(model), "--out", str(tmp_path / "tuned")]) == 0
    quantize = ["quantize", "--bits", "4", *GATE]
    assert main([*quantize, "--model", str(tmp_path / "tuned"), "--out", str(tmp_path / "tuned4")]) == 0
    assert len(quantized_formats(Predictor(tmp_path / "tuned4", "cpu", None).model)) == 10
    assert main(["predict", "--model", str(tmp_path / "tuned4"), dev, "--out", str(tmp_path / "a.jsonl")]) == 0
    assert main(["export", str(tmp_path / "tuned4"), "--out", str(tmp_path / "exported")]) == 0
    assert "the weights are written dequantised" in capsys.readouterr().err
    assert main([*quantize, "--model", str(model), "--out", str(tmp_path / "int4")]) == 0
    capsys.readouterr()
    assert main([*finetune, "--from", str(tmp_path / "int4"), "--out", str(tmp_path / "whole")]) == 2
    assert "the weights are quantised, so that they cannot learn; give --lora-rank 8" in capsys.readouterr().err
    lora = [*finetune, "--from", str(tmp_path / "int4"), "--lora-rank", "2", "--out", str(tmp_path / "lora")]
    assert main(lora) == 0
    assert main(["predict", "--model", str(tmp_path / "lora"), dev, "--out", str(tmp_path / "b.jsonl")]) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "lora"), "--out", str(tmp_path / "merged")]) == 0
    assert "the weights are written dequantised" in capsys.readouterr().err
    assert main(["quantize", "--model", str(tmp_path / "lora"), "--out", str(tmp_path / "again")]) == 2
    assert "is quantised already" in capsys.readouterr().err
