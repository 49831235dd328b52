"""Fine-tuned heads in ONNX: onnxruntime answers as `predict` does, at any size, with the names of the labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import blankfill
from blankfill.cli.main import main
from blankfill.errors import UserError
from blankfill.exporting import heads, onnx_heads
from blankfill.exporting.model import export_model, export_onnx
from head_models import fine_tuned
from small_tasks import writer

pytest.importorskip("onnxscript", reason="the packages of blankfill[export] are not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the packages of blankfill[export] are not installed")


def exported(tmp_path: Path, family: str, task: str) -> tuple[Path, Any, dict[str, str]]:
    """(the run, a session of its export, the metadata)."""
    run = fine_tuned(tmp_path / "tuned", family, task)
    made = export_onnx(run, tmp_path / "onnx")
    assert made.difference is not None and made.difference < 1e-5 and made.task == task and made.texts == 8
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    return run, session, session.get_modelmeta().custom_metadata_map


def given(session: Any, folder: Path, rows: list[Any]) -> dict[str, Any]:
    """The inputs of rows, padded."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(rows)
    named = {
        "input_ids": [row.ids for row in encoded], "attention_mask": [row.attention_mask for row in encoded],
        "token_type_ids": [row.type_ids for row in encoded],
    }  # fmt: skip
    return {entry.name: np.array(named[entry.name], np.int64) for entry in session.get_inputs()}


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "electra"])
def test_classes(family: str, tmp_path: Path) -> None:
    run, session, metadata = exported(tmp_path, family, "sst2")
    rows = ["the cat sat on the mat .", "poor", ("fine", "the big dog ran")]
    (logits,) = session.run(None, given(session, tmp_path / "onnx", rows))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = json.loads(metadata["labels"])
    assert labels == ["0", "1"] and metadata["task"] == "sst2" and metadata["kind"] == "classify"
    for row, ours in zip(shares, blankfill.load(run).predict(rows), strict=True):
        assert dict(zip(labels, row.tolist(), strict=True)) == pytest.approx(ours["probabilities"], abs=1e-5)


def test_tags(tmp_path: Path) -> None:
    run, session, metadata = exported(tmp_path, "bert", "conll")
    words = ["the", "cat", "ran", "on", "the", "fine", "mat"]  # a token each
    (logits,) = session.run(None, given(session, tmp_path / "onnx", [" ".join(words), "who"]))
    labels = json.loads(metadata["labels"])
    tags = [labels[k] for k in logits[0, 1 : 1 + len(words)].argmax(-1)]
    assert [tags] == [row["tags"] for row in blankfill.load(run).predict([words])]


def test_answers_and_choices(tmp_path: Path) -> None:
    run, session, metadata = exported(tmp_path / "a", "bert", "squad2")
    assert "labels" not in metadata and "threshold" in metadata
    context = "the dog ran paris fine"
    starts, ends = session.run(None, given(session, tmp_path / "a" / "onnx", [("who", context)]))
    (ours,) = blankfill.load(run).predict([("who", context)])
    first = 3  # behind [CLS] who [SEP]
    spans = [
        (starts[0, first + a] + ends[0, first + b], " ".join(context.split()[a : b + 1]))
        for a in range(5) for b in range(a, 5)
    ]  # fmt: skip
    assert max(spans)[1] == ours["best"][0]["text"]
    run, session, _ = exported(tmp_path / "b", "albert", "copa")
    inputs = given(session, tmp_path / "b" / "onnx", [("the cat sat", "fine"), ("the cat sat", "poor mat")])
    (logits,) = session.run(None, {name: array[None] for name, array in inputs.items()})
    assert logits.shape == (1, 2)


@pytest.mark.untraced  # torch.export finds other shapes in code with probes
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_writers_have_two_graphs(family: str, tmp_path: Path) -> None:
    """Greedy search over the two graphs writes what `predict` and transformers' `generate` write."""
    transformers = pytest.importorskip("transformers")
    run = writer(tmp_path, family)
    made = export_onnx(run, tmp_path / "onnx")
    assert made.files == ("encoder_model.onnx", "decoder_model.onnx") and made.difference is not None
    config = json.loads((tmp_path / "onnx" / "generation_config.json").read_text(encoding="utf-8"))
    encoder, decoder = (onnxruntime.InferenceSession(tmp_path / "onnx" / name) for name in made.files)
    tokenizer = Tokenizer.from_file(str(tmp_path / "onnx" / "tokenizer.json"))
    export_model(run, tmp_path / "hf")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf")
    reads = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for source in ("the cat sat", "big dog ran on the mat"):
        row = tokenizer.encode(source)
        inputs = {"input_ids": np.array([row.ids]), "attention_mask": np.array([row.attention_mask])}
        (hidden,) = encoder.run(None, inputs)
        written = [config["decoder_start_token_id"]]
        if "forced_bos_token_id" in config:
            written.append(config["forced_bos_token_id"])
        begun = len(written)
        while len(written) - begun < 6:
            decoded = {"input_ids": np.array([written]), "encoder_hidden_states": hidden,
                       "encoder_attention_mask": inputs["attention_mask"]}  # fmt: skip
            scores = decoder.run(None, decoded)[0][0, -1]
            at_first = config["begin_suppress_tokens"] if len(written) == begun else []
            scores[config["suppress_tokens"] + at_first] = -1e9
            written.append(int(scores.argmax()))
            if written[-1] == config["eos_token_id"]:
                break
        (ours,) = blankfill.load(run).predict([source])
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == ours["text"] != ""
        ids = theirs.generate(reads(source, return_tensors="pt")["input_ids"])[0]
        assert reads.decode(ids, skip_special_tokens=True).strip() == ours["text"]


def test_what_writes_otherwise_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = writer(tmp_path, "glm")
    with pytest.raises(UserError, match="objective glm writes with a cache, for which no graph is written"):
        export_onnx(run, tmp_path / "out")
    pytest.importorskip("transformers")
    unilm = writer(tmp_path / "u", "unilm")
    assert main(["export", str(unilm), "--out", str(tmp_path / "bert")]) == 0
    said = "transformers has no class that writes with a model of the objective unilm, so the folder only fills masks"
    assert said in capsys.readouterr().out
    assert said in " ".join((tmp_path / "bert" / "README.md").read_text(encoding="utf-8").split())


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fine_tuned(tmp_path / "gpt", "gpt2", "sst2")
    with pytest.raises(UserError, match="ONNX is for encoders"):
        export_onnx(run, tmp_path / "out")
    lstm = fine_tuned(tmp_path / "lstm", "bert", "conll", {"head": "bilstm", "lstm_size": 4})
    with pytest.raises(UserError, match="its head reads features of several layers or an LSTM"):
        export_onnx(lstm, tmp_path / "out")
    with pytest.raises(UserError, match="a fine-tuned model has no generator"):
        export_onnx(lstm, tmp_path / "out", part="generator")
    tuned = fine_tuned(tmp_path / "tuned", "bert", "sst2")
    assert main(["export", str(tuned), "--format", "onnx", "--lora", "adapter", "--out", str(tmp_path / "out")]) == 2
    whole = heads.files_of

    def cased(*values: Any) -> dict[str, str]:
        files = whole(*values)
        return {**files, "tokenizer.json": files["tokenizer.json"].replace('"lowercase": true', '"lowercase": false')}

    monkeypatch.setattr(onnx_heads, "files_of", cased)
    (tmp_path / "lines.txt").write_text("The Cat\n", encoding="utf-8")
    with pytest.raises(UserError, match="its tokenizer reads 'The Cat' otherwise"):
        export_onnx(tuned, tmp_path / "out", tmp_path / "lines.txt")
    assert not (tmp_path / "out").exists()


def test_the_example_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "onnx.md"
    (code,) = re.findall(r"```python\n(import json.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    run = fine_tuned(tmp_path / "tuned", "bert", "sst2")
    export_onnx(run, tmp_path / "sst2-onnx")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, str(page), "exec"), {})
    rows = blankfill.load(run).predict(["a gripping and funny film", "dull"], allow_unknown=True)
    assert capsys.readouterr().out == f"{[row['label'] for row in rows]}\n"
