"""A mixture of text-to-text tasks: each item has the format of its own task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import ConfigError, Problem, setting, template_of
from blankfill.generation.beam import Hypothesis
from blankfill.tasks.adapter import EncodedSet, Prediction
from blankfill.tasks.batching import EncodedItem, Epochs
from blankfill.tasks.items import Item, MixedItem
from blankfill.tasks.text.mixing import MixedEpochs, rates
from blankfill.tasks.text.mixture import Mixture
from blankfill.tasks.text.seq2seq_adapter import Write
from blankfill.tasks.text.text_to_text import TextToText


class MixedText(Write):
    """Text-to-text tasks of one run."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self._sizes: list[int] = []
        """Number of training Examples of each member."""
        super().__init__(*args, **more)
        options = dataclasses.replace(self.options, max_target_length=self._writing.longest if self._writing else 0)
        self.members = {
            member.name: TextToText(
                member, self.mixture.labels_of(member, self.labels), options, self._tokenizer, self._input_format
            )
            for member in self.mixture.members
        }

    @property
    def mixture(self) -> Mixture:
        """The task."""
        assert isinstance(self.task, Mixture)
        return self.task

    @cached_property
    def max_target_length(self) -> int:
        """Largest number of tokens of a target, over all members."""
        if self.options.patterns:
            raise ConfigError(
                [f"{setting('patterns')} is the form of one task; a mixture has the shipped ones, so leave it out"]
            )
        longest = [
            TextToText(
                member, self.mixture.labels_of(member, self.labels), self.options, self._tokenizer
            ).max_target_length
            for member in self.mixture.members
        ]
        return 0 if 0 in longest else max(longest)

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode the items of each member as its task does; `parts` are in the order of the items."""
        encoded: list[EncodedItem] = []
        parts: dict[int, Any] = {}
        sizes = []
        for name, places in self._places(items).items():
            member = self.members[name]
            encoded_set = member.encode(_own(items, places), learn) if places else EncodedSet([], [])
            encoded += encoded_set.encoded
            sizes.append(len(encoded_set.encoded))
            parts |= dict(zip(places, encoded_set.parts, strict=False))
        if learn:
            self._sizes = sizes
        return EncodedSet(items, encoded, [parts[k] for k in sorted(parts)])

    def epochs(self, encoded: Sequence[EncodedItem]) -> Epochs:
        """Return epochs drawn from the members by `--mixing-limit` and `--mixing-temperature`."""
        options, sizes = self.options, tuple(self._sizes)
        shares = tuple(rates(sizes, options.mixing_limit, options.mixing_temperature))
        return MixedEpochs(len(encoded), options.batch_size, options.seed, sizes, shares)

    def remarks(self) -> list[str]:
        """Return sentences for the user on each member, and the sampling rates."""
        remarks: list[str] = [
            Problem(f"{name}: {template_of(remark)}")
            for name, member in self.members.items()
            for remark in member.remarks()
        ]
        if self._sizes:
            shares = rates(self._sizes, self.options.mixing_limit, self.options.mixing_temperature)
            listed = ", ".join(f"{name} {share:.1%}" for name, share in zip(self.members, shares, strict=True))
            remarks.append(f"drawn are {listed} of the items")
        return remarks

    def sample(self, items: Sequence[Item], count: int) -> list[int]:
        """Return items of every member, evenly spaced, the same number of each that has enough."""
        each = -(-count // len(self.members))
        return sorted(
            places[k]
            for places in self._places(items).values()
            for k in np.unique(np.linspace(0, len(places) - 1, min(each, len(places))).astype(int)).tolist()
        )

    def check_answers(self, items: Sequence[Item]) -> None:
        """Raise UserError when some items have no answer for the metrics."""
        for name, places in self._places(items).items():
            self.members[name].check_answers(_own(items, places))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the metrics of each member that has items, and the mean of their main scores."""
        result: dict[str, float] = {}
        main = []
        for name, places in self._places(items).items():
            if places:
                member = self.members[name]
                metrics = member.measure(_own(items, places), [predictions[k] for k in places])
                result |= {f"{name} {metric}": value for metric, value in metrics.items()}
                main.append(metrics[member.task.primary_metric])
        return {**result, "average": sum(main) / len(main)}

    def resampled(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Mapping[str, NDArray[np.float64]]:
        """Return bootstrap resamples of each member's metrics, whose items are drawn apart, and of their mean."""
        result: dict[str, NDArray[np.float64]] = {}
        main = []
        for name, places in self._places(items).items():
            if places:
                member = self.members[name]
                values = member.resampled(_own(items, places), [predictions[k] for k in places])
                result |= {f"{name} {metric}": of for metric, of in values.items()}
                main.append(values.get(member.task.primary_metric))
        known = [of for of in main if of is not None]
        if known and len(known) == len(main):
            fewest = min(map(len, known))  # very large members have fewer resamples
            result["average"] = np.mean([of[:fewest] for of in known], axis=0)
        return result

    def written(self, items: Sequence[Item], texts: Sequence[Sequence[Hypothesis]]) -> list[Prediction]:
        """Return predictions from the generated texts of each item, with its task."""
        predictions = []
        for item, hypotheses in zip(items, texts, strict=True):
            assert isinstance(item, MixedItem)
            [prediction] = self.members[item.task].written([item.item], [hypotheses])
            predictions.append(Prediction(prediction.value, {"task": item.task, **prediction.record}))
        return predictions

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return the prediction as the adapter of its task does."""
        return self.members[record["task"]].parse(record)

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Return predictions that ignore the items."""
        predictions: dict[int, Prediction] = {}
        learnt = self._places(train)
        for name, places in self._places(items).items():
            plain = self.members[name].baseline_predictions(_own(train, learnt[name]), _own(items, places))
            predictions |= dict(zip(places, plain, strict=True))
        return [predictions[k] for k in range(len(items))]

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the analyses of all members, under `tasks`."""
        return {
            "tasks": {
                name: self.members[name].error_analysis(_own(items, places), [predictions[k] for k in places])
                for name, places in self._places(items).items()
            }
        }

    def _places(self, items: Sequence[Item]) -> dict[str, list[int]]:
        """Return the indices of the items of each member."""
        places: dict[str, list[int]] = {member.name: [] for member in self.mixture.members}
        for place, item in enumerate(items):
            assert isinstance(item, MixedItem)
            places[item.task].append(place)
        return places


def _own(items: Sequence[Item], places: Sequence[int]) -> list[Item]:
    """Return the members' own items at these places."""
    return [item.item for k in places if isinstance(item := items[k], MixedItem)]
