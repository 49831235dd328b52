"""Fine-tuning with transformers' models, for `finetune_scores.py`: texts and pairs, tags, questions.

Each in the way of transformers' own examples (run_glue, run_ner, run_qa): dynamic padding, labels on the first piece of
a word, windows of a long context with a stride, the best of the n-best spans over all windows.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from blankfill.system.environment import usable_cores
from blankfill.tasks.heads.windows import WindowOptions
from blankfill.tasks.metrics.scoring import score

if TYPE_CHECKING:
    from blankfill.tasks.items import QuestionItem, Split
    from blankfill.tasks.options import FinetuneOptions
    from blankfill.tasks.task import Task

AT_ONCE = 64
"""Number of rows that are scored together."""
IGNORED = -100
BEST = 20
"""Number of starts and ends that are paired for each window. (The stride of transformers is the overlap of windows.)"""


class Peer(ABC):
    """One kind of task: rows for the model, and predictions from its outputs."""

    network: Any

    def __init__(self, model: Path, task: Task, train: Split, options: FinetuneOptions) -> None:
        self.task, self.options, self.train_split = task, options, train
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    @abstractmethod
    def rows(self, split: Split, learn: bool) -> list[dict[str, Any]]:
        """Return the tokenised items, with the answers under the argument names of the model."""

    @abstractmethod
    def batch(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch of rows, padded to the longest of them."""

    @abstractmethod
    def judge(self, split: Split, rows: Sequence[dict[str, Any]], outputs: Sequence[Any]) -> Any:
        """Return predictions for `score` from the outputs of the model for each row."""

    def padded(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the inputs of rows, padded."""
        names = self.tokenizer.model_input_names
        return dict(self.tokenizer.pad([{n: row[n] for n in names} for row in rows], return_tensors="pt"))


class Texts(Peer):
    """A text or two: a class or a number."""

    def __init__(self, model: Path, task: Task, train: Split, options: FinetuneOptions) -> None:
        super().__init__(model, task, train, options)
        self.classes = len(task.labels or train.labels) or 1
        cls = transformers.AutoModelForSequenceClassification
        self.network = cls.from_pretrained(model, num_labels=self.classes)

    def rows(self, split: Split, learn: bool) -> list[dict[str, Any]]:
        """Return a row for each item."""
        texts = split.texts()
        seconds = [str(item.second) for item in texts] if texts[0].second is not None else None
        made = self.tokenizer(
            [item.first for item in texts], seconds, truncation=True, max_length=self.options.max_length
        )
        return [{**{n: v[k] for n, v in made.items()}, "label": item.label} for k, item in enumerate(texts)]

    def batch(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch of rows with their labels."""
        dtype = torch.float32 if self.classes == 1 else torch.int64
        return {**self.padded(rows), "labels": torch.tensor([row["label"] for row in rows], dtype=dtype)}

    def judge(self, split: Split, rows: Sequence[dict[str, Any]], outputs: Sequence[Any]) -> Any:
        """Return the class with the highest score, or the number."""
        logits = torch.stack([output["logits"] for output in outputs])
        return (logits[:, 0] if self.classes == 1 else logits.argmax(1)).tolist()


class Tags(Peer):
    """Words and their tags."""

    def __init__(self, model: Path, task: Task, train: Split, options: FinetuneOptions) -> None:
        super().__init__(model, task, train, options)
        self.labels = task.labels or train.labels
        cls = transformers.AutoModelForTokenClassification
        self.network = cls.from_pretrained(model, num_labels=len(self.labels))

    def rows(self, split: Split, learn: bool) -> list[dict[str, Any]]:
        """Return a row for each sentence; a label on the first piece of each word."""
        encoded = []
        for item in split.tagged():
            made = self.tokenizer(
                list(item.words), is_split_into_words=True, truncation=True, max_length=self.options.max_length
            )
            words = made.word_ids()
            firsts = [w is not None and (k == 0 or words[k - 1] != w) for k, w in enumerate(words)]
            place = {label: k for k, label in enumerate(self.labels)}
            tags = item.tags or ()
            labels = [
                place.get(tags[w], IGNORED) if first and w is not None else IGNORED
                for w, first in zip(words, firsts, strict=True)
            ]
            encoded.append({**dict(made.items()), "labels": labels, "words": words, "firsts": firsts})
        return encoded

    def batch(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch of rows with the labels of their tokens."""
        made = self.padded(rows)
        width = made["input_ids"].shape[1]
        labels = [row["labels"] + [IGNORED] * (width - len(row["labels"])) for row in rows]
        return {**made, "labels": torch.tensor(labels)}

    def judge(self, split: Split, rows: Sequence[dict[str, Any]], outputs: Sequence[Any]) -> Any:
        """Return the tag with the highest score at each word's first piece; O for words that were cut off."""
        predicted = []
        for item, row, output in zip(split.tagged(), rows, outputs, strict=True):
            best = output["logits"].argmax(-1).tolist()
            tags = ["O"] * len(item.words)
            for column, (word, first) in enumerate(zip(row["words"], row["firsts"], strict=True)):
                if first:
                    tags[word] = self.labels[best[column]]
            predicted.append(tags)
        return predicted


class Questions(Peer):
    """Questions answered by a span of their context, all of which have an answer."""

    def __init__(self, model: Path, task: Task, train: Split, options: FinetuneOptions) -> None:
        super().__init__(model, task, train, options)
        self.network = transformers.AutoModelForQuestionAnswering.from_pretrained(model)

    def rows(self, split: Split, learn: bool) -> list[dict[str, Any]]:
        """Return a row for each window; an answer outside of it is at [CLS]."""
        items, windows = split.questions(), []
        longest = WindowOptions().max_query_length
        for number, item in enumerate(items):
            question = self.tokenizer.encode(item.question, add_special_tokens=False)[:longest]
            room = self.options.max_length - len(question) - self.tokenizer.num_special_tokens_to_add(pair=True)
            made = self.tokenizer(
                self.tokenizer.decode(question) if len(question) == longest else item.question,
                item.context, truncation="only_second", max_length=self.options.max_length,
                stride=max(0, room - self.options.stride), return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )  # fmt: skip
            for k, offsets in enumerate(made["offset_mapping"]):
                inside = [side == 1 for side in made.sequence_ids(k)]
                span = (0, 0)
                if item.answers and item.answers[0].start is not None:
                    first, last = item.answers[0].start, item.answers[0].start + len(item.answers[0].text)
                    starts = [c for c, (a, b) in enumerate(offsets) if inside[c] and a <= first < b]
                    ends = [c for c, (a, b) in enumerate(offsets) if inside[c] and a < last <= b]
                    span = (starts[0], ends[0]) if starts and ends else (0, 0)
                names = self.tokenizer.model_input_names
                row = {name: made[name][k] for name in names}
                windows.append({**row, "offsets": offsets, "inside": inside, "item": number, "span": span})
        return windows

    def batch(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a batch of rows with the columns where the answers begin and end."""
        spans = torch.tensor([row["span"] for row in rows])
        return {**self.padded(rows), "start_positions": spans[:, 0], "end_positions": spans[:, 1]}

    def judge(self, split: Split, rows: Sequence[dict[str, Any]], outputs: Sequence[Any]) -> Any:
        """Return for each question the valid span with the highest start + end over its windows."""
        best: dict[int, tuple[float, str]] = {}
        items = split.questions()
        for row, output in zip(rows, outputs, strict=True):
            item: QuestionItem = items[row["item"]]
            start, end = output["start_logits"], output["end_logits"]
            for s in start.argsort(descending=True)[:BEST].tolist():
                for e in end.argsort(descending=True)[:BEST].tolist():
                    if e >= len(row["inside"]) or s > e or e - s >= self.options.max_answer_length:
                        continue
                    if not (row["inside"][s] and row["inside"][e]):
                        continue
                    value = float(start[s] + end[e])
                    if value > best.get(row["item"], (float("-inf"), ""))[0]:
                        best[row["item"]] = value, item.context[row["offsets"][s][0] : row["offsets"][e][1]]
        return {item.id: best.get(k, (0.0, ""))[1] for k, item in enumerate(items)}


PEERS: dict[str, type[Peer]] = {"classify": Texts, "regress": Texts, "tag": Tags, "answer": Questions}


def run(model: Path, task: Task, train: Split, dev: Split, options: FinetuneOptions) -> dict[str, float]:
    """Fine-tune for whole epochs and score after each; return the best score, and all processor seconds."""
    began = time.process_time()
    torch.set_num_threads(options.threads or usable_cores())
    transformers.set_seed(options.seed)
    peer = PEERS[task.kind](model, task, train, options)
    network, rows, dev_rows = peer.network, peer.rows(train, learn=True), peer.rows(dev, learn=False)
    decayed = [p for p in network.parameters() if p.dim() >= 2]
    spared = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, eps=1e-8, fused=True)
    steps = options.steps(len(rows))
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(options.warmup * steps), steps)
    best = -1.0
    for _ in range(int(options.epochs)):
        network.train()
        for chosen in torch.randperm(len(rows)).split(options.batch_size):
            network(**peer.batch([rows[k] for k in chosen])).loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), options.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        predicted = peer.judge(dev, dev_rows, outputs_for(peer, dev_rows))
        best = max(best, score(task, dev, predicted)[task.primary_metric])
    return {"score": best, "seconds": time.process_time() - began}


@torch.no_grad()
def outputs_for(peer: Peer, rows: Sequence[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
    """Return the outputs of the model for each row, in the order of the rows; rows of similar length are computed
    together."""
    peer.network.eval()
    order = sorted(range(len(rows)), key=lambda k: len(rows[k]["input_ids"]))
    outputs: list[dict[str, torch.Tensor]] = [{} for _ in rows]
    for at in range(0, len(order), AT_ONCE):
        chosen = order[at : at + AT_ONCE]
        output = peer.network(**peer.padded([rows[k] for k in chosen]))
        for place, k in enumerate(chosen):
            outputs[k] = {name: value[place].clone() for name, value in output.items()}
    return outputs
