"""Generating text: continue a prompt, or fill its blank with a long text, in pieces as they are finished.

GPT, UniLM and BART continue the prompt; BART reads it with a mask at its end, and generates it again before the
continuation. GLM and T5 fill the one blank of the prompt; a prompt without a blank gets one at its end, for GLM a
document blank.

Text is returned in whole words and whole characters: a piece is held back until later tokens can no longer change it.
A fixed number of rows is decoded at a time; when one ends, the next prompt takes its slot. Each row has its own random
numbers, so that sample 3 of 8 equals sample 3 of 4.

Generation ends at the last row of a model's position table with the reason "positions", or, for GPT with `slide`,
continues: the older half of the window is dropped, and the rest is read again.

Not here: the best fills with probabilities (`fill`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from blankfill.corpus.unknown import counting
from blankfill.errors import UserError, setting
from blankfill.generation.blanks import Words, find_blanks, own_mask
from blankfill.generation.cancel import CancelFlag, is_cancelled
from blankfill.generation.engine import banned
from blankfill.generation.sampling import SampledRow, Sampling
from blankfill.generation.scheduler import SLOTS, Scheduler
from blankfill.system.console import quoted
from blankfill.types import DecoderInput

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.corpus.tokenizer import Tokenizer

_IDEOGRAPHS = "\u2e80-\u9fff\uf900-\uffef\U00020000-\U0003ffff"
_UNFINISHED = re.compile(rf"\s*[^\s{_IDEOGRAPHS}]*$")
_LONGEST_HELD = 80
_WINDOW = 256
_WORD = 64
"""Characters at the end of a text among which the last word is sought first."""
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
        self.loaded, self.max_new_tokens, self.sampling = loaded, max_new_tokens, sampling
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
        self.slide, self.cancel = slide, cancel
        rows = loaded.model.config.vocab_size
        self.format = loaded.format if add_bos is None else loaded.format.with_bos(add_bos)
        self.ends = self.format.end_ids
        self.banned_V = torch.from_numpy(banned(vocabulary, rows, keep=self.ends))
        self.banned_V = self.banned_V.to(loaded.model.token_embeddings.weight.device)
        self.words = Words(loaded.tokenizer, vocabulary, rows)
        self.prompts = list(prompts)
        self.contexts: list[DecoderInput] = []
        self.before: list[list[int]] = []
        self.trimmed: list[bool] = []
        self.frames: list[tuple[str, str]] = []
        for prompt in prompts:
            self._read(prompt)
        self.written: list[list[int]] = [[] for _ in prompts]
        self.finish = ["length"] * len(prompts)

    def _read(self, prompt: str) -> None:
        start, end, role = self._place(prompt)
        source = prompt[:start]
        encode = self.loaded.tokenizer.encode
        before = encode(self.words.before_blank(source))
        keep = self.format.max_columns if self.slide else 0
        self.contexts.append(self.format.continuation(before, encode(prompt[end:]), role, keep))
        self.frames.append((source, prompt[end:]))
        self.before.append(before)
        self.trimmed.append(source.endswith(" ") or (source[-1:].isspace() and not self.words.spaced))

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

    def run(self) -> Iterator[list[str]]:
        """Yield pieces of text of all rows, a list for each step."""
        texts = [Detokenizer(self.loaded.tokenizer, before) for before in self.before]
        started = [not trimmed for trimmed in self.trimmed]
        scheduler = Scheduler(self.loaded.model, min(len(texts), SLOTS), self._pad, self._columns)
        sampled = [SampledRow(self.sampling, before, self.banned_V, row) for row, before in enumerate(self.before)]
        handles = {
            scheduler.join(context, sampled[row], self.max_new_tokens, self.ends): row
            for row, context in enumerate(self.contexts)
        }
        while scheduler.busy:
            if is_cancelled(self.cancel):
                for handle in handles:
                    scheduler.cancel(handle)
            pieces = [""] * len(texts)
            for handle, update in scheduler.step().items():
                row = handles[handle]
                if update.token is not None:
                    self.written[row].append(update.token)
                    pieces[row] = texts[row].push(update.token)
                if update.finish is not None:
                    del handles[handle]
                    left = self.max_new_tokens - len(self.written[row])
                    if update.finish == "positions" and self.slide:
                        handles[scheduler.join(self._slid(row), sampled[row], left, self.ends)] = row
                    else:
                        self.finish[row] = update.finish
                        pieces[row] += texts[row].flush()
                if pieces[row] and not started[row]:
                    pieces[row], started[row] = pieces[row].removeprefix(" "), True
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

    def _slid(self, row: int) -> DecoderInput:
        keep = max(1, self.format.max_columns // 2)
        return self.format.continuation([*self.before[row], *self.written[row]], keep=keep)


class Detokenizer:
    """Turns ids, one at a time, into text in pieces of whole words and characters.

    The text of a token depends on its neighbours (spaces, apostrophes, bytes of one character), so ids are decoded
    together with some ids before them, and the last, unfinished word is held back. When a later id changes the spaces
    of text that was returned already (a closing quotation mark can), the rest is located by counting the other
    characters, so that nothing is repeated or lost.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        """before: ids before the text, which decide about the space between."""
        self.tokenizer = tokenizer
        self._ids = list(before[-32:])
        self._out = tokenizer.decode(self._ids) if self._ids else ""

    def push(self, token: int) -> str:
        """Add an id; returns the text that is now certain, often empty."""
        self._ids.append(token)
        text = self.tokenizer.decode(self._ids)
        certain = text[: _unfinished(text)]
        if len(text) - len(certain) > _LONGEST_HELD:
            certain = text.rstrip("\ufffd")
        piece = self._take(certain)
        if len(self._ids) > _WINDOW:
            self._ids = self._ids[-_WINDOW // 4 :]
            waiting = _inked(text) - _inked(self._out)
            text = self.tokenizer.decode(self._ids)
            self._out = text[: _after(text, max(0, _inked(text) - waiting))]
        return piece

    def flush(self) -> str:
        """Return the rest of the text."""
        return self._take(self.tokenizer.decode(self._ids))

    def _take(self, text: str) -> str:
        at = len(self._out) if text.startswith(self._out) else _after(text, _inked(self._out))
        if at >= len(text):
            return ""
        self._out = text
        return text[at:]


def _unfinished(text: str) -> int:
    """The index at which the last, unfinished word begins, and the white space before it."""
    tail = max(0, len(text) - _WORD)
    held = _UNFINISHED.search(text, tail)
    if held is None or (tail and held.start() == tail):  # it may begin earlier
        held = _UNFINISHED.search(text)
    assert held is not None  # the pattern matches the empty text at the end
    return held.start()


def _inked(text: str) -> int:
    """Return the number of characters that are not white space."""
    return sum(not character.isspace() for character in text)


def _after(text: str, count: int) -> int:
    """Return the index just after `count` characters that are not white space."""
    for index, character in enumerate(text):
        if count == 0:
            return index
        count -= not character.isspace()
    return len(text)
