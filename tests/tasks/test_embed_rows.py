"""What embedding feeds a model is what training builds of the same text when nothing of it is blanked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import processors

from blankfill.checkpoint.load import Loaded
from blankfill.embedding.embed import Embedder
from blankfill.errors import UserError
from blankfill.model.config import TransformerConfig
from blankfill.model.transformer import Transformer, build
from blankfill.objectives import (
    OBJECTIVES,
    T5,
    Albert,
    Bart,
    Bert,
    ChatGlm,
    Electra,
    Ernie,
    Glm,
    Glm130b,
    Gpt,
    Mlm,
    Objective,
    SpanBert,
    Unilm,
    Unilm2,
    Xlnet,
)
from blankfill.objectives.albert import AlbertChoice
from blankfill.objectives.bart import BartChoice
from blankfill.objectives.base import Masked
from blankfill.objectives.bert import BertChoice
from blankfill.objectives.chatglm import ChatGlmChoice
from blankfill.objectives.electra import ElectraChoice
from blankfill.objectives.glm import GlmChoice
from blankfill.objectives.spanbert import SpanChoice
from blankfill.objectives.t5 import T5Choice
from blankfill.objectives.unilm import UnilmChoice
from blankfill.objectives.unilm2 import Unilm2Choice
from blankfill.objectives.xlnet import XlnetChoice
from blankfill.types import Batch, Document, Example, Int32
from generate_models import MORE, SPECIAL, WORDS, wordpiece

LENGTH = 24
NOTHING = np.zeros(0, np.int32)
UNMASKED = Masked(NOTHING, NOTHING)


def choice_of_nothing(objective: Objective, size: int) -> Any:
    """The choice by which an objective blanks nothing of a document of `size` tokens."""
    whole, none = (0, size), (size, size)
    if isinstance(objective, Bert | Ernie):
        return BertChoice(whole, none, UNMASKED)
    if isinstance(objective, Electra):
        return ElectraChoice(whole, none, UNMASKED, 0)
    if isinstance(objective, Albert):
        return AlbertChoice(whole, none, None, UNMASKED)
    if isinstance(objective, Unilm):
        return UnilmChoice(whole, none, "both", UNMASKED)
    if isinstance(objective, Unilm2):
        return Unilm2Choice(((1, 1),), UNMASKED)
    if isinstance(objective, SpanBert):
        return SpanChoice((), ())
    if isinstance(objective, Glm):
        return GlmChoice((), ())
    if isinstance(objective, ChatGlm):
        return ChatGlmChoice((((0, size), GlmChoice((), ())),))
    if isinstance(objective, Xlnet):
        order = np.zeros(size + 2, np.int32)
        return XlnetChoice(whole, none, NOTHING, order)
    if isinstance(objective, T5):
        return T5Choice(np.zeros(size, np.bool_))
    if isinstance(objective, Bart):
        return BartChoice((0,), (), (), 1)
    assert isinstance(objective, Gpt | Mlm)
    return None if isinstance(objective, Gpt) else UNMASKED


def built(objective: Objective, ids: Int32, loaded: Loaded) -> Example:
    """The row of a text, as training builds it; of a model of two stacks what the encoder reads."""
    document = Document(ids, np.array([0, len(ids)], np.int32), words=np.ones(len(ids), np.bool_))
    example = objective.build(document, loaded.vocabulary, choice_of_nothing(objective, len(ids)))
    return example.context or example


def model_of(objective: Objective, rows: int) -> Transformer:
    """A model that can read the objective's rows; what it makes of them does not matter here."""
    more: dict[str, Any] = {"encoder_layers": 1} if objective.two_sided else {}
    if objective.name == "xlnet":
        more = {"norm": "post", "position_scheme": "relative", "attention_bias": False}
    config = TransformerConfig(
        vocab_size=rows, hidden_size=8, num_layers=1, num_heads=2, ffn_size=8, dropout=0.0, attention_dropout=0.0,
        position_sizes=objective.position_sizes(), **more,
    )  # fmt: skip
    return build(config).eval()


CASES = [
    Bert(LENGTH, next_sentence=False), Bert(LENGTH), Mlm(LENGTH), Mlm(LENGTH, position_offset=0), Albert(LENGTH),
    SpanBert(LENGTH), Ernie(LENGTH), Ernie(LENGTH, task_types=3, task=2), Unilm(LENGTH), Unilm2(LENGTH), Glm(LENGTH),
    Glm(LENGTH, task_mask=True), Gpt(LENGTH), Gpt(LENGTH, documents="stream"), Xlnet(LENGTH, pairs=False), T5(LENGTH),
    Bart(LENGTH), Electra(LENGTH), ChatGlm(LENGTH), Glm130b(LENGTH),
]  # fmt: skip


def test_every_objective_is_here() -> None:
    assert {case.name for case in CASES} == set(OBJECTIVES)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.name}-{CASES.index(case)}")
def ready(request: pytest.FixtureRequest) -> Loaded:
    objective = request.param
    tokenizer = wordpiece(words=[*WORDS, *MORE.get(objective.name, [])])
    model = model_of(objective, tokenizer.size)
    return Loaded(model, tokenizer, tokenizer.vocabulary(), objective, Path("run"))


class Fed(Embedder):
    """An embedder that keeps the rows that it feeds, without their padding, by their ids."""

    def _encode(self, ids_BT: torch.Tensor, padding_BT: torch.Tensor) -> torch.Tensor:
        self.rows: dict[tuple[int, ...], torch.Tensor]
        positions_PBT = self._positions((~padding_BT).sum(1), ids_BT.shape[1])
        for row, (ids_T, padding_T) in enumerate(zip(ids_BT, padding_BT, strict=True)):
            inside = ~padding_T
            self.rows[tuple(ids_T[inside].tolist())] = positions_PBT[:, row][:, inside]
        return super()._encode(ids_BT, padding_BT)

    def _flat_batch(self, rows: Sequence[Sequence[int]], lengths_N: NDArray[np.int64]) -> Batch:
        batch = super()._flat_batch(rows, lengths_N)
        parts = batch.positions[:, 0].split(lengths_N.tolist(), 1)
        self.rows |= {tuple(row): part for row, part in zip(rows, parts, strict=True)}
        return batch


words = st.lists(st.sampled_from([word for word in WORDS if not word.startswith("##")]), min_size=2, max_size=16)


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(words, min_size=1, max_size=5))
def test_a_text_is_fed_as_training_builds_it(ready: Loaded, texts: list[list[str]]) -> None:
    embedder = Fed(ready)
    embedder.rows = {}
    embedder.vectors([" ".join(text) for text in texts])
    expected = {}
    for text in texts:
        ids = np.array(ready.tokenizer.encode(" ".join(text)), np.int32)
        example = built(ready.objective, ids, ready)
        whole = example.input_ids
        expected[tuple(whole.tolist())] = example.positions[:, : len(whole)]
    assert embedder.rows.keys() == expected.keys()
    for ids, positions in expected.items():
        assert embedder.rows[ids].tolist() == positions.tolist(), ids


@pytest.mark.parametrize("case", [Bert(LENGTH), Gpt(LENGTH), Glm(LENGTH)], ids=lambda case: case.name)
def test_who_sees_whom_is_as_in_training(case: Objective) -> None:
    """Changing the last word changes the columns that see it in training, and no others."""
    tokenizer = wordpiece()
    loaded = Loaded(model_of(case, tokenizer.size), tokenizer, tokenizer.vocabulary(), case, Path("run"))
    ids = np.array(tokenizer.encode("the cat sat"), np.int32)
    example = built(case, ids, loaded)
    last = example.input_ids.tolist().index(ids[-1])
    hidden = []
    for change in (0, 1):
        row = torch.from_numpy(example.input_ids.astype(np.int64))[None]
        row[0, last] += change
        with torch.inference_mode():
            hidden.append(Embedder(loaded)._encode(row, torch.zeros_like(row, dtype=torch.bool))[0])
    moved = (hidden[0] != hidden[1]).any(1)
    assert moved.tolist() == example.rule.visible()[:, last].tolist()


def test_a_tokenizers_own_frame_stands_in_where_training_has_no_tokens_for_one() -> None:
    names = {"[CLS]": "[BEGIN]", "[SEP]": "[END]"}
    tokenizer = wordpiece([names.get(token, token) for token in SPECIAL])
    case = Bert(LENGTH)
    loaded = Loaded(model_of(case, tokenizer.size), tokenizer, tokenizer.vocabulary(), case, Path("run"))
    with pytest.raises(UserError, match="no token for cls, sep"):
        Embedder(loaded)
    ends = [(name, tokenizer.id(name)) for name in ("[END]", "[BEGIN]")]
    tokenizer._full.post_processor = processors.BertProcessing(*ends)
    assert Embedder(loaded).frame == ([tokenizer.id("[BEGIN]")], [tokenizer.id("[END]")])
