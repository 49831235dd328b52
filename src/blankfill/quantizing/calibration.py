"""Calibration rows: text that a model reads so that the inputs of its layers are known.

A pretraining run has its training text; the rows are those of its objective, masked or blanked as in validation. A
fine-tuned model reads the items of its task. Other models need files (`QuantizeSettings.calibration`), which are
prepared as for pretraining, with the model's tokenizer. The gate measures on validation text, so that text is left
alone.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blankfill.attention.kernels import best_kernel
from blankfill.checkpoint.load import Loaded, load_model, tokenizer_folder
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.options import PrepareConfig
from blankfill.corpus.prepare import prepare
from blankfill.data.batching import collate
from blankfill.data.sampler import Sampler
from blankfill.errors import UserError, setting
from blankfill.finetuning.config import read_config
from blankfill.finetuning.data import read_splits
from blankfill.finetuning.predictor import Predictor
from blankfill.model.transformer import Transformer
from blankfill.pretraining.data_setup import counts_of
from blankfill.quantizing.measures.text import units_of
from blankfill.quantizing.settings import QuantizeSettings
from blankfill.runs.folder import CORPUS, corpus_of
from blankfill.tasks.batching import Epochs
from blankfill.tasks.run_files import CONFIG
from blankfill.training.loss import loss_sums
from blankfill.types import Batch

ROWS = 8
"""Rows of a batch."""
TOKENS = 1 << 16
"""Largest number of tokens that are read: twenty times the inputs of most layers, and bounded memory."""


@dataclass(frozen=True)
class Subject:
    """A model with its calibration rows.

    encoder: the transformer whose layers are quantised. run: computes everything of the model that a batch needs.
    loaded: the pretrained model, None for a fine-tuned one. note: files, rows and seed, for the report.
    """

    encoder: Transformer
    run: Callable[[Batch], Any]
    batches: Sequence[Batch]
    note: dict[str, Any]
    loaded: Loaded | None = None


def open_subject(source: Path, fine_tuned: bool, settings: QuantizeSettings) -> Subject:
    """Open a model in fp32 or bf16, and its calibration rows. source: folder of its weights.

    Raises UserError when there is no text, or none that makes a row.
    """
    made = _task_subject(source, settings) if fine_tuned else _pretrained_subject(source, settings)
    if not made.batches:
        raise UserError(f"{made.note['files'][0]} has no text for calibration; give more with {setting('calibration')}")
    return made


def has_text(source: Path, fine_tuned: bool) -> bool:
    """Return whether the text of a run, or the data of its task, is there."""
    run = tokenizer_folder(source)
    try:
        return read_config(run).data.exists() if fine_tuned else has_corpus(run) and corpus_of(run).exists()
    except UserError:
        return False


def has_corpus(run: Path) -> bool:
    """Return whether a folder names the prepared text of a run, or holds it."""
    return (run / CORPUS).exists() or (run / "corpus").exists()


def _pretrained_subject(source: Path, settings: QuantizeSettings) -> Subject:
    run = tokenizer_folder(source)
    if settings.calibration:
        if missing := [path for path in settings.calibration if not path.exists()]:
            raise UserError(f"{missing[0]}: no such file or folder; give text with {setting('calibration')}")
    elif not has_corpus(run):
        raise UserError(
            f"{source} has no text of a run beside it for calibration; give files of text such as the model reads with "
            f"{setting('calibration')}, or use {setting('method', 'hqq')}, which needs none"
        )
    loaded = load_model(source)
    if loaded.model.dtype == torch.float16:  # slower than fp32 on a CPU
        loaded = load_model(source, dtype=torch.float32)
    model = loaded.model
    dtype = model.dtype
    model.use_kernel(best_kernel(model.device, dtype))
    if settings.calibration:
        files = [str(path.resolve()) for path in settings.calibration]
        with tempfile.TemporaryDirectory() as work:
            batches = _batches(_prepared(loaded, files, Path(work)), loaded, settings)
    else:
        try:
            folder = corpus_of(run)
        except UserError as error:
            raise UserError(
                f"the text of the run in {run} is gone, which calibration reads; give files with "
                f"{setting('calibration')}, or use {setting('method', 'hqq')}, which needs none"
            ) from error
        files = [str(folder.resolve())]
        batches = _batches(folder, loaded, settings)
    rows = sum(len(batch.input_ids) for batch in batches)
    tokens = sum(batch.tokens for batch in batches)
    note = {"files": files, "rows": rows, "tokens": tokens, "seed": settings.seed}
    return Subject(model, lambda batch: loss_sums(model, batch, dtype), batches, note, loaded)


def _prepared(loaded: Loaded, files: Sequence[str], work: Path) -> Path:
    """Prepare files of text with the tokenizer of a model, in a folder that is new."""
    loaded.tokenizer.save(work)
    options = PrepareConfig(
        tokenizer=str((work / "tokenizer.json").absolute()), validation=0.0, allow_unknown=True, dedup="none"
    )
    prepare(files, work / "corpus", options)
    return work / "corpus"


def _batches(folder: Path, loaded: Loaded, settings: QuantizeSettings) -> list[Batch]:
    """Return rows of the training text of a prepared corpus, drawn by seed, in batches."""
    objective = loaded.objective.for_validation()
    units = units_of(loaded, objective, counts_of(folder / "unigram.npy"))
    vocabulary = dataclasses.replace(loaded.vocabulary, units=units)
    try:
        rows = Sampler(IndexedCorpus(folder / "train"), objective, vocabulary, settings.seed)
    except UserError as error:
        raise UserError(
            f"the text for calibration has no row of the objective {objective.name}; give longer texts with "
            f"{setting('calibration')}"
        ) from error
    available = rows.rows_in_epoch(0)
    most = max(1, min(settings.calibration_rows, TOKENS // objective.length))
    chosen = np.unique(np.linspace(0, available - 1, min(most, available)).astype(int)).tolist()
    pad = vocabulary.roles.get("pad", 0)
    return [
        collate([rows.row(number) for number in chosen[k : k + ROWS]], pad) for k in range(0, len(chosen), ROWS)
    ]  # fmt: skip


def _task_subject(source: Path, settings: QuantizeSettings) -> Subject:
    run = tokenizer_folder(source)
    if len(settings.calibration) > 1:
        raise UserError(
            f"{setting('calibration')} of a fine-tuned model is one file or folder of its task, and "
            f"{len(settings.calibration)} are given"
        )
    config = read_config(run) if (run / CONFIG).exists() else None
    data = settings.calibration[0] if settings.calibration else None if config is None else config.data
    if data is None or not data.exists():
        where = f"{source} does not say what it was trained on" if data is None else f"{data} is gone"
        raise UserError(
            f"{where}, and calibration reads items of the task; give data of the task with {setting('calibration')}, "
            f"or use {setting('method', 'hqq')}, which needs none"
        )
    predictor = Predictor(source, "cpu", None)
    adapter, model = predictor.adapter, predictor.model
    splits = read_splits(predictor.task, data, adapter.options, predictor.tables)
    items = splits.train.items
    order = np.random.Generator(np.random.Philox(key=[settings.seed, len(items)])).permutation(len(items))
    chosen = [items[k] for k in np.sort(order[: settings.calibration_rows])]
    encoded = adapter.encode(chosen, learn=True).encoded
    epochs = Epochs(len(encoded), ROWS, settings.seed)
    made = adapter.batches(encoded, epochs, predictor.pad, 0)
    batches: list[Batch] = []
    tokens = rows = 0
    for step in range(-(-len(encoded) // ROWS)):
        if tokens >= TOKENS:
            break
        batches += (of_step := made.step(step))
        tokens += sum(batch.tokens for batch in of_step)
        rows = min(len(encoded), rows + ROWS)
    note = {"files": [str(data.resolve())], "rows": rows, "tokens": tokens, "seed": settings.seed}
    model.eval()
    return Subject(model.encoder, lambda batch: model(batch, predictor.dtype), batches, note)
