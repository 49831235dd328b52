"""Generating text: continue a prompt, or fill its blank with a long text, in pieces as they are finished.

GPT, UniLM and BART continue the prompt; BART reads it with a mask at its end, and generates it again before the
continuation. GLM and T5 fill the one blank of the prompt; a prompt without a blank gets one at its end, for GLM a
document blank.

Text is returned in whole words and whole characters: a piece is held back until later tokens can no longer change it.
A fixed number of rows is decoded at a time; when one ends, the next prompt takes its slot. Each row has its own random
numbers, so that sample 3 of 8 equals sample 3 of 4.

Generation ends at the last row of a model's position table with the reason "positions", or, for GPT with `slide`,
continues: the older half of the window is dropped, and the rest is read again.

Not here: prompts and the text of a row (`continuation`), the best fills with probabilities (`fill`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blankfill.corpus.unknown import counting
from blankfill.errors import UserError
from blankfill.generation.cancel import CancelFlag, is_cancelled
from blankfill.generation.continuation import Continuation, Prompt, PromptReader
from blankfill.generation.sampling import SampledRow, Sampling
from blankfill.generation.scheduler import SLOTS, Scheduler

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded

MOST_COLUMNS = 1024
"""Columns allocated in advance for the tokens of a row; the buffers grow for longer texts."""


@dataclass(frozen=True)
class Generation:
    """The generated text of one row.

    text: only the new text; whole: the prompt with the new text in its place. finish: "end" (the model ended the text),
    "length" (it has max_new_tokens), "positions" (the model has no more positions), or "cancelled".
    """

    prompt: str
    text: str
    whole: str
    ids: tuple[int, ...]
    finish: str

    def to_json(self) -> dict[str, Any]:
        """Return the generation as plain values for `json.dumps`."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "whole": self.whole,
            "tokens": len(self.ids),
            "finish": self.finish,
        }


def generate(
    loaded: Loaded,
    prompt: str,
    max_new_tokens: int = 100,
    sampling: Sampling | None = None,
    slide: bool = False,
    cancel: CancelFlag | None = None,
    add_bos: bool | None = None,
    allow_unknown: bool = False,
) -> Iterator[str]:
    """Generate text after a prompt (or in its blank), and yield pieces of it as they are finished.

    The joined pieces are the new text, without the prompt. max_new_tokens: largest number of tokens. slide: whether GPT
    continues past its position table, dropping the oldest tokens. cancel: a flag that is checked before each token;
    once it is set, the text ends. add_bos: whether GPT reads the begin token before the prompt; None: as in its
    training, so not for GPT-2 and other models of a stream. Raises UserError, at the call, for a model that cannot
    generate (bert, mlm), a prompt that is too long for it, more than one blank, or sampling values out of range; and,
    without allow_unknown, for a prompt that is mostly unknown to the tokenizer.
    """
    with counting("the prompt", allow=allow_unknown):
        writer = Writer(loaded, [prompt], max_new_tokens, sampling or Sampling(), slide, cancel, add_bos)
    return (piece for pieces in writer.run() for piece in pieces if piece)


def generate_many(
    loaded: Loaded,
    prompts: Sequence[str],
    max_new_tokens: int = 100,
    sampling: Sampling | None = None,
    slide: bool = False,
    cancel: CancelFlag | None = None,
    add_bos: bool | None = None,
    allow_unknown: bool = False,
) -> list[Generation]:
    """Generate text after several prompts at once (repeat a prompt for several samples); see `generate`."""
    if not prompts:
        return []
    with counting("the prompts", allow=allow_unknown):
        writer = Writer(loaded, prompts, max_new_tokens, sampling or Sampling(), slide, cancel, add_bos)
    return writer.finish_all()


class Writer:
    """One generation, from prompts to pieces of text. Call `run` once; `written` and `finish` then hold the results."""

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[str],
        max_new_tokens: int,
        sampling: Sampling,
        slide: bool = False,
        cancel: CancelFlag | None = None,
        add_bos: bool | None = None,
    ) -> None:
        sampling.check()
        if max_new_tokens < 1:
            raise UserError(f"max-new-tokens is {max_new_tokens}; it must be at least 1")
        self.loaded, self.max_new_tokens, self.cancel = loaded, max_new_tokens, cancel
        self.reader = PromptReader(loaded, slide, add_bos)
        read = [self.reader.read(prompt) for prompt in prompts]
        self.contexts = [self.reader.row(prompt) for prompt in read]
        self.frames = [(prompt.before, prompt.after) for prompt in read]
        """The text around each new text."""
        self.prompts = list(prompts)
        self.texts = [
            Continuation(self.reader, prompt, row, self._sampled(sampling, prompt, number), max_new_tokens)
            for number, (prompt, row) in enumerate(zip(read, self.contexts, strict=True))
        ]
        self.finish = ["length"] * len(prompts)

    def _sampled(self, sampling: Sampling, prompt: Prompt, number: int) -> SampledRow:
        return SampledRow(sampling, prompt.ids, self.reader.banned_V, number)

    @property
    def written(self) -> list[list[int]]:
        """The new tokens of each row."""
        return [text.ids for text in self.texts]

    def run(self) -> Iterator[list[str]]:
        """Yield pieces of text of all rows, a list for each step."""
        scheduler = Scheduler(self.loaded.model, min(len(self.texts), SLOTS), self._pad, self._columns)
        handles = {
            scheduler.join(text.row, text.sampled, text.most, text.ends): row for row, text in enumerate(self.texts)
        }
        while scheduler.busy:
            if is_cancelled(self.cancel):
                for handle in handles:
                    scheduler.cancel(handle)
            pieces = [""] * len(self.texts)
            for handle, update in scheduler.step().items():
                row = handles[handle]
                text = self.texts[row]
                if update.token is not None:
                    pieces[row] = text.add(update.token)
                if update.finish is not None:
                    del handles[handle]
                    if update.finish == "positions" and self.reader.slide:
                        left = self.max_new_tokens - len(text.ids)
                        slid = self.reader.slid([*text.prompt.ids, *text.ids])
                        handles[scheduler.join(slid, text.sampled, left, text.ends)] = row
                    else:
                        self.finish[row] = update.finish
                        pieces[row] += text.end(update.finish)
            yield pieces

    @property
    def _columns(self) -> int:
        """Return the number of columns of a row, as far as it is known."""
        return max(len(context) + min(self.max_new_tokens, context.room + 1, MOST_COLUMNS) for context in self.contexts)

    def finish_all(self) -> list[Generation]:
        """Run to the end; returns the text of each row."""
        texts = [""] * len(self.prompts)
        for pieces in self.run():
            for row, piece in enumerate(pieces):
                texts[row] += piece
        generations = []
        for row, (prompt, text) in enumerate(zip(self.prompts, texts, strict=True)):
            before, after = self.frames[row]
            generations.append(
                Generation(prompt, text, before + text + after, tuple(self.written[row]), self.finish[row])
            )
        return generations

    @property
    def _pad(self) -> int:
        return self.loaded.vocabulary.roles.get("pad", 0)
