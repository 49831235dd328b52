"""XLNet from text to all of its uses: train, fill, embed, export, continue with longer rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from blankfill.checkpoint.load import load_model
from blankfill.config.recipe import load_recipe
from blankfill.embedding.embed import Embedder
from blankfill.errors import UserError
from blankfill.exporting.model import export_model
from blankfill.generation.fill import Filler
from blankfill.pretraining import run
from blankfill.pretraining.warm_start import InitFrom
from blankfill.runs.recorder import read_lines
from blankfill.tasks.cloze.setup import check_model
from blankfill.tasks.options import FinetuneOptions
from small_run import SMALL, texts_in

MEMORY = {"objective.pairs": False, "objective.memory": 8, "objective.whole_word": False}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts_in(tmp_path_factory.mktemp("text"), 20)


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps with memory."""
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("runs") / "xlnet"
    run.pretrain([str(text)], load_recipe("xlnet-nano", {**SMALL, **MEMORY, "train.threads": 1}), out)
    torch.set_num_threads(threads)
    return out


def test_it_learns(trained: Path) -> None:
    losses = [line["loss"] for line in read_lines(trained / "metrics.jsonl") if line.get("split") == "valid"]
    assert losses[-1] < losses[0] - 0.2


def test_it_fills_blanks_of_any_length(trained: Path) -> None:
    loaded = load_model(trained)
    for text, blanks in (("the farmer [MASK] a wooden boat", 1), ("[MASK] paints the [MASK:2] lantern", 2)):
        result = Filler(loaded).fill(text, top_k=3)
        assert [len(candidate) for candidate in result.candidates] == [3] * blanks
    assert len(result.candidates[1][0].ids) == 2


def test_it_is_exported_and_read_alike_by_transformers(trained: Path, tmp_path: Path) -> None:
    """Scores of the content stream, a tokenizer that closes with [CLS] and pads before, vectors of several texts."""
    transformers = pytest.importorskip("transformers")
    made = export_model(trained, tmp_path / "out")
    assert made.architecture == "XLNetLMHeadModel" and made.difference is not None and made.difference < 2e-5
    loaded = load_model(tmp_path / "out")
    assert loaded.model.config.position_sizes[0] == 40
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = ["the farmer", "every child sells some fresh bread near the harbour"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    cls, sep = loaded.vocabulary["cls"], loaded.vocabulary["sep"]
    assert inputs["input_ids"][:, -2:].tolist() == [[sep, cls]] * 2
    assert inputs["token_type_ids"][:, -1].tolist() == [2, 2]
    pair = tokenizer("a child", "the harbour")
    assert pair["input_ids"][-1] == cls and sorted(set(pair["token_type_ids"])) == [0, 1, 2]
    theirs = transformers.XLNetModel.from_pretrained(tmp_path / "out").eval()
    inside = inputs["attention_mask"][:, :, None].float()
    with torch.no_grad():
        hidden = theirs(**inputs).last_hidden_state
    for pooling, expected in (("mean", (hidden * inside).sum(1) / inside.sum(1)), ("cls", hidden[:, -1])):
        for folder in (trained, tmp_path / "out"):
            vectors = Embedder(load_model(folder), pooling, normalize=False).vectors(texts).array  # type: ignore[arg-type]
            np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)


def test_training_goes_on_with_longer_rows(text: Path, trained: Path, tmp_path: Path) -> None:
    """Distances have no table that could be too short."""
    changes = {key: value for key, value in SMALL.items() if key.startswith(("train.", "corpus."))}
    changes = {key: value for key, value in changes.items() if key != "corpus.vocab_size"}
    recipe = load_recipe("xlnet-nano", {**changes, "objective.length": 64, "train.steps": 2, "train.threads": 1})
    out = tmp_path / "longer"
    threads = torch.get_num_threads()
    run.pretrain([str(text)], recipe, out, init_from=InitFrom(trained))
    torch.set_num_threads(threads)
    again, before = load_model(out), load_model(trained)
    assert again.model.config.position_sizes[0] == 64 and again.objective.length == 64
    assert again.model.state_dict().keys() == before.model.state_dict().keys()


def test_a_cloze_is_refused(trained: Path) -> None:
    with pytest.raises(UserError, match="leave out method=cloze"):
        check_model(load_model(trained), FinetuneOptions(method="cloze"))
