"""XLNet against transformers: two streams in one row, memory, clamped distances, the content stream alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_parity import gradients, ours

from blankfill.attention.kernels import Kernel
from blankfill.data.batching import collate
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.model.transformer import Transformer
from blankfill.objectives import Xlnet
from blankfill.objectives.xlnet import XlnetChoice, with_memory
from blankfill.training.loss import loss_sums
from blankfill.types import Batch, Document, Example, Vocabulary
from parity_cases import Case, case_name, made, of

ROLES = {"pad": 5, "cls": 3, "sep": 4, "mask": 6}
VOCABULARY = Vocabulary(97, ROLES, frozenset(ROLES.values()))
BASE = Case("xlnet", "XLNetLMHeadModel", "as published")


def example(length: int, seed: int, permuted: int = 0) -> Example:
    """A row of two segments with a quarter of its tokens as targets."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(10, 97, length - 3).astype(np.int32)
    middle = length // 2
    document = Document(ids, np.array([0, middle, len(ids)], np.int32))
    objective = Xlnet(length, permuted=permuted, whole_word=False)
    inside = np.setdiff1d(np.arange(length - 2), [middle])
    targets = np.sort(rng.choice(inside, length // 4, replace=False)).astype(np.int32)
    order = np.concatenate([rng.permutation(high - low) for low, high in objective._blocks(length)])
    choice = XlnetChoice((0, middle), (middle, len(ids)), targets, order.astype(np.int32))
    return objective.build(document, VOCABULARY, choice)


def their_inputs(examples: list[Example], width: int, memory: int = 0) -> dict[str, torch.Tensor]:
    """What transformers calls the same: ids, perm_mask, target_mapping, token types and the padding's mask."""
    rows, slots = len(examples), max(len(example.target_ids) for example in examples)
    ids = torch.full((rows, width), ROLES["pad"])
    types, real = torch.zeros_like(ids), torch.zeros(rows, width)
    perm, mapping = torch.ones(rows, width, width), torch.zeros(rows, slots, width)
    for r, example in enumerate(examples):
        size, count = len(example) - len(example.target_ids), len(example.target_ids)
        columns = slice(memory, size)
        length = size - memory
        ids[r, :length] = torch.from_numpy(example.input_ids[columns])
        types[r, :length] = torch.from_numpy(example.positions[1, columns])
        real[r, :length] = 1
        places = example.positions[0, size:] - memory
        visible = example.rule.visible()
        seen = visible[columns, columns].copy()
        seen[places] = visible[size:, columns]  # what the query stream sees; transformers lets words see themselves
        perm[r, :length, :length] = torch.from_numpy(1 - seen.astype(np.float32))
        mapping[r, np.arange(count), places] = 1
    return {
        "input_ids": ids, "perm_mask": perm, "target_mapping": mapping, "token_type_ids": types, "attention_mask": real,
    }  # fmt: skip


def asked(model: Transformer, batch: Batch) -> torch.Tensor:
    """Our scores at the query slots, [M, V]."""
    hidden = model(batch).hidden.flatten(0, 1)[batch.target_index]
    return model.lm_head(hidden, model.output_table)


def picked(logits: torch.Tensor, examples: list[Example]) -> torch.Tensor:
    return torch.cat([logits[r, : len(example.target_ids)] for r, example in enumerate(examples)])


def compare(form: CheckpointFormat, model: Transformer, theirs: Any, batch: Batch, logits: torch.Tensor) -> None:
    """Scores, loss and the gradient of every weight."""
    torch.testing.assert_close(asked(model, batch), logits, atol=1e-5, rtol=1e-5)
    loss = loss_sums(model, batch)["lm"] / len(batch.target_ids)
    other = torch.nn.functional.cross_entropy(logits, batch.target_ids)
    torch.testing.assert_close(loss, other, atol=1e-5, rtol=1e-5)
    loss.backward()
    other.backward()
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    ours = gradients(form, model)
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kernel", ["sdpa", "explicit", "blocked"])
@pytest.mark.parametrize("case", of("xlnet"), ids=case_name)
def test_two_streams_equal_transformers(case: Case, kernel: Kernel) -> None:
    """XLNetLMHeadModel with perm_mask and target_mapping; rows of two lengths, so one is padded."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, case)
    form, model = ours("xlnet", theirs.config.to_dict(), theirs.state_dict())
    model.use_kernel(kernel)
    examples = [example(20, 0), example(16, 1, permuted=8)]
    batch = collate([[example] for example in examples], pad=ROLES["pad"])
    out = theirs(**their_inputs(examples, 20))
    compare(form, model, theirs, batch, picked(out.logits, examples))


def test_examples_that_share_a_row_do_not_meet() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, BASE)
    form, model = ours("xlnet", theirs.config.to_dict(), theirs.state_dict())
    examples = [example(20, 2), example(14, 3), example(17, 4)]
    batch = collate([examples[:2], examples[2:]], pad=ROLES["pad"])
    out = theirs(**their_inputs(examples, 20))
    compare(form, model, theirs, batch, picked(out.logits, examples))


def test_memory_equals_transformers() -> None:
    """The text before, read as a row of its own, is transformers' `mems`: scores, and gradients that stop there."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, BASE)
    form, model = ours("xlnet", theirs.config.to_dict(), theirs.state_dict())
    before = np.random.default_rng(5).integers(10, 97, (2, 7)).astype(np.int32)
    examples = [with_memory(example(16, 6 + r), before[r]) for r in range(2)]
    batch = collate([[example] for example in examples], pad=ROLES["pad"])
    first = torch.from_numpy(before).long()
    mems = theirs.transformer(first, token_type_ids=torch.zeros_like(first), use_mems=True).mems
    out = theirs(**their_inputs(examples, 16, memory=7), mems=mems, use_mems=True)
    assert not torch.allclose(out.logits, theirs(**their_inputs(examples, 16, memory=7)).logits, atol=1e-2)
    compare(form, model, theirs, batch, picked(out.logits, examples))


def test_gradients_are_the_same_when_layers_are_computed_again() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, BASE)
    form, model = ours("xlnet", theirs.config.to_dict(), theirs.state_dict())
    model.train().recompute = True
    model.config = replace(model.config, dropout=0.0)
    examples = [example(20, 0)]
    batch = collate([examples], pad=ROLES["pad"])
    compare(form, model, theirs, batch, picked(theirs(**their_inputs(examples, 20)).logits, examples))


def test_the_content_stream_alone_equals_transformers() -> None:
    """XLNetModel as fine-tuning reads it: every column sees every column, segments 0, 1 and 2."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, Case("xlnet", "XLNetModel", "the model alone"))
    form, model = ours("xlnet", theirs.config.to_dict(), theirs.state_dict())
    assert not form.config.lm_head
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(7, 97, (2, 12)))
    types = torch.tensor([0] * 6 + [1] * 5 + [2]).expand(2, 12)
    positions = torch.stack([torch.arange(12).expand(2, 12), types, torch.zeros_like(types)])
    zeros = torch.zeros(2, 12, dtype=torch.int32)
    nothing = torch.zeros(0, dtype=torch.int64)
    batch = Batch(ids, positions, zeros, zeros, zeros, nothing, nothing, {}, "none", 24)
    expected = theirs(ids, token_type_ids=types).last_hidden_state
    torch.testing.assert_close(model(batch).hidden, expected, atol=1e-5, rtol=1e-5)


def test_the_open_places_of_a_text_equal_transformers() -> None:
    """The input of filling: hidden words, predicted after a text with bidirectional attention."""
    transformers = pytest.importorskip("transformers")
    theirs = made(transformers, BASE)
    _, model = ours("xlnet", theirs.config.to_dict(), theirs.state_dict())
    rng = np.random.default_rng(1)
    texts = rng.integers(7, 97, (2, 10))
    ids = torch.from_numpy(np.concatenate([texts, np.tile([ROLES["sep"], ROLES["cls"]], (2, 1))], 1))
    places = torch.tensor([[0, 4, 5], [3, 7, 9]])
    is_open = torch.zeros(2, 12, dtype=torch.bool).scatter(1, places, True)
    form = Xlnet(12).format(VOCABULARY)
    batch = collate([form.open_places(texts[[k]].astype(np.int32), at) for k, at in enumerate(places.tolist())], 5)
    scores = model(batch, logits_at=batch.target_index).logits
    perm = is_open[:, None, :].expand(2, 12, 12).float()
    mapping = torch.nn.functional.one_hot(places, 12).float()
    types = torch.tensor([0] * 11 + [2]).expand(2, 12)
    expected = theirs(ids, perm_mask=perm, target_mapping=mapping, token_type_ids=types).logits.flatten(0, 1)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
