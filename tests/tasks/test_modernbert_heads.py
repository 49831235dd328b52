"""Fine-tuning a ModernBERT here and in transformers: the same weights give the same scores, losses and gradients."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blankfill.checkpoint.load import Loaded, load_model
from blankfill.finetuning.model_setup import build_adapter, build_model
from blankfill.tasks.batching import EncodedItem, pack
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.heads.models import TaskModel, new_head, task_losses, text_means
from blankfill.tasks.items import Answer, ChoiceItem, Item, QuestionItem, TaggedItem, TextItem
from blankfill.tasks.options import FinetuneOptions
from blankfill.types import Batch
from head_models import VOCABULARY
from parity_cases import SIZES

transformers = pytest.importorskip("transformers")

WORDS = VOCABULARY[-16:]
OPTIONS = FinetuneOptions(batch_size=8, threads=1, max_length=60, max_query_length=8, stride=8)
ROLES = {role: VOCABULARY.index(f"[{role.upper()}]") for role in ("pad", "cls", "sep")}
POOLINGS = [("cls", {}), ("mean", {}), ("mean", {"classifier_bias": True, "classifier_activation": "relu",
                                                 "norm_bias": True})]  # fmt: skip


def their_model(kind: str, folder: Path, labels: int, pooling: str, changes: dict[str, Any]) -> tuple[Any, Loaded]:
    """A random model of transformers, all of its weights drawn, and its encoder with language-model head as ours."""
    torch.manual_seed(0)
    ids = {"pad_token_id": ROLES["pad"], "bos_token_id": ROLES["cls"], "cls_token_id": ROLES["cls"],
           "eos_token_id": ROLES["sep"], "sep_token_id": ROLES["sep"]}  # fmt: skip
    sizes = {**SIZES["modernbert"], "vocab_size": len(VOCABULARY), **ids, **changes}
    config = transformers.ModernBertConfig(**sizes, classifier_pooling=pooling, num_labels=labels)
    theirs = getattr(transformers, f"ModernBertFor{kind}")(config).train()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "orm.weight" in name else 0.0))
            elif name.startswith("classifier."):
                parameter.mul_(10)
    words = transformers.ModernBertForMaskedLM(config)
    words.load_state_dict(theirs.state_dict(), strict=False)  # the encoder, and the head's transform
    words.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return theirs, load_model(folder)


def our_model(loaded: Loaded, task: str, items: list[Item], theirs: Any) -> tuple[TaskModel, list[EncodedItem]]:
    """Our model with the weights of theirs; the transform of its head is the language-model head's already."""
    adapter = build_adapter(task_named(task), ("a", "b", "c"), loaded, OPTIONS)
    encoded = adapter.encode(items, learn=True).encoded
    model = build_model(loaded, adapter, items, OPTIONS, torch.device("cpu"), torch.float32)
    assert isinstance(model, TaskModel) and model.head.dense is not None and model.head.norm is not None
    assert torch.equal(model.head.dense.weight, theirs.head.dense.weight)
    assert torch.equal(model.head.norm.weight, theirs.head.norm.weight)
    model.head.output.load_state_dict(theirs.classifier.state_dict())
    return model, encoded


def compare_gradients(model: TaskModel, theirs: Any) -> None:
    assert model.head.dense is not None and model.head.norm is not None
    qkv = theirs.model.layers[1].attn.Wqkv
    for ours, other in (
        (model.head.output, theirs.classifier), (model.head.dense, theirs.head.dense),
        (model.head.norm, theirs.head.norm), (model.encoder.layers[1].attention.qkv, qkv),
        (model.encoder.token_embeddings, theirs.model.embeddings.tok_embeddings),
    ):  # fmt: skip
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(
                parameter.grad, dict(other.named_parameters())[name].grad, atol=1e-5, rtol=1e-4, msg=name
            )


def compare(model: TaskModel, batch: Batch, scores: torch.Tensor, count: int, loss: torch.Tensor, theirs: Any) -> None:
    """Compare scores, the mean loss over `count` targets, and gradients with those of transformers."""
    torch.testing.assert_close(model.scores(batch), scores, atol=1e-5, rtol=1e-5)
    own = task_losses(model, batch)["answer"] / count
    torch.testing.assert_close(own, loss, atol=1e-5, rtol=1e-5)
    own.backward()
    loss.backward()
    compare_gradients(model, theirs)


def text(rng: np.random.Generator, longest: int) -> str:
    return " ".join(WORDS[int(k)] for k in rng.integers(0, len(WORDS), int(rng.integers(2, longest))))


def framed(*texts: str) -> list[int]:
    """[CLS] a [SEP] b [SEP]."""
    ids = [ROLES["cls"]]
    for part in texts:
        ids += [*(VOCABULARY.index(word) for word in part.split()), ROLES["sep"]]
    return ids


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [ROLES["pad"]] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(("pooling", "changes"), POOLINGS)
@pytest.mark.parametrize("kind", ["classes", "numbers", "labels"])
def test_texts(kind: str, pooling: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """ModernBertForSequenceClassification with its three losses; several texts in a row here."""
    rng = np.random.default_rng(0)
    task = {"classes": "mnli", "numbers": "stsb", "labels": "mnli"}[kind]
    outputs = 1 if kind == "numbers" else 3
    theirs, loaded = their_model("SequenceClassification", tmp_path, outputs, pooling, changes)
    texts = [(text(rng, 20), text(rng, 9)) for _ in range(12)]
    answers = [int(k) for k in rng.integers(0, 3, 12)]
    items: list[Item] = [
        TextItem(str(k), *pair, float(answer) if kind == "numbers" else answer)
        for k, (pair, answer) in enumerate(zip(texts, answers, strict=True))
    ]
    model, encoded = our_model(loaded, task, items, theirs)
    labels: torch.Tensor = torch.tensor(answers)
    if kind == "numbers":
        labels = labels.float()
    if kind == "labels":  # several of the three
        model.head.kind = "set"
        labels = torch.tensor(rng.integers(0, 2, (12, 3))).float()
        encoded = [
            dataclasses.replace(item, answers=labels[k : k + 1].numpy()) for k, item in enumerate(encoded)
        ]  # fmt: skip
    packed = pack(encoded, ROLES["pad"])
    assert len(packed.batch.input_ids) < len(items)
    out = theirs(**padded([framed(*pair) for pair in texts]), labels=labels)
    compare(model, packed.batch, out.logits[packed.items], len(items), out.loss, theirs)


@pytest.mark.parametrize(("pooling", "changes"), POOLINGS)
def test_tokens(pooling: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """ModernBertForTokenClassification, at the first piece of each word."""
    rng = np.random.default_rng(1)
    theirs, loaded = their_model("TokenClassification", tmp_path, 3, pooling, changes)
    texts = [text(rng, 20) for _ in range(8)]
    tags = [tuple("abc"[int(k)] for k in rng.integers(0, 3, len(words.split()))) for words in texts]
    items: list[Item] = [
        TaggedItem(str(k), tuple(words.split()), row) for k, (words, row) in enumerate(zip(texts, tags, strict=True))
    ]
    model, encoded = our_model(loaded, "conll", items, theirs)
    inputs = padded([framed(words) for words in texts])
    labels = torch.full(inputs["input_ids"].shape, -100)
    for k, row in enumerate(tags):
        labels[k, 1 : 1 + len(row)] = torch.tensor(["abc".index(tag) for tag in row])
    out = theirs(**inputs, labels=labels)
    packed = pack(encoded, ROLES["pad"])
    expected = torch.cat([out.logits[k, 1 : 1 + len(tags[k])] for k in dict.fromkeys(packed.items.tolist())])
    compare(model, packed.batch, expected, sum(map(len, tags)), out.loss, theirs)


@pytest.mark.parametrize(("pooling", "changes"), POOLINGS)
def test_answers(pooling: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """ModernBertForQuestionAnswering. Theirs scores all columns, ours those that an answer can have."""
    rng = np.random.default_rng(2)
    theirs, loaded = their_model("QuestionAnswering", tmp_path, 2, pooling, changes)
    context = text(rng, 20)
    first, second, *_ = context.split()
    item = QuestionItem("0", "who sat", context, (Answer(second, len(first) + 1),), False)
    model, (encoded,) = our_model(loaded, "squad", [item], theirs)
    row = framed("who sat", context)
    out = theirs(**padded([row]))
    scores = model.scores(pack([encoded], ROLES["pad"]).batch)
    columns = encoded.columns[0].tolist()
    assert columns == [0, *range(4, len(row) - 1)]
    expected = torch.stack([out.start_logits, out.end_logits], -1)[0][columns]
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    loss = task_losses(model, pack([encoded], ROLES["pad"]).batch)["item"]
    place = torch.tensor([columns.index(5)])  # the answer is the second word of the context
    sides = [torch.nn.functional.cross_entropy(expected[None, :, side], place) for side in (0, 1)]
    wanted = (sides[0] + sides[1]) / 2
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)
    loss.backward()
    wanted.backward()
    compare_gradients(model, theirs)


@pytest.mark.parametrize(("pooling", "changes"), POOLINGS)
def test_choices(pooling: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """ModernBertForMultipleChoice; all choices of an item stand in one row here."""
    rng = np.random.default_rng(3)
    theirs, loaded = their_model("MultipleChoice", tmp_path, 1, pooling, changes)
    items: list[Item] = [
        ChoiceItem(str(k), text(rng, 9), tuple(text(rng, 9) for _ in range(3)), int(rng.integers(0, 3)))
        for k in range(6)
    ]
    model, encoded = our_model(loaded, "swag", items, theirs)
    rows = padded([framed(item.context, choice) for item in items for choice in item.choices])  # type: ignore[union-attr]
    inputs = {name: tensor.view(6, 3, -1) for name, tensor in rows.items()}
    labels = torch.tensor([item.label for item in items])  # type: ignore[union-attr]
    out = theirs(**inputs, labels=labels)
    packed = pack(encoded, ROLES["pad"])
    order = list(dict.fromkeys(packed.items.tolist()))
    torch.testing.assert_close(model.scores(packed.batch).view(6, 3), out.logits[order], atol=1e-5, rtol=1e-5)
    loss = task_losses(model, packed.batch)["item"] / len(items)
    torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    out.loss.backward()
    compare_gradients(model, theirs)


def test_a_mean_is_that_of_the_columns_of_its_text() -> None:
    """Two rows; the second text of the first row, and the text of the second row, whose last columns are padding."""
    hidden = torch.arange(10.0)[:, None] * torch.tensor([[1.0, 2.0]])
    segment = torch.tensor([[0, 0, 1, 1, 1], [0, 0, -1, -1, -1]])
    means = text_means(hidden, segment, torch.tensor([2, 5, 0]))
    torch.testing.assert_close(means, torch.tensor([[3.0, 6.0], [5.5, 11.0], [0.5, 1.0]]))
    half = text_means(torch.full((4096, 1), 1.0, dtype=torch.bfloat16), torch.zeros(1, 4096, dtype=torch.int64),
                      torch.tensor([7]))  # fmt: skip
    assert half.dtype == torch.bfloat16 and half.item() == 1.0


@pytest.mark.parametrize(("transform", "function"), [
    ("tanh", torch.tanh), ("gelu", torch.nn.functional.gelu), ("relu", torch.relu),
])  # fmt: skip
def test_other_transforms_are_a_dense_layer_with_bias_on_texts_alone(transform: str, function: Any) -> None:
    """RoBERTa's and ELECTRA's heads: dense, activation, scores."""
    from generate_models import random_model

    encoder = random_model("bert")
    encoder.config = dataclasses.replace(encoder.config, classifier_transform=transform)  # type: ignore[arg-type]
    head = new_head(encoder, "class", 3, True, torch.Generator().manual_seed(0)).eval()
    assert head.dense is not None and head.norm is None
    torch.nn.init.normal_(head.dense.bias)
    hidden = torch.randn(5, encoder.config.hidden_size)
    expected = head.output(function(hidden @ head.dense.weight.T + head.dense.bias))
    torch.testing.assert_close(head(hidden), expected)
    assert new_head(encoder, "class", 3, False, torch.Generator()).dense is None
