"""Fine-tuning here and in transformers: the same model, items, optimiser and schedule give the same losses."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from blankfill.checkpoint.load import load_model
from blankfill.finetuning.model_setup import build_adapter, build_model
from blankfill.tasks.batching import Batches, Epochs
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.heads.models import TaskModel, task_losses
from blankfill.tasks.items import TextItem
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.training import task_optimizer

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{k}" for k in range(40))]
STEPS = 25


def some_items(pairs: bool) -> list[TextItem]:
    rng = np.random.default_rng(0)

    def text(longest: int) -> str:
        return " ".join(f"w{k}" for k in rng.integers(0, 40, int(rng.integers(1, longest))))

    return [TextItem(str(k), text(20), text(9) if pairs else None, int(rng.integers(0, 2))) for k in range(40)]


@pytest.mark.parametrize("pairs", [False, True])
def test_the_same_losses_for_some_epochs(pairs: bool, tmp_path: Path) -> None:
    """BERT with its pooler, dropout 0: padding to the longest item there, several items in a row here."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=2,
    )  # fmt: skip
    theirs = transformers.BertForSequenceClassification(config).train()
    theirs.bert.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))

    options = FinetuneOptions(lr=2e-3, batch_size=8, epochs=5, weight_decay=0.01, threads=1, warmup=0)
    loaded, items = load_model(tmp_path), some_items(pairs)
    loaded.model.config = dataclasses.replace(loaded.model.config, dropout=0.0)
    task = task_named("rte")
    adapter = build_adapter(task, task.labels, loaded, options)
    encoded = adapter.encode(items, learn=True).encoded
    model = build_model(loaded, adapter, items, options, torch.device("cpu"), torch.float32)
    assert isinstance(model, TaskModel)
    model.head.drop = 0.0
    with torch.no_grad():
        model.head.output.weight.copy_(theirs.classifier.weight)
        model.head.output.bias.copy_(theirs.classifier.bias)

    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    spared = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, eps=1e-8)
    settings = options.train_options(len(encoded))
    own = task_optimizer(model, options, settings)
    for group in own.param_groups:
        group["lr"] = options.lr * group["lr_scale"]
    epochs = Epochs(len(items), options.batch_size, 0)
    batches = Batches(encoded, epochs, loaded.vocabulary["pad"])
    first = 0.0
    for step in range(STEPS):
        (packed,) = batches.of(step)
        chosen = [items[k] for k in epochs.items(step)]
        loss = task_losses(model, packed.batch)["answer"] / len(chosen)
        loss.backward()
        own.step()
        own.zero_grad()

        seconds = [item.second or "" for item in chosen] if pairs else None
        given = tokenizer([item.first for item in chosen], seconds, padding=True, return_tensors="pt")
        labels = torch.tensor([int(item.label or 0) for item in chosen])
        other = theirs(**given, labels=labels).loss
        other.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert loss.item() == pytest.approx(other.item(), abs=1e-4), f"step {step}"
        first = loss.item() if step == 0 else first
    assert abs(loss.item() - first) > 0.02  # it is training that agrees, not standing still


@pytest.mark.parametrize("pairs", [False, True])
def test_xlnet_reads_its_last_column_as_transformers_does(pairs: bool, tmp_path: Path) -> None:
    """XLNetForSequenceClassification, padded on the left; its summary and classifier are our head."""
    torch.manual_seed(0)
    config = transformers.XLNetConfig(
        vocab_size=len(WORDS), d_model=32, n_layer=2, n_head=4, d_inner=48, dropout=0.0, summary_last_dropout=0.0,
        initializer_range=0.1, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.XLNetForSequenceClassification(config).train()
    theirs.transformer.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    loaded, items = load_model(tmp_path), some_items(pairs)
    loaded.model.config = dataclasses.replace(loaded.model.config, dropout=0.0)
    options, task = FinetuneOptions(batch_size=8, threads=1), task_named("rte")
    adapter = build_adapter(task, task.labels, loaded, options)
    encoded = adapter.encode(items, learn=True).encoded
    model = build_model(loaded, adapter, items, options, torch.device("cpu"), torch.float32)
    assert isinstance(model, TaskModel) and model.head.dense is not None
    model.head.drop = 0.0
    with torch.no_grad():
        for ours, other in (
            (model.head.dense, theirs.sequence_summary.summary), (model.head.output, theirs.logits_proj),
        ):  # fmt: skip
            ours.load_state_dict(other.state_dict())
    epochs = Epochs(len(items), options.batch_size, 0)
    (packed,) = Batches(encoded, epochs, loaded.vocabulary["pad"]).of(0)
    chosen = [items[k] for k in epochs.items(0)]
    sep, cls = WORDS.index("[SEP]"), WORDS.index("[CLS]")
    rows = []
    for item in chosen:
        a, b = ([WORDS.index(word) for word in (text or "").split()] for text in (item.first, item.second))
        types = [0] * (len(a) + 1) + ([1] * (len(b) + 1) if pairs else []) + [2]
        rows.append(([*a, sep, *([*b, sep] if pairs else []), cls], types))
    width = max(len(row) for row, _ in rows)
    ids = torch.tensor([[0] * (width - len(row)) + row for row, _ in rows])
    types = torch.tensor([[3] * (width - len(row)) + kinds for row, kinds in rows])
    labels = torch.tensor([int(item.label or 0) for item in chosen])
    out = theirs(ids, attention_mask=(types != 3).float(), token_type_ids=types, labels=labels)
    loss = task_losses(model, packed.batch)["answer"] / len(chosen)
    torch.testing.assert_close(loss, out.loss, atol=1e-5, rtol=1e-5)
    loss.backward()
    out.loss.backward()
    for ours, other in (
        (model.head.output.weight, theirs.logits_proj.weight),
        (model.encoder.token_embeddings.weight, theirs.transformer.word_embedding.weight),
        (model.encoder.layers[0].ffn.inner.weight, theirs.transformer.layer[0].ff.layer_1.weight),
        (model.encoder.layers[1].attention.relative.segments, theirs.transformer.layer[1].rel_attn.seg_embed),
    ):
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-5, rtol=1e-4)
