"""Sequence-to-sequence tasks: summaries, titles, questions, translations, as for GLM, UniLM, T5 and BART."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blankfill.checkpoint.load import Loaded
from blankfill.corpus.sentences import split_sentences
from blankfill.errors import ConfigError, Problem, UserError, setting
from blankfill.generation.beam import Hypothesis
from blankfill.model.transformer import Transformer
from blankfill.objectives import TargetNoise
from blankfill.tasks.adapter import EncodedSet, LMHeadAdapter, Prediction
from blankfill.tasks.batching import Batches, EncodedItem, Epochs
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import GenerationItem, Item
from blankfill.tasks.metrics.generation import text_scores, without_spaces
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.text.seq2seq import Writing
from blankfill.tasks.text.seq2seq_model import Search, WritingModel

WORST = 20
"""Number of the worst texts in the error analysis."""


class Write(LMHeadAdapter):
    """Generation of a text for each item."""

    n_best = 1
    """Number of texts for an item."""
    _writing: Writing | None = None

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if self._input_format is not None:
            self._writing = self.new_writing(self._input_format)
        self.long = self.without = 0
        """Numbers of truncated targets, and of items without a target, in the training items."""

    def new_writing(self, input_format: InputFormat) -> Writing:
        """Return the encoder of sources and targets for a model."""
        return Writing(input_format, self.max_target_length, self.options.blank)

    @property
    def max_target_length(self) -> int:
        """Largest number of tokens of a target; 0: the usual number."""
        return self.options.max_target_length

    @property
    def writing(self) -> Writing:
        """The encoder of sources and targets."""
        assert self._writing is not None
        return self._writing

    @property
    def search(self) -> Search:
        """The settings of the search for texts."""
        options, beams = self.options, max(self.options.beams, self.n_best)
        penalty, ngram = options.length_penalty, options.no_repeat_ngram
        return Search(self.writing.longest, self.writing.end, beams, penalty, ngram)

    def model(self, encoder: Transformer) -> WritingModel:
        """Return the model that is trained."""
        return WritingModel(encoder, self.options.label_smoothing)

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode an Example for each target of each item; `parts` are the decoder inputs of the items.

        Raises UserError for a source without tokens, and for training items without targets.
        """
        texts = _texts(items)
        targets = [[target for target in item.targets if target.strip()] for item in texts]
        first = self.tokenizer.encode_batch([item.source for item in texts])
        apart = self.writing.format.second_prefix
        second = self.tokenizer.encode_batch([apart + item.second if item.second else "" for item in texts])
        third = iter(self.tokenizer.encode_batch([target for right in targets for target in right]))
        encoded, contexts = [], []
        for item, a, b, right in zip(texts, first, second, targets, strict=True):
            if not a:
                raise UserError(f"the item {item.id} has an empty source; give it a text, or leave it out")
            source = self.writing.source(a, None if item.second is None else b)
            self.cut += source.cut > 0
            for _ in right:
                target = next(third)
                self.long += learn and len(target) > self.writing.longest
                if target:
                    read = self.writing.learnt if learn else self.writing.encoded
                    encoded.append(read(source, target))
            self.without += learn and not right
            if not learn:
                contexts.append(self.writing.context(source))
        if learn and not encoded:
            raise UserError("no item to train on has a target; such data can be predicted, not learnt from")
        return EncodedSet(items, encoded, contexts)

    def batches(self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int) -> Batches:
        """Return the batches of a run."""
        noise = TargetNoise(self.options.pseudo_noise, self.options.target_noise)
        return self.writing.batches(items, epochs, pad, micro, noise)

    def remarks(self) -> list[str]:
        """Return sentences on truncated items, and on items without a target."""
        remarks = super().remarks()
        if self.long:
            remark = (
                f"{self.long:,} targets are longer than {self.writing.longest} tokens; they are learnt up to there, "
                f"without an end; see {setting('max_target_length')}"
            )
            remarks.append(Problem(remark))
        if self.without:
            remarks.append(f"{self.without:,} items have no target and are not learnt from")
        return remarks

    def sample(self, items: Sequence[Item], count: int) -> list[int]:
        """Return the indices of `count` items, evenly spaced."""
        result: list[int] = np.unique(np.linspace(0, len(items) - 1, count).astype(int)).tolist()
        return result

    def check_answers(self, items: Sequence[Item]) -> None:
        """Raise UserError when some items have no target for the metrics, or the metrics' libraries are missing."""
        self.measure(items, [Prediction("", {})] * len(items))

    def written(self, items: Sequence[Item], texts: Sequence[Sequence[Hypothesis]]) -> list[Prediction]:
        """Return predictions from the generated texts of each item."""
        return [self._decided(hypotheses) for hypotheses in texts]

    def _decided(self, hypotheses: Sequence[Hypothesis]) -> Prediction:
        scores: dict[str, float] = {}
        for hypothesis in hypotheses:
            scores.setdefault(self.tokenizer.decode(hypothesis.ids).strip(), round(hypothesis.score, 4))
        best = [{"text": text, "score": score} for text, score in scores.items()]
        more = {"best": best[: self.n_best]} if self.n_best > 1 else {}
        return Prediction(best[0]["text"], {**best[0], **more})

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from its text."""
        return Prediction(str(record["text"]), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predict the source's first sentence; with a second text, the first sentence that contains it."""
        return [Prediction(_lead(item), {}) for item in _texts(items)]

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the texts that are furthest from their targets."""
        texts = _texts(items)
        targets, written = [item.targets for item in texts], [str(prediction.value) for prediction in predictions]
        by_characters = self.task.by_characters or without_spaces(targets)
        scores = text_scores(self.task.primary_metric, targets, written, by_characters)
        worst = sorted(range(len(texts)), key=lambda k: scores[k])[:WORST]
        mistakes = [
            {
                "id": texts[k].id, self.task.primary_metric: round(scores[k], 4), "written": written[k],
                "targets": list(texts[k].targets), "source": texts[k].source,
                **({"second": texts[k].second} if texts[k].second is not None else {}),
            }
            for k in worst
        ]  # fmt: skip
        return {"mistakes": mistakes}


def check_writer(loaded: Loaded, options: FinetuneOptions) -> None:
    """Raise UserError for a model that cannot generate text, ConfigError for options without effect on one that can."""
    objective = loaded.objective
    if not objective.writes_targets or not loaded.model.config.lm_head:
        raise UserError(
            f"{loaded.path}: a model of the objective {objective.name} reads texts and does not write any; give one of "
            "the objectives glm, gpt, unilm, t5 or bart, such as `blankfill pretrain --recipe glm-nano` makes"
        )
    loaded.check_tokens("target", "without which the model cannot write")
    unfit = {
        setting("features"): options.features != "none",
        setting("head"): options.head != "linear",
        setting("class_weights"): options.class_weights != "none",
        setting("freeze", -1): options.freeze == -1,
    }
    problems = [
        f"{name} is for a head on an encoder, and a model that writes has none"
        for name, is_set in unfit.items()
        if is_set
    ]
    if not objective.has_pseudo_masks:
        noise = {setting("pseudo_noise"): options.pseudo_noise, setting("target_noise"): options.target_noise}
        problems += [f"{name} is for a UniLM v2, and this model is trained as {objective.name}; leave it out"
                  for name, is_set in noise.items() if is_set]  # fmt: skip
    if problems:
        raise ConfigError(problems)


def _lead(item: GenerationItem) -> str:
    sentences = split_sentences(item.source) or [item.source]
    return next((sentence for sentence in sentences if item.second and item.second in sentence), sentences[0])


def _texts(items: Sequence[Item]) -> list[GenerationItem]:
    return [item for item in items if isinstance(item, GenerationItem)]
