"""A prompt as a model reads it, and the text that is written after it or in its blank.

    reader = PromptReader(loaded)
    prompt = reader.read("Once upon a time")
    sampled = SampledRow(Sampling(seed=1), prompt.ids, reader.banned_V)
    text = Continuation(reader, prompt, reader.row(prompt), sampled, most=100, stops=["\\n"])
    handle = scheduler.join(text.row, text.sampled, text.most, text.ends)
    piece = text.add(token)      # for each new token, often ""
    piece = text.end(finish)     # the rest

GPT, UniLM and BART continue the prompt; GLM and T5 fill its one blank, which stands at its end where it has none.

Not here: the loop (`scheduler`, `write`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from blankfill.errors import UserError, setting
from blankfill.generation.blanks import Words, find_blanks, own_mask
from blankfill.generation.engine import banned
from blankfill.generation.sampling import SampledRow
from blankfill.generation.text_stream import Detokenizer, Stream
from blankfill.system.console import quoted
from blankfill.types import DecoderInput

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded


class WrittenText(Protocol):
    """The text of one row while it is written."""

    row: DecoderInput
    sampled: SampledRow
    most: int
    """Largest number of its tokens."""
    ends: list[int]
    dropped: int
    """Number of characters at the beginning of its tokens that it does not have."""

    @property
    def length(self) -> int:
        """Number of characters of its tokens so far, up to the text that has ended it."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether the text has ended before the model ended it."""
        ...

    def add(self, token: int) -> str:
        """Take a token; returns the text that is now certain."""
        ...

    def end(self, finish: str) -> str:
        """End the text, for a reason of `scheduler.Update`; returns the rest of it."""
        ...


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens.

    ids, behind: tokens before and after the new text. role: the kind of blank, "" for the usual one. before, after: the
    text around the new text. trimmed: whether the space before the new text is in `before`. cut: number of the first
    tokens that were left out.
    """

    ids: list[int]
    behind: list[int]
    role: str
    before: str
    after: str
    trimmed: bool
    cut: int = 0


class PromptReader:
    """Lays out prompts for one model that writes."""

    def __init__(self, loaded: Loaded, slide: bool = False, add_bos: bool | None = None) -> None:
        """slide: whether only the last columns of a longer prompt are read. add_bos: whether GPT reads the begin token
        before a prompt; None: as in its training. Raises UserError for a model that does not write."""
        self.loaded = loaded
        objective, vocabulary = loaded.objective, loaded.vocabulary
        if not objective.writes:
            fill = f'`blankfill fill --model {quoted(loaded.path)} "… [MASK] …"`'
            can = f"fills blanks but does not write on; use {fill}, or"
            can = can if objective.fills else "with these options does not write on;"
            raise UserError(
                f"{loaded.path}: a model of the objective {objective.name} {can} train a model with the objective gpt, "
                "glm, unilm, t5 or bart"
            )
        loaded.check_tokens("generate", "which generation needs")
        if slide and not objective.slides:
            raise UserError(f"only a gpt model can slide past its positions; leave {setting('slide')} out")
        rows = loaded.model.config.vocab_size
        self.slide = slide
        self.format = loaded.format if add_bos is None else loaded.format.with_bos(add_bos)
        self.ends = self.format.end_ids
        self.banned_V = torch.from_numpy(banned(vocabulary, rows, keep=self.ends))
        self.banned_V = self.banned_V.to(loaded.model.device)
        self.words = Words(loaded.tokenizer, vocabulary, rows)

    def read(self, text: str) -> Prompt:
        """Read a text, whose blank is filled where it has one and the model writes into blanks. Raises UserError for
        another number of blanks."""
        start, end, role = self._place(text)
        return self.between(text[:start], text[end:], role)

    def between(self, before: str, after: str, role: str = "") -> Prompt:
        """Read a text before the new one, and one after it."""
        encode = self.loaded.tokenizer.encode
        ids, behind = encode(self.words.before_blank(before)), encode(after)
        trimmed = before.endswith(" ") or (before[-1:].isspace() and not self.words.spaced)
        return Prompt(ids, behind, role, before, after, trimmed)

    def of_ids(self, ids: Sequence[int]) -> Prompt:
        """Read tokens. Raises UserError for ids that there are not."""
        size = self.loaded.vocabulary.size
        if wrong := [id for id in ids if not 0 <= id < size]:
            raise UserError(f"the prompt has the token {wrong[0]}, and the tokenizer has the tokens 0 to {size - 1:,}")
        return Prompt(list(ids), [], "", self.loaded.tokenizer.decode(ids), "", False)

    def row(self, prompt: Prompt) -> DecoderInput:
        """Return the decoder's input for a prompt. Raises UserError when it is too long."""
        keep = self.format.max_columns if self.slide else 0
        return self.format.continuation(prompt.ids, prompt.behind, prompt.role, keep)

    def slid(self, ids: Sequence[int]) -> DecoderInput:
        """Return the row of the last of some tokens, with half of the model's positions for new ones."""
        return self.format.continuation(ids, keep=max(1, self.format.max_columns // 2))

    def _place(self, prompt: str) -> tuple[int, int, str]:
        """Return the characters of the prompt's blank and its role; the end of the prompt and "" where the model
        continues prompts, or there is no blank."""
        objective, mask = self.loaded.objective, own_mask(self.loaded.tokenizer, self.loaded.vocabulary)
        if objective.refuses_prompt_blanks and find_blanks(prompt, mask):
            raise UserError(
                f"the prompt has a blank, and a {objective.name} model continues behind it; use `blankfill fill`"
            )
        if not objective.writes_into_blanks:
            return len(prompt), len(prompt), ""
        blanks = find_blanks(prompt, mask)
        if len(blanks) > 1:
            raise UserError(
                f"the prompt has {len(blanks)} blanks; generate writes one (fill several with `blankfill fill`)"
            )
        if blanks and blanks[0].length:
            raise UserError(
                f"the blank {blanks[0].written} has a length, which generate ignores; "
                f"leave it out and give {setting('max_new_tokens')}, or use `blankfill fill`"
            )
        return (blanks[0].start, blanks[0].end, blanks[0].role) if blanks else (len(prompt), len(prompt), "")


class Continuation:
    """The text after one prompt, or in its blank, while it is written."""

    def __init__(
        self,
        reader: PromptReader,
        prompt: Prompt,
        row: DecoderInput,
        sampled: SampledRow,
        most: int,
        stops: Sequence[str] = (),
    ) -> None:
        """row: of the prompt. most: largest number of tokens. stops: texts that end it."""
        self.prompt, self.row, self.sampled, self.most, self.ends = prompt, row, sampled, most, reader.ends
        self.ids: list[int] = []
        """The tokens so far."""
        self._words, self._stream = Detokenizer(reader.loaded.tokenizer, prompt.ids), Stream(stops)
        self._begun, self.dropped = not prompt.trimmed, 0
        """dropped: number of characters at its beginning that the prompt has already."""

    @property
    def stopped(self) -> bool:
        """Whether one of `stops` has ended the text."""
        return self._stream.stopped

    @property
    def length(self) -> int:
        """Number of characters of its tokens so far, up to the text that has ended it."""
        return self.dropped + self._stream.length

    def add(self, token: int) -> str:
        """Take a token; returns the text that is now certain."""
        self.ids.append(token)
        return self._stream.push(self._led(self._words.push(token)))

    def end(self, finish: str) -> str:
        """End the text; returns the rest of it."""
        return self._stream.push(self._led(self._words.flush())) + self._stream.end()

    def _led(self, piece: str) -> str:
        """Return a piece without the space that the prompt has already."""
        if piece and not self._begun:
            self._begun, self.dropped = True, piece.startswith(" ")
            return piece.removeprefix(" ")
        return piece


def shortened(
    reader: PromptReader, prompt: Prompt, new_tokens: int, most: int = 0
) -> tuple[Prompt, DecoderInput] | None:
    """Return a prompt without the fewest first tokens, so that `new_tokens` have room, with its row; None when there is
    no room. most: largest number of columns that are read; 0: no limit but the model's."""

    def row_without(cut: int) -> DecoderInput | None:
        try:
            row = reader.format.continuation(prompt.ids[cut:], prompt.behind, prompt.role)
        except UserError:
            return None
        return row if row.room + 1 >= new_tokens and (not most or row.columns <= most) else None

    low, high = 0, len(prompt.ids)
    row = row_without(high)
    while row is not None and low < high:
        middle = (low + high) // 2
        if (tried := row_without(middle)) is None:
            low = middle + 1
        else:
            high, row = middle, tried
    return None if row is None else (replace(prompt, ids=prompt.ids[high:], cut=high), row)
