"""Learning to chat: the adapter of dialogues, and their evaluation.

A checkpoint is chosen by the probability of all answers of the dev set, which one pass measures; texts are generated
only for a sample of the dialogues, before the training and with the chosen checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from blankfill.chatting.messages import Message
from blankfill.chatting.templates import ChatTemplate
from blankfill.errors import UserError
from blankfill.generation.beam import Hypothesis
from blankfill.model.transformer import Transformer
from blankfill.tasks.adapter import EncodedSet, Prediction
from blankfill.tasks.batching import ANSWER, EncodedItem, Epochs, EvaluationBatches, pack
from blankfill.tasks.chat.model import ChatModel
from blankfill.tasks.chat.rows import ChatRows, ChatWriting
from blankfill.tasks.datasets.chat import chats
from blankfill.tasks.heads.models import AnswerModel
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import Item
from blankfill.tasks.metrics.dialogues import Answered
from blankfill.tasks.text.seq2seq import encoded_item
from blankfill.tasks.text.seq2seq_adapter import Write
from blankfill.training.loop import Metrics
from blankfill.training.precision import computing

USUAL_ANSWER = 256
"""Default for the largest number of tokens of an answer, as in ChatGLM-6B's own script for dialogues."""
SHOWN = 3
"""Number of training examples that are shown before the training."""
SAMPLES = 12
"""Number of dialogues whose answers before and after the training are shown."""
LONGEST_SHOWN = 2000
"""Characters of an example that are shown."""
BEGIN_ASKED, END_ASKED = "⟦", "⟧"
"""Marks around the tokens that are learnt, where an example is shown."""


class Converse(Write):
    """Answers in dialogues, written out by the template of `use_template`."""

    from_start: ClassVar[bool] = True
    _rows: ChatRows | None = None

    def new_writing(self, input_format: InputFormat) -> ChatWriting:
        """Return the encoder of prompts and answers for a model."""
        return ChatWriting(input_format, self.max_target_length)

    def use_template(self, template: ChatTemplate) -> None:
        """Write dialogues out by a template from now on."""
        assert isinstance(self.writing, ChatWriting)
        limit, learn_start = self.options.max_prompt_length, self.options.learn_start
        self._rows = ChatRows(self.writing, self.tokenizer, template, limit, learn_start)

    @property
    def chat_template(self) -> ChatTemplate:
        """The template that writes dialogues out."""
        return self.rows.template

    @property
    def max_target_length(self) -> int:
        """Largest number of tokens of an answer."""
        usual = self.input_format.format.target_room(self.input_format.length)[1]
        return self.options.max_target_length or min(USUAL_ANSWER, usual)

    @property
    def rows(self) -> ChatRows:
        """The maker of rows; there is one once a template is in use."""
        assert self._rows is not None
        return self._rows

    def model(self, encoder: Transformer) -> ChatModel:
        """Return the model that is trained."""
        return ChatModel(encoder, self.options.label_smoothing)

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode the rows of dialogues; `parts` are the indices of the dialogues of the rows.

        Raises UserError for training dialogues without an answer that is learnt.
        """
        encoded: list[EncodedItem] = []
        owners: list[int] = []
        for place, item in enumerate(chats(items)):
            rows = self.rows.rows(item, learn)
            encoded += map(encoded_item, rows)
            owners += [place] * len(rows)
            self.without += learn and not rows
        if learn and not encoded:
            raise UserError("no dialogue to train on has an answer; such data can be answered, not learnt from")
        return EncodedSet(items, encoded, owners)

    def remarks(self) -> list[str]:
        """Return sentences on what was cut, on dialogues that nothing is learnt from, and on packing."""
        remarks = self.rows.remarks()
        if self.without:
            remarks.append(f"{self.without:,} dialogues have no answer that is learnt")
        return remarks

    def sample(self, items: Sequence[Item], count: int) -> list[int]:
        """Return the indices of `count` dialogues, evenly spaced among those with a last answer to compare with."""
        closed = [place for place, item in enumerate(chats(items)) if not item.open]
        places = closed or list(range(len(items)))
        chosen = np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)).tolist()
        return [places[k] for k in chosen]

    def check_answers(self, items: Sequence[Item]) -> None:
        """Raise UserError when no dialogue has an answer, or the metrics' libraries are missing."""
        counts = [len({*item.answers} - {*item.unasked}) for item in chats(items)]
        self.measure(items, [Prediction(Answered("", 1.0, count), {}) for count in counts])

    def predictions(
        self, hypotheses: Sequence[Sequence[Sequence[Hypothesis]]], nats: Sequence[tuple[float, int]]
    ) -> list[Prediction]:
        """Return predictions. hypotheses: of each dialogue the answers of its rounds that were generated, none where
        nothing was; nats: negative log-probability and number of tokens of its own answers."""
        predictions = []
        for rounds, (total, tokens) in zip(hypotheses, nats, strict=True):
            record: dict[str, Any] = {}
            text = None
            if rounds:
                last = self._decided(rounds[-1])
                text, record = str(last.value), dict(last.record)
                if len(rounds) > 1:
                    record["answers"] = [str(self._decided(answer).value) for answer in rounds]
            if tokens:
                record |= {"log_likelihood": round(-total / tokens, 4), "tokens": tokens}
            predictions.append(Prediction(Answered(text, total, tokens), record))
        return predictions

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from its record."""
        tokens = int(record.get("tokens", 0))
        nats = -float(record.get("log_likelihood", 0.0)) * tokens
        text = record.get("text")
        return Prediction(Answered(None if text is None else str(text), nats, tokens), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """The baseline is the model before its training: a run has its predictions."""
        raise NotImplementedError

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return nothing: `samples` shows answers."""
        return {}

    def samples(
        self, items: Sequence[Item], before: Sequence[Prediction], after: Sequence[Prediction]
    ) -> list[dict[str, Any]]:
        """Return generated answers before and after the training, evenly spaced, as JSON values."""
        rows = [
            {
                "id": item.id, "question": asked_of(item.messages), "right": item.messages[-1].content,
                "before": old.value.text, "after": new.value.text,
            }
            for item, old, new in zip(chats(items), before, after, strict=True)
            if not item.open and new.value.text is not None
        ]  # fmt: skip
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int)) if rows else ()
        return [rows[k] for k in chosen]

    def examples(self, encoded: Sequence[EncodedItem]) -> list[str]:
        """Return the first training rows as texts, the tokens that are learnt between marks."""
        return [self._shown(item) for item in encoded[:SHOWN]]

    def _shown(self, item: EncodedItem) -> str:
        """Return a row as a text: runs of read tokens, and of those that are learnt."""
        example, (columns,) = item.examples[0], item.columns
        learnt = np.asarray(item.answers)
        decode = self.tokenizer.decode
        before = "" if example.context is None else decode(example.context.input_ids.tolist(), skip_special=False) + " "
        runs, at = [], 0
        # A token that is masked later is predicted at its own column.
        behind = 0 if (example.input_ids[columns] == learnt).all() else 1
        order = np.argsort(columns, kind="stable")
        breaks = np.flatnonzero(np.diff(columns[order]) != 1) + 1
        for part in np.split(order, breaks):
            first, stop = int(columns[part[0]]), int(columns[part[-1]]) + 1
            read = example.input_ids[at : max(at, first + behind)].tolist()
            runs.append(decode(read, skip_special=False) if read else "")
            runs.append(BEGIN_ASKED + decode(learnt[part].tolist(), skip_special=False) + END_ASKED)
            at = stop
        return (before + "".join(runs))[:LONGEST_SHOWN]

    def packing(self, encoded: Sequence[EncodedItem], epochs: Epochs, pad: int) -> str:
        """Return a sentence on how full the rows of the first step are."""
        items = [encoded[k] for k in epochs.items(0)]
        batch = pack(items, pad).batch
        used, rows = sum(map(len, items)), batch.input_ids.shape[0]
        sides = batch.input_ids.numel() + (0 if batch.context is None else batch.context.input_ids.numel())
        targets = sum(len(item.answers) for item in items)
        return (
            f"{len(items):,} examples of a step are packed into {rows:,} rows, {used / sides:.0%} full; "
            f"{targets / used:.0%} of their tokens are learnt"
        )


def asked_of(messages: Sequence[Message]) -> str:
    """Return the last message of the user."""
    return next(message.content for message in reversed(messages) if message.role == "user")


class ChatEvaluator:
    """A set of dialogues on which a model is evaluated repeatedly; `least` and `best` as in `HeadEvaluator`."""

    best: list[Prediction] | None = None
    """None: texts are generated with the chosen checkpoint, after the training."""

    def __init__(
        self, adapter: Converse, items: Sequence[Item], pad: int, least: float = math.inf, sample: int = 0
    ) -> None:
        """sample: number of dialogues, evenly spaced, for which texts are generated; 0: all, those without an answer of
        their own too."""
        self.adapter, self.items, self.pad, self.least = adapter, items, pad, least
        self.dialogues = chats(items)
        encoded_set = adapter.encode(items)
        self._owners = np.array(encoded_set.parts, np.int64)
        self._batches = EvaluationBatches(encoded_set.encoded, pad)
        self.sample = adapter.sample(items, sample) if sample else list(range(len(items)))

    def examine(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> tuple[float, Metrics]:
        """Return the mean loss of a token of the answers of all dialogues, and the figures that follow from it."""
        nats_N2 = self._nats(model, device, dtype)
        model.train()
        total, tokens = nats_N2.sum(0).tolist()
        mean = total / tokens
        self.least = min(self.least, mean)
        return mean, {"loss": mean, "log-likelihood": -mean, "perplexity": math.exp(min(mean, 700.0))}

    def predict(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> tuple[list[Prediction], float]:
        """Return the predictions for all dialogues, with the generated answers of the sample; and the mean loss, NaN
        without any answers."""
        nats_N2 = self._nats(model, device, dtype)
        texts = self._write(model)
        model.train()
        total, tokens = nats_N2.sum(0).tolist()
        nats = [(float(row[0]), int(row[1])) for row in nats_N2]
        return self.adapter.predictions(texts, nats), total / tokens if tokens else math.nan

    @torch.no_grad()
    def _nats(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> np.ndarray:
        """Return nats and tokens of the answers of each dialogue, float64[N, 2]."""
        assert isinstance(model, ChatModel)
        model.eval()
        sums_N2 = np.zeros((len(self.items), 2))
        if not self._batches.items:
            return sums_N2
        for packed in self._batches:
            with computing(device, dtype):
                nats_K = model.nats(packed.batch.to(device), dtype, ANSWER)
            owner_K = self._owners[packed.items.numpy()]
            np.add.at(sums_N2[:, 0], owner_K, nats_K.double().cpu().numpy())
            np.add.at(sums_N2[:, 1], owner_K, 1.0)
        return sums_N2

    def _write(self, model: AnswerModel) -> list[list[list[Hypothesis]]]:
        """Return the generated answers of each dialogue of the sample: one for each message that follows."""
        model.eval()
        rows, search, vocabulary = self.adapter.rows, self.adapter.search, self.adapter.input_format.vocabulary
        written: list[list[list[Hypothesis]]] = [[] for _ in self.items]
        spoken = {k: list(self.dialogues[k].messages) for k in self.sample}
        for messages in spoken.values():
            if messages[-1].role == "assistant":
                del messages[-1]
        left = {k: list(self.dialogues[k].later) for k in self.sample}
        places = list(self.sample)
        while places:
            contexts = [rows.context(spoken[k]) for k in places]
            for k, hypotheses in zip(places, search.run(model.encoder, contexts, vocabulary), strict=True):
                written[k].append(hypotheses)
                answer = self.adapter.tokenizer.decode(hypotheses[0].ids).strip()
                spoken[k].append(Message("assistant", answer or "…"))
            places = [k for k in places if left[k]]
            for k in places:
                spoken[k].append(Message("user", left[k].pop(0)))
        return written
