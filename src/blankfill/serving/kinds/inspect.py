"""What a model reads for a request: its row of tokens, with positions and who sees whom.

The row is made by the objects that serve the request itself: the filler and its format, the writer, the chat engine,
the embedder, the adapter of a fine-tuned model. It is drawn by `blankfill show` as well (`report.picture.Row`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blankfill.chatting.engine import Chat
from blankfill.chatting.messages import messages_of, user
from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import UserError
from blankfill.finetuning.predictor import EnsemblePredictor, Predictor
from blankfill.finetuning.rows import items_of, line_of
from blankfill.generation.fill import BlankedText, Filler
from blankfill.generation.sampling import Sampling
from blankfill.generation.write import Writer
from blankfill.inference import Model
from blankfill.model.config import TransformerConfig
from blankfill.objectives import Objective
from blankfill.pretraining.show import ShownRow, speller
from blankfill.report.example_page import bits
from blankfill.report.picture import channel_names, join_row
from blankfill.serving.abilities import Ability
from blankfill.serving.errors import ApiError
from blankfill.tasks.adapter import Adapter
from blankfill.types import UNLIMITED, DecoderInput, Example, Int32, Vocabulary

MAX_COLUMNS = 128
"""Largest number of columns of a row that is described."""
MAX_ROWS = 16
"""Largest number of rows: the windows of a long text, the choices of a question."""
MAX_CHARACTERS = 100_000
"""Largest number of characters of an input."""
NOTHING = np.zeros(0, np.int32)
USES = (
    Ability.FILL, Ability.COMPLETE, Ability.CHAT, Ability.EMBED, Ability.CLASSIFY, Ability.TAG, Ability.ANSWER,
)  # fmt: skip
"""The uses whose rows can be described."""


@dataclass(frozen=True)
class InspectItem:
    """A request: its use and input. truncate: whether a text or row that is too long is cut, instead of an error."""

    use: Ability
    input: Any
    truncate: bool = False

    @property
    def size(self) -> int:
        """Number of characters of the input."""
        return len(str(self.input))


@dataclass(frozen=True)
class ReadRow:
    """A row that a model reads. predicts: the columns at which something is predicted, of the decoder in a model of two
    stacks. following: the column that comes next, of a model that writes."""

    example: Example
    predicts: Sequence[int]
    following: DecoderInput | None = None

    @property
    def columns(self) -> int:
        """Number of columns, of both sides."""
        return len(self.example) + (0 if self.example.context is None else len(self.example.context))


class InspectKind:
    """Describes the rows that one model reads."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._chat: Chat | None = None

    def size(self, item: InspectItem) -> int:
        """Return about the number of tokens."""
        return item.size

    def compute(self, items: Sequence[InspectItem]) -> list[list[dict[str, Any]] | Exception]:
        """Return the rows of each item."""
        results: list[list[dict[str, Any]] | Exception] = []
        for item in items:
            try:
                results.append(self.rows(item))
            except (UserError, ApiError) as error:
                results.append(error)
        return results

    def rows(self, item: InspectItem) -> list[dict[str, Any]]:
        """Return the description of each row that the model reads for an item.

        Raises UserError for an input that the model cannot read, ApiError (422) for one that is too long.
        """
        if item.size > MAX_CHARACTERS:
            raise _too_long(f"it has {item.size:,} characters, and {MAX_CHARACTERS:,} are read at most", "")
        read = self.read(item)
        if not item.truncate:
            if len(read) > MAX_ROWS:
                raise _too_long(f"the model reads it as {len(read)} rows, and {MAX_ROWS} are shown at most")
            if (longest := max((row.columns for row in read), default=0)) > MAX_COLUMNS:
                raise _too_long(
                    f"the model reads it as a row of {longest:,} columns, and rows of {MAX_COLUMNS} are shown at most"
                )
        return [self.described(index, row) for index, row in enumerate(read[:MAX_ROWS])]

    def read(self, item: InspectItem) -> list[ReadRow]:
        """Return the rows that the model reads for an item."""
        if item.use is Ability.CHAT:
            self._chat = self._chat or self.model.chat_engine()
            messages = [user(item.input)] if isinstance(item.input, str) else messages_of(item.input)
            return [_written(self._chat.prompt(messages).row)]
        if item.use in (Ability.CLASSIFY, Ability.TAG, Ability.ANSWER):
            return self._of_task(item)
        if not isinstance(item.input, str):
            raise ApiError(422, f"input: give one text for the use {item.use.value}", "invalid_request", "input")
        if item.use is Ability.FILL:
            return [filled_row(self.model.filler, self.model.filler.take_apart(item.input, 1, None, 0.0))]
        if item.use is Ability.COMPLETE:
            return [_written(Writer(self.model.loaded, [item.input], 1, Sampling()).contexts[0])]
        return [self._embedded(item)]

    def _embedded(self, item: InspectItem) -> ReadRow:
        embedder, layout = self.model.embedder(), self.model.loaded.format
        before, after = embedder.frame
        ids = embedder.tokenizer.encode_batch([item.input])[0]
        room = embedder.longest - len(before) - len(after)
        if len(ids) > room and not item.truncate:
            raise _too_long(f"it has {len(ids):,} tokens, and the model reads {room:,}")
        if not len(before) + len(ids) + len(after):
            raise UserError("the text is empty, and this model reads only the tokens of a text; give a text")
        framed = layout.reframed(before, after).frame(ids[:room], encoder_only=True)
        return ReadRow(framed.example, ())

    def _of_task(self, item: InspectItem) -> list[ReadRow]:
        predictor, where = self.model.predictor, "input"
        line = line_of(predictor.task, item.input, where)
        items = list(items_of(predictor.task, iter([(where, line)]), 0, predictor.tables))
        adapter = _adapter(predictor)
        cut = adapter.cut
        encoded_set = adapter.encode(items)
        if adapter.cut > cut and not item.truncate:
            raise _too_long(f"the model reads {adapter.input_format.length:,} tokens of it")
        written = [_written(part) for part in encoded_set.parts if isinstance(part, DecoderInput)]
        return written or [
            ReadRow(example, columns.tolist())
            for encoded in encoded_set.encoded
            for example, columns in zip(encoded.examples, encoded.columns, strict=True)
        ]

    def described(self, index: int, read: ReadRow) -> dict[str, Any]:
        """Return a row as plain values, of a long one its first columns."""
        objective, config = self._objective, self._config
        row, tokenizer = join_row([read.example]), self._tokenizer
        names, spell = channel_names(objective.channels, len(row.positions)), speller(tokenizer)
        shown = ShownRow("", 0, 0, 0, [read.example], tokenizer, tokenizer.vocabulary(), objective.channels)
        shown_columns = _kept(row.encoder, len(row) - row.encoder)
        numbers, predicts = row.numbers(), {row.encoder + column for column in read.predicts}
        blanks = shown.blanks

        def column(k: int) -> dict[str, Any]:
            id = int(row.input_ids[k])
            side = ("encoder" if k < row.encoder else "decoder") if row.encoder else None
            return {
                "column": numbers[k], "side": side, "id": id, "token": spell(id),
                "role": _role(id, blanks, shown.vocabulary),
                "positions": {name: int(row.positions[p, k]) for p, name in enumerate(names)},
                "segment": int(row.rule.segment[k]), "rank": int(row.rule.rank[k]),
                "horizon": int(row.rule.horizon[k]), "predicts": k in predicts,
            }  # fmt: skip

        grid = np.ix_(shown_columns, shown_columns)
        near = {"near": bits(row.visible(config.window)[grid])} if config.window else {}
        return {
            "index": index, "objective": objective.name, "length": len(row), "truncated": len(shown_columns) < len(row),
            "channels": names, "position_scheme": _scheme(config), "window": config.window,
            "columns": [column(k) for k in shown_columns.tolist()], "sees": bits(row.visible()[grid]), **near,
            "next": self._next(read.following, names),
        }  # fmt: skip

    def _next(self, following: DecoderInput | None, names: Sequence[str]) -> dict[str, Any] | None:
        """Return the positions of the first token that the model writes; None for a model that does not write."""
        if following is None:
            return None
        query = following.query_token
        return {
            "positions": dict(zip(names, following.next_position.tolist(), strict=True)),
            "step": dict(zip(names, following.step.tolist(), strict=True)),
            "room": following.room if following.room < UNLIMITED // 2 else None,
            "query_token": None if query is None else self._tokenizer.token(query),
        }  # fmt: skip

    @property
    def _tokenizer(self) -> Tokenizer:
        return self.model.loaded.tokenizer if self.model.is_pretrained else _adapter(self.model.predictor).tokenizer

    @property
    def _objective(self) -> Objective:
        if self.model.is_pretrained:
            return self.model.loaded.objective
        return _adapter(self.model.predictor).input_format.objective

    @property
    def _config(self) -> TransformerConfig:
        if self.model.is_pretrained:
            return self.model.loaded.model.config
        return _member(self.model.predictor).model.encoder.config


def filled_row(filler: Filler, blanked: BlankedText) -> ReadRow:
    """Return the first row that a filler reads of a text: blanks filled by places have their smallest lengths, and of
    blanks that are written, the first one comes next."""
    layout = filler.format
    if layout.fill_method != "places":
        layout.check_blanks(blanked.runs, blanked.roles, sum(least for least, _ in filter(None, blanked.ranges)))
        return _written(layout.blank_input(blanked.runs, blanked.roles, ()))
    lengths = [(given or (1, 1))[0] for given in blanked.ranges]
    layout.check_blanks(blanked.runs, blanked.roles, sum(lengths))
    mask = filler.vocabulary["mask"]
    text = list(blanked.runs[0])
    for length, run in zip(lengths, blanked.runs[1:], strict=True):
        text += [mask] * length + list(run)
    first = len(blanked.runs[0])
    row = np.array([text], np.int32)
    (example,) = layout.open_places(row, range(first, first + lengths[0]))
    return ReadRow(example, example.target_index.tolist())


def _written(given: DecoderInput) -> ReadRow:
    """Return the input of a decoder as a row; the last column predicts, unless a column of its own does."""
    example = Example(given.input_ids, given.positions, given.rule, NOTHING, NOTHING, context=given.source)
    return ReadRow(example, [len(given) - 1] if given.query_token is None else [], given)


def _scheme(config: TransformerConfig) -> str:
    """Return the position scheme, and for T5's distances, which are no scheme of the configuration, their name."""
    return (
        "relative_buckets" if config.position_scheme == "none" and config.relative_buckets else config.position_scheme
    )


def _role(id: int, blanks: Collection[int], vocabulary: Vocabulary) -> str:
    """Return what a token is: "blank", "unknown", "special" or "text"."""
    if id in blanks:
        return "blank"
    if id == vocabulary.roles.get("unk"):
        return "unknown"
    return "special" if id in vocabulary.special else "text"


def _kept(encoder: int, decoder: int) -> Int32:
    """Return the columns that are shown of a row: the first ones, half of them of the decoder where both sides are
    long."""
    of_decoder = min(decoder, max(MAX_COLUMNS - encoder, MAX_COLUMNS // 2)) if encoder else min(decoder, MAX_COLUMNS)
    of_encoder = min(encoder, MAX_COLUMNS - of_decoder)
    return np.concatenate([np.arange(of_encoder), encoder + np.arange(of_decoder)]).astype(np.int32)


def _member(predictor: Predictor | EnsemblePredictor) -> Predictor:
    """Return the model that reads; of an ensemble the first one."""
    return predictor.members[0] if isinstance(predictor, EnsemblePredictor) else predictor


def _adapter(predictor: Predictor | EnsemblePredictor) -> Adapter:
    return _member(predictor).adapter


def _too_long(why: str, remedy: str = ", or set truncate to true to see its beginning") -> ApiError:
    return ApiError(422, f"input: the text is too long: {why}; shorten it{remedy}", "invalid_request", "input")
