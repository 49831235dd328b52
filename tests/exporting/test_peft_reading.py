"""Adapters that peft wrote are read, and peft reads ours: both compute the same."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.adapt.loading import load_adapter
from blankfill.checkpoint.load import load_model
from blankfill.convert.check import difference_of, open_in_transformers
from blankfill.errors import UserError
from blankfill.exporting.adapter import open_adapter
from blankfill.exporting.model import export_model
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.run import finetune
from blankfill.inference import load
from blankfill.tasks.options import FinetuneOptions
from head_models import family_folder
from small_tasks import write_lines

peft: Any = pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("transformers")
TEXTS = ["the cat sat on the mat .", "red big dog"]
MODULES = {
    "bert": ["query", "value", "intermediate.dense"], "roberta": ["query", "key", "attention.output.dense"],
    "gpt2": ["c_attn", "c_proj"], "t5": ["q", "v", "wo"], "bart": ["q_proj", "k_proj", "fc1"],
    "modernbert": ["Wqkv", "Wi"], "albert": ["query", "ffn"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def exported(folders: Path, family: str) -> Path:
    """A model of a family as a folder for transformers."""
    out = folders / f"{family}-hf"
    if not out.exists():
        export_model(family_folder(folders / family, family), out)
    return out


def adapted(folder: Path, out: Path, config: Any, auto_class: str) -> Any:
    """A model of peft with random matrices, saved."""
    torch.manual_seed(0)
    model = peft.get_peft_model(open_in_transformers(folder, auto_class), config).eval()
    model.save_pretrained(out)
    return model


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", MODULES)
def test_lora_of_peft_computes_the_same_here(family: str, rslora: bool, folders: Path, tmp_path: Path) -> None:
    folder = exported(folders, family)
    loaded = load_model(folder)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=MODULES[family], init_lora_weights=False, use_rslora=rslora,
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    theirs = adapted(folder, tmp_path / "adapter", config, loaded.objective.hf_auto_class)
    assert difference_of(loaded, theirs, folder, TEXTS) > 1e-3
    assert difference_of(load_adapter(loaded, tmp_path / "adapter"), theirs, folder, TEXTS) < 1e-4


def test_a_prefix_of_peft_computes_the_same_here(folders: Path, tmp_path: Path) -> None:
    """It counts in GPT-2's positions, of which fewer are left."""
    folder = exported(folders, "gpt2")
    loaded = load_model(folder)
    before = loaded.model.config.position_sizes[0]
    for projection in (False, True):
        config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, prefix_projection=projection)
        theirs = adapted(folder, tmp_path / f"adapter{projection}", config, loaded.objective.hf_auto_class)
        ours = load_adapter(load_model(folder), tmp_path / f"adapter{projection}")
        assert difference_of(loaded, theirs, folder, TEXTS) > 1e-3
        assert difference_of(ours, theirs, folder, TEXTS) < 1e-4
        assert ours.format.max_columns == before - 4
    long = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=before)
    adapted(folder, tmp_path / "long", long, loaded.objective.hf_auto_class)
    with pytest.raises(UserError, match=f"takes all {before} positions of the model"):
        load_adapter(load_model(folder), tmp_path / "long")


def test_kinds_of_lora_that_are_not_read(folders: Path, tmp_path: Path) -> None:
    folder = exported(folders, "bert")
    plain = tmp_path / "plain"
    adapted(
        folder, plain, peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False), "AutoModelForMaskedLM"
    )
    values = json.loads((plain / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(plain / "adapter_model.safetensors")

    def refused(changed: dict[str, Any], weights: dict[str, torch.Tensor] | None = None, base: Path = folder) -> str:
        made = Path(shutil.copytree(plain, tmp_path / "changed", dirs_exist_ok=True))
        (made / "adapter_config.json").write_text(json.dumps(values | changed), encoding="utf-8")
        save_file(tensors if weights is None else weights, made / "adapter_model.safetensors")
        with pytest.raises(UserError) as error:
            load_adapter(load_model(base), made)
        return str(error.value)

    assert "`use_dora` is not known here; only plain LoRA is read" in refused({"use_dora": True})
    assert "`bias` is 'all'; only LoRA without trained biases" in refused({"bias": "all"})
    assert "`r` is 0; it must be at least 1" in refused({"r": 0})
    name = next(name for name in tensors if "lora_A" in name)
    assert "and no matrix that belongs to it" in refused({}, {name: tensors[name]})
    assert "has no matrices of LoRA" in refused({}, {"x": torch.zeros(1)})
    wider = {key: torch.zeros(2, 9) if key == name else tensor for key, tensor in tensors.items()}
    assert "is an adapter of another model: its matrices for" in refused({}, wider)
    moved = {key.replace("layer.0.", "layer.7."): tensor for key, tensor in tensors.items()}
    assert "is an adapter of another model: it has matrices for" in refused({}, moved)
    assert "which this model does not have" in refused({}, base=exported(folders, "gpt2"))


def tuned(folder: Path, tmp_path: Path, **options: Any) -> Path:
    rows = [{"source": f"the {word} sat", "target": f"{word} sat"} for word in ("cat", "dog", "mat", "big")] * 4
    for name in ("train", "dev"):
        write_lines(tmp_path / "data" / f"{name}.jsonl", rows)
    given = FinetuneOptions(
        batch_size=8, epochs=2, threads=1, precision="fp32", device="cpu", max_length=24, max_target_length=6,
        allow_unknown=True, **options,
    )  # fmt: skip
    finetune(FinetuneConfig("seq2seq", tmp_path / "data", folder, given), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_peft_opens_the_adapter_of_a_run(family: str, folders: Path, tmp_path: Path) -> None:
    folder = exported(folders, family)
    run = tuned(folder, tmp_path, lora_rank=2, lr=5e-2)
    opened = importlib.import_module("peft").PeftModel.from_pretrained(
        open_in_transformers(folder, load_model(folder).objective.hf_auto_class), run / "adapter"
    )
    ours = load(folder, adapter=run, head=False).loaded
    assert difference_of(load_model(folder), opened.eval(), folder, TEXTS) > 1e-3
    assert difference_of(ours, opened.eval(), folder, TEXTS) < 1e-4


@pytest.mark.parametrize("projection", [False, True])
def test_peft_opens_an_exported_prefix(projection: bool, folders: Path, tmp_path: Path) -> None:
    folder = exported(folders, "gpt2")
    run = tuned(folder, tmp_path, prefix_length=5, prefix_projection=projection)
    made = export_model(run, tmp_path / "out", lora="adapter")
    assert made.difference is not None and made.difference < 1e-4
    assert "| prefix | 5 columns in every layer" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    opened = open_adapter(tmp_path / "out", load_model(folder).objective.hf_auto_class)
    ours = load(folder, adapter=run, head=False).loaded
    assert difference_of(ours, opened, tmp_path / "out" / "base", TEXTS) < 1e-4
    assert difference_of(load_model(folder), opened, tmp_path / "out" / "base", TEXTS) > 1e-3


def test_what_peft_has_no_prefix_for(folders: Path, tmp_path: Path) -> None:
    run = tuned(exported(folders, "t5"), tmp_path, prefix_length=3)
    with pytest.raises(UserError, match=r"peft gives no prefix to transformers' t5; the folder .* holds the prefix"):
        export_model(run, tmp_path / "out", lora="adapter")
    assert not (tmp_path / "out").exists()
