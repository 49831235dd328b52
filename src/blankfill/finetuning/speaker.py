"""A fine-tuned model that writes, as a speaker of conversations (`chatting.engine`)."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from blankfill.chatting.engine import Speaker
from blankfill.chatting.templates import ChatTemplate, built_in
from blankfill.errors import UserError
from blankfill.finetuning.predictor import AnyPredictor, Predictor
from blankfill.tasks.chat.adapter import Converse
from blankfill.tasks.text.seq2seq_adapter import Write
from blankfill.types import DecoderInput


def tuned_speaker(predictor: AnyPredictor) -> tuple[Speaker, ChatTemplate]:
    """Return the speaker of a fine-tuned model, whose prompts are laid out as in its training, and its template: that
    of its dialogues, or the last message alone for a model that has learnt to write a target from a source.

    Raises UserError for a model that was fine-tuned for anything but writing.
    """
    adapter = predictor.adapter if isinstance(predictor, Predictor) else None
    if not isinstance(predictor, Predictor) or not isinstance(adapter, Write):
        raise UserError(
            f"this model was fine-tuned for {predictor.task.name}, which is not writing; use `blankfill predict`, or "
            "chat with a model that was fine-tuned to write"
        )

    def source_row(ids: Sequence[int]) -> DecoderInput:
        source = adapter.writing.source(ids)
        if source.cut:
            raise _too_long(len(ids), len(ids) - source.cut)
        return adapter.writing.context(source)

    def dialogue_row(ids: Sequence[int]) -> DecoderInput:
        assert isinstance(adapter, Converse)
        rows = adapter.rows
        if len(ids) > rows.room(1):
            raise _too_long(len(ids), rows.room(1))
        sizes = range(1, adapter.writing.longest + 1)
        most = bisect.bisect_left(sizes, True, key=lambda size: rows.room(size) < len(ids))
        return rows.format.target_input(rows.format.before_answer(ids), most)

    row = dialogue_row if isinstance(adapter, Converse) else source_row
    layout, encoder = adapter.writing.format, predictor.model.encoder
    speaker = Speaker(
        encoder, adapter.tokenizer, layout.vocabulary, predictor.path, row, (adapter.search.end,),
        adapter.writing.longest, tuned=True,
    )  # fmt: skip
    return speaker, adapter.chat_template or built_in("bare")


def _too_long(tokens: int, most: int) -> UserError:
    return UserError(f"the text has {tokens:,} tokens, and the model reads at most {most:,}; shorten it")
