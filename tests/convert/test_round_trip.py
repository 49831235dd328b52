"""The parity matrix's last column: each model goes from transformers through `import` and `export` and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blankfill.checkpoint.load import load_model
from blankfill.exporting.model import export_model
from blankfill.finetuning.importing import import_model
from parity_cases import CASES, SAVED, SIZES, Case, case_name, made

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "glm"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|startofpiece|>", "<|endofpiece|>", "[gMASK]", "[sMASK]"]
CONSTANT = ("position_embeddings.weight", "token_type_embeddings.weight")


def words_file(folder: Path, size: int, pad: int = 0) -> Path:
    """A vocab.txt of as many tokens, the padding at its place among them."""
    words = [*SPECIAL[1:], *(f"w{k}" for k in range(size - len(SPECIAL)))]
    words.insert(pad, SPECIAL[0])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder / "vocab.txt"


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_a_model_comes_in_and_goes_out_the_same(case: Case, tmp_path: Path) -> None:
    """The same tensors, and transformers computes the same scores from the import and the export as from its own."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case, seed=1)
    theirs.save_pretrained(tmp_path / "theirs")
    words_file(tmp_path / "theirs", SIZES[case.family]["vocab_size"], theirs.config.pad_token_id or 0)
    import_model(tmp_path / "theirs", tmp_path / "ours")
    exported = export_model(tmp_path / "ours", tmp_path / "back")
    assert exported.architecture == case.kind
    assert exported.difference is not None and exported.difference < 2e-5
    source = load_file(tmp_path / "theirs" / "model.safetensors")
    same_tensors(source, load_file(tmp_path / "back" / "model.safetensors"), case.family)
    ids = torch.randint(5, 60, (2, 12), generator=torch.Generator().manual_seed(2))
    for folder in ("ours", "back"):
        again = getattr(transformers, case.kind).from_pretrained(tmp_path / folder).eval()
        with torch.inference_mode():
            torch.testing.assert_close(scores(again, ids), scores(theirs, ids), atol=1e-6, rtol=1e-6)


def scores(theirs: Any, ids: torch.Tensor) -> torch.Tensor:
    """Their scores of rows, which a model of two stacks reads and writes."""
    more = {"decoder_input_ids": ids.flip(1)} if theirs.config.is_encoder_decoder else {}
    result: torch.Tensor = theirs(ids, **more)[0]
    return result


def same_tensors(source: dict[str, torch.Tensor], back: dict[str, torch.Tensor], family: str) -> None:
    """The same bits under the same names; RoBERTa's constant token type has gone into its positions, and of an untied
    head the bias that is not in use is that of the decoder."""
    assert source.keys() == back.keys()
    for head in ("cls.predictions", "predictions", "lm_head"):
        if f"{head}.decoder.bias" in source:
            source = {**source, f"{head}.bias": source[f"{head}.decoder.bias"]}
    for where, tensor in source.items():
        if family != "roberta" or not where.endswith(CONSTANT):
            assert torch.equal(tensor, back[where]), where
    if family == "roberta":
        tables = [sum(t for where, t in tensors.items() if where.endswith(CONSTANT)) for tensors in (source, back)]
        assert torch.equal(*map(torch.as_tensor, tables))


@pytest.mark.data
@pytest.mark.skipif(not GOLDEN.exists(), reason="the reference weights lie beside the project and are absent")
def test_glm_comes_in_and_goes_out_the_same(tmp_path: Path) -> None:
    """The weights of the original code, in the layout of its released checkpoints."""
    source: dict[str, Any] = load_file(GOLDEN / "weights.safetensors")
    torch.save({"module": source, "iteration": 7}, tmp_path / "mp_rank_00_model_states.pt")
    import_model(tmp_path, tmp_path / "ours", words_file(tmp_path, 512), heads=4)
    assert load_model(tmp_path / "ours").objective.name == "glm"
    export_model(tmp_path / "ours", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert source.keys() == back.keys()
    assert all(torch.equal(source[where], back[where]) for where in source)


def test_the_table_in_the_docs_is_the_matrix() -> None:
    page = (ROOT / "docs" / "import-export.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([^|]+?) \| ✓ \| ✓ \| ✓ \| ✓ \|$", page, re.MULTILINE)
    assert rows == [*((case.family, case.words) for case in CASES), *SAVED]
