"""A fine-tuned model that writes, as a speaker of conversations (`chatting.engine`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blankfill.chatting.engine import Speaker
from blankfill.errors import UserError
from blankfill.finetuning.predictor import AnyPredictor, Predictor

if TYPE_CHECKING:
    from blankfill.types import DecoderInput

KINDS = ("generate", "chat")
"""Kinds of tasks whose models write texts of any length."""


def tuned_speaker(predictor: AnyPredictor) -> Speaker:
    """Return the speaker of a fine-tuned model: a prompt is its source, laid out as in its training. Raises UserError
    for a model that was fine-tuned for anything but writing."""
    writing = getattr(predictor.adapter, "writing", None) if isinstance(predictor, Predictor) else None
    if not isinstance(predictor, Predictor) or predictor.task.kind not in KINDS or writing is None:
        raise UserError(
            f"this model was fine-tuned for {predictor.task.name}, which is not writing; use `blankfill predict`, or "
            "chat with a model that was fine-tuned to write"
        )

    def row(ids: Sequence[int]) -> DecoderInput:
        source = writing.source(ids)
        if source.cut:
            raise UserError(
                f"the text has {len(ids):,} tokens, and the model reads at most {len(ids) - source.cut:,}; shorten it"
            )
        context: DecoderInput = writing.context(source)
        return context

    layout = writing.format
    return Speaker(
        predictor.model.encoder, predictor.adapter.tokenizer, layout.vocabulary, predictor.path, row,
        (writing.end,), writing.longest, True,
    )  # fmt: skip
