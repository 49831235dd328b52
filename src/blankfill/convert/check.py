"""Whether transformers makes of an exported folder what we make of the model: the same ids, the same scores.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blankfill.attention.kernels import lower
from blankfill.checkpoint.hf_loading import CONFIG
from blankfill.checkpoint.load import Loaded
from blankfill.corpus.indexed import IndexedCorpus
from blankfill.corpus.python_docs import read_share
from blankfill.data.batching import collate
from blankfill.errors import UserError
from blankfill.objectives import Bart, Glm, Gpt, Mlm, Xlnet
from blankfill.objectives.base import two_sided
from blankfill.system.reading import read_json, read_path
from blankfill.types import AttentionRule

TOLERANCE = 1e-4
"""The largest difference of two scores that is put down to rounding."""
TEXTS, LONGEST = 8, 128
"""So many texts of so many tokens are compared."""


def real_text(loaded: Loaded, path: Path) -> list[str]:
    """Texts to compare on: validation documents of the run that a path belongs to, else Python's documentation and
    words of the model's vocabulary, which may be in any language."""
    for run in (path, path.parent.parent):
        pointer = run / "corpus_path.txt"
        if not pointer.is_file():
            continue
        valid = run / read_path(pointer) / "valid"
        if valid.with_suffix(".idx").exists():
            corpus = IndexedCorpus(valid)
            starts = np.cumsum([0, *corpus.document_tokens])
            chosen = np.unique(np.linspace(0, len(corpus) - 1, min(TEXTS, len(corpus))).astype(int)).tolist()
            cut = [corpus.tokens[starts[k] : min(starts[k + 1], starts[k] + LONGEST)] for k in chosen]
            if texts := [text for ids in cut if (text := loaded.tokenizer.decode(ids.tolist())).strip()]:
                return texts
    half = TEXTS // 2
    step = max(1, loaded.tokenizer.size // (half * 24))
    ordinary = [k for k in range(0, loaded.tokenizer.size, step) if k not in loaded.vocabulary.special]
    documented = (" ".join(paragraphs) for _, paragraphs in read_share(0))
    return [*islice(documented, half), *(loaded.tokenizer.decode(ordinary[k::half]) for k in range(half))]


@torch.inference_mode()
def difference(loaded: Loaded, folder: Path, texts: Sequence[str]) -> float:
    """The largest difference between transformers' scores and ours over texts; hidden states for an encoder alone.

    folder: the export. Raises UserError when its tokenizer gives other ids than ours.
    """
    transformers: Any = importlib.import_module("transformers")
    if isinstance(loaded.objective, Glm):
        importlib.import_module("blankfill.hf")
    architecture = read_json(folder / CONFIG)["architectures"][0]
    kind = "AutoModelForCausalLM" if isinstance(loaded.objective, Gpt | Glm) else "AutoModelForMaskedLM"
    maker = getattr(transformers, architecture, None) or getattr(transformers, kind)
    with no_bars(transformers):
        theirs = maker.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    offset = loaded.objective.position_offset if isinstance(loaded.objective, Mlm | Bart) else 0
    room = loaded.model.config.position_sizes[0] - offset
    largest = 0.0
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=min(LONGEST, room), return_tensors="pt")
        ids = inputs["input_ids"][0]
        check_ids(loaded, text, ids.tolist())
        if isinstance(loaded.objective, Glm):
            ids = with_blank(loaded, ids[: room - 4])
            inputs = {"input_ids": ids[None]}
        if loaded.objective.two_sided:
            start = torch.tensor([theirs.config.decoder_start_token_id])
            inputs = {**inputs, "decoder_input_ids": torch.cat([start, ids[:-1]])[None]}
        if len(ids):
            scores = _scores(theirs(**inputs))
            largest = larger(largest, float((scores[0] - our_scores(loaded, ids)).abs().max()))
    return largest


def larger(a: float, b: float) -> float:
    """The larger of two differences; infinity where the new one, b, is no number."""
    return max(a, b) if b == b else float("inf")


@contextmanager
def no_bars(transformers: Any) -> Iterator[None]:
    """Without transformers' own progress bars, which say nothing here."""
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
        if (found := getattr(out, name, None)) is not None:
            return torch.as_tensor(found)
    raise ValueError(f"{type(out).__name__} has no scores")


def check_ids(loaded: Loaded, text: str, ids: list[int]) -> None:
    """UserError when transformers' tokenizer reads a text otherwise than ours, special tokens around it aside."""
    own = loaded.tokenizer.encode(text)
    frame = {loaded.vocabulary.roles.get(role) for role in ("cls", "sep", "eos")}
    if ids[: len(own)] == own[: len(ids)]:
        return
    inner = [k for k in ids if k not in frame]
    if inner != [k for k in own if k not in frame][: len(inner)]:
        raise UserError(
            f"{loaded.path}: transformers' tokenizer reads {text[:60]!r} otherwise than the model's own; "
            "its settings cannot be exported"
        )


def with_blank(loaded: Loaded, ids: torch.Tensor) -> torch.Tensor:
    """A GLM row: the text as Part A with a mask at its end, and the beginning of what stands there."""
    roles = loaded.vocabulary.roles
    mask = roles["gmask"] if "gmask" in roles else roles["mask"]
    return torch.tensor([*ids.tolist(), mask, roles["sop"], *ids[:2].tolist()])


def our_scores(loaded: Loaded, ids: torch.Tensor) -> torch.Tensor:
    """Our scores of a row, [T, V]; hidden states [T, D] of an encoder alone."""
    model, objective, T = loaded.model, loaded.objective, len(ids)
    if objective.two_sided:
        return _written_scores(loaded, ids)
    index = np.arange(T)
    positions = np.zeros((len(model.config.position_sizes), T), np.int64)
    positions[0] = index + (objective.position_offset if isinstance(objective, Mlm) else 0)
    if isinstance(objective, Xlnet) and len(ids) and int(ids[-1]) == loaded.vocabulary.roles.get("cls"):
        positions[1, -1] = 2
    rule = AttentionRule.causal(T) if isinstance(objective, Gpt) else AttentionRule.full(T)
    if isinstance(objective, Glm):
        begin = ids.tolist().index(loaded.vocabulary["sop"])
        rule = AttentionRule.prefix(begin, T)
        positions[0, begin:] = begin - 1
        positions[1, begin:] = 1 + np.arange(T - begin)
    vectors = [torch.from_numpy(v)[None] for v in (rule.segment, rule.horizon, rule.rank)]
    mask = lower("rule", (vectors[0], vectors[1]), (vectors[0], vectors[2]), torch.float32)
    hidden = model(ids[None], torch.from_numpy(positions)[:, None], mask)[0]
    return model.head.logits(hidden, model.output_table) if model.config.word_head else hidden


def _written_scores(loaded: Loaded, ids: torch.Tensor) -> torch.Tensor:
    """Our scores of a row that an encoder reads and a decoder writes again, [T, V]."""
    model, objective, row = loaded.model, loaded.objective, ids.numpy().astype(np.int32)
    first = objective.position_offset if isinstance(objective, Bart) else 0
    start = loaded.vocabulary[objective.decoder_start]
    batch = collate([[two_sided(row, row, start, first)]], loaded.vocabulary["pad"])
    return model.head.logits(model.encode(batch)[0], model.output_table)
