"""Texts one after another in a single row: attention that computes each alone equals the rule of the row, and each text
in a row of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blankfill.attention.kernels import attend, prefix_attend
from blankfill.attention.masks import Mask
from blankfill.checkpoint.load import Loaded, load_model
from blankfill.data.batching import collate, collate_texts
from blankfill.types import AttentionRule, Example, TextSpans
from head_models import family_folder
from written_models import write_model

LENGTHS = (3, 3, 7, 1, 11)


@pytest.fixture(scope="module", params=["bert", "gpt2", "modernbert"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_model(write_model(tmp_path_factory.mktemp(request.param), request.param), "cpu")


def framed(loaded: Loaded, lengths: tuple[int, ...] = LENGTHS) -> list[Example]:
    rng = np.random.default_rng(0)
    return [loaded.format.frame(rng.integers(11, 24, length).astype(np.int32)).example for length in lengths]


@torch.inference_mode()
def test_each_text_is_read_alone(loaded: Loaded) -> None:
    examples = framed(loaded)
    batch = collate_texts(examples, 0)
    assert batch.texts == TextSpans(tuple(map(len, examples)), causal=loaded.objective.causal)
    assert loaded.model.reads_texts(max(batch.texts.lengths))
    model = loaded.model.eval()
    flat = model(batch, model.dtype).hidden
    by_rule = model(replace(batch, texts=None), model.dtype).hidden
    torch.testing.assert_close(flat, by_rule, atol=1e-4, rtol=1e-4)
    alone = torch.cat([model(collate([[example]], 0, multiple=1), model.dtype).hidden for example in examples], 1)
    torch.testing.assert_close(flat, alone, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_texts_that_see_other_columns_follow_the_rule(tmp_path: Path) -> None:
    """Biases of positions, and texts longer than the window of local layers, need the whole row."""
    t5 = load_model(family_folder(tmp_path / "t5", "t5"), "cpu")
    assert not t5.model.reads_texts(3)
    folder = write_model(tmp_path / "modernbert", "modernbert", window=2)
    local = load_model(folder, "cpu")
    assert local.model.reads_texts(3) and not local.model.reads_texts(4)
    batch = collate_texts(framed(local), 0)
    model = local.model.eval()
    made = model(batch, model.dtype).hidden
    torch.testing.assert_close(made, model(replace(batch, texts=None), model.dtype).hidden)


def test_rules_of_other_kinds_are_no_texts() -> None:
    nothing = np.zeros(0, np.int32)
    ids, positions = np.arange(3, dtype=np.int32), np.zeros((1, 3), np.int32)
    rules = [AttentionRule.full(3), AttentionRule.causal(3), AttentionRule.prefix(2, 3)]
    full, causal, prefix = (Example(ids, positions, rule, nothing, nothing) for rule in rules)
    assert collate_texts([full, causal], 0).texts is None
    assert collate_texts([prefix, prefix], 0).texts is None
    moved = collate_texts([causal, causal], 0).to("meta")
    assert moved.texts == TextSpans((3, 3), causal=True)


def test_kernels_without_texts_raise() -> None:
    mask = Mask("texts", texts=TextSpans((2,)))
    query = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="self_attend"):
        attend(query, query, query, mask)
    with pytest.raises(ValueError, match="prefix"):
        prefix_attend(query.transpose(1, 2), torch.zeros(1, 3, 2, 1, 4), mask)
