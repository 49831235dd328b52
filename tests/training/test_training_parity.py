"""Training here and in transformers: the same model, rows, optimiser and schedule give the same losses at each step,
and after many steps, when rounding has grown, losses that differ by less than those of two seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blankfill.data.batching import collate
from blankfill.families import weight_names
from blankfill.families.checkpoint_format import CheckpointFormat
from blankfill.model.transformer import Transformer
from blankfill.training.loop import Metrics, Trainer
from blankfill.training.optimizer import build_optimizer
from blankfill.training.options import TrainOptions
from blankfill.training.progress import Progress
from blankfill.types import AttentionRule, Batch, Example

transformers = pytest.importorskip("transformers")

STEPS, LONG, ROWS, LENGTH, WORDS = 50, 400, 6, 16, 61
ENCODER = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 64, "max_position_embeddings": 24, "hidden_dropout_prob": 0.0,
           "attention_probs_dropout_prob": 0.0}  # fmt: skip


def made(family: str, seed: int = 11) -> Any:
    """transformers' own model of a family, drawn by it."""
    torch.manual_seed(seed)
    if family == "bert":
        return transformers.BertForPreTraining(transformers.BertConfig(**ENCODER))
    if family == "roberta":
        return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**{**ENCODER, "type_vocab_size": 1}))
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=WORDS, n_positions=24, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0,
    ))  # fmt: skip


def batches(family: str, steps: int = STEPS) -> list[Batch]:
    """Rows of a text with a pattern (each id is mostly followed by the next), some shorter than others."""
    rng = np.random.default_rng(2)
    out = []
    for _ in range(steps):
        rows = []
        for _ in range(ROWS):
            size = int(rng.integers(LENGTH - 4, LENGTH + 1))
            ids = (5 + np.cumsum(np.where(rng.random(size + 1) < 0.9, 1, 7)) % (WORDS - 5)).astype(np.int32)
            positions = np.zeros((2 if family == "bert" else 1, size), np.int32)
            positions[0] = np.arange(size) + (2 if family == "roberta" else 0)
            if family == "gpt2":
                index, inputs, answers = np.arange(size, dtype=np.int32), ids[:-1], ids[1:]
                rule = AttentionRule.causal(size)
            else:
                index = np.sort(rng.choice(size, 3, replace=False)).astype(np.int32)
                inputs, answers = ids[:-1].copy(), ids[index]
                inputs[index] = 4
                rule = AttentionRule.full(size)
            labels = {"next_sentence": int(rng.integers(2))} if family == "bert" else {}
            rows.append([Example(inputs, positions, rule, index, answers, labels)])
        out.append(collate(rows, pad=1))
    return out


def their_losses(model: Any, family: str, rows: list[Batch], schedule: str) -> list[float]:
    """The word loss of each step of a plain transformers training."""
    spared = [p for p in model.parameters() if p.dim() == 1]
    decayed = [p for p in model.parameters() if p.dim() > 1 and p.requires_grad]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.999), eps=1e-6)
    make = getattr(transformers, f"get_{schedule}_schedule_with_warmup")
    scheduler = make(optimizer, num_warmup_steps=0, num_training_steps=len(rows))
    losses = []
    model.train()
    for batch in rows:
        inputs = {"input_ids": batch.input_ids, "attention_mask": (batch.segment >= 0).long()}
        if family == "bert":
            inputs["token_type_ids"] = batch.positions[1]
        out = model(**inputs)
        logits = out.prediction_logits if family == "bert" else out.logits
        words = F.cross_entropy(logits.flatten(0, 1)[batch.target_index], batch.target_ids)
        total = words
        if family == "bert":
            total = words + F.cross_entropy(out.seq_relationship_logits, batch.labels["next_sentence"][1])
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(words.detach()))
    return losses


class Curve:
    """A recorder of the training loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def record(self, metrics: Metrics) -> None:
        if metrics["split"] == "train":
            self.losses.append(float(metrics["loss"]))

    def advance(self, step: int, fields: Metrics) -> None:
        pass

    def event(self, step: int, kind: str, text: str) -> None:
        raise AssertionError(text)


def our_losses(form: CheckpointFormat, state: dict[str, torch.Tensor], rows: list[Batch], schedule: Any) -> list[float]:
    """The same, by the loop of this program."""
    model = Transformer(form.config)
    model.load_state_dict(state)
    options = TrainOptions(
        steps=len(rows),
        batch_size=ROWS,
        lr=2e-3,
        schedule=schedule,
        warmup=0,
        log_every=1,
        precision="fp32",
        eval_every=len(rows),
    )
    curve = Curve()
    trainer = Trainer(
        model, build_optimizer(model, options), options, 0, torch.device("cpu"), torch.float32, curve,
        lambda step: rows[:1], lambda progress: None, options.row_schedule,
    )  # fmt: skip

    def steps() -> Iterator[tuple[int, list[Batch]]]:
        yield from ((step, [batch]) for step, batch in enumerate(rows))

    trainer.train(steps(), Progress())
    return curve.losses


def both(family: str, schedule: str, steps: int) -> tuple[list[float], list[float]]:
    """The losses here and there, from the same start."""
    theirs, rows = made(family), batches(family, steps)
    if family == "roberta":  # its constant token type is a second word for the positions; here it is a part of them
        theirs.roberta.embeddings.token_type_embeddings.weight.requires_grad_(False)
    names = weight_names()[family]
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    form = CheckpointFormat(names, names.read(theirs.config.to_dict(), state.keys()))
    ours = our_losses(form, form.table.to_ours(state, "the model"), rows, schedule)
    return ours, their_losses(theirs, family, rows, schedule)


@pytest.mark.parametrize(("family", "schedule"), [("bert", "linear"), ("roberta", "linear"), ("gpt2", "cosine")])
def test_the_loss_curves_are_the_same(family: str, schedule: str) -> None:
    ours, expected = both(family, schedule, STEPS)
    assert expected[-1] < expected[0] - 0.5  # there is something to learn
    assert len(ours) == len(expected) == STEPS
    assert max(abs(a - b) for a, b in zip(ours, expected, strict=True)) < 1e-4


@pytest.mark.parametrize(("family", "schedule"), [("bert", "linear"), ("roberta", "linear"), ("gpt2", "cosine")])
def test_a_longer_run_ends_within_the_noise_of_a_seed(family: str, schedule: str) -> None:
    """The mean loss of the last 50 steps, against transformers' own of other seeds."""
    ours, theirs = (float(np.mean(losses[-50:])) for losses in both(family, schedule, LONG))
    others = [
        np.mean(their_losses(made(family, seed), family, batches(family, LONG), schedule)[-50:]) for seed in (1, 2)
    ]
    noise = np.ptp([theirs, *others])
    print(f"{family}: {ours:.5f} here, {theirs:.5f} there; seeds differ by {noise:.4f}")
    assert abs(ours - theirs) < noise / 2
