"""Compares transformers' ids and scores of an exported folder with ours of the model.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blankfill.checkpoint.hf_loading import CONFIG
from blankfill.checkpoint.load import Loaded
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.python_docs import read_share
from blankfill.data.batching import collate
from blankfill.errors import UserError
from blankfill.model.heads import HEADS
from blankfill.model.transformer import Transformer
from blankfill.system.reading import read_json, read_path
from blankfill.types import Example

TOLERANCE = 1e-4
"""The largest difference between two scores that counts as rounding."""
TEXTS, LONGEST = 8, 128
"""Number of texts that are compared, and maximum number of tokens of each."""


def real_text(loaded: Loaded, path: Path, count: int = TEXTS) -> list[str]:
    """Return texts for a comparison: validation documents of the run that a path belongs to, else Python's
    documentation and words of the model's vocabulary, which may be in any language. count: of texts."""
    for run in (path, path.parent.parent):
        pointer = run / "corpus_path.txt"
        if not pointer.is_file():
            continue
        valid = run / read_path(pointer) / "valid"
        if valid.with_suffix(".idx").exists():
            corpus = IndexedCorpus(valid)
            starts = np.cumsum([0, *corpus.document_tokens])
            chosen = np.unique(np.linspace(0, len(corpus) - 1, min(count, len(corpus))).astype(int)).tolist()
            cut = [corpus.tokens[starts[k] : min(starts[k + 1], starts[k] + LONGEST)] for k in chosen]
            if len(chosen) < count:  # few and long documents
                places = np.unique(np.linspace(0, max(0, len(corpus.tokens) - LONGEST), count).astype(int))
                cut = [corpus.tokens[place : place + LONGEST] for place in places]
            if texts := [text for ids in cut if (text := loaded.tokenizer.decode(ids.tolist())).strip()]:
                return texts
    half = count // 2
    step = max(1, loaded.tokenizer.size // (half * 24))
    ordinary = [k for k in range(0, loaded.tokenizer.size, step) if k not in loaded.vocabulary.special]
    documented = (" ".join(paragraphs) for _, paragraphs in read_share(0))
    return [*islice(documented, half), *(loaded.tokenizer.decode(ordinary[k::half]) for k in range(half))]


@torch.inference_mode()
def difference(loaded: Loaded, folder: Path, texts: Sequence[str]) -> float:
    """Return the largest difference between transformers' scores and ours over texts; of a bare encoder, hidden states.

    folder: the export. Raises UserError when its tokenizer gives other ids than ours.
    """
    return difference_of(loaded, open_in_transformers(folder, loaded.objective.hf_auto_class), folder, texts)


def open_in_transformers(folder: Path, auto_class: str) -> Any:
    """Open an exported model as float32 in the class of transformers that its config.json names.

    auto_class: the class that opens it where transformers has none of this name.
    """
    transformers: Any = importlib.import_module("transformers")
    architecture = read_json(folder / CONFIG)["architectures"][0]
    if not hasattr(transformers, architecture):
        importlib.import_module("blankfill.hf")
    maker = getattr(transformers, architecture, None) or getattr(transformers, auto_class)
    with no_bars(transformers):
        return maker.from_pretrained(folder).float().eval()


@torch.inference_mode()
def difference_of(loaded: Loaded, theirs: Any, folder: Path, texts: Sequence[str]) -> float:
    """Return the difference of `difference` for an opened model. folder: of its tokenizer."""
    transformers: Any = importlib.import_module("transformers")
    if loaded.model.dtype != torch.float32:  # whose rounding would be all that is seen
        loaded = replace(loaded, model=deepcopy(loaded.model).float())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    format = loaded.objective.format(loaded.vocabulary, loaded.model.config.position_sizes)
    largest = 0.0
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=min(LONGEST, format.max_columns), return_tensors="pt")
        ids = inputs["input_ids"][0]
        check_ids(loaded, text, ids.tolist())
        if loaded.objective.hf_frame == "blank":  # the row of the comparison has its own [gMASK] <sop>
            ids = ids[:-2]
        row = format.export_row(ids[: format.export_room].numpy())
        if loaded.objective.two_sided:
            start = torch.tensor([theirs.config.decoder_start_token_id])
            inputs = {**inputs, "decoder_input_ids": torch.cat([start, ids[:-1]])[None]}
        elif not np.array_equal(row.input_ids, ids):  # the objective compares on a row of its own
            inputs = {"input_ids": torch.from_numpy(row.input_ids.astype(np.int64))[None]}
        if len(ids):
            scores = _scores(theirs(**inputs))
            largest = larger(largest, float((scores[0] - our_scores(loaded, row)).abs().max()))
    return largest


def larger(a: float, b: float) -> float:
    """Return the larger of two differences; infinity if the new one, b, is not a number."""
    return max(a, b) if b == b else float("inf")


@contextmanager
def no_bars(transformers: Any) -> Iterator[None]:
    """Switch off transformers' progress bars inside a `with` block."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _scores(out: Any) -> torch.Tensor:
    for name in ("prediction_logits", "logits", "last_hidden_state"):
        if (scores := getattr(out, name, None)) is not None:
            return torch.as_tensor(scores)
    raise ValueError(f"{type(out).__name__} has no scores")


def check_ids(loaded: Loaded, text: str, ids: list[int]) -> None:
    """Raise UserError if transformers' tokenizer gives other ids than ours, special tokens around the text aside."""
    own = loaded.tokenizer.encode(text)
    frame = {loaded.vocabulary.roles.get(role) for role in ("cls", "sep", "eos", "gmask", "sop")}
    if ids[: len(own)] == own[: len(ids)]:
        return
    inner = [k for k in ids if k not in frame]
    if inner != [k for k in own if k not in frame][: len(inner)]:
        raise UserError(
            f"{loaded.path}: transformers' tokenizer reads {text[:60]!r} otherwise than the model's own; "
            "its settings cannot be exported"
        )


def our_scores(loaded: Loaded, row: Example) -> torch.Tensor:
    """Return our scores of a row, [T, V], or [T] of a head for columns; hidden states [T, D] of a bare encoder."""
    model = loaded.model
    outputs = row_outputs(loaded, row, "all" if model.config.lm_head else None)
    hidden: torch.Tensor = outputs.hidden
    scores: torch.Tensor = outputs.logits if model.config.lm_head else column_scores(model, hidden)
    return scores[0, : len(row)]


def row_outputs(loaded: Loaded, row: Example, logits_at: Any) -> Any:
    """Return the outputs of the model for a row alone. logits_at: as the model takes it."""
    more = len(loaded.model.config.position_sizes) - len(row.positions)
    row = dataclasses.replace(row, positions=np.pad(row.positions, ((0, max(0, more)), (0, 0))))
    return loaded.model(collate([[row]], loaded.vocabulary.roles.get("pad", 0)), logits_at=logits_at)


def column_scores(model: Transformer, hidden: torch.Tensor) -> torch.Tensor:
    """Return the scores of the model's head for columns, or the hidden states [.., D] themselves if it has no such
    head."""
    heads = [head for name in model.config.heads if (head := HEADS[name].scores) is not None]
    return heads[0](model, hidden) if heads else hidden
