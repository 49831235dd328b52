"""Adapters as folders: what a run with LoRA or a prefix computes, its base and its adapter compute; mistakes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blankfill.adapt.folder import adapter_folder, read_adapter
from blankfill.adapt.loading import load_adapter
from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.errors import ConfigError, UserError
from blankfill.exporting.model import export_model, export_onnx
from blankfill.finetuning.config import FinetuneConfig
from blankfill.finetuning.predictor import Predictor
from blankfill.finetuning.run import finetune
from blankfill.inference import load
from blankfill.quantizing.run import quantize_model
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.options import FinetuneOptions
from small_tasks import QUICK, answerable, classes, model_folder, run, stopped_after, tags, write_lines, writing_model

PREFIX: dict[str, Any] = {"prefix_length": 6}
KINDS: dict[str, dict[str, Any]] = {
    "prefix": PREFIX,
    "projection": PREFIX | {"prefix_projection": True, "lr": 3e-3},
    "lora": {"lora_rank": 4, "lr": 2e-2},
}
DATA = {"sst2": classes, "conll": tags, "squad2": answerable}


def pairs(folder: Path) -> Path:
    rows = [{"source": f"the {word} sat", "target": f"{word} sat"} for word in ("cat", "dog", "mat", "big")] * 4
    for name in ("train", "dev"):
        write_lines(folder / f"{name}.jsonl", rows)
    return folder


def written(tmp_path: Path, family: str, **options: Any) -> tuple[Path, Path]:
    """A base that writes, and a run with an adapter."""
    model, data = writing_model(tmp_path / "model", family), pairs(tmp_path / "pairs")
    given = FinetuneOptions(
        batch_size=8, epochs=2, threads=1, precision="fp32", device="cpu", max_length=24, max_target_length=6, **options
    )
    finetune(FinetuneConfig("seq2seq", data, model, given), tmp_path / "run")
    return model, tmp_path / "run"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", DATA)
def test_base_and_adapter_predict_what_the_run_does(task: str, kind: str, tmp_path: Path) -> None:
    data, model, out = DATA[task](tmp_path / "data"), model_folder(tmp_path), tmp_path / "run"
    fields: dict[str, Any] = {"epochs": 2, "lr": 2e-2, "max_query_length": 8, "stride": 8} | KINDS[kind]
    run(task, data, model, out, **fields)
    items = task_named(task).read(data, "dev").items
    expected = [prediction.record for prediction in Predictor(out, "cpu", 1).predict(items)]
    opened = load(model, "cpu", adapter=out)
    assert opened.task.name == task
    for got, record in zip(opened.predictor.predict(items), expected, strict=True):
        assert set(got.record) == set(record)
        for name, value in record.items():
            if name in ("probabilities", "score"):
                assert got.record[name] == pytest.approx(value, abs=1e-5)
            elif name in ("label", "tags", "answer"):
                assert got.record[name] == value
    again = load(model, "cpu", head=False, adapter=adapter_folder(out))
    assert again.embed(["the cat"], allow_unknown=True).shape == (1, 32)


def test_only_the_prefix_and_the_head_are_trained_and_kept(tmp_path: Path) -> None:
    """In the optimiser, in checkpoints and in the number that the run says."""
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path, sharp=2.0), tmp_path / "run"
    result = run("sst2", data, model, out, epochs=1, lr=0.0, prefix_length=8)
    trained = {"encoder.prefix_encoder.embedding.weight", "head.output.weight", "head.output.bias"}
    end = store.newest(out / "checkpoints")
    assert end is not None and end.partial
    assert trained <= set(end.model) and not [n for n in end.model if n.startswith("encoder.") and n not in trained]
    assert {name.rpartition(".")[0] for name in end.optimizer} == set(end.model)
    learning = sum(tensor.numel() for tensor in end.model.values())
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["learning"] == learning
    items = task_named("sst2").read(data, "dev").items
    decided = Predictor(out, "cpu", 1).predict(items)
    right = [actual.value == item.label for actual, item in zip(decided, items, strict=True)]  # type: ignore[union-attr]
    assert sum(right) / len(right) == pytest.approx(result.metrics["accuracy"])
    with pytest.raises(UserError, match="holds a prefix without the weights of the model below it; quantise that"):
        quantize_model(out, tmp_path / "quantised")
    rate = max(json.loads(line)["lr"] for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
               if "lr" in line)  # fmt: skip
    assert 5e-3 < rate <= 2e-2


def test_weight_decay_leaves_a_prefix_alone() -> None:
    from blankfill.adapt.prefix import add_prefix
    from blankfill.model.prefix import PrefixShape
    from blankfill.tasks.text.seq2seq_model import WritingModel
    from blankfill.tasks.training import task_optimizer
    from generate_models import random_model

    model = random_model("gpt")
    add_prefix(model, PrefixShape(3, 8))
    options = FinetuneOptions(prefix_length=3, prefix_projection=True, weight_decay=0.5)
    optimizer = task_optimizer(WritingModel(model), options, options.train_options(10))
    names = {name for group in optimizer.param_groups for name in group["param_names"]}
    assert len(names) == 5 and all(name.startswith("encoder.prefix_encoder.") for name in names)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    data, model = classes(tmp_path / "data"), model_folder(tmp_path)
    config = FinetuneConfig("sst2", data, model, dataclasses.replace(QUICK, epochs=2, eval_every=5, **KINDS[kind]))
    finetune(config, tmp_path / "whole")
    with stopped_after(11):
        finetune(config, tmp_path / "parts")
    torch.manual_seed(5)
    finetune(config, tmp_path / "parts", resume=True)
    ends = [store.newest(tmp_path / name / "checkpoints") for name in ("whole", "parts")]
    assert ends[0] is not None and ends[1] is not None and ends[0].step == ends[1].step == 24
    for name, tensor in ends[0].model.items():
        assert torch.equal(tensor, ends[1].model[name]), name
    files = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(tensor, files[1][name]) for name, tensor in files[0].items())


@pytest.mark.parametrize("family", ["glm", "gpt", "t5"])
@pytest.mark.parametrize("kind", ["prefix", "lora"])
def test_generate_and_predict_take_an_adapter(
    family: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = written(tmp_path, family, **{"lr": 5e-2} | KINDS[kind])
    rows = tmp_path / "rows.txt"
    rows.write_text("the cat sat\nthe big dog\n", encoding="utf-8")
    texts = []
    for arguments in (["--model", str(out)], ["--model", str(model), "--adapter", str(out / "adapter")]):
        assert main(["predict", str(rows), *arguments, "--threads", "1", "--device", "cpu"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(texts[0].splitlines()) == 2
    if family == "gpt":
        said = {}
        for adapter in ([], ["--adapter", str(out)]):
            assert main(["generate", "--model", str(model), "--prompt", "the cat", "--temperature", "0",
                         "--max-new-tokens", "12", "--threads", "1", *adapter]) == 0  # fmt: skip
            said[bool(adapter)] = capsys.readouterr().out
        assert said[False] != said[True] or kind == "lora"


def test_fill_and_embed_take_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path, sharp=4.0), tmp_path / "run"
    run("sst2", data, model, out, epochs=1, **PREFIX, lr=5e-2)
    lines = tmp_path / "lines.txt"
    lines.write_text("the cat sat\n", encoding="utf-8")
    for command in (["fill", "the [MASK] sat"], ["embed", str(lines)]):
        said = []
        for adapter in ([], ["--adapter", str(out)]):
            assert main([*command, "--model", str(model), "--threads", "1", *adapter]) == 0
            said.append(capsys.readouterr().out)
        assert said[0] != said[1]


def test_a_cloze_with_a_prefix(tmp_path: Path) -> None:
    """The adapter holds the patterns that it was trained with."""
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "run"
    patterns = tmp_path / "patterns.yaml"
    patterns.write_text("verbalizers: {'0': poor, '1': fine}\npatterns: ['{first} [MASK] .']\n", encoding="utf-8")
    run("sst2", data, model, out, method="cloze", patterns=str(patterns), epochs=1, **PREFIX)
    items = task_named("sst2").read(data, "dev").items
    expected = [prediction.value for prediction in Predictor(out, "cpu", 1).predict(items)]
    patterns.unlink()
    assert [prediction.value for prediction in load(model, "cpu", adapter=out).predictor.predict(items)] == expected


@pytest.mark.parametrize("kind", ["prefix", "lora"])
def test_adapters_of_a_quantised_model(kind: str, tmp_path: Path) -> None:
    """Checkpoints of a prefix hold none of its integers."""
    data, out = classes(tmp_path / "data"), tmp_path / "run"
    quantize_model(model_folder(tmp_path), tmp_path / "int4", 4)
    fields: dict[str, Any] = {"epochs": 1, "lr": 2e-2} | KINDS[kind]
    run("sst2", data, tmp_path / "int4", out, **fields)
    end = store.newest(out / "checkpoints", with_optimizer=False)
    assert end is not None and end.partial == (kind == "prefix")
    assert any(tensor.dtype == torch.int8 for tensor in end.model.values()) == (kind == "lora")
    items = task_named("sst2").read(data, "dev").items
    expected = [prediction.record["probabilities"] for prediction in Predictor(out, "cpu", 1).predict(items)]
    given = load(tmp_path / "int4", "cpu", adapter=out).predictor.predict(items)
    for prediction, probabilities in zip(given, expected, strict=True):
        assert prediction.record["probabilities"] == pytest.approx(probabilities, abs=1e-5)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base, and a short run with a prefix."""
    folder = tmp_path_factory.mktemp("tuned")
    model = model_folder(folder)
    run("sst2", classes(folder / "data"), model, folder / "run", epochs=0.5, **PREFIX)
    return model, folder / "run"


def refused(model: Path, adapter: Path, **more: Any) -> str:
    with pytest.raises(UserError) as error:
        load(model, "cpu", adapter=adapter, **more)
    return str(error.value)


def test_adapters_of_other_models(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    from blankfill.checkpoint.load import tokenizer_folder
    from blankfill.model.config import config_values
    from blankfill.model.transformer import build

    model, out = tuned
    read = store.read(model)
    config = store.model_of(read.state, model)
    others = {
        "layers": dataclasses.replace(config, num_layers=3), "width": dataclasses.replace(config, ffn_size=64),
        "weights": config,
    }  # fmt: skip
    said = {}
    for name, other in others.items():
        state = read.state | {"model": config_values(other)}
        made = store.save(tmp_path / name, 0, build(other, seed=9).state_dict(), {}, state)
        shutil.copy(tokenizer_folder(model) / "tokenizer.json", made)
        said[name] = refused(made, out)
    assert "is an adapter of another model (step-0), whose num_layers is 2; that of" in said["layers"]
    assert "whose ffn_size is 48" in said["width"]
    assert "has the same sizes and other weights; give the model that it was trained with" in said["weights"]
    half = load_model(model, dtype=torch.bfloat16)  # another number type is the same model
    assert load_adapter(half, out).model.prefix_length == 6


def test_damaged_folders(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = tuned

    def copy(name: str) -> Path:
        return Path(shutil.copytree(out / "adapter", tmp_path / name))

    whole = copy("whole")
    assert load(model, "cpu", adapter=whole).task.name == "sst2"
    cut = copy("cut")
    (cut / "adapter_model.safetensors").write_bytes((cut / "adapter_model.safetensors").read_bytes()[:-10])
    assert "adapter_model.safetensors is damaged: its checksum differs" in refused(model, cut)
    (cut / "blankfill.json").unlink()
    assert "is not a complete safetensors file; copy it again" in refused(model, cut)
    for file in ("adapter_model.safetensors", "head.safetensors"):
        gone = copy(f"without {file}")
        (gone / file).unlink()
        assert f"is not a complete adapter ({file} is missing)" in refused(model, gone)
    none = copy("none")
    (none / "adapter_config.json").unlink()
    assert "is not an adapter (adapter_config.json is missing)" in refused(model, none)
    assert "no such file or folder" in refused(model, tmp_path / "nowhere")
    kind = copy("kind")
    values = json.loads((kind / "adapter_config.json").read_text(encoding="utf-8"))
    (kind / "adapter_config.json").write_text(json.dumps(values | {"peft_type": "IA3"}), encoding="utf-8")
    assert "`peft_type` is 'IA3', which is not known here; known: LORA, PREFIX_TUNING" in refused(model, kind)
    (kind / "adapter_config.json").write_text("{", encoding="utf-8")
    assert "adapter_config.json" in refused(model, kind)
    other = copy("other")
    save_file({"x": torch.zeros(1)}, other / "adapter_model.safetensors")
    (other / "blankfill.json").unlink()
    assert "has no prompt_embeddings" in refused(model, other)
    save_file({"prompt_embeddings": torch.zeros(3, 8)}, other / "adapter_model.safetensors")
    assert "its prefix has 8 numbers for a column, and that of" in refused(model, other)
    assert "is a fine-tuned model; an adapter belongs to the pretrained model" in refused(out, whole)
    assert "a fine-tuned model computes in float32" in refused(model, whole, head=True, dtype="bf16")
    half = load(model, "cpu", "bf16", adapter=whole)  # which embeds, and does not predict
    assert half.embed(["the cat"], allow_unknown=True).shape == (1, 32)
    with pytest.raises(UserError, match="not a fine-tuned model"):
        _ = half.predictor


def test_an_adapter_without_a_task(tuned: tuple[Path, Path], tmp_path: Path) -> None:
    model, out = tuned
    plain = Path(shutil.copytree(out / "adapter", tmp_path / "plain"))
    (plain / "blankfill.json").unlink()
    assert "is an adapter without a task" in refused(model, plain, head=True)
    with pytest.raises(UserError, match="not a fine-tuned model"):
        _ = load(model, "cpu", adapter=plain).predictor


def test_the_base_of_a_run_with_a_prefix(tmp_path: Path) -> None:
    """It is needed to predict and to resume, and must be the one that the run began from."""
    data, model, out = classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "run"
    run("sst2", data, model, out, epochs=0.5, **PREFIX)
    with pytest.raises(UserError, match="this model has a prefix, which is not trained further"):
        run("sst2", data, out, tmp_path / "more", epochs=0.5)
    with pytest.raises(UserError, match="has a prefix, which is not a part of any class of transformers"):
        export_model(out, tmp_path / "exported")
    with pytest.raises(UserError, match="has a prefix and a head, which no other program has"):
        export_model(out, tmp_path / "exported", lora="adapter")
    with pytest.raises(UserError, match="has a prefix, which is not written as ONNX"):
        export_onnx(out, tmp_path / "exported")
    moved = model.parent.parent / "moved"
    model.parent.rename(moved)
    with pytest.raises(UserError, match=r"the model that it belongs to is not at .* any more; put it back, or"):
        Predictor(out, "cpu", 1)
    assert load(moved / model.name, "cpu", adapter=out).task.name == "sst2"
    model_folder(tmp_path, sharp=3.0)
    with pytest.raises(UserError, match="has the same sizes and other weights"):
        Predictor(out, "cpu", 1)
    with pytest.raises(UserError, match="has other weights"):
        finetune(
            FinetuneConfig("sst2", data, model, dataclasses.replace(QUICK, epochs=0.5, **PREFIX)), out, resume=True
        )


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    def problems(**options: Any) -> str:
        return " ".join(FinetuneOptions(**options).problems())

    assert "lora_rank=4 and" not in problems(lora_rank=4)
    assert "exclude each other; leave one of the two out" in problems(lora_rank=4, prefix_length=8)
    assert "freezes the encoder's own weights; leave out" in problems(prefix_length=8, freeze=2)
    assert "needs weights that learn" in problems(prefix_length=8, from_scratch=True)
    assert "freezes the encoder; leave out" in problems(prefix_length=8, features="last")
    assert "is for a prefix; add" in problems(prefix_projection=True)
    assert "is for a prefix; add" in problems(prefix_dropout=0.2)
    assert "prefix_length is -1" in problems(prefix_length=-1)
    assert FinetuneOptions().peak_lr == 3e-5 and FinetuneOptions(prefix_length=1).peak_lr == 2e-2
    assert FinetuneOptions(prefix_length=1, lr=1e-2).peak_lr == 1e-2
    with pytest.raises(ConfigError, match="exclude each other"):
        run("sst2", classes(tmp_path / "data"), model_folder(tmp_path), tmp_path / "run", lora_rank=2, **PREFIX)


def test_chatglms_own_checkpoints(tmp_path: Path) -> None:
    """`transformer.prefix_encoder` in pytorch_model.bin, with and without projection; never unpickled."""
    base = load_model(model_folder(tmp_path))
    names, ours = ("embedding.weight", "trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias"), {}
    for kind, shapes in (("plain", [(5, 128)]), ("projected", [(5, 32), (16, 32), (16,), (128, 16), (128,)])):
        tensors = {f"transformer.prefix_encoder.{name}": torch.randn(shape)
                   for name, shape in zip(names, shapes, strict=False)}  # fmt: skip
        (tmp_path / kind).mkdir()
        torch.save(tensors, tmp_path / kind / "pytorch_model.bin")
        model = load_adapter(load_model(base.path), tmp_path / kind).model
        assert model.prefix_encoder is not None
        parts = [tensors[f"transformer.prefix_encoder.{name}"] for name in names[: len(shapes)]]
        ours[kind] = parts[0] if len(parts) == 1 else (parts[0] @ parts[1].T + parts[2]).tanh() @ parts[3].T + parts[4]
        torch.testing.assert_close(model.prefix_encoder.table, ours[kind])
    torch.save({"transformer.prefix_encoder.embedding.weight": Path("x")}, tmp_path / "plain" / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than tensors"):
        read_adapter(tmp_path / "plain")
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "plain" / "pytorch_model.bin")
    with pytest.raises(UserError, match="is not an adapter"):
        read_adapter(tmp_path / "plain")
