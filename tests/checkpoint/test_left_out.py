"""Heads that this program lacks are listed, with the option that leaves them out; parts of the model are not."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import blankfill
from blankfill.checkpoint.load import load_model
from blankfill.cli.main import main
from blankfill.convert.check import our_scores
from blankfill.errors import UserError
from blankfill.finetuning.importing import import_model

transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKL"]
EXTRA = {
    "cls.species.weight": (6, 16),
    "cls.species.bias": (6,),
    "cls.chain.weight": (2, 16),
    "value_head.x.weight": (4,),
}


def folder_with(folder: Path, more: dict[str, tuple[int, ...]], suffix: str = "safetensors") -> Path:
    """A BERT for masked words with further weights, as safetensors or as a pickled .bin."""
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, architectures=["AntiBERTy"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = {**load_file(file), **{name: torch.ones(shape) for name, shape in more.items()}}
    if suffix == "bin":
        file.unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, file, {"format": "pt"})
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_further_heads_are_left_out_where_the_user_says_so(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_with(tmp_path / "theirs", EXTRA, suffix)
    assert main(["import", str(folder), "--out", str(tmp_path / "ours")]) == 2
    shown = capsys.readouterr().err
    assert "4 weights are of heads that this program does not have (" in shown
    assert all(name in shown for name in EXTRA)
    option = "--leave-out cls.chain cls.species value_head"
    assert f"leave them out when you import the model: {option}\n" in shown and not (tmp_path / "ours").exists()
    assert (
        main(["import", str(folder), *option.split(), "--out", str(tmp_path / "ours")]) == 0
    )  # as it is written there
    assert "4 weights are left out: cls.chain.weight, cls.species." in capsys.readouterr().err
    loaded = load_model(tmp_path / "ours")
    ids = torch.tensor([[2, *loaded.tokenizer.encode("A C [MASK] D"), 3]])
    theirs = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    row = loaded.format.export_row(ids[0].numpy())
    with torch.inference_mode():
        torch.testing.assert_close(our_scores(loaded, row), theirs(ids).logits[0], atol=1e-5, rtol=1e-4)
    assert 1 not in ids[0]


def test_a_real_model_of_antibodies(tmp_path: Path) -> None:
    """AntiBERTy: a vocab.txt of capitals, a pickled file of 2021, three heads of its own; both programs agree on it."""
    spec = importlib.util.find_spec("antiberty")
    if spec is None or spec.origin is None:
        pytest.skip("the package antiberty is not installed (pip install --no-deps antiberty==0.1.3)")
    models = Path(spec.origin).parent / "trained_models"
    theirs = tmp_path / "theirs"
    shutil.copytree(models / "AntiBERTy_md_smooth", theirs)
    shutil.copy(models / "vocab.txt", theirs)
    with pytest.raises(UserError, match="6 weights are of heads that this program does not have"):
        import_model(theirs, tmp_path / "ours")
    import_model(theirs, tmp_path / "ours", leave_out=["cls.species", "cls.chain", "cls.graft"])
    loaded = load_model(tmp_path / "ours")
    text = "E V Q L V E S G G G L V Q P G [MASK] S L R L S C A A S G F T F S [MASK] Y A M S W V R Q A"
    ids = transformers.BertTokenizer.from_pretrained(theirs, do_lower_case=False)(text, return_tensors="pt")[
        "input_ids"
    ]
    assert loaded.tokenizer.encode(text) == ids[0, 1:-1].tolist()
    scores = our_scores(loaded, loaded.format.export_row(ids[0].numpy()))
    with torch.inference_mode():
        expected = transformers.BertForMaskedLM.from_pretrained(theirs).eval()(ids).logits[0]
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    filled = blankfill.fill(tmp_path / "ours", text)
    assert [blank[0].text for blank in filled.candidates] == ["G", "S"]


def test_a_part_of_the_model_is_no_head(tmp_path: Path) -> None:
    """An adapter in a layer changes what the model computes, so no option is offered."""
    folder = folder_with(tmp_path / "theirs", {**EXTRA, "bert.encoder.layer.0.adapter.weight": (4,)})
    with pytest.raises(UserError, match="the weights do not fit the architecture: 5 unknown") as error:
        import_model(folder, tmp_path / "ours")
    assert "leave_out" not in str(error.value)


def test_a_name_that_no_weight_has_is_told(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "theirs", EXTRA)
    with pytest.raises(UserError, match=r"no weight is named cls\.spec, which leave_out names; the file has bert, cls"):
        import_model(folder, tmp_path / "ours", leave_out=["cls.spec"])


def test_weights_that_the_model_needs_cannot_be_left_out(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "theirs", {})
    with pytest.raises(UserError, match=r"the weights do not fit the architecture: 1[0-9] missing"):
        import_model(folder, tmp_path / "ours", leave_out=["bert.encoder"])
