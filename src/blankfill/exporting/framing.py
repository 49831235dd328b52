"""The texts of a pretrained model as other programs frame them, and the vectors that it makes of them.

Shapes: T columns, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from blankfill.checkpoint.load import Loaded
from blankfill.convert.check import LONGEST, row_outputs
from blankfill.convert.gguf_layout import Pooling
from blankfill.convert.gguf_tokenizer import Frame
from blankfill.errors import UserError


def frame_of(loaded: Loaded, where: object) -> Frame:
    """Return the special tokens around a text, as the model was trained to read it.

    Raises UserError for an encoder that reads no token before a text or behind it. where: the model, for sentences.
    """
    roles = loaded.vocabulary.roles
    before, _, after = loaded.objective.frame_roles()
    if loaded.objective.causal:
        return Frame(roles.get("eos") if before else None, None, roles.get("eos"))
    if len(before) != 1 or len(after) != 1 or loaded.vocabulary.missing((*before, *after)):
        raise UserError(
            f"{where} cannot be written as GGUF: llama.cpp frames the text of an encoder by one token before it and "
            f"one behind it, and this model reads {' '.join((*before, 'text', *after))}"
        )
    return Frame(roles[before[0]], roles[after[0]])


def framed_ids(loaded: Loaded, text: str, frame: Frame) -> list[int]:
    """Return the ids of a text with its frame, cut to the longest that is compared."""
    first = [] if frame.first is None else [frame.first]
    last = [] if frame.last is None else [frame.last]
    room = min(LONGEST, loaded.format.max_columns) - len(first) - len(last)
    return [*first, *loaded.tokenizer.encode(text)[:room], *last]


@torch.inference_mode()
def vector_of(loaded: Loaded, ids: Sequence[int], pooling: Pooling) -> torch.Tensor:
    """Return the vector of a text from an encoder, [D]. ids: with their frame."""
    row = loaded.format.export_row(np.array(ids, np.int32))
    hidden_TD: torch.Tensor = row_outputs(loaded, row, None).hidden[0, : len(ids)]
    return hidden_TD.mean(0) if pooling == "mean" else hidden_TD[0]
