"""Opening fine-tuned models to predict: a run, a checkpoint, the best run of a grid, or PET's ensemble."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blankfill.chatting.templates import FILE as TEMPLATE
from blankfill.errors import ConfigError, UserError, setting
from blankfill.finetuning.model_setup import build_adapter, patterns_of, task_model, with_saved_patterns
from blankfill.finetuning.notes import patterns_mark
from blankfill.finetuning.tuned import names_head, read_tuned
from blankfill.system.console import say
from blankfill.system.reading import field, of_kind, read_json, shown
from blankfill.system.threads import use_threads
from blankfill.tasks.cloze.pattern import PATTERNS
from blankfill.tasks.cloze.soft_labels import combined, logs_of
from blankfill.tasks.items import ChoiceItem, Item
from blankfill.tasks.run_files import CONFIG, RESULTS

if TYPE_CHECKING:
    from blankfill.finetuning.tuned import TunedModel
    from blankfill.tasks.adapter import EncodedSet, Prediction


class Predictor:
    """A fine-tuned model: the best checkpoint of a run, a checkpoint folder, an imported model, or a transformers
    folder with a head. tables: how the table of its training data was read, with the columns of all roles."""

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        threads: int | None = 0,
        n_best: int = 1,
        search: Mapping[str, Any] | None = None,
        read: TunedModel | None = None,
    ) -> None:
        """n_best: for a model that generates text, the number of texts for each item. search: for such a model, options
        that differ from training (beams, length_penalty, no_repeat_ngram). threads: CPU threads; None keeps torch's
        number. read: the model, where it has been read already.

        Raises UserError when the folder holds no fine-tuned model, or the model does not have one of the options.
        """
        import torch

        from blankfill.adapt.lora import add_lora, merge_lora
        from blankfill.attention.kernels import best_kernel
        from blankfill.checkpoint import store
        from blankfill.checkpoint.load import Loaded
        from blankfill.model.layout import optimize_for_inference
        from blankfill.model.prepacked import prepack
        from blankfill.model.quantized import prepare
        from blankfill.model.transformer import Transformer
        from blankfill.system.device import pick_device
        from blankfill.tasks.text.seq2seq_adapter import Write

        if threads is not None:
            use_threads(threads)
        self.path = path = Path(path)
        """The run or the checkpoint that was opened."""
        read = read or read_tuned(path)
        self.task, self.tables = read.task, read.tables
        with torch.device("meta"):
            encoder = read.encoder or Transformer(read.config)
            if read.encoder is None and read.quantization is not None:
                read.quantization.apply(encoder)
            if read.options.lora_rank:
                add_lora(encoder, read.options.lora_rank)
        loaded = Loaded(encoder, read.tokenizer, read.vocabulary, read.objective, path)
        self.options = with_saved_patterns(read.options, read.folder)
        self._search(n_best, search or {})
        self.adapter = build_adapter(self.task, read.labels, loaded, self.options)
        self.labels = self.adapter.labels
        if read.patterns not in (None, patterns_mark(patterns_of(self.adapter))):
            file = read.folder / (TEMPLATE if self.adapter.chat_template else PATTERNS)
            raise UserError(f"{file} is not what the model was trained with; put that file back")
        if isinstance(self.adapter, Write):
            self.adapter.n_best = n_best
        with torch.device("meta"):
            model = task_model(encoder, self.adapter, self.options)
        store.put_weights(model, read.weights, read.path, assign=True, partial=read.encoder is not None)
        if self.options.lora_rank:
            merge_lora(encoder)
        self.device, self.dtype = pick_device(device), torch.float32
        self.model = model.to(self.device).eval()
        if read.quantization is not None:
            prepare(encoder, self.dtype)
        self.model.encoder.use_kernel(best_kernel(self.device, encoder.dtype))
        if isinstance(self.adapter, Write):
            optimize_for_inference(self.model.encoder)
        else:
            prepack(self.model.encoder)
        self.pad = loaded.vocabulary.roles.get("pad", 0)
        if read.threshold is not None and hasattr(self.adapter, "threshold"):
            self.adapter.threshold = read.threshold

    def _search(self, n_best: int, search: Mapping[str, Any]) -> None:
        """Apply the options of a search."""
        given = [*search, *(["n_best"] if n_best != 1 else [])]
        if given and not self.task.writes and self.options.method != "text":
            names = ", ".join(map(setting, given))
            raise UserError(f"{self.task.name} is a task of kind {self.task.kind}, not of writing; leave out {names}")
        self.options = dataclasses.replace(self.options, **search)
        problems = self.options.problems()
        if n_best < 1:
            problems.append(f"{setting('n_best')} is {n_best}; it must be at least 1")
        if problems:
            raise ConfigError(problems)

    def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """Return a prediction for each item."""
        from blankfill.model.view import evaluation_view
        from blankfill.tasks.text.writing import evaluator_for

        if not items:
            return []
        model = evaluation_view(self.model, lasting=True)  # an evaluator changes the mode of its model
        predictions, _ = evaluator_for(self.adapter, items, self.pad).predict(model, self.device, self.dtype)
        return predictions

    def predict_encoded(self, encoded: EncodedSet) -> list[Prediction]:
        """Return a prediction for each item of a set that the adapter of a head has encoded."""
        from blankfill.model.view import evaluation_view
        from blankfill.tasks.training import HeadEvaluator

        if not encoded.encoded:
            return self.predict(encoded.items)
        model = evaluation_view(self.model, lasting=True)
        longest = max(len(example) for item in encoded.encoded for example in item.examples)
        flat = self.device.type == "cpu" and model.encoder.reads_texts(longest)
        evaluator = HeadEvaluator(self.adapter, encoded, self.pad, flat=flat)
        predictions, _ = evaluator.predict(model, self.device, self.dtype)
        return predictions


class EnsemblePredictor:
    """The models of all patterns, which predict together with their weights (PET's ensemble)."""

    def __init__(self, members: Sequence[Predictor], weights: Sequence[float]) -> None:
        self.members, self.weights = members, weights
        self.task, self.labels, self.tables = members[0].task, members[0].labels, members[0].tables

    def logs(self, items: Sequence[Item]) -> list[NDArray[np.float64]]:
        """Return the mean log-probabilities of the labels of each item, float64[C]."""
        return self._combined([member.predict(items) for member in self.members])

    def _combined(self, predictions: Sequence[Sequence[Prediction]]) -> list[NDArray[np.float64]]:
        """Return the mean log-probabilities of the labels of each item, from the predictions of each member."""
        said = [[prediction.record["probabilities"] for prediction in own] for own in predictions]
        return [combined(logs_of(probabilities), self.weights) for probabilities in zip(*said, strict=True)]

    def predict(self, items: Sequence[Item]) -> list[Prediction]:
        """Return a prediction for each item."""
        return self._chosen(items, self.logs(items))

    def predict_encoded(self, encoded: Sequence[EncodedSet]) -> list[Prediction]:
        """Return a prediction for each item of sets that the adapters of the members have encoded, in their order."""
        pairs = zip(self.members, encoded, strict=True)
        logs = self._combined([member.predict_encoded(own) for member, own in pairs])
        return self._chosen(encoded[0].items, logs)

    def _chosen(self, items: Sequence[Item], logs: Sequence[NDArray[np.float64]]) -> list[Prediction]:
        from blankfill.tasks.heads.texts import chosen, classified

        joined = [logs_C.astype(np.float32) for logs_C in logs]
        return [
            chosen(item, logs_C) if isinstance(item, ChoiceItem) else classified(logs_C, self.labels)
            for item, logs_C in zip(items, joined, strict=True)
        ]


AnyPredictor = Predictor | EnsemblePredictor


def open_predictor(
    path: str | Path,
    device: str = "auto",
    threads: int | None = 0,
    n_best: int = 1,
    search: Mapping[str, Any] | None = None,
) -> AnyPredictor:
    """Open the model of a run, a checkpoint folder or a transformers folder with a head, the best run of a grid's
    folder, or an ensemble.

    n_best, search: for a model that generates text; see `Predictor`.
    Raises UserError when the folder holds no fine-tuned model.
    """
    path = Path(path)
    results = _results(path)
    if results.get("patterns"):
        where = f"{path / RESULTS}: `patterns`"
        patterns = [of_kind(pattern, dict, where) for pattern in field(results, "patterns", list, path / RESULTS)]
        weights = [field(pattern, "untrained", float, where) for pattern in patterns]
        folders = [_inside(path, field(pattern, "folder", str, where)) for pattern in patterns]
        if min(weights) < 0:
            raise UserError(f"{where}: a weight is negative")
        say(f"{path}: the ensemble of {len(folders)} patterns predicts")
        threads = None if threads is None else use_threads(threads)
        return EnsemblePredictor([Predictor(folder, device, threads, n_best, search) for folder in folders], weights)
    if isinstance(best := results.get("best"), dict) and "best_run" in best:
        run = field(best, "best_run", str, path / RESULTS)
        say(f"{path}: {run} predicts, the best run of the best setting ({best.get('setting')})")
        return Predictor(_inside(path, run), device, threads, n_best, search)
    return Predictor(path, device, threads, n_best, search)


def holds_fine_tuned(path: Path) -> bool:
    """Return whether `open_predictor` opens a folder: a fine-tuning run, one of its checkpoints, several runs, or a
    transformers folder whose model has a fine-tuned head."""
    from blankfill.checkpoint import store

    if (path / CONFIG).exists():
        return True
    if (path / store.STATE).exists():
        return "task" in store.read_state(path)[0]
    if path.is_dir() and (path / RESULTS).exists():
        results = read_json(path / RESULTS)
        best = results.get("best")
        return bool(results.get("patterns")) or (isinstance(best, dict) and "best_run" in best)
    return names_head(path)


def _inside(path: Path, name: str) -> Path:
    """Return a run of several in their folder. Raises UserError for a name outside the folder."""
    if Path(name).name != name or name == "..":
        raise UserError(f"{path / RESULTS} names the run {shown(name)}, which is not a folder beside it")
    return path / name


def _results(path: Path) -> dict[str, Any]:
    """Read the results of several runs in a folder, {} for a single run."""
    if (path / CONFIG).exists() or not (path / RESULTS).exists():
        return {}
    try:
        return read_json(path / RESULTS)
    except UserError as error:
        raise UserError(f"{error.template}; give the command that wrote it again") from error
