"""The settings of a quantisation: formats, target sizes, calibration text, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blankfill.checkpoint import store
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.errors import ConfigError, UserError
from blankfill.kernels.integers import WeightFormat
from blankfill.model.quantized import quantized_formats
from blankfill.quantizing import calibration
from blankfill.quantizing import run as quantizing
from blankfill.quantizing.plan import Matrices
from blankfill.quantizing.run import calibration_memory, quantize_model
from blankfill.quantizing.sensitivity import Option, assigned
from blankfill.quantizing.settings import QuantizeSettings, fitting_group, resolved, size_of
from written_models import boats, write_model

TEXT = "the old boat sings on the sea. the red lamp sleeps near the boat, the sea sleeps.\n\n" * 20


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "text.txt"


def report_of(folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((folder / "quantization.json").read_text(encoding="utf-8"))
    return made


@pytest.mark.parametrize(
    ("text", "size"),
    [("60MB", 60_000_000), ("1.5G", 1_500_000_000), ("10kb", 10_000), ("1MiB", 1 << 20), ("500B", 500),
     ("0.4", 400), ("40%", 400), (" 40 % ", 400), ("1", 1000)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert size_of(text, 1000) == size


@pytest.mark.parametrize("text", ["", "small", "60TB", "2", "0", "0MB", "-1MB", "140%", "MB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        size_of(text, 1000)


def test_a_group_that_does_not_divide_the_inputs_becomes_smaller() -> None:
    sizes = [fitting_group(inputs, wanted) for inputs, wanted in ((256, 128), (192, 128), (96, 64), (40, 32), (64, 64))]
    assert sizes == [128, 64, 32, 0, 0]


def test_the_usual_settings() -> None:
    usual = QuantizeSettings()
    assert resolved(usual, 8).note() == {"group_size": 0, "scheme": "absmax", "method": "nearest"}
    assert resolved(usual, 4).method != "nearest" and resolved(usual, 4).group_size == 64
    assert resolved(usual, 4, keeps_format=True).note() == {"group_size": 0, "scheme": "absmax", "method": "nearest"}
    grouped = QuantizeSettings(group_size=64)
    assert resolved(grouped, 4, keeps_format=True).group_size == 64
    assert [resolved(usual, bits, has_text=True).method for bits in (8, 4)] == ["nearest", "gptq"]
    assert resolved(usual, 4, keeps_format=True, has_text=True).method == "nearest"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rounding": "released", "group_size": 32}, "group_size=32 does not go with rounding=released"),
        ({"rounding": "released", "method": "gptq"}, "method=gptq does not go with rounding=released"),
        ({"rounding": "released", "target_size": "0.5"}, "target_size does not go with rounding=released"),
        ({"target_size": "tiny"}, "target_size=tiny is no size"),
        ({"calibration": (Path("a"),)}, "calibration goes with method=gptq or target_size"),
        ({"calibration": (Path("a"),), "bits": 4, "method": "hqq"}, "the other methods read no text"),
        ({"calibration_rows": 0, "method": "gptq"}, "calibration_rows"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        quantize_model(write_model(tmp_path / "model", "bert"), tmp_path / "out", QuantizeSettings(**settings))
    assert not (tmp_path / "out").exists()


def test_groups_fall_back_and_the_command_says_so(tmp_path: Path, capsys: Any) -> None:
    folder = write_model(tmp_path / "model", "bert", ffn_size=64)
    gate = ["--force", "--gate-seconds", "0.1"]
    arguments = ["quantize", "--model", str(folder), "--bits", "4", "--group-size", "32", *gate, "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "6 layers have a number of inputs that the group size does not divide" in said.err
    assert "8 layers of 4 bits, tables of tokens of 8 bits (hqq)" in said.out
    formats = quantized_formats(load_model(tmp_path / "out").model)
    assert formats["layers.0.ffn.output"] == WeightFormat(4, 32, "zero-point")
    assert formats["layers.0.ffn.inner"] == WeightFormat(4, 0, "zero-point")


@pytest.mark.parametrize("family", ["gpt2", "electra"])
def test_gptq_writes_a_model_that_opens(tmp_path: Path, text: Path, family: str) -> None:
    settings = QuantizeSettings(bits=4, method="gptq", calibration=(text,), calibration_rows=6)
    made = quantize_model(write_model(tmp_path / "model", family), tmp_path / "out", settings)
    report = report_of(tmp_path / "out")
    assert made.method == report["method"] == "gptq"
    calibration = report["calibration"]
    assert calibration["files"] == [str(text.resolve())] and calibration["rows"] == 6 and calibration["seed"] == 0
    assert "boat" not in json.dumps(report)
    assert {entry["method"] for entry in report["errors"] if entry["name"] not in made.tables} == {"gptq"}
    assert quantized_formats(load_model(tmp_path / "out").model)


@pytest.mark.parametrize("family", ["bert", "gpt2", "glm"])
def test_the_target_size_is_kept_with_bits_by_layer(tmp_path: Path, text: Path, family: str) -> None:
    folder = write_model(tmp_path / "model", family, ffn_size=256, hidden_size=64)
    before = (folder / store.MODEL).stat().st_size
    settings = QuantizeSettings(target_size="0.24", calibration=(text,), calibration_rows=6)
    made = quantize_model(folder, tmp_path / "out", settings)
    assert made.before == before and made.after <= 0.24 * before
    assert made.after > 0.2 * before  # room that is left is used
    assert len(made.by_bits) + bool(made.skipped) > 1
    errors = [entry for entry in report_of(tmp_path / "out")["errors"] if entry["name"] not in made.tables]
    assert all(entry["sensitivity"] >= 0 for entry in errors) and any(entry["sensitivity"] > 0 for entry in errors)
    load_model(tmp_path / "out")


def test_a_target_size_that_cannot_be_reached_names_the_smallest(tmp_path: Path, text: Path) -> None:
    folder = write_model(tmp_path / "model", "bert")
    settings = QuantizeSettings(target_size="1kB", calibration=(text,))
    with pytest.raises(
        UserError, match=r"the smallest that these settings make of the model is .* give at least (\d+)kB"
    ) as caught:
        quantize_model(folder, tmp_path / "out", settings)
    least = str(caught.value).split("give at least ")[1].split(",")[0]
    made = quantize_model(folder, tmp_path / "out", QuantizeSettings(target_size=least, calibration=(text,)))
    assert made.after <= size_of(least, 1)
    with pytest.raises(UserError, match="in which the layers fit as they are"):
        quantize_model(folder, tmp_path / "other", QuantizeSettings(target_size="1GB", calibration=(text,)))


def test_options_are_chosen_by_gain_per_byte() -> None:
    options = {
        "a": [Option(4, 10, 1.0), Option(8, 20, 0.1), Option(0, 80, 0.0)],
        "b": [Option(4, 10, 5.0), Option(8, 20, 0.5), Option(0, 80, 0.0)],
        "c": [Option(4, 100, 6.0), Option(8, 200, 0.6), Option(0, 800, 0.0)],
    }
    assert assigned(options, 119) is None
    for room, bits in ((120, [4, 4, 4]), (130, [4, 8, 4]), (140, [8, 8, 4]), (240, [8, 8, 8]), (10_000, [0, 0, 0])):
        chosen = assigned(options, room)
        assert chosen is not None and [chosen[name].bits for name in "abc"] == bits
        assert sum(option.size for option in chosen.values()) <= room


def test_calibration_needs_text(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "gpt2")
    with pytest.raises(UserError, match="has no text of a run beside it for calibration"):
        quantize_model(folder, tmp_path / "out", QuantizeSettings(bits=4, method="gptq"))
    with pytest.raises(UserError, match="no such file or folder"):
        quantize_model(folder, tmp_path / "out", QuantizeSettings(method="gptq", calibration=(tmp_path / "no.txt",)))
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    with pytest.raises(UserError, match="has any text left"):
        quantize_model(folder, tmp_path / "out", QuantizeSettings(method="gptq", calibration=(tmp_path / "empty.txt",)))
    run_of(tmp_path)
    (tmp_path / "run" / "corpus_path.txt").write_text("../gone\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"the text of the run in .* is gone"):
        quantize_model(tmp_path / "run", tmp_path / "out", QuantizeSettings(method="gptq"))
    assert not (tmp_path / "out").exists()


def run_of(tmp_path: Path) -> Path:
    """A run of a tiny model, without its text."""
    step = write_model(tmp_path / "run" / "checkpoints" / "step-3", "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (step / name).exists():
            (step / name).rename(tmp_path / "run" / name)
    return tmp_path / "run"


def test_a_run_is_calibrated_on_its_own_text(tmp_path: Path, text: Path) -> None:
    run = run_of(tmp_path)
    prepare([str(text)], run / "corpus", PrepareConfig(tokenizer=str(run), validation=0.0, dedup="none"))
    made = quantize_model(tmp_path / "run", tmp_path / "out", QuantizeSettings(bits=4))
    assert made.method == "gptq"
    assert quantize_model(tmp_path / "run", tmp_path / "plain", QuantizeSettings(bits=8)).method == "nearest"
    assert report_of(tmp_path / "out")["calibration"]["files"] == [str((tmp_path / "run" / "corpus").resolve())]


def test_a_fine_tuned_model_is_calibrated_on_its_task(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boats(tmp_path / "rows", 16)
    model, tuned = write_model(tmp_path / "model", "bert"), tmp_path / "tuned"
    finetune = ["finetune", "--task", "classify", "--data", str(tmp_path / "rows"), "--epochs", "1"]
    finetune += ["--batch-size", "8", "--max-length", "16", "-q", "--from", str(model), "--out", str(tuned)]
    assert main(finetune) == 0
    made = quantize_model(tuned, tmp_path / "gptq", QuantizeSettings(bits=4, method="gptq", calibration_rows=10))
    assert made.layers == 8 and made.method == "gptq"
    noted = report_of(tmp_path / "gptq")["calibration"]
    assert noted["rows"] == 10 and noted["files"] == [str((tmp_path / "rows").resolve())]
    two = QuantizeSettings(method="gptq", calibration=(text, text))
    with pytest.raises(UserError, match="is one file or folder of its task, and 2 are given"):
        quantize_model(tuned, tmp_path / "other", two)
    (tmp_path / "rows").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is gone, and calibration reads items of the task"):
        quantize_model(tuned, tmp_path / "other", QuantizeSettings(method="gptq"))
    given = QuantizeSettings(target_size="0.6", method="gptq", calibration=(tmp_path / "elsewhere",))
    sized = quantize_model(tuned, tmp_path / "given", given)
    assert sized.method == "gptq" and sized.after <= 0.6 * sized.before
    monkeypatch.setattr(calibration, "TOKENS", 1)
    assert calibration.open_subject(tuned, True, given).note["rows"] == 8, "one batch is enough"


def test_calibration_that_does_not_fit_into_memory(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The usual method of 4 bits gives way; a requested one is refused, and leaves nothing behind."""
    source = run_of(tmp_path)
    prepare([str(text)], source / "corpus", PrepareConfig(tokenizer=str(source), validation=0.0, dedup="none"))
    monkeypatch.setattr(quantizing, "usable_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"takes about .* of memory, and 1 kB is free; method=hqq reads no text"):
        quantize_model(source, tmp_path / "out", QuantizeSettings(bits=4, method="gptq"))
    with pytest.raises(UserError, match="calibration takes about"):
        quantize_model(source, tmp_path / "out", QuantizeSettings(target_size="50%"))
    assert not (tmp_path / "out").exists()
    assert quantize_model(source, tmp_path / "out", QuantizeSettings(bits=4)).method == "hqq"
    assert "chosen by method=hqq instead" in capsys.readouterr().err


def test_the_memory_of_calibration_counts_the_widest_layer(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", "gpt2")
    matrices = Matrices.of(store.read_state(source)[0], source)
    weights = {name: tensor.half() for name, tensor in store.open_stream(source).plan.items()}
    count = sum(tensor.numel() for tensor in weights.values())
    widest = max(inputs for _, inputs in matrices.layers.values())
    made = calibration_memory(weights, matrices, fine_tuned=False)
    assert made >= 4 * count + 6 * 4 * widest**2, "fp16 is widened to fp32"
    bf16 = {name: tensor.bfloat16() for name, tensor in weights.items()}
    assert made - calibration_memory(bf16, matrices, fine_tuned=False) == 2 * count
