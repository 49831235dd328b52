"""Files that were stored in place of a model's: pointers of Git LFS, and web pages. They are called what they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.finetuning.importing import import_model
from blankfill.finetuning.predictor import open_predictor
from blankfill.system.reading import stand_in

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 437955512\n"
PAGES = ["<!DOCTYPE html>\n<html><body>404</body></html>", "\ufeff \n<html lang='en'><head>", "<!-- page -->\n<HTML>"]
SENTENCES = {"pointer": "is a pointer of Git LFS and not the file itself; run `git lfs pull` in its folder",
             "page": r"is a web page \(HTML\) and not the file itself; download the file by its own link"}  # fmt: skip


def test_what_is_no_stand_in(tmp_path: Path) -> None:
    for text in ('{"a": "<html>"}', "[PAD]\n<html>\n", "a < b", ""):
        (tmp_path / "file").write_text(text, encoding="utf-8")
        assert not stand_in(tmp_path / "file")
    assert not stand_in(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to
    assert not stand_in(tmp_path / "pipe")
    for page in PAGES:
        (tmp_path / "file").write_text(page, encoding="utf-8")
        assert "is a web page (HTML)" in stand_in(tmp_path / "file")


def bert(folder: Path, weights: str) -> Path:
    """A folder of transformers with a small random BERT."""
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(folder)
    if weights != "model.safetensors":
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if weights.endswith(".index.json"):
        names = dict.fromkeys(model.state_dict(), "pytorch_model.bin")
        (folder / "pytorch_model.bin").rename(folder / "part.bin")
        (folder / weights).write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", SENTENCES)
@pytest.mark.parametrize(
    "file",
    ["config.json", "model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "vocab.txt",
     "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"],
)  # fmt: skip
def test_every_file_of_an_import_is_called_what_it_is(file: str, kind: str, tmp_path: Path) -> None:
    folder = bert(tmp_path / "theirs", file if "model" in file else "model.safetensors")
    (folder / file).write_text(POINTER if kind == "pointer" else PAGES[0], encoding="utf-8")
    with pytest.raises(UserError, match=f"{file} {SENTENCES[kind]}"):
        import_model(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    with pytest.raises(UserError, match=SENTENCES[kind] if file == "config.json" else "not a fine-tuned model"):
        open_predictor(folder, "cpu", None)


@pytest.mark.parametrize("kind", SENTENCES)
@pytest.mark.parametrize("file", ["spiece.model", "vocab.json", "merges.txt"])
def test_other_tokenizers(file: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"Ġ": 0, "a": 1}), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    if file == "spiece.model":
        (tmp_path / "vocab.json").unlink()
    (tmp_path / file).write_text(POINTER if kind == "pointer" else PAGES[0], encoding="utf-8")
    with pytest.raises(UserError, match=f"{file} {SENTENCES[kind]}"):
        Tokenizer.load(tmp_path)
