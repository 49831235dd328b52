"""LoRA for peft: the adapter and its base compute what the run does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.exporting.model import export_model
from head_models import family_folder, fine_tuned
from small_tasks import sentences, write_lines, writer, writing_model

LORA = {"lora_rank": 2, "lr": 0.05}
pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("family", "task", "modules"),
    [
        ("bert", "sst2", ["classifier"]), ("roberta", "sst2", ["classifier"]), ("bert", "conll", ["classifier"]),
        ("distilbert", "stsb", ["classifier", "pre_classifier"]), ("bert", "squad2", ["qa_outputs"]),
        ("modernbert", "copa", ["classifier", "head"]), ("t5", "sst2", ["classification_head"]),
        ("t5", "conll", ["classifier"]), ("albert", "sst2", ["classifier"]),
    ],
)  # fmt: skip
def test_an_adapter_computes_the_same(family: str, task: str, modules: list[str], tmp_path: Path) -> None:
    run = fine_tuned(tmp_path / "tuned", family, task, LORA)
    made = export_model(run, tmp_path / f"{family}-adapter", lora="adapter")
    assert made.difference is not None and made.difference < 1e-5
    folder = tmp_path / f"{family}-adapter"
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (2, 4.0, modules)
    weights = load_file(folder / "adapter_model.safetensors")
    assert any(float(tensor.abs().max()) > 0 for name, tensor in weights.items() if "lora_B" in name)
    base = load_file(folder / "base" / "model.safetensors")
    assert not any("lora" in name or name.startswith("classifier") for name in base)
    assert "library_name: peft" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_writer_and_what_has_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        export_model(tmp_path / "absent", tmp_path / "out", lora="adapter")
    with pytest.raises(UserError, match=r"was not fine-tuned with LoRA; leave out lora"):
        export_model(writer(tmp_path / "plain", "t5"), tmp_path / "out", lora="adapter")
    with pytest.raises(UserError, match=r"was not fine-tuned with LoRA; leave out lora"):
        export_model(family_folder(tmp_path / "bert", "bert"), tmp_path / "out", lora="adapter")
    rows = [{"source": text, "target": text} for text, _ in sentences(24, 1)]
    for name in ("train", "dev"):
        write_lines(tmp_path / "data" / f"{name}.jsonl", rows)
    model = writing_model(tmp_path / "model", "t5")
    arguments = ["finetune", "--task", "seq2seq", "--data", str(tmp_path / "data"), "--from", str(model), "--out",
                 str(tmp_path / "run"), "--lora-rank", "2", "--lr", "0.05", "--epochs", "1", "--max-length", "24",
                 "--max-target-length", "6", "--threads", "1"]  # fmt: skip
    assert main(arguments) == 0
    assert main(["export", str(tmp_path / "run"), "--lora", "adapter", "--out", str(tmp_path / "out")]) == 0
    assert "transformers gives the same scores on 8 dev items of seq2seq" in capsys.readouterr().out
